//! Calls one by one and says how often each answer came, as one line: `{"ok": 3, "grpc-status 7": 1}`.

use std::collections::BTreeMap;

use tokio::task::JoinSet;

use crate::call::{Caller, Target};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    #[arg(long, default_value_t = 1)]
    calls: usize,
}

/// Calls, each time over a new connection, and prints the answers.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let caller = Caller::new(args.target);
    let mut answers: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..args.calls {
        let mut driven = JoinSet::new();
        let called = match caller.connect(&mut driven).await {
            Ok(mut connection) => caller.call(&mut connection).await,
            Err(error) => Err(error),
        };
        let answer = called.map_or_else(|error| format!("{error:#}"), |()| "ok".to_owned());
        *answers.entry(answer).or_default() += 1;
    }
    let answers: Vec<_> = answers.iter().map(|(answer, n)| format!("{answer:?}: {n}")).collect();
    println!("{{{}}}", answers.join(", "));
    Ok(())
}
