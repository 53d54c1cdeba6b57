//! The command line.

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use types::{MeshName, NodeName, Now, Refusal};

use crate::config::{self, Config, Sources};
use crate::exit::Exit;
use crate::state::Stage;
use crate::{app, demo, init, join, shop, state, status};

/// A mesh of identical nodes that find, trust and call each other.
#[derive(Debug, Parser)]
#[command(name = "sagemesh", version, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 refused by the mesh."
)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Debug)]
struct Common {
    /// Configuration file [default: /etc/sagemesh/config.toml for root, else under XDG_CONFIG_HOME]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// State directory [default: /var/lib/sagemesh for root, else under XDG_STATE_HOME]
    #[arg(long, global = true, value_name = "DIR", env = "SAGEMESH_STATE")]
    state: Option<PathBuf>,
    /// Form of what is printed
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Found a mesh, with this node as its first member and signer
    Init {
        /// The mesh's name, such as home.mesh
        mesh: MeshName,
        /// This node's name [default: the host's]
        #[arg(long)]
        name: Option<NodeName>,
    },
    /// Join a mesh, by the token that `sagemesh invite` printed on one of its nodes
    Join {
        /// The token
        token: String,
    },
    /// Run this node until it is told to stop
    Up,
    /// Show who this node is and how its mesh stands
    Status,
    /// Work with the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Show a mesh on this machine: it runs a shop, loses a node, and goes on
    Demo(demo::Args),
    /// Be one part of the demo's shop
    #[command(hide = true)]
    Shop(shop::Args),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check the configuration and print what is in effect
    Check,
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => Exit::Done.into(),
        Err(err) => {
            report(&err);
            exit_of(&err).into()
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    // These two are no node of this machine, and read nothing of its configuration.
    match &cli.command {
        Command::Demo(args) => return block_on(demo::run(args.clone())),
        Command::Shop(args) => return block_on(shop::run(args.clone())),
        _ => {}
    }
    let sources = Sources { file: cli.common.config.clone(), state: cli.common.state.clone() };
    let config = config::load(&sources)?;
    let output = cli.common.output;
    if let Command::Config(ConfigCommand::Check) = &cli.command {
        return say(config.to_toml().trim_end());
    }
    let stage = state::stage(&config.state)?;
    if matches!(cli.command, Command::Status) {
        match stage {
            Stage::Empty => {
                bail!("this node belongs to no mesh yet: found one with `sagemesh init home.mesh`")
            }
            Stage::Founding => {
                bail!("an `init` was interrupted here: run it again, it goes on where it stopped")
            }
            Stage::Founded => {}
        }
    }
    let runtime = match &cli.command {
        Command::Up => tokio::runtime::Builder::new_multi_thread().enable_all().build(),
        _ => tokio::runtime::Builder::new_current_thread().enable_all().build(),
    };
    let runtime = runtime.context("failed to start")?;
    runtime.block_on(async {
        let store = state::open(&config.store)?;
        let done = match &cli.command {
            Command::Init { mesh, name } => run_init(&config, &store, mesh, name.as_ref(), output).await,
            Command::Join { token } => run_join(&config, &store, token, output).await,
            Command::Up => app::up(config.clone(), sources.clone(), &store).await,
            Command::Status => run_status(&config, &store, output).await,
            Command::Config(_) | Command::Demo(_) | Command::Shop(_) => Ok(()),
        };
        store.close().await?;
        done
    })
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("failed to start")?.block_on(work)
}

async fn run_init(
    config: &Config,
    store: &store::Store,
    mesh: &MeshName,
    name: Option<&NodeName>,
    output: Output,
) -> anyhow::Result<()> {
    let name = match name {
        Some(name) => name.clone(),
        None => host_name()?,
    };
    let now = Now::read();
    let known = init::init(&config.state, &store.handle(), mesh.clone(), name, now).await?;
    let status = status::describe(&config.state, &known, now)?;
    print(output, &status)?;
    if output == Output::Json {
        return Ok(());
    }
    let file = |name| state::path(&config.state, name).display().to_string();
    say(&format!(
        "\nMove these two files to a place that is not on any node; a copy of each is wise:\n  {}\n  {}\n\
         They make signers and can cut off stolen ones. No node needs them to run.",
        file(state::ROOT_KEYS),
        file(state::NEXT_ROOT_KEYS),
    ))
}

async fn run_join(config: &Config, store: &store::Store, token: &str, output: Output) -> anyhow::Result<()> {
    let token = token.trim().parse()?;
    let known = join::join(&config.state, &store.handle(), &token).await?;
    print(output, &status::describe(&config.state, &known, Now::read())?)?;
    if output == Output::Json {
        return Ok(());
    }
    say("\nThis machine is a member now. Start it with:\n  sagemesh up")
}

async fn run_status(config: &Config, store: &store::Store, output: Output) -> anyhow::Result<()> {
    let known = state::load(&config.state, &store.handle()).await?;
    let known =
        known.context("the database does not hold the mesh of this node's keys: restore it from a backup")?;
    print(output, &status::describe(&config.state, &known, Now::read())?)
}

fn host_name() -> anyhow::Result<NodeName> {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy().to_lowercase();
    let label = name.split('.').next().unwrap_or_default();
    label.parse().with_context(|| format!("the host's name `{name}` is no node name: give one with --name"))
}

fn print(output: Output, what: &(impl Display + Serialize)) -> anyhow::Result<()> {
    match output {
        Output::Text => say(&what.to_string()),
        Output::Json => say(&serde_json::to_string_pretty(what)?),
    }
}

/// Writes to standard output. Whoever stops reading, such as `head`, has had enough: that is no failure.
fn say(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(err) if err.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("failed to print"),
    }
}

/// Prints the whole chain, once.
fn report(err: &anyhow::Error) {
    let mut told = String::new();
    for cause in err.chain() {
        let text = cause.to_string();
        // A source that its parent already quotes adds nothing.
        if !told.contains(&text) {
            told = if told.is_empty() { text } else { format!("{told}\n  because {text}") };
        }
    }
    eprintln!("sagemesh: {told}");
}

fn exit_of(err: &anyhow::Error) -> Exit {
    if err.is::<Refusal>() {
        Exit::Refused
    } else if err.is::<config::Error>() {
        Exit::Usage
    } else {
        Exit::Failed
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
