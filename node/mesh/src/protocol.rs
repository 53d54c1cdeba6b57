//! Who serves which protocol, and how many streams of it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use types::PeerId;

use crate::error::Error;
use crate::metrics::{Count, Counts};
use crate::stream::Stream;

/// The name of a protocol, such as `/sagemesh/flow/1`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(&'static str);

impl Protocol {
    /// The protocol of that name.
    ///
    /// # Panics
    /// If the name does not begin with `/`, or has more than 100 bytes.
    pub const fn new(name: &'static str) -> Self {
        assert!(name.len() <= 100 && matches!(name.as_bytes().first(), Some(b'/')), "begin it with a slash");
        Self(name)
    }

    /// The name.
    pub const fn name(self) -> &'static str {
        self.0
    }
}

impl AsRef<str> for Protocol {
    fn as_ref(&self) -> &str {
        self.0
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

/// How many streams of one protocol peers may hold open here. Beyond that they are told so and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Streams of one peer at a time; its `peer_streams_max` holds as well. At least 1.
    pub per_peer: u16,
    /// Streams of all peers together. At least 1.
    pub total: u16,
    /// Streams that wait to be taken by [`Incoming::next`]; they count among the others. At least 1, and more
    /// than `per_peer`, or one peer can fill the queue for all.
    pub waiting: u16,
    /// How long a stream may wait so. Older ones are dropped when their turn comes.
    pub wait_max: Duration,
}

/// What was accepted, and when.
type Waiting = (Stream, Instant);

/// One protocol that is served.
struct Shelf {
    limits: Limits,
    queue: mpsc::Sender<Waiting>,
    held: Held,
}

/// How many streams each peer has open.
type Held = Arc<Mutex<HashMap<PeerId, u16>>>;

/// All protocols that are served.
#[derive(Clone)]
pub(crate) struct Registry {
    shelves: Arc<Mutex<Shelves>>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Shelves {
    by_protocol: BTreeMap<Protocol, Arc<Shelf>>,
    is_closed: bool,
}

/// A reached limit.
#[derive(Debug)]
pub(crate) struct Full;

impl Registry {
    pub(crate) fn new(counts: Arc<Counts>) -> Self {
        Self { shelves: Arc::default(), counts }
    }

    pub(crate) fn serve(&self, protocol: Protocol, limits: Limits) -> Result<Incoming, Error> {
        let (queue, streams) = mpsc::channel(usize::from(limits.waiting.max(1)));
        let mut shelves = self.lock();
        if shelves.is_closed {
            return Err(Error::Closed);
        }
        if shelves.by_protocol.contains_key(&protocol) {
            return Err(Error::Taken(protocol));
        }
        let shelf = Shelf { limits, queue, held: Held::default() };
        shelves.by_protocol.insert(protocol, Arc::new(shelf));
        drop(shelves);
        Ok(Incoming { protocol, wait_max: limits.wait_max, streams, registry: self.clone() })
    }

    pub(crate) fn protocols(&self) -> Vec<Protocol> {
        self.lock().by_protocol.keys().copied().collect()
    }

    /// Finds room for one more stream of `peer`.
    pub(crate) fn admit(&self, protocol: Protocol, peer: PeerId) -> Result<Place, Full> {
        let shelf = self.lock().by_protocol.get(&protocol).cloned().ok_or(Full)?;
        let slot = shelf.queue.clone().try_reserve_owned().map_err(|_| Full)?;
        let mut held = lock(&shelf.held);
        let n_total: u32 = held.values().map(|n| u32::from(*n)).sum();
        let n_of_peer = held.get(&peer).copied().unwrap_or(0);
        if n_of_peer >= shelf.limits.per_peer || n_total >= u32::from(shelf.limits.total) {
            return Err(Full);
        }
        held.insert(peer, n_of_peer + 1);
        drop(held);
        Ok(Place { slot, permit: Permit { held: Arc::clone(&shelf.held), peer } })
    }

    /// Ends all protocols: who waits for streams of them learns that there are none to come.
    pub(crate) fn close(&self) {
        let mut shelves = self.lock();
        shelves.is_closed = true;
        shelves.by_protocol.clear();
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    fn lock(&self) -> MutexGuard<'_, Shelves> {
        lock(&self.shelves)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds one of these can leave it half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Room for one stream.
pub(crate) struct Place {
    slot: mpsc::OwnedPermit<Waiting>,
    pub(crate) permit: Permit,
}

impl Place {
    /// Hands the stream to whoever serves its protocol; `permit` belongs into the stream.
    pub(crate) fn fill(self, stream: impl FnOnce(Permit) -> Stream) {
        self.slot.send((stream(self.permit), Instant::now()));
    }
}

/// The right to one stream, for as long as it is held.
pub(crate) struct Permit {
    /// Not the shelf: its queue must close though streams live on.
    held: Held,
    peer: PeerId,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut held = lock(&self.held);
        if let Some(n) = held.get_mut(&self.peer) {
            *n = n.saturating_sub(1);
            if *n == 0 {
                held.remove(&self.peer);
            }
        }
    }
}

/// The streams of one protocol that peers open. Dropping it ends the protocol.
pub struct Incoming {
    protocol: Protocol,
    wait_max: Duration,
    streams: mpsc::Receiver<Waiting>,
    registry: Registry,
}

impl Incoming {
    /// The next stream; `None` once the mesh is closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<Stream> {
        loop {
            let (stream, since) = self.streams.recv().await?;
            if since.elapsed() <= self.wait_max {
                self.registry.counts.add(Count::StreamAccepted);
                return Some(stream);
            }
            self.registry.counts.add(Count::StreamExpired);
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.registry.lock().by_protocol.remove(&self.protocol);
    }
}
