//! How long a newcomer takes to be in: from the start of `sagemesh join` until all see it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::time::sleep;

use crate::fleet::{ASK_EVERY, Fleet, Host, is_there};
use crate::report::{Report, percentile};

const N_NODES: usize = 5;
/// A newcomer that is not in by then is a failure of the benchmark.
const IN_WITHIN: Duration = Duration::from_secs(60);

/// New names, one after the other, into five nodes.
pub(crate) async fn run(binary: &Path, is_quick: bool, report: &mut Report) -> anyhow::Result<()> {
    let n_names: usize = if is_quick { 5 } else { 50 };
    let mut fleet = Fleet::start(binary, N_NODES, |_| String::new()).await?;
    let (mut all, mut joins, mut ups) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..n_names {
        // An address of its own: another machine's ARP entry for a former one would hold packets back.
        let host = fleet.host(&format!("new{n}"), N_NODES + n, "").await?;
        let (host, times) = newcomer(&mut fleet, host).await?;
        joins.push(times.joined);
        ups.push(times.up - times.joined);
        all.push(times.seen);
        crate::line(
            "join",
            times.seen,
            &format!("{}: joined {:.3}, up {:.3}", host.name, times.joined, times.up),
        );
        host.discard().await?;
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

async fn newcomer(fleet: &mut Fleet, mut host: Host) -> anyhow::Result<(Host, Times)> {
    let token = fleet.invite(&host.name).await?;
    let began = Instant::now();
    host.run(&["join", &token]).await?;
    let joined = began.elapsed().as_secs_f64();
    host.launch()?;
    let mut up = None;
    let mut unaware: Vec<usize> = (0..fleet.hosts.len()).collect();
    while !unaware.is_empty() {
        if began.elapsed() > IN_WITHIN {
            bail!(
                "{} is not in: see the logs in {}\n{}",
                host.name,
                fleet.keep_logs().display(),
                host.log_tail()
            );
        }
        if up.is_none() && host.peers().await.is_ok() {
            up = Some(began.elapsed().as_secs_f64());
        }
        let mut still = Vec::new();
        for idx in unaware {
            let peers = fleet.hosts[idx].peers().await?;
            if !peers.iter().any(|peer| peer.node == host.name && is_there(peer)) {
                still.push(idx);
            }
        }
        unaware = still;
        sleep(ASK_EVERY).await;
    }
    let seen = began.elapsed().as_secs_f64();
    let up = up.unwrap_or(seen);
    host.leave().await?;
    Ok((host, Times { joined, up, seen }))
}
