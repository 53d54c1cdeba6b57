//! `make bench-mesh`: how fast newcomers are in, what callers lose when a node dies, and what idle nodes cost,
//! with real nodes in network namespaces; then the membership core in the simulator.
//!
//! Prints a table for people and then one line `RESULT {json}`. Needs root, and a release build to mean much.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

#[path = "mesh/backend.rs"]
mod backend;
#[path = "mesh/caller.rs"]
mod caller;
#[path = "mesh/idle.rs"]
mod idle;
#[path = "mesh/join.rs"]
mod join;
#[path = "mesh/kill.rs"]
mod kill;
#[path = "mesh/machines.rs"]
mod machines;
mod report;
mod simulated;
#[path = "mesh/usage.rs"]
mod usage;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand, ValueEnum};

use report::Report;

/// Measures a mesh of real nodes.
#[derive(Debug, Parser)]
struct Cli {
    /// Only this part
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// A tenth of it, to see that it works
    #[arg(long)]
    quick: bool,
    /// The node's program [default: `sagemesh` beside this one]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    #[command(subcommand)]
    process: Option<Process>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Join,
    Kill,
    Idle,
    Sim,
}

/// What the benchmark starts in namespaces.
#[derive(Debug, Subcommand)]
enum Process {
    /// Answer calls
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        listen: Vec<SocketAddr>,
        #[arg(long)]
        name: String,
    },
    /// Call
    #[command(hide = true)]
    Call {
        #[arg(long)]
        to: Vec<SocketAddr>,
        #[arg(long)]
        service: String,
        #[arg(long)]
        rate: f64,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    match &cli.process {
        Some(Process::Serve { listen, name }) => backend::run(listen, name).await,
        Some(Process::Call { to, service, rate }) => caller::run(to, service, *rate).await,
        None => bench(&cli).await,
    }
}

async fn bench(cli: &Cli) -> anyhow::Result<()> {
    let runs = |part: Part| cli.only.is_none_or(|only| only == part);
    if !rustix::process::geteuid().is_root() && cli.only != Some(Part::Sim) {
        bail!("network namespaces need root: run as root, or only the simulation with --only sim");
    }
    let beside = || Some(std::env::current_exe().ok()?.with_file_name("sagemesh"));
    let binary = cli.binary.clone().or_else(beside).context("this program has no path")?;
    if !binary.exists() {
        bail!("{} is not there: build it with `make bench-mesh`", binary.display());
    }
    let mut report = Report::new();
    if runs(Part::Idle) {
        idle::run(&binary, cli.quick, &mut report).await?;
    }
    if runs(Part::Join) {
        join::run(&binary, cli.quick, &mut report).await?;
    }
    if runs(Part::Kill) {
        kill::run(&binary, cli.quick, &mut report).await?;
    }
    if runs(Part::Sim) {
        let whole = ["steady", "steady1000", "partition", "crash"].map(str::to_owned);
        // These take most of an hour: all of it stands in `make bench-mesh-sim`.
        let short = ["starved", "rival"].map(str::to_owned);
        tokio::task::block_in_place(|| {
            simulated::run(&whole, cli.quick, &mut report);
            simulated::run(&short, true, &mut report);
        });
    }
    report.finish();
    Ok(())
}

/// Says something beside the figures.
fn line(what: &str, value: f64, note: &str) {
    println!("  {what:<56} {value:>12.3}  {note}");
}
