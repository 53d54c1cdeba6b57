//! How much of what costs the peer little is too much.
//!
//! Each kind has a budget, which time and useful frames refill: honest peers send pings, window updates and
//! cancellations beside calls, attackers send them alone. A budget that is spent ends the connection with
//! ENHANCE_YOUR_CALM.

use std::fmt;

use crate::error::Error;

/// What a peer can do too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Flood {
    /// Streams that the peer reset, had refused, or made this end reset (CVE-2023-44487, CVE-2025-8671).
    Resets,
    /// PING frames (CVE-2019-9512).
    Pings,
    /// SETTINGS frames (CVE-2019-9515).
    Settings,
    /// WINDOW_UPDATE frames.
    WindowUpdates,
    /// PRIORITY frames (CVE-2019-9513).
    Priorities,
    /// DATA frames with nothing in them (CVE-2019-9518).
    EmptyData,
    /// Frames of types that are not known.
    Unknown,
    /// Frames for streams that are over.
    Strays,
    /// Lists of fields that are too long.
    HeaderLists,
    /// Interim answers.
    Interim,
    /// Pieces, or bytes, of one header block (CVE-2024-27316).
    Continuations,
}

/// How many kinds of floods there are.
const N_FLOODS: usize = 11;
/// What a useful frame gives back to the budgets that grow with use.
const PER_USEFUL: u32 = 2;

impl Flood {
    /// All kinds.
    pub const ALL: [Self; N_FLOODS] = [
        Self::Resets,
        Self::Pings,
        Self::Settings,
        Self::WindowUpdates,
        Self::Priorities,
        Self::EmptyData,
        Self::Unknown,
        Self::Strays,
        Self::HeaderLists,
        Self::Interim,
        Self::Continuations,
    ];

    /// Its name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Resets => "resets",
            Self::Pings => "pings",
            Self::Settings => "settings",
            Self::WindowUpdates => "window_updates",
            Self::Priorities => "priorities",
            Self::EmptyData => "empty_data",
            Self::Unknown => "unknown_frames",
            Self::Strays => "stray_frames",
            Self::HeaderLists => "header_lists",
            Self::Interim => "interim_answers",
            Self::Continuations => "continuations",
        }
    }
}

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// How many at once.
    pub burst: u32,
    /// How many a second in the long run.
    pub per_second: u32,
}

/// How many of each kind came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts([u64; N_FLOODS]);

impl Counts {
    /// How many of one kind came.
    pub const fn of(&self, flood: Flood) -> u64 {
        self.0[flood as usize]
    }
}

/// The budgets of one connection.
#[derive(Debug)]
pub(crate) struct Budgets {
    counts: Counts,
    left: [u32; N_FLOODS],
    /// When each was refilled last.
    refilled: [Mark; N_FLOODS],
    /// Useful frames so far, modulo 2³².
    n_useful: u32,
    /// Streams that ended as they should so far, modulo 2³².
    n_ended: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    at_ms: u32,
    n_earned: u32,
}

impl Budgets {
    pub(crate) fn new(limits: &[Limit; N_FLOODS]) -> Self {
        Self {
            counts: Counts::default(),
            left: limits.map(|limit| limit.burst),
            refilled: [Mark::default(); N_FLOODS],
            n_useful: 0,
            n_ended: 0,
        }
    }

    pub(crate) fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// Takes note of a frame that carries something.
    pub(crate) const fn useful(&mut self) {
        self.n_useful = self.n_useful.wrapping_add(1);
    }

    /// Takes note of a stream that both ends ended.
    pub(crate) const fn ended(&mut self) {
        self.n_ended = self.n_ended.wrapping_add(1);
    }

    /// Counts what has no budget.
    pub(crate) const fn count(&mut self, flood: Flood) {
        self.counts.0[flood as usize] += 1;
    }

    /// Takes one from a budget.
    pub(crate) fn take(&mut self, flood: Flood, now_ms: u32, limit: Limit) -> Result<(), Error> {
        let at = flood as usize;
        self.counts.0[at] += 1;
        if self.left[at] == 0 {
            self.left[at] = self.refill(flood, now_ms, limit);
        }
        match self.left[at].checked_sub(1) {
            Some(left) => {
                self.left[at] = left;
                Ok(())
            }
            None => Err(Error::Flood(flood)),
        }
    }

    /// What was earned since the last refill, or since the beginning.
    fn refill(&mut self, flood: Flood, now_ms: u32, limit: Limit) -> u32 {
        let n_earned = match flood {
            Flood::Resets => self.n_ended,
            Flood::Settings | Flood::HeaderLists | Flood::Interim | Flood::Continuations => 0,
            _ => self.n_useful.wrapping_mul(PER_USEFUL),
        };
        let mark = &mut self.refilled[flood as usize];
        let by_time = u64::from(now_ms.saturating_sub(mark.at_ms)) * u64::from(limit.per_second) / 1000;
        let by_use = u64::from(n_earned.wrapping_sub(mark.n_earned));
        let left = (by_time + by_use).min(u64::from(limit.burst));
        if left > 0 {
            *mark = Mark { at_ms: now_ms, n_earned };
        }
        u32::try_from(left).unwrap_or(limit.burst)
    }
}
