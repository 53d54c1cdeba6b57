//! Which connections to other nodes are open, to whom, and how well they are kept.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tls::{News, Peer};
use tokio_util::sync::CancellationToken;
use tracing::info;

use identity::Members;
use types::{Now, SpiffeId, Timestamp};

use crate::metrics::{Count, Counts};

/// Who made a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// This node.
    Outbound,
    /// The other end.
    Inbound,
}

/// An open connection to another node or a stock client.
#[derive(Clone, Debug)]
pub struct ConnectionView {
    /// Who calls over it.
    pub caller: SpiffeId,
    /// Who is called.
    pub target: SpiffeId,
    /// Where the other end is.
    pub address: SocketAddr,
    /// Who made it.
    pub direction: Direction,
    /// The key-exchange group.
    pub group: &'static str,
    /// The algorithm by which the other end proved its key.
    pub signature: &'static str,
    /// Since when it is open.
    pub since: Timestamp,
    /// Calls on it now.
    pub in_flight: u32,
}

/// How many calls are on a connection, and whether it takes more.
#[derive(Debug, Default)]
pub(crate) struct Load(AtomicU32);

impl Load {
    /// Set once no more calls are taken.
    const CLOSED: u32 = 1 << 31;

    /// Takes a call, unless the connection is closed.
    pub(crate) fn enter(&self) -> bool {
        let next = |n| (n & Self::CLOSED == 0).then_some(n + 1);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).is_ok()
    }

    pub(crate) fn leave(&self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }

    pub(crate) fn n(&self) -> u32 {
        self.0.load(Ordering::Acquire) & !Self::CLOSED
    }

    /// Takes no more calls.
    pub(crate) fn close(&self) {
        self.0.fetch_or(Self::CLOSED, Ordering::AcqRel);
    }

    /// Takes no more calls if there are none now. Whether it is so.
    pub(crate) fn close_if_idle(&self) -> bool {
        self.0.compare_exchange(0, Self::CLOSED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// One open connection.
pub(crate) struct Open {
    pub(crate) peer: Peer,
    pub(crate) address: SocketAddr,
    pub(crate) direction: Direction,
    pub(crate) since: Timestamp,
    pub(crate) load: Arc<Load>,
    /// Cancelled when the peer no longer counts: the connection ends at once.
    pub(crate) cut: CancellationToken,
}

/// All open connections.
pub(crate) struct Connections {
    open: Mutex<BTreeMap<u64, Arc<Open>>>,
    next: AtomicU64,
    /// Hears of records that peers bring along.
    news: News,
}

/// Keeps a connection listed until it is dropped.
pub(crate) struct Listed {
    pub(crate) open: Arc<Open>,
    id: u64,
    connections: Arc<Connections>,
}

impl Open {
    pub(crate) fn new(peer: Peer, address: SocketAddr, direction: Direction) -> Self {
        let since = Now::read().wall;
        Self { peer, address, direction, since, load: Arc::default(), cut: CancellationToken::new() }
    }

    fn ends(&self) -> (&SpiffeId, &SpiffeId) {
        match self.direction {
            Direction::Outbound => (&self.peer.own, &self.peer.caller.id),
            Direction::Inbound => (&self.peer.caller.id, &self.peer.own),
        }
    }

    fn view(&self) -> ConnectionView {
        let (caller, target) = self.ends();
        ConnectionView {
            caller: caller.clone(),
            target: target.clone(),
            address: self.address,
            direction: self.direction,
            group: self.peer.group.and_then(|group| group.as_str()).unwrap_or("unknown"),
            signature: self.peer.signature.and_then(|scheme| scheme.as_str()).unwrap_or("unknown"),
            since: self.since,
            in_flight: self.load.n(),
        }
    }
}

impl Connections {
    /// None yet.
    pub(crate) fn new(news: News) -> Self {
        Self { open: Mutex::default(), next: AtomicU64::default(), news }
    }

    /// Lists a connection, and says so in the log.
    pub(crate) fn list(self: &Arc<Self>, open: Open) -> Listed {
        self.news.tell(&open.peer);
        let view = open.view();
        info!(
            sagemesh.caller = %view.caller,
            sagemesh.target = %view.target,
            network.peer.address = %view.address,
            network.connection.direction = ?view.direction,
            tls.curve = view.group,
            sagemesh.tls.signature = view.signature,
            "connected"
        );
        let (open, id) = (Arc::new(open), self.next.fetch_add(1, Ordering::Relaxed));
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&open));
        Listed { open, id, connections: Arc::clone(self) }
    }

    pub(crate) fn views(&self) -> Vec<ConnectionView> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.values().map(|open| open.view()).collect()
    }

    /// Cuts those whose peer would not be let in now.
    pub(crate) fn recheck(&self, members: &Members, counts: &Counts) {
        let now = Now::read();
        let open: Vec<Arc<Open>> =
            self.open.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for open in open.iter().filter(|open| !open.cut.is_cancelled()) {
            if let Err(refusal) = open.peer.recheck(now, members) {
                counts.add(Count::ConnectionCut);
                info!(
                    sagemesh.peer = %open.peer.caller.id,
                    network.peer.address = %open.address,
                    error.type = refusal.reason.code(),
                    error = %refusal,
                    "cut a connection"
                );
                open.cut.cancel();
            }
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.connections.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_connection_takes_no_calls_and_a_busy_one_is_not_idle() {
        let load = Load::default();
        assert!(load.enter() && !load.close_if_idle());
        load.leave();
        assert!(load.close_if_idle() && !load.enter());
        assert_eq!(load.n(), 0);
        let load = Load::default();
        assert!(load.enter());
        load.close();
        assert!(!load.enter());
        load.leave();
        assert_eq!(load.n(), 0);
    }
}
