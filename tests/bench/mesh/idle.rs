//! What a node costs while nothing happens.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use tokio::time::{Instant, sleep};

use daemon::demo::fleet::Fleet;

use crate::machines;
use crate::report::Report;
use crate::usage::{self, Usage};

const N_NODES: usize = 5;
const SETTLE: Duration = Duration::from_secs(30);
const WINDOW: Duration = Duration::from_secs(120);

/// Five nodes without services, left alone.
pub(crate) async fn run(binary: &Path, is_quick: bool, report: &mut Report) -> anyhow::Result<()> {
    let window = if is_quick { WINDOW / 4 } else { WINDOW };
    let fleet = machines::start(binary, "bench-mesh", N_NODES, |_| Vec::new()).await?;
    sleep(SETTLE).await;
    let (before, began) = (measure(&fleet)?, Instant::now());
    sleep(window).await;
    let (after, took) = (measure(&fleet)?, began.elapsed().as_secs_f64());
    for (node, usage) in fleet.nodes().iter().zip(&after) {
        let peak = format!("{} after {:.0} s", node.name, took + SETTLE.as_secs_f64());
        crate::line("resident MB", usage.rss_mb, &peak);
    }
    let rate = |of: fn(&Usage) -> f64| {
        let each = before.iter().zip(&after).map(move |(before, after)| (of(after) - of(before)) / took);
        each.collect::<Vec<_>>()
    };
    let rss: Vec<_> = after.iter().map(|usage| usage.rss_mb).collect();
    let cpu: Vec<_> = rate(|usage| usage.cpu_s).iter().map(|share| share * 100.0).collect();
    report.figure("idle.n", N_NODES as f64, &format!("nodes, idle for {took:.0} s"));
    worst(report, "idle.rss_mb", &rss, "worst node's VmRSS; goal 40");
    worst(report, "idle.bytes_per_s", &rate(|usage| usage.bytes), "worst node, both ways; goal 5,000");
    worst(report, "idle.cpu_pct", &cpu, "worst node, of one core; goal 0.5");
    fleet.stop().await
}

fn measure(fleet: &Fleet) -> anyhow::Result<Vec<Usage>> {
    fleet.nodes().iter().map(|node| usage::of(node.pid().context("a node ended")?)).collect()
}

fn worst(report: &mut Report, key: &str, values: &[f64], note: &str) {
    let max = values.iter().copied().fold(f64::MIN, f64::max);
    let min = values.iter().copied().fold(f64::MAX, f64::min);
    report.figure(key, max, note);
    report.figure(&format!("{key}_min"), min, "best node");
}
