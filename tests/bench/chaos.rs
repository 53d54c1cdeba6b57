//! `make chaos-dataplane`: a million calls through real nodes in network namespaces while services, nodes and
//! connections are killed at random.
//!
//! Every call ends with one status; none is answered or executed twice; and no stream, window or memory is lost by it.
//! Prints a table for people and then one line `RESULT {json}`, and fails if that is not so. Needs root.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

#[path = "chaos/accounts.rs"]
mod accounts;
#[path = "chaos/caller.rs"]
mod caller;
#[path = "mesh/machines.rs"]
mod machines;
#[expect(dead_code, reason = "others report more with it")]
mod report;
#[path = "chaos/run.rs"]
mod run;
#[path = "chaos/service.rs"]
mod service;
#[path = "chaos/shape.rs"]
mod shape;
#[path = "chaos/strikes.rs"]
mod strikes;
#[path = "chaos/town.rs"]
mod town;
#[expect(dead_code, reason = "others measure more with it")]
#[path = "mesh/usage.rs"]
mod usage;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Kills parts of a mesh while it carries calls.
#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    plan: run::Plan,
    #[command(subcommand)]
    process: Option<Process>,
}

/// What is started in namespaces.
#[derive(Debug, Subcommand)]
enum Process {
    /// Answer calls
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        journal: PathBuf,
    },
    /// Call
    #[command(hide = true)]
    Call(caller::Load),
    /// Print a node's metrics
    #[command(hide = true)]
    Ask {
        #[arg(long)]
        at: SocketAddr,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    match cli.process {
        Some(Process::Serve { listen, journal }) => service::run(listen, &journal).await,
        Some(Process::Call(load)) => caller::run(load).await,
        Some(Process::Ask { at }) => ask(at),
        None => run::run(&cli.plan).await,
    }
}

fn ask(at: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(at)?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut told = String::new();
    stream.read_to_string(&mut told)?;
    println!("{told}");
    Ok(())
}

/// Says something beside the figures.
fn line(what: &str, value: f64, note: &str) {
    println!("  {what:<56} {value:>12.3}  {note}");
}
