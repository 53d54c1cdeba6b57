//! What the proxy counts of calls: per worker and edge, handed over each tick.

use std::time::Duration;

use crate::histogram::Histogram;
use crate::reason::Reason;

/// How many status codes gRPC has (0 to 16).
pub const STATUSES: usize = 17;

/// Calls on one edge during one tick of one worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallStats {
    /// Calls by gRPC status code, as the caller saw them.
    pub by_status: [u64; STATUSES],
    /// Calls that ended without any status: the connection broke.
    pub lost: u64,
    /// Calls that were sent again after they had reached no server.
    pub retried: u64,
    /// Calls that the mesh itself refused, by reason.
    pub refused: Vec<(Reason, u64)>,
    /// From the request forwarded to its first response headers.
    pub latency: Histogram,
    /// Client time less server time, where both sides measured.
    pub gap: Histogram,
    /// Bytes of request bodies.
    pub request_bytes: u64,
    /// Bytes of response bodies.
    pub response_bytes: u64,
    /// Calls in flight when the tick ended.
    pub in_flight: u64,
}

impl CallStats {
    /// Counts a call that ended with `status`; a number beyond 16 counts as UNKNOWN (2).
    pub fn record(&mut self, status: u8, latency: Option<Duration>) {
        let idx = usize::from(status);
        self.by_status[if idx < STATUSES { idx } else { 2 }] += 1;
        if let Some(latency) = latency {
            self.latency.record(latency);
        }
    }

    /// Counts a call that the mesh refused.
    pub fn refuse(&mut self, reason: Reason) {
        // INVARIANT: at most one entry a reason, so the list is bounded by `Reason::ALL`.
        match self.refused.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, n)) => *n += 1,
            None => self.refused.push((reason, 1)),
        }
    }

    /// Adds what another worker counted on the same edge in the same tick.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.by_status.iter_mut().zip(other.by_status) {
            *mine += theirs;
        }
        for (reason, n) in &other.refused {
            match self.refused.iter_mut().find(|(known, _)| known == reason) {
                Some((_, mine)) => *mine += n,
                None => self.refused.push((*reason, *n)),
            }
        }
        self.lost += other.lost;
        self.retried += other.retried;
        self.latency.merge(&other.latency);
        self.gap.merge(&other.gap);
        self.request_bytes += other.request_bytes;
        self.response_bytes += other.response_bytes;
        self.in_flight += other.in_flight;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_workers_count_as_one() {
        let mut one = CallStats::default();
        one.record(0, Some(Duration::from_millis(5)));
        one.refuse(Reason::MemberUnknown);
        let mut two = CallStats::default();
        two.record(200, None);
        two.refuse(Reason::MemberUnknown);
        one.merge(&two);
        assert_eq!((one.by_status[0], one.by_status[2], one.latency.len()), (1, 1, 1));
        assert_eq!(one.refused, [(Reason::MemberUnknown, 2)]);
    }
}
