//! Two halves that do not hear of each other for ten minutes, while some on either side crash or leave.

use membership::Input;
use mesh_sim::{Mesh, Sage, mesh, peer};

use crate::report::{Report, for_each_seed, secs};

pub(crate) fn run(is_quick: bool, report: &mut Report) {
    let seeds = if is_quick { 1..=2 } else { 1..=10 };
    let (mut times, mut lost, mut ghosts) = (Vec::new(), 0, 0);
    for (heal_s, still_lost, still_ghosts) in for_each_seed(seeds.clone(), one) {
        times.push(heal_s);
        lost += still_lost;
        ghosts += still_ghosts;
    }
    times.sort_unstable_by(f64::total_cmp);
    let note = format!("worst of seeds {seeds:?}: all agree on every node and record");
    report.figure("sim.n100.partition_heal_s", times[times.len() - 1], &note);
    report.figure("sim.n100.partition_heal_least_s", times[0], "best");
    report.figure("sim.n100.lost", lost as f64, "pairs, 60 s after the partition");
    report.figure("sim.n100.ghosts", ghosts as f64, "pairs, 60 s after the partition");
}

fn one(seed: u64) -> (f64, usize, usize) {
    let mut mesh = mesh(seed, 100);
    let salt = mesh.pick(1000);
    mesh.part(|idx| u8::from((idx * 37 + salt) % 100 < 50));
    for minute in 0..10 {
        mesh.run(60.0, |_, _| {});
        let idx = mesh.pick(100);
        match minute {
            2 | 5 | 8 => mesh.crash(idx),
            3 | 9 => drop(mesh.tell(idx, |now, sage, out| sage.input(now, Input::Leave, out))),
            _ => drop(mesh.tell(idx, |now, sage, _| sage.core.put(now, "route/load", b"7"))),
        }
    }
    mesh.heal();
    let healed_us = mesh.now_us();
    let mut agreed_us = None;
    for _ in 0..600 {
        mesh.run(0.1, |_, _| {});
        // Once is enough: later on a new incarnation may be on its way. What stays wrong shows in the end.
        if agreed_us.is_none() && mesh.lost() == 0 && mesh.ghosts() == 0 && n_behind(&mesh) == 0 {
            agreed_us = Some(mesh.now_us());
        }
    }
    let heal_s = secs(agreed_us.unwrap_or(u64::MAX / 2) - healed_us);
    (heal_s, mesh.lost(), mesh.ghosts())
}

/// Pairs of nodes that take part of which the first does not hold the second's newest record.
fn n_behind(mesh: &Mesh<Sage>) -> usize {
    let up: Vec<_> = mesh.part_taking().collect();
    let newest = |idx: usize| mesh.node(idx).map(|sage| sage.core.own_record().stamp());
    let held = |by: usize, idx: usize| mesh.node(by)?.core.record(peer(idx)).map(|record| record.stamp());
    let is_behind = |by: usize, idx: usize| by != idx && held(by, idx) != newest(idx);
    up.iter().map(|by| up.iter().filter(|idx| is_behind(*by, **idx)).count()).sum()
}
