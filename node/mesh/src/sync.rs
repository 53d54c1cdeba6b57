//! Makes the member maps of two nodes equal when gossip says that they differ.
//!
//! What is said is `identity::sync`'s business; here are the streams. What peers give goes to the map's owner,
//! who checks every signature.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use identity::{Members, sync};
use tls::frame;
use types::{Envelope, PeerId, Refusal, chain};

use crate::error::Error;
use crate::handle::Handle;
use crate::protocol::{Incoming, Limits, Protocol};
use crate::stream::Stream;

/// One comparison of two maps on each stream.
pub const PROTOCOL: Protocol = Protocol::new("/sagemesh/members/1");
const LIMITS: Limits = Limits { per_peer: 1, total: 8, waiting: 4, wait_max: Duration::from_secs(10) };
/// How long one comparison may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Comparisons that this node begins at a time.
const OPEN_MAX: usize = 4;
/// Peers that wait to be compared with.
pub const DIFFERING_MAX: usize = 64;
/// How long to let a peer be after a comparison, and after one of which nothing came.
const REST: Duration = Duration::from_secs(1);
const IN_VAIN: Duration = Duration::from_secs(30);

/// What a peer gave: to be merged in one batch.
#[derive(Debug)]
pub struct Given {
    /// Who gave it.
    pub from: PeerId,
    /// What.
    pub statements: Vec<Envelope>,
}

/// Compares maps, not yet running.
pub struct Sync {
    links: Handle,
    members: watch::Receiver<Arc<Members>>,
    incoming: Incoming,
    differing: mpsc::Receiver<PeerId>,
    given: mpsc::Sender<Given>,
}

/// What ended, and whether it brought anything.
type Ended = (PeerId, Result<bool, Failure>);

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("failed to open a stream")]
    Open(#[from] Error),
    #[error("lost the stream")]
    Lost(#[from] io::Error),
    #[error("refused what the peer said")]
    Refused(#[from] Refusal),
    #[error("no answer in time")]
    Timeout,
}

impl Sync {
    /// Takes up the protocol. Peers to compare with come by `differing`; what they give goes to `given`, and
    /// comparisons wait while that is full.
    ///
    /// # Errors
    /// If the protocol is served already.
    pub fn new(
        links: Handle,
        members: watch::Receiver<Arc<Members>>,
        differing: mpsc::Receiver<PeerId>,
        given: mpsc::Sender<Given>,
    ) -> Result<Self, Error> {
        let incoming = links.accept(PROTOCOL, LIMITS)?;
        Ok(Self { links, members, incoming, differing, given })
    }

    /// Compares until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut opened: JoinSet<Ended> = JoinSet::new();
        let mut accepted: JoinSet<Ended> = JoinSet::new();
        // Who is being compared with, or was in vain, and until when to let it be.
        let mut resting: BTreeMap<PeerId, Instant> = BTreeMap::new();
        // Whose next comparison is not accepted before.
        let mut served: BTreeMap<PeerId, Instant> = BTreeMap::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(peer) = self.differing.recv(), if opened.len() < OPEN_MAX => {
                    let now = Instant::now();
                    resting.retain(|_, until| *until > now);
                    if let Entry::Vacant(place) = resting.entry(peer) {
                        place.insert(now + TIMEOUT);
                        opened.spawn(self.open(peer));
                    }
                }
                Some(stream) = self.incoming.next() => {
                    let now = Instant::now();
                    served.retain(|_, until| *until > now);
                    if let Entry::Vacant(place) = served.entry(stream.peer()) {
                        place.insert(now + REST);
                        accepted.spawn(self.accept(stream));
                    }
                }
                Some(ended) = opened.join_next() => {
                    let (peer, result) = unless_panicked(ended);
                    let rest = if note(peer, result) { REST } else { IN_VAIN };
                    resting.insert(peer, Instant::now() + rest);
                }
                Some(ended) = accepted.join_next() => {
                    let (peer, result) = unless_panicked(ended);
                    note(peer, result);
                }
            }
        }
    }

    fn open(&self, peer: PeerId) -> impl Future<Output = Ended> + use<> {
        let (links, members, given) = (self.links.clone(), self.members.clone(), self.given.clone());
        async move {
            let compare = async {
                let mut stream = links.open(peer, PROTOCOL).await?;
                frame::write(&mut stream, &sync::compare(&current(&members))).await?;
                let differ = read(&mut stream).await?;
                let supply = sync::supply(&current(&members), &differ)?;
                frame::write(&mut stream, &supply).await?;
                let statements = sync::take(&read(&mut stream).await?)?;
                Ok(give(&given, peer, statements).await || !supply.is_empty())
            };
            (peer, timeout(TIMEOUT, compare).await.unwrap_or(Err(Failure::Timeout)))
        }
    }

    fn accept(&self, mut stream: Stream) -> impl Future<Output = Ended> + use<> {
        let (members, given, peer) = (self.members.clone(), self.given.clone(), stream.peer());
        async move {
            let compare = async {
                let compare = read_first(&mut stream).await?;
                let differ = sync::differ(&current(&members), &compare)?;
                frame::write(&mut stream, &differ).await?;
                let (statements, reply) = sync::answer(&current(&members), &read(&mut stream).await?)?;
                frame::write(&mut stream, &reply).await?;
                stream.shutdown().await?;
                Ok(give(&given, peer, statements).await)
            };
            (peer, timeout(TIMEOUT, compare).await.unwrap_or(Err(Failure::Timeout)))
        }
    }
}

fn current(members: &watch::Receiver<Arc<Members>>) -> Arc<Members> {
    Arc::clone(&members.borrow())
}

/// A panic in a comparison is a fault of this node's own: it stops the node.
fn unless_panicked(ended: Result<Ended, JoinError>) -> Ended {
    ended.unwrap_or_else(|err| std::panic::resume_unwind(err.into_panic()))
}

async fn read_first(stream: &mut Stream) -> Result<Vec<u8>, Failure> {
    let bytes = frame::read(stream, sync::COMPARE_LEN_MAX).await?;
    bytes.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof).into())
}

async fn read(stream: &mut Stream) -> Result<Vec<u8>, Failure> {
    let bytes = frame::read(stream, sync::MESSAGE_LEN_MAX).await?;
    bytes.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof).into())
}

/// Hands over what came. Whether there was anything.
async fn give(given: &mpsc::Sender<Given>, from: PeerId, statements: Vec<Envelope>) -> bool {
    // Fails only once the node stops.
    !statements.is_empty() && given.send(Given { from, statements }).await.is_ok()
}

/// Whether anything came of it.
fn note(peer: PeerId, result: Result<bool, Failure>) -> bool {
    result.unwrap_or_else(|failure| {
        debug!(peer.id = %peer, error = chain(&failure), "failed to compare member maps");
        false
    })
}
