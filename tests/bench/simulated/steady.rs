//! The steady state: every node changes its record once a minute on average.

use std::collections::BTreeMap;

use mesh_sim::{Mesh, Sage, Seen, mesh};

use crate::report::{Report, for_each_seed, percentile, secs};

/// Mean time between two changes of one node.
const CHANGE_INTERVAL_S: f64 = 60.0;

/// One change on its way.
struct Change {
    author: usize,
    version: u64,
    at_us: u64,
    n_learned: usize,
    known_us: Option<u64>,
}

pub(crate) fn run(n: usize, is_quick: bool, report: &mut Report) {
    let seeds = if is_quick { 1..=1 } else { 1..=3 };
    let (mut delays, mut rates, mut messages, mut n_unknown) = (Vec::new(), Vec::new(), Vec::new(), 0);
    // The large mesh makes as many changes in a minute as the small one in ten.
    let measured_s = if is_quick || n > 500 { 60 } else { 180 };
    for (changes, bytes_per_s, messages_per_s) in
        for_each_seed(seeds.clone(), |seed| one(seed, n, measured_s))
    {
        n_unknown += changes.iter().filter(|change| change.known_us.is_none()).count();
        let known = changes.iter().filter_map(|c| Some(secs(c.known_us? - c.at_us)));
        delays.extend(known);
        rates.push(bytes_per_s);
        messages.push(messages_per_s);
    }
    delays.sort_unstable_by(f64::total_cmp);
    rates.sort_unstable_by(f64::total_cmp);
    let note = format!("p99 of {} changes, seeds {seeds:?}, each to 99 % of nodes", delays.len());
    report.figure(&format!("sim.n{n}.change99_s"), percentile(&delays, 0.99), &note);
    report.figure(&format!("sim.n{n}.change99_p50_s"), percentile(&delays, 0.5), "median");
    report.figure(&format!("sim.n{n}.change99_max_s"), percentile(&delays, 1.0), "worst");
    report.figure(&format!("sim.n{n}.change99_unknown"), n_unknown as f64, "changes that never got there");
    report.figure(&format!("sim.n{n}.bytes_per_s"), percentile(&rates, 1.0), "sent by a node, worst seed");
    report.figure(&format!("sim.n{n}.bytes_per_s_least"), rates[0], "best seed");
    let most = messages.iter().copied().fold(0.0, f64::max);
    report.figure(&format!("sim.n{n}.messages_per_s"), most, "sent by a node, worst seed");
}

/// The changes of the measured time, and the bytes and messages per second that a node sent in it.
fn one(seed: u64, n: usize, measured_s: u64) -> (Vec<Change>, f64, f64) {
    let mut mesh = mesh(seed, n);
    let warm_s = if n > 500 { 120 } else { 60 };
    churn(&mut mesh, warm_s);
    let (bytes, messages) = (mesh.sent_bytes(), mesh.sent());
    let changes = churn(&mut mesh, measured_s);
    let rate = |count: u64| count as f64 / measured_s as f64 / n as f64;
    (changes, rate(mesh.sent_bytes() - bytes), rate(mesh.sent() - messages))
}

/// Runs for `run_s` seconds, and says how the changes fared that had 10 s to arrive.
fn churn(mesh: &mut Mesh<Sage>, run_s: u64) -> Vec<Change> {
    let n = mesh.len();
    let end_us = mesh.now_us() + run_s * 1_000_000;
    let mut changes: Vec<Change> = Vec::new();
    let mut open: BTreeMap<(usize, u64), usize> = BTreeMap::new();
    let enough = (n * 99).div_ceil(100);
    while mesh.now_us() < end_us {
        let left_s = secs(end_us - mesh.now_us()) + 1e-6;
        let gap_s = mesh.draw_wait(CHANGE_INTERVAL_S / n as f64).min(left_s);
        mesh.run(gap_s, |_, seen| {
            let Seen::Learned { at_us, about, version, .. } = seen else { return };
            let Some(change) = open.get(&(about, version)).map(|idx| &mut changes[*idx]) else { return };
            change.n_learned += 1;
            // Its author knows it as well.
            if change.n_learned + 1 == enough {
                change.known_us = Some(at_us);
            }
        });
        let author = mesh.pick(n);
        let value = mesh.pick(100).to_string();
        let at_us = mesh.now_us();
        let signed = mesh.tell(author, |now, sage, out| {
            let version = sage.core.own_record().stamp().version;
            sage.core.put(now, "route/load", value.as_bytes()).expect("within bounds");
            sage.input(now, membership::Input::Tick, out);
            let stamp = sage.core.own_record().stamp();
            (stamp.version > version).then_some(stamp.version)
        });
        // A node that signed within the last 5 s waits, by design; such a change is not measured.
        if let Some(Some(version)) = signed {
            open.insert((author, version), changes.len());
            changes.push(Change { author, version, at_us, n_learned: 0, known_us: None });
        }
    }
    // The last seconds' changes had no time to arrive.
    changes.retain(|change| change.at_us + 10_000_000 < end_us);
    debug_assert!(changes.iter().all(|c| open.contains_key(&(c.author, c.version))));
    changes
}
