//! The command line: what can be asked for. What the commands do is in the modules below.
//!
//! Commands that ask the node that runs go through its Unix socket, or with an operator's files to its port.

mod client;
mod founding;
mod identity;
mod mesh;
mod operator;
mod output;
mod remote;
mod service;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use types::{MeshName, NodeName, Refusal, ServiceName};

use crate::config::{self, Config, Sources};
use crate::exit::Exit;
use crate::{demo, shop};

use self::client::Address;
use self::identity::{Change, Ttl};
use self::output::{Output, say};
use self::service::{Added, Whose};

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
    /// The node to ask: its socket, or NODE.MESH@HOST:PORT [default: /run/sagemesh/api.sock for root, else
    /// under XDG_RUNTIME_DIR; with --state, beside the state]
    #[arg(long, global = true, value_name = "PATH|ADDRESS", env = "SAGEMESH_API")]
    api: Option<String>,
    /// Files of an operator, less .crt and .key, for a node on another machine
    #[arg(long, global = true, value_name = "DIR/NAME", env = "SAGEMESH_IDENTITY")]
    identity: Option<PathBuf>,
    /// Form of what is printed
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Text)]
    output: Output,
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
        /// The token, or `-` to read it from standard input, where no other process sees it
        token: String,
    },
    /// Run this node until it is told to stop
    Up,
    /// Print an invitation for one new machine
    Invite {
        /// The name that it gets
        #[arg(long)]
        name: NodeName,
        /// A service that it may speak for, such as svc/api; may be given again
        #[arg(long, value_name = "svc/NAME")]
        scope: Vec<String>,
        /// How long the invitation holds, such as 15m or 2h [default: 15m]
        #[arg(long)]
        ttl: Option<Ttl>,
    },
    /// Leave the mesh for now: the node says so to the others and stops
    Leave,
    /// Have the node read its configuration again
    Reload,
    /// Change which services a node may speak for
    Scope {
        /// Whose scope
        node: NodeName,
        /// What comes and goes: +svc/NAME and -svc/NAME
        #[arg(required = true, allow_hyphen_values = true, value_name = "+svc/NAME|-svc/NAME")]
        changes: Vec<Change>,
    },
    /// Show who this node is and how its mesh stands
    Status,
    /// Fail if the node is not well, or soon will not be
    Check,
    /// Show the other nodes
    Peers {
        /// Show them again whenever they change
        #[arg(long)]
        watch: bool,
    },
    /// Show who belongs to the mesh
    Members,
    /// Show what is offered in the mesh
    Services,
    /// Work with the services of this node
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Say why calls to a service fail, layer by layer
    Why {
        /// The service
        service: ServiceName,
    },
    /// Work with operators
    #[command(subcommand)]
    Operator(OperatorCommand),
    /// End the membership of a node's keys for ever
    Revoke {
        /// Whose
        node: NodeName,
        /// Why, for people to read
        #[arg(long)]
        note: Option<String>,
    },
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
enum ServiceCommand {
    /// Declare a service of this node, and keep it over restarts
    Add(Added),
    /// Take back what `add` declared
    Remove {
        /// The service
        name: ServiceName,
    },
    /// Show the services of this node
    List,
}

#[derive(Debug, Subcommand)]
enum OperatorCommand {
    /// Give a person a role, and write the files by which they are known
    Add {
        /// The operator's name
        name: ServiceName,
        /// What the operator may do
        #[arg(long, value_enum)]
        role: operator::Role,
        /// Folder for NAME.crt, NAME.key, ca.crt and ca-rustls.crt
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Take every role of an operator away, which holds at once
    Remove {
        /// The operator's name
        name: ServiceName,
    },
    /// Show the operators
    List,
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
    if let Command::Config(ConfigCommand::Check) = &cli.command {
        return say(config.to_toml().trim_end());
    }
    if matches!(cli.command, Command::Up) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        return runtime.context("failed to start")?.block_on(founding::up(config, sources));
    }
    let common = &cli.common;
    let address = Address::find(common.api.as_deref(), common.identity.as_deref(), &config);
    block_on(run_command(&cli.command, &config, &address, cli.common.output))
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("failed to start")?.block_on(work)
}

async fn run_command(
    command: &Command,
    config: &Config,
    address: &Address,
    output: Output,
) -> anyhow::Result<()> {
    // What needs no node that runs comes first.
    match command {
        Command::Config(ConfigCommand::Check) => return Ok(()),
        Command::Init { mesh, name } => return founding::init(config, mesh, name.as_ref(), output).await,
        Command::Join { token } => return founding::join(config, token, output).await,
        Command::Status => return mesh::status(config, address, output).await,
        _ => {}
    }
    let node = address.connect().await?;
    match command {
        Command::Config(_)
        | Command::Demo(_)
        | Command::Init { .. }
        | Command::Join { .. }
        | Command::Shop(_)
        | Command::Status
        | Command::Up => Ok(()),
        Command::Invite { name, scope, ttl } => identity::invite(&node, name, scope, *ttl, output).await,
        Command::Leave => mesh::leave(&node, output).await,
        Command::Reload => mesh::reload(&node, output).await,
        Command::Scope { node: name, changes } => identity::scope(&node, name, changes, output).await,
        Command::Check => mesh::check(&node, output).await,
        Command::Peers { watch } => mesh::peers(&node, *watch, output).await,
        Command::Members => identity::members(&node, output).await,
        Command::Services => service::list(&node, Whose::All, output).await,
        Command::Service(ServiceCommand::Add(added)) => service::add(&node, added, output).await,
        Command::Service(ServiceCommand::Remove { name }) => service::remove(&node, name, output).await,
        Command::Service(ServiceCommand::List) => service::list(&node, Whose::Own, output).await,
        Command::Why { service } => service::why(&node, service, output).await,
        Command::Operator(OperatorCommand::Add { name, role, out }) => {
            operator::add(&node, name, *role, out, output).await
        }
        Command::Operator(OperatorCommand::Remove { name }) => operator::remove(&node, name, output).await,
        Command::Operator(OperatorCommand::List) => operator::list(&node, output).await,
        Command::Revoke { node: name, note } => identity::revoke(&node, name, note.as_deref(), output).await,
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
    if err.chain().any(|cause| cause.is::<Refusal>()) {
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
