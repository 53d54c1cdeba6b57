//! What others tell a worker.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mio::{Poll, Token, Waker};
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::rustls::Connection;
use tracing::debug;

use attest::Owner;
use types::{Reason, Refusal};

use crate::connections::Listed;
use crate::dial::Made;
use crate::edges::Edges;
use crate::inbound::Guest;
use crate::shares::Share;

use super::io::Socket;
use super::slab::Key;

/// The token of the waker. No connection has it: the generation of a key is not 0.
pub(super) const WAKE: Token = Token(0);

/// A connection that a worker is to carry the calls of.
pub(crate) enum Newcomer {
    /// Of a process on this machine.
    Near { socket: Socket, owner: Result<Owner, Refusal>, share: Option<Share>, permit: OwnedSemaphorePermit },
    /// Of another node's proxy, or of a stock client.
    Guest {
        socket: Socket,
        /// None in the clear, which only tests do.
        tls: Option<Box<Connection>>,
        guest: Arc<Guest>,
        listed: Listed,
        permit: OwnedSemaphorePermit,
    },
}

/// What a worker was told and has not read. As many newcomers as there are permits, and as many connections made
/// as it asked for.
#[derive(Default)]
pub(super) struct Letters {
    pub(super) newcomers: Vec<Newcomer>,
    /// What came of making connections, and for which lanes.
    pub(super) made: Vec<(Key, Result<Made, Refusal>)>,
    /// Some connections were cut.
    pub(super) recheck: bool,
    /// No new calls.
    pub(super) drain: bool,
    pub(super) stop: bool,
}

/// Where a worker is told things.
pub(crate) struct Inbox {
    letters: Mutex<Letters>,
    waker: Waker,
    /// Connections that were handed to the worker and are open.
    pub(super) n_connections: AtomicUsize,
    /// What the worker counts of calls. Its own, so that workers do not wait for each other.
    pub(super) edges: Edges,
    /// Calls that it carries, and streams of all its connections, when it last looked.
    pub(super) n_calls: AtomicUsize,
    pub(super) n_streams: AtomicUsize,
}

impl Inbox {
    pub(super) fn new(poll: &Poll, edges: Edges) -> io::Result<Self> {
        let waker = Waker::new(poll.registry(), WAKE)?;
        let [n_connections, n_calls, n_streams] = [(); 3].map(|()| AtomicUsize::new(0));
        Ok(Self { letters: Mutex::default(), waker, n_connections, edges, n_calls, n_streams })
    }

    /// All that was told since the last time.
    pub(super) fn take(&self) -> Letters {
        std::mem::take(&mut *self.letters())
    }

    pub(super) fn tell(&self, write: impl FnOnce(&mut Letters)) {
        write(&mut self.letters());
        if let Err(err) = self.waker.wake() {
            debug!(error = %err, "failed to wake a worker");
        }
    }

    pub(super) fn load(&self) -> usize {
        self.n_connections.load(Ordering::Relaxed)
    }

    fn letters(&self) -> MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells a worker what came of making a connection. Dropped, it tells that nothing did.
pub(crate) struct Reply {
    pub(super) inbox: Arc<Inbox>,
    pub(super) lane: Option<Key>,
}

impl Reply {
    pub(crate) fn send(mut self, made: Result<Made, Refusal>) {
        self.tell(made);
    }

    fn tell(&mut self, made: Result<Made, Refusal>) {
        if let Some(lane) = self.lane.take() {
            self.inbox.tell(|letters| letters.made.push((lane, made)));
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.tell(Err(Reason::NotServing.because("the node is stopping")));
    }
}
