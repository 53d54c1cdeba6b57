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
use crate::way::{End, Way};

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
    /// Where the other end is; over the mesh, the other end of the link.
    pub address: SocketAddr,
    /// Which way it goes.
    pub way: Way,
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

/// One open connection.
pub(crate) struct Open {
    pub(crate) peer: Peer,
    pub(crate) end: End,
    pub(crate) direction: Direction,
    pub(crate) since: Timestamp,
    n_calls: AtomicU32,
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
    pub(crate) fn new(peer: Peer, end: End, direction: Direction) -> Self {
        let since = Now::read().wall;
        Self { peer, end, direction, since, n_calls: AtomicU32::new(0), cut: CancellationToken::new() }
    }

    /// Says how many calls are on it.
    pub(crate) fn set_calls(&self, n: usize) {
        self.n_calls.store(u32::try_from(n).unwrap_or(u32::MAX), Ordering::Relaxed);
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
            address: self.end.address,
            way: self.end.way,
            direction: self.direction,
            group: self.peer.group.and_then(|group| group.as_str()).unwrap_or("unknown"),
            signature: self.peer.signature.and_then(|scheme| scheme.as_str()).unwrap_or("unknown"),
            since: self.since,
            in_flight: self.n_calls.load(Ordering::Relaxed),
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
            sagemesh.way = view.way.name(),
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

    /// Cuts those whose peer would not be let in now. Whether there were any.
    pub(crate) fn recheck(&self, members: &Members, counts: &Counts) -> bool {
        let (now, mut is_any) = (Now::read(), false);
        let open: Vec<Arc<Open>> =
            self.open.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for open in open.iter().filter(|open| !open.cut.is_cancelled()) {
            if let Err(refusal) = open.peer.recheck(now, members) {
                counts.add(Count::ConnectionCut);
                info!(
                    sagemesh.peer = %open.peer.caller.id,
                    network.peer.address = %open.end.address,
                    error.type = refusal.reason.code(),
                    error = %refusal,
                    "cut a connection"
                );
                open.cut.cancel();
                is_any = true;
            }
        }
        is_any
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.connections.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}
