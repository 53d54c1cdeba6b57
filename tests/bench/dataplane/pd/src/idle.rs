//! Holds connections that have made one call each, until its standard input ends.

use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

use crate::call::{Caller, Target};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    #[arg(long)]
    conns: usize,
}

/// Connects, says so, and holds.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let mut driven = JoinSet::new();
    let held = Caller::new(args.target).connect_all(args.conns, &mut driven).await?;
    println!("held {}", held.len());
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}
