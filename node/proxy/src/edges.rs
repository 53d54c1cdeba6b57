//! What is counted of calls, by who calls whom.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use types::call::CallStats;
use types::{EdgeKey, Party, Reason, SpiffeId};

use crate::metrics::{Count, Counts};

/// Most edges of one tick. Beyond that calls are carried and not counted by edge; how many is counted.
const EDGES_MAX: usize = 4096;

/// One edge of this tick and those that follow while somebody holds it.
#[derive(Debug, Default)]
pub(crate) struct Edge {
    stats: Mutex<CallStats>,
    in_flight: AtomicU64,
}

/// All edges.
#[derive(Debug)]
pub(crate) struct Edges {
    edges: Mutex<HashMap<EdgeKey, Arc<Edge>>>,
    counts: Arc<Counts>,
}

/// What became of one call, as far as its edge counts it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// Its gRPC status, as its caller takes it; absent if the connection broke before there was one.
    pub(crate) status: Option<u8>,
    /// Why the mesh refused it, if it did.
    pub(crate) refused: Option<Reason>,
    pub(crate) latency: Option<Duration>,
    pub(crate) gap: Option<Duration>,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    pub(crate) retried: u64,
    /// Set if it goes on elsewhere: it is counted there.
    pub(crate) is_void: bool,
}

/// A call in flight. Counts it when it is dropped, however it ended.
#[derive(Debug)]
pub(crate) struct Counted {
    edge: Arc<Edge>,
    pub(crate) tally: Tally,
}

impl Edges {
    pub(crate) fn new(counts: Arc<Counts>) -> Self {
        Self { edges: Mutex::default(), counts }
    }

    /// The edge between two members.
    pub(crate) fn of(&self, caller: SpiffeId, callee: SpiffeId) -> Arc<Edge> {
        let key = EdgeKey { caller: Party::Member(caller), callee: Party::Member(callee) };
        let mut edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        if !edges.contains_key(&key) && edges.len() >= EDGES_MAX {
            self.counts.add(Count::EdgeShed);
            return Arc::default();
        }
        Arc::clone(edges.entry(key).or_default())
    }

    /// What was counted since the last time. Edges that nobody holds are forgotten.
    pub(crate) fn take(&self) -> Vec<(EdgeKey, CallStats)> {
        let mut edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::new();
        edges.retain(|key, edge| {
            // The lock of the map keeps others from taking hold of it meanwhile.
            let is_held = Arc::strong_count(edge) > 1;
            let mut stats = std::mem::take(&mut *edge.stats.lock().unwrap_or_else(PoisonError::into_inner));
            stats.in_flight = edge.in_flight.load(Ordering::Relaxed);
            if stats != CallStats::default() {
                taken.push((key.clone(), stats));
            }
            is_held
        });
        taken
    }
}

impl Edge {
    pub(crate) fn enter(self: &Arc<Self>) -> Counted {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Counted { edge: Arc::clone(self), tally: Tally::default() }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.edge.in_flight.fetch_sub(1, Ordering::Relaxed);
        let tally = &self.tally;
        if tally.is_void {
            return;
        }
        let mut stats = self.edge.stats.lock().unwrap_or_else(PoisonError::into_inner);
        match tally.status {
            Some(status) => stats.record(status, tally.latency),
            None => stats.lost += 1,
        }
        if let Some(reason) = tally.refused {
            stats.refuse(reason);
        }
        if let Some(gap) = tally.gap {
            stats.gap.record(gap);
        }
        stats.request_bytes += tally.request_bytes;
        stats.response_bytes += tally.response_bytes;
        stats.retried += tally.retried;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> SpiffeId {
        format!("spiffe://pi.home.mesh/svc/{name}").parse().expect("an id")
    }

    #[test]
    fn each_call_is_counted_once_and_taken_once() {
        let edges = Edges::new(Arc::default());
        let edge = edges.of(id("web"), id("api"));
        let mut call = edge.enter();
        call.tally.status = Some(0);
        let lost = edge.enter();
        drop(call);
        let taken = edges.take();
        assert_eq!((taken.len(), taken[0].1.by_status[0], taken[0].1.in_flight), (1, 1, 1));
        drop(lost);
        drop(edge);
        let taken = edges.take();
        assert_eq!((taken[0].1.by_status[0], taken[0].1.lost, taken[0].1.in_flight), (0, 1, 0));
        assert!(edges.take().is_empty() && edges.edges.lock().expect("not poisoned").is_empty());
    }

    #[test]
    fn edges_are_bounded() {
        let counts: Arc<Counts> = Arc::default();
        let edges = Edges::new(Arc::clone(&counts));
        for n in 0..EDGES_MAX + 10 {
            drop(edges.of(id(&format!("s{n}")), id("api")).enter());
        }
        assert_eq!((edges.take().len(), counts.of(Count::EdgeShed)), (EDGES_MAX, 10));
    }
}
