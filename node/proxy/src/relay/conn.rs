//! One connection of a worker: its bytes, its HTTP/2, and what it is for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tls::Svids;
use tokio::sync::OwnedSemaphorePermit;
use types::{Refusal, ServiceName, Timestamp};
use wire::{SendError, Stream};

use attest::Owner;

use crate::connections::Listed;
use crate::edges::Edge;
use crate::inbound;
use crate::outbound::Caller;
use crate::shares::Share;
use crate::table::{Backend, Table};
use crate::way::End;

use super::io::Io;
use super::slab::{Key, Slab};
use super::timer::Timer;

/// Bytes that may wait to be written to one connection until its calls wait as well.
const OUT_MAX: usize = 1 << 20;
/// Bytes of bodies that may wait in one worker until connections on which much waits are held back. Until then a call
/// whose bytes nobody takes holds up itself alone.
pub(super) const UNREAD_MAX: usize = 32 << 20;

/// One connection.
pub(super) struct Conn {
    pub(super) io: Io,
    pub(super) wire: wire::Conn,
    /// What is to be written, and how much of it was.
    pub(super) out: Vec<u8>,
    pub(super) sent: usize,
    /// What was read and is not whole yet.
    pub(super) rest: Vec<u8>,
    pub(super) kind: Kind,
    /// Whether it is among those to be looked at when the turn ends.
    is_dirty: bool,
    /// Whether it is among those to be read in the next turn.
    pub(super) is_ready: bool,
    /// Whether it is not read until what it is owed was written.
    pub(super) is_paused: bool,
    /// Whether the system says when more can be written.
    pub(super) is_blocked: bool,
    /// Whether it ends once all was written.
    pub(super) is_over: bool,
    /// Whether the system said that nothing more will come.
    pub(super) is_hung: bool,
    /// How often something came.
    pub(super) n_reads: u32,
    /// Calls that wait until more was written.
    pub(super) waiting: Vec<Key>,
    /// Since when half a frame waits for its rest, and nothing could be written, as far as that was noticed.
    pub(super) rest_since: Option<Instant>,
    pub(super) blocked_since: Option<Instant>,
    pub(super) timer: Option<Timer>,
}

/// What a connection is for.
pub(super) enum Kind {
    Near(Box<Near>),
    Guest(Box<Guest>),
    Upstream(Box<Upstream>),
}

/// A process on this machine calls.
pub(super) struct Near {
    pub(super) owner: Result<Owner, Refusal>,
    pub(super) seen: Option<Seen>,
    /// The host that was named last, and the service that it means by the table that was seen.
    pub(super) named: Option<(Vec<u8>, Arc<ServiceName>)>,
    /// Which lanes endpoints were reached by.
    pub(super) lanes: Vec<(Arc<route::Endpoint>, Key)>,
    pub(super) _share: Option<Share>,
    pub(super) _permit: OwnedSemaphorePermit,
}

/// Who calls by one table.
pub(super) type Seen = (Arc<Table>, Result<Arc<Caller>, Refusal>);

/// Another node, or a stock client, calls.
pub(super) struct Guest {
    pub(super) guest: Arc<inbound::Guest>,
    pub(super) listed: Listed,
    pub(super) seen: Option<(Arc<Table>, Result<Backend, Refusal>)>,
    /// The host that was named last and is this connection's service by the table that was seen.
    pub(super) named: Option<Vec<u8>>,
    /// What a service is told of who calls.
    pub(super) client_cert: Vec<u8>,
    /// What its calls are counted by, once there was one: those of proxies are counted by these.
    pub(super) edge: Option<Arc<Edge>>,
    pub(super) lane: Option<(SocketAddr, Key)>,
    pub(super) _permit: OwnedSemaphorePermit,
}

/// A service is called.
pub(super) struct Upstream {
    pub(super) lane: Key,
    pub(super) address: SocketAddr,
    /// Whether the other end has answered: only then the connection counts as made.
    pub(super) is_proven: bool,
    /// Whether it takes no more calls.
    pub(super) is_retired: bool,
    pub(super) far: Option<Far>,
    /// Calls that were cancelled beyond those that ended as they should.
    pub(super) n_cancelled: u32,
    /// Calls that wait for a sign of life.
    pub(super) awaiting: Vec<Key>,
    pub(super) watch: Watch,
    pub(super) n_reads_seen: u32,
}

/// What the connection to another node has beside one to a backend.
pub(super) struct Far {
    /// The certificates under which it was made.
    pub(super) own: Arc<Svids>,
    /// When the first of both ends' certificates ends.
    pub(super) not_after: Timestamp,
    pub(super) edge: Arc<Edge>,
    pub(super) listed: Option<Listed>,
    /// Until it is listed.
    pub(super) peer: Option<tls::Peer>,
    pub(super) end: End,
}

/// What is done about a connection when its timer is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watch {
    /// The other end must have answered by now.
    Proof,
    /// If no call came since, it is let go.
    Idle,
    /// If calls are on it and nothing came since, the other end is asked for a sign of life.
    Busy,
    /// That sign must have come by now.
    Sign,
}

impl Conn {
    pub(super) fn new(io: Io, wire: wire::Conn, out: Vec<u8>, kind: Kind) -> Self {
        Self {
            io,
            wire,
            out,
            sent: 0,
            rest: Vec::new(),
            kind,
            is_dirty: false,
            is_ready: false,
            is_paused: false,
            is_blocked: false,
            is_over: false,
            is_hung: false,
            n_reads: 0,
            waiting: Vec::new(),
            rest_since: None,
            blocked_since: None,
            timer: None,
        }
    }

    /// Whether more waits to be written than may.
    pub(super) const fn is_choked(&self) -> bool {
        self.out.len() - self.sent > OUT_MAX
    }

    /// Whether little enough waits that those who waited may go on.
    pub(super) const fn is_relieved(&self) -> bool {
        self.out.len() - self.sent <= OUT_MAX / 2
    }

    /// Sends as much of a body as there is room for, and says how much that is.
    pub(super) fn send(
        &mut self,
        now: Instant,
        stream: Stream,
        bytes: &[u8],
        is_end: bool,
    ) -> Result<usize, SendError> {
        if self.is_choked() && !bytes.is_empty() {
            return Ok(0);
        }
        self.wire.send_data(now, stream, bytes, is_end, &mut self.out)
    }

    pub(super) fn upstream(&mut self) -> Option<&mut Upstream> {
        match &mut self.kind {
            Kind::Upstream(upstream) => Some(upstream),
            Kind::Near(_) | Kind::Guest(_) => None,
        }
    }

    /// Where it is listed, if it is.
    pub(super) fn listed(&self) -> Option<&Listed> {
        match &self.kind {
            Kind::Near(_) => None,
            Kind::Guest(guest) => Some(&guest.listed),
            Kind::Upstream(upstream) => upstream.far.as_ref()?.listed.as_ref(),
        }
    }
}

/// All connections of a worker, and those that are to be looked at when the turn ends.
#[derive(Default)]
pub(super) struct Conns {
    pub(super) slab: Slab<Conn>,
    pub(super) dirty: Vec<Key>,
    /// Bytes of bodies that came and could not be sent on yet.
    pub(super) n_unread: usize,
}

impl Conns {
    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Conn> {
        self.slab.get_mut(key)
    }

    /// A connection that is about to be changed.
    pub(super) fn touch(&mut self, key: Key) -> Option<&mut Conn> {
        let conn = self.slab.get_mut(key)?;
        if !conn.is_dirty {
            conn.is_dirty = true;
            self.dirty.push(key);
        }
        Some(conn)
    }

    /// Takes note that bytes of a body came.
    pub(super) const fn came(&mut self, n: usize) {
        self.n_unread += n;
    }

    /// Takes note that bytes of a stream's body were sent on, or are not wanted.
    pub(super) fn release(&mut self, key: Key, stream: Stream, n: usize) {
        if n > 0
            && let Some(conn) = self.touch(key)
        {
            let before = conn.wire.n_held();
            conn.wire.release(stream, n, &mut conn.out);
            let released = before - conn.wire.n_held();
            self.n_unread -= released as usize;
        }
    }

    /// Takes a connection out.
    pub(super) fn remove(&mut self, key: Key) -> Option<Conn> {
        let conn = self.slab.remove(key)?;
        self.n_unread -= conn.wire.n_held() as usize;
        Some(conn)
    }

    /// The next to be looked at.
    pub(super) fn next_dirty(&mut self) -> Option<Key> {
        loop {
            let key = self.dirty.pop()?;
            if let Some(conn) = self.slab.get_mut(key) {
                conn.is_dirty = false;
                return Some(key);
            }
        }
    }
}
