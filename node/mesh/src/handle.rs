//! What other rooms hold of this one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use types::PeerId;

use crate::error::Error;
use crate::link::{Link, Snapshot};
use crate::metrics::{Count, Counts};
use crate::negotiation::Ask;
use crate::protocol::{Incoming, Limits, Protocol, Registry};
use crate::stream::Stream;

/// Over how many links in turn a stream is tried: the first may be the surplus one of two.
const LINKS_TRIED_MAX: usize = 3;

/// How long it may take until it is known that a link has ended.
const END_KNOWN_WITHIN: Duration = Duration::from_secs(1);

/// Opens and accepts streams, and tells who is linked. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(crate) links: watch::Receiver<Snapshot>,
    pub(crate) hints: mpsc::Sender<(PeerId, SocketAddr)>,
    pub(crate) registry: Registry,
    pub(crate) counts: Arc<Counts>,
    /// Interfaces on which mDNS is on.
    pub(crate) mdns_wires: Arc<AtomicUsize>,
    pub(crate) open_timeout: Duration,
    pub(crate) streams_max: u16,
}

impl Handle {
    /// Opens a stream to a linked peer, which has found room for it when this answers. Never dials. Waits for
    /// the peer, `open_timeout` at most; does not wait for room.
    ///
    /// # Errors
    /// Why there is no stream.
    pub async fn open(&self, peer: PeerId, protocol: Protocol) -> Result<Stream, Error> {
        let opened = timeout(self.open_timeout, self.try_links(peer, protocol)).await;
        opened.unwrap_or(Err(Error::Timeout(protocol)))
    }

    async fn try_links(&self, peer: PeerId, protocol: Protocol) -> Result<Stream, Error> {
        for _ in 0..LINKS_TRIED_MAX {
            let link = self.link(&peer).ok_or(Error::Unlinked(peer))?;
            let permit = Arc::clone(&link.outbound).try_acquire_owned();
            let permit = permit.map_err(|_| Error::Busy(self.streams_max))?;
            let (answer, answered) = oneshot::channel();
            // Never full: there is a place for each permit.
            if link.asks.try_send(Ask { protocol, permit, answer }).is_ok() {
                match answered.await {
                    Ok(Err(Error::Lost(_))) | Err(_) => {}
                    Ok(result) => return result,
                }
            }
            // If the link ended, there may be another by the time that is known.
            let is_gone = |links: &Snapshot| links.get(&peer).is_none_or(|it| it.id != link.id);
            match timeout(END_KNOWN_WITHIN, self.links.clone().wait_for(is_gone)).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return Err(Error::Closed),
                Err(_) => break,
            }
        }
        Err(Error::Lost(protocol))
    }

    /// Serves a protocol: from now on peers may open streams of it.
    ///
    /// # Errors
    /// [`Error::Taken`] if it is served already, [`Error::Closed`] once the node stops.
    pub fn accept(&self, protocol: Protocol, limits: Limits) -> Result<Incoming, Error> {
        self.registry.serve(protocol, limits)
    }

    /// Who is linked now, and in future. The truth: events may be shed.
    pub fn peers(&self) -> watch::Receiver<Snapshot> {
        self.links.clone()
    }

    /// The link to a peer.
    pub fn link(&self, peer: &PeerId) -> Option<Arc<Link>> {
        self.links.borrow().get(peer).cloned()
    }

    /// Notes that a peer may be found at an address. It is dialled unless it is linked, and must prove that
    /// it is that peer. Shed and counted when too many are waiting.
    pub fn hint(&self, peer: PeerId, address: SocketAddr) {
        if self.hints.try_send((peer, address)).is_err() {
            self.counts.add(Count::HintShed);
        }
    }

    /// On how many interfaces mDNS is on.
    pub fn mdns_wires(&self) -> usize {
        self.mdns_wires.load(Ordering::Relaxed)
    }

    /// How often something has happened since the start.
    pub fn count(&self, count: Count) -> u64 {
        self.counts.of(count)
    }
}
