//! The accounts of a load: what callers saw of each call, against what services wrote down of it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, ensure};

/// Stands for the gRPC status of a call that ended without one. Codes are smaller.
pub(crate) const NONE: u8 = u8::MAX;
/// gRPC's OK.
pub(crate) const OK: u8 = 0;
/// Bytes of one line of a journal.
const LINE: usize = 8;

/// What a caller saw of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Its gRPC status, or [`NONE`].
    pub(crate) status: u8,
    /// Answers that named it, wherever they came.
    pub(crate) n_answers: u8,
}

/// What came of all calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accounts {
    pub(crate) requests: u64,
    /// Those that ended with OK.
    pub(crate) answered: u64,
    /// The others that have a status, by it.
    pub(crate) failed: BTreeMap<u8, u64>,
    pub(crate) without_status: u64,
    /// Calls that were answered more than once.
    pub(crate) twice: u64,
    /// Calls that a service executed more than once.
    pub(crate) executed_twice: u64,
    /// Calls that ended with OK and that no service has executed: then the journals are not to be believed.
    pub(crate) unexecuted: u64,
}

/// Settles the accounts of the calls from `first` on. `executed` are the lines of all journals.
pub(crate) fn settle(first: u64, outcomes: &[Outcome], executed: impl Iterator<Item = u64>) -> Accounts {
    let mut n_executed = vec![0_u8; outcomes.len()];
    for id in executed {
        let idx = id.checked_sub(first).and_then(|idx| usize::try_from(idx).ok());
        if let Some(n) = idx.and_then(|idx| n_executed.get_mut(idx)) {
            *n = n.saturating_add(1);
        }
    }
    let mut accounts = Accounts::default();
    for (outcome, n_executed) in outcomes.iter().zip(n_executed) {
        accounts.requests += 1;
        match outcome.status {
            OK => {
                accounts.answered += 1;
                accounts.unexecuted += u64::from(n_executed == 0);
            }
            NONE => accounts.without_status += 1,
            status => *accounts.failed.entry(status).or_default() += 1,
        }
        accounts.twice += u64::from(outcome.n_answers > 1);
        accounts.executed_twice += u64::from(n_executed > 1);
    }
    accounts
}

/// Writes down what a caller saw.
pub(crate) fn write(path: &Path, outcomes: impl Iterator<Item = Outcome>) -> anyhow::Result<()> {
    let bytes: Vec<_> = outcomes.flat_map(|it| [it.status, it.n_answers]).collect();
    std::fs::write(path, bytes).with_context(|| format!("failed to write {}", path.display()))
}

/// Reads it.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Outcome>> {
    let bytes = std::fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
    let (pairs, rest) = bytes.as_chunks::<2>();
    ensure!(rest.is_empty(), "{} ends in the middle of an outcome", path.display());
    Ok(pairs.iter().map(|[status, n_answers]| Outcome { status: *status, n_answers: *n_answers }).collect())
}

/// The lines of a journal. A kill leaves whole ones.
pub(crate) fn journal(path: &Path) -> anyhow::Result<Vec<u64>> {
    let bytes = std::fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
    let (lines, rest) = bytes.as_chunks::<LINE>();
    ensure!(rest.is_empty(), "{} ends in the middle of a line", path.display());
    Ok(lines.iter().map(|line| u64::from_le_bytes(*line)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNAVAILABLE: u8 = 14;

    fn outcome(status: u8, n_answers: u8) -> Outcome {
        Outcome { status, n_answers }
    }

    #[test]
    fn what_went_well_is_answered_and_nothing_else() {
        let outcomes = [outcome(OK, 1), outcome(OK, 1), outcome(UNAVAILABLE, 0)];
        // The third was lost after it had reached a service; another load's calls are none of these.
        let accounts = settle(10, &outcomes, [9, 10, 12, 11, 13].into_iter());
        let failed = [(UNAVAILABLE, 1)].into();
        assert_eq!(accounts, Accounts { requests: 3, answered: 2, failed, ..Accounts::default() });
    }

    #[test]
    fn planted_faults_are_found_each_by_its_name() {
        #[track_caller]
        fn check(planted: Outcome, executed: &[u64], expected: Accounts) {
            let outcomes = [outcome(OK, 1), planted];
            let executed = executed.iter().copied().chain([0]);
            let found = settle(0, &outcomes, executed);
            assert_eq!(found, Accounts { requests: 2, answered: 1 + expected.answered, ..expected });
        }
        let none = Accounts::default;
        check(outcome(OK, 2), &[1], Accounts { answered: 1, twice: 1, ..none() });
        check(outcome(OK, 1), &[1, 1], Accounts { answered: 1, executed_twice: 1, ..none() });
        check(outcome(OK, 1), &[], Accounts { answered: 1, unexecuted: 1, ..none() });
        check(outcome(NONE, 0), &[1], Accounts { without_status: 1, ..none() });
        let failed: BTreeMap<_, _> = [(UNAVAILABLE, 1)].into();
        check(
            outcome(UNAVAILABLE, 0),
            &[1, 1, 1],
            Accounts { failed: failed.clone(), executed_twice: 1, ..none() },
        );
        check(outcome(UNAVAILABLE, 2), &[1], Accounts { failed, twice: 1, ..none() });
    }

    #[test]
    fn what_was_written_down_is_read_and_half_of_it_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let (seen, executed) = (dir.path().join("seen"), dir.path().join("executed"));
        let outcomes = vec![outcome(OK, 1), outcome(NONE, 0)];
        write(&seen, outcomes.iter().copied()).expect("a file");
        assert_eq!(read(&seen).expect("outcomes"), outcomes);
        std::fs::write(&executed, [7_u64.to_le_bytes(), 8_u64.to_le_bytes()].concat()).expect("a file");
        assert_eq!(journal(&executed).expect("lines"), [7, 8]);
        std::fs::write(&executed, [1]).expect("a file");
        journal(&executed).expect_err("half a line");
    }
}
