//! `make bench-mesh-sim`: the membership core in the simulator, with shipped defaults, beside foca.
//!
//! Prints a table for people and then one line `RESULT {json}`. `--quick` runs a tenth of it. Words after
//! that choose scenarios: `steady`, `steady1000`, `partition`, `crash`, `starved`, `rival`.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

#[path = "mesh_sim/crash.rs"]
mod crash;
#[path = "mesh_sim/partition.rs"]
mod partition;
#[path = "mesh_sim/report.rs"]
mod report;
#[path = "mesh_sim/rival.rs"]
mod rival;
#[path = "mesh_sim/starved.rs"]
mod starved;
#[path = "mesh_sim/steady.rs"]
mod steady;

use report::Report;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let is_quick = args.iter().any(|arg| arg == "--quick");
    let chosen: Vec<_> = args.iter().filter(|arg| !arg.starts_with("--")).collect();
    let runs = |scenario: &str| chosen.is_empty() || chosen.iter().any(|name| *name == scenario);
    let mut report = Report::new();
    if runs("steady") {
        steady::run(100, is_quick, &mut report);
    }
    if runs("steady1000") {
        steady::run(1000, is_quick, &mut report);
    }
    if runs("partition") {
        partition::run(is_quick, &mut report);
    }
    if runs("crash") {
        crash::run(is_quick, &mut report);
    }
    if runs("starved") {
        starved::run(is_quick, &mut report);
    }
    if runs("rival") {
        rival::run(is_quick, &mut report);
    }
    report.finish();
}
