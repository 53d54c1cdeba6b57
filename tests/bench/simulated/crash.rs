//! Crashes without a word: how long until the last survivor knows.

use membership::Config;
use mesh_sim::{Seen, Verdict, mesh};

use crate::report::{Report, for_each_seed, percentile, secs};

pub(crate) fn run(is_quick: bool, report: &mut Report) {
    let (seeds, per_seed) = if is_quick { (1..=2, 20) } else { (1..=5, 60) };
    let (delays, n_false): (Vec<_>, Vec<_>) =
        for_each_seed(seeds.clone(), |seed| one(seed, per_seed)).into_iter().unzip();
    let (mut delays, n_false) = (delays.concat(), n_false.iter().sum::<u32>());
    delays.sort_unstable_by(f64::total_cmp);
    report.figure("sim.n100.crashes", delays.len() as f64, &format!("seeds {seeds:?}"));
    report.figure("sim.n100.crash_p50_s", percentile(&delays, 0.5), "until the last survivor knows");
    report.figure("sim.n100.crash_p99_s", percentile(&delays, 0.99), "");
    report.figure("sim.n100.crash_max_s", percentile(&delays, 1.0), "");
    report.figure("sim.n100.crash_false_deaths", f64::from(n_false), "of nodes that were up");
}

/// How long each crash took to be known, and how many deaths were of nodes that were up.
fn one(seed: u64, n_crashes: u32) -> (Vec<f64>, u32) {
    let mut mesh = mesh(seed, 100);
    let (mut delays, mut n_false) = (Vec::new(), 0);
    for _ in 0..n_crashes {
        let victim = mesh.pick(100);
        mesh.crash(victim);
        let crashed_us = mesh.now_us();
        let mut knows = [false; 100];
        let mut last_us = crashed_us;
        mesh.run(40.0, |_, seen| {
            let Seen::Judged { at_us, by, about, verdict: Verdict::Dead } = seen else { return };
            if about != victim {
                n_false += 1;
            } else if !std::mem::replace(&mut knows[by], true) {
                last_us = at_us;
            }
        });
        // One that is not seen by all within 40 s counts as 40 s.
        let is_seen = knows.iter().filter(|knows| **knows).count() == 99;
        delays.push(if is_seen { secs(last_us - crashed_us) } else { 40.0 });
        mesh.restart(victim, &Config::default());
        mesh.run(20.0, |_, _| {});
    }
    (delays, n_false)
}
