//! The membership core in the simulator, with shipped defaults, beside foca.

mod crash;
mod partition;
mod rival;
mod starved;
mod steady;

use crate::report::Report;

/// Runs the scenarios that `chosen` names, all if it names none: `steady`, `steady1000`, `partition`, `crash`,
/// `starved`, `rival`. `is_quick` runs a tenth of each.
pub(crate) fn run(chosen: &[String], is_quick: bool, report: &mut Report) {
    let runs = |scenario: &str| chosen.is_empty() || chosen.iter().any(|name| *name == scenario);
    if runs("steady") {
        steady::run(100, is_quick, report);
    }
    if runs("steady1000") {
        steady::run(1000, is_quick, report);
    }
    if runs("partition") {
        partition::run(is_quick, report);
    }
    if runs("crash") {
        crash::run(is_quick, report);
    }
    if runs("starved") {
        starved::run(is_quick, report);
    }
    if runs("rival") {
        rival::run(is_quick, report);
    }
}
