//! Records that callers brought along with their certificates, on their way to whoever owns the member map.

use tokio::sync::mpsc;

use types::{Envelope, PeerId};

use crate::peer::Peer;

/// Records that wait. Beyond that they are dropped: gossip brings them too.
pub const NEWS_MAX: usize = 64;

/// A record that was news when its bearer connected.
#[derive(Clone, Debug)]
pub struct Brought {
    /// Whose it is.
    pub from: PeerId,
    /// What the certificate carried.
    pub record: Envelope,
}

/// Where such records are handed on. Cheap to clone.
#[derive(Clone, Debug)]
pub struct News(mpsc::Sender<Brought>);

/// Both ends of the way.
pub fn news() -> (News, mpsc::Receiver<Brought>) {
    let (sender, receiver) = mpsc::channel(NEWS_MAX);
    (News(sender), receiver)
}

impl News {
    /// Hands on what `peer` brought, if anything. Never waits.
    pub fn tell(&self, peer: &Peer) {
        if let (Some(record), Some(member)) = (&peer.caller.carried, peer.caller.member()) {
            // Full: see above. Closed: the node stops.
            let _ = self.0.try_send(Brought { from: member.peer, record: record.clone() });
        }
    }
}
