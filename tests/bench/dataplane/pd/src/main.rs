//! What the data-plane benchmark runs beside the proxies: the service, its callers, and two floors.
//!
//! Each is a process of its own with one thread, in a network namespace that the benchmark made.

mod ask;
mod call;
mod echo;
mod floor;
mod idle;
mod load;
mod tls;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    program: Program,
}

#[derive(Debug, Subcommand)]
enum Program {
    /// Serve echoes
    Echo(echo::Args),
    /// Call as fast as answers come, or at a rate
    Load(load::Args),
    /// Hold connections that have made one call each
    Idle(idle::Args),
    /// Call one by one and say which statuses came
    Ask(ask::Args),
    /// The lower floor: TLS, and bytes as they come
    Tunnel(floor::Args),
    /// The upper floor: HTTP/2 by the h2 crate, and no feature at all
    Forward(floor::Args),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().program {
        Program::Echo(args) => echo::run(args).await,
        Program::Load(args) => load::run(args).await,
        Program::Idle(args) => idle::run(args).await,
        Program::Ask(args) => ask::run(args).await,
        Program::Tunnel(args) => floor::tunnel(args).await,
        Program::Forward(args) => floor::forward(args).await,
    }
}
