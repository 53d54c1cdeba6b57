//! 25 of 100 processes starve: who is taken for dead although it runs?

use mesh_sim::{Mesh, Node, Seen, Verdict, mesh};

use crate::report::{Report, for_each_seed};

/// How long a process must have run for its death to count as false.
const RAN_FOR_S: u64 = 2;

/// Deaths in some node-hours.
#[derive(Default)]
pub(crate) struct Deaths {
    node_hours: f64,
    n_false: u64,
    n: u64,
    n_suspected: u64,
    /// False ones per 1,000 node-hours of the worst seed.
    worst: f64,
}

impl Deaths {
    pub(crate) fn sum(seeds: Vec<Self>) -> Self {
        seeds.into_iter().fold(Self::default(), |all, one| Self {
            node_hours: all.node_hours + one.node_hours,
            n_false: all.n_false + one.n_false,
            n: all.n + one.n,
            n_suspected: all.n_suspected + one.n_suspected,
            worst: all.worst.max(one.worst),
        })
    }
}

pub(crate) fn run(is_quick: bool, report: &mut Report) {
    let hours = if is_quick { 0.2 } else { 10.0 };
    let seeds = 1..=5;
    let deaths = Deaths::sum(for_each_seed(seeds.clone(), |seed| watch(mesh(seed, 100), hours)));
    tell("", &deaths, &format!("seeds {seeds:?}"), report);
}

/// Starves a quarter of the mesh for some hours and counts.
pub(crate) fn watch<N: Node>(mut mesh: Mesh<N>, hours: f64) -> Deaths {
    for idx in 0..25 {
        mesh.starve(idx * 4);
    }
    let node_hours = hours * mesh.len() as f64;
    let mut deaths = Deaths { node_hours, ..Deaths::default() };
    mesh.run(hours * 3600.0, |mesh, seen| match seen {
        Seen::Judged { about, verdict: Verdict::Dead, .. } => {
            deaths.n += 1;
            deaths.n_false += u64::from(mesh.has_run_for(about, RAN_FOR_S));
        }
        Seen::Judged { verdict: Verdict::Suspect, .. } => deaths.n_suspected += 1,
        _ => {}
    });
    deaths.worst = deaths.n_false as f64 * 1000.0 / node_hours;
    deaths
}

/// Notes the figures under `sim.n100.starved.` and a prefix.
pub(crate) fn tell(prefix: &str, deaths: &Deaths, note: &str, report: &mut Report) {
    let key = |name: &str| format!("sim.n100.starved.{prefix}{name}");
    let rate = |count: u64| count as f64 * 1000.0 / deaths.node_hours;
    report.figure(&key("node_hours"), deaths.node_hours, note);
    let note = "each node that takes one for dead that has run for 2 s counts";
    report.figure(&key("false_deaths_per_1000_node_h"), rate(deaths.n_false), note);
    report.figure(&key("false_deaths_per_1000_node_h_worst"), deaths.worst, "worst seed");
    report.figure(&key("deaths_per_1000_node_h"), rate(deaths.n), "false or not");
    if deaths.n_suspected > 0 {
        report.figure(&key("suspicions_per_1000_node_h"), rate(deaths.n_suspected), "false or not");
    }
}
