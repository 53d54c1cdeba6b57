//! How long a newcomer takes to be in: from the start of `sagemesh join` until all see it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::time::sleep;

use daemon::demo::fleet::{Fleet, tail};

use crate::machines::{self, ASK_EVERY, is_there};
use crate::report::{Report, percentile};

const N_NODES: usize = 5;
/// A newcomer that is not in by then is a failure of the benchmark.
const IN_WITHIN: Duration = Duration::from_secs(60);

/// New names, one after the other, into five nodes.
pub(crate) async fn run(binary: &Path, is_quick: bool, report: &mut Report) -> anyhow::Result<()> {
    let n_names: usize = if is_quick { 5 } else { 50 };
    let mut fleet = machines::start(binary, "bench-mesh", N_NODES, |_| Vec::new()).await?;
    let (mut all, mut joins, mut ups) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..n_names {
        // An address of its own: another machine's ARP entry for a former one would hold packets back.
        let idx = fleet.prepare(machines::plan(Vec::new())).await?;
        let times = newcomer(&mut fleet, idx).await?;
        joins.push(times.joined);
        ups.push(times.up - times.joined);
        all.push(times.seen);
        let name = &fleet.node(idx).name;
        crate::line("join", times.seen, &format!("{name}: joined {:.3}, up {:.3}", times.joined, times.up));
        fleet.leave(idx).await?;
    }
    for values in [&mut all, &mut joins, &mut ups] {
        values.sort_unstable_by(f64::total_cmp);
    }
    report.figure("join.n", n_names as f64, "names, one at a time, into 5 nodes");
    report.figure(
        "join.min_s",
        percentile(&all, 0.0),
        "from the start of `join` until all 5 see it linked and alive",
    );
    report.figure("join.p50_s", percentile(&all, 0.5), "");
    report.figure("join.p90_s", percentile(&all, 0.9), "");
    report.figure("join.max_s", percentile(&all, 1.0), "goal 3");
    report.figure("join.command_max_s", percentile(&joins, 1.0), "of this: `sagemesh join` itself");
    report.figure("join.up_max_s", percentile(&ups, 1.0), "of this: until `sagemesh up` answers");
    fleet.stop().await
}

/// Seconds since the start of `sagemesh join`.
struct Times {
    joined: f64,
    up: f64,
    seen: f64,
}

async fn newcomer(fleet: &mut Fleet, idx: usize) -> anyhow::Result<Times> {
    let token = fleet.invite(idx, vec!["svc/*".to_owned()]).await?;
    let mut nodes = machines::watched(fleet)?;
    let began = Instant::now();
    fleet.join(idx, &token).await?;
    let joined = began.elapsed().as_secs_f64();
    fleet.begin(idx)?;
    let name = fleet.node(idx).name.clone();
    let mut up = None;
    let mut unaware: Vec<usize> = (0..N_NODES).collect();
    while !unaware.is_empty() {
        if began.elapsed() > IN_WITHIN {
            bail!("{name} is not in{}", tail(&fleet.node(idx).log));
        }
        if up.is_none() && machines::peers(&mut nodes[idx]).await.is_ok() {
            up = Some(began.elapsed().as_secs_f64());
        }
        let mut still = Vec::new();
        for idx in unaware {
            let peers = machines::peers(&mut nodes[idx]).await?;
            if !peers.iter().any(|peer| peer.node == name && is_there(peer)) {
                still.push(idx);
            }
        }
        unaware = still;
        sleep(ASK_EVERY).await;
    }
    let seen = began.elapsed().as_secs_f64();
    Ok(Times { joined, up: up.unwrap_or(seen), seen })
}
