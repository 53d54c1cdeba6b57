//! `make bench-mesh-sim`: the membership core in the simulator, with shipped defaults, beside foca.
//!
//! Prints a table for people and then one line `RESULT {json}`. `--quick` runs a tenth of it. Words after
//! that choose scenarios: see `simulated.rs`.
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

mod report;
mod simulated;

use report::Report;

fn main() {
    let (flags, chosen): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|arg| arg.starts_with("--"));
    let is_quick = flags.iter().any(|flag| flag == "--quick");
    let mut report = Report::new();
    simulated::run(&chosen, is_quick, &mut report);
    report.finish();
}
