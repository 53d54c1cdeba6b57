//! A link: one connection to one peer, and what is known of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::swarm::ConnectionId;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use identity::Members;
use tls::Peer;
use types::{NodeName, Now, PeerId, Refusal, Timestamp};

use crate::negotiation::Ask;
use crate::transport::Admitted;

/// Two connections begun within this time of each other are two sides' simultaneous dials. One that is
/// older when its peer dials again is dead at the peer's end.
const SIMULTANEOUS: Duration = Duration::from_secs(10);

/// Who began a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The peer.
    Inbound,
    /// This node.
    Outbound,
}

impl Direction {
    /// As logs call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// One connection to one peer.
#[derive(Debug)]
pub struct Link {
    /// Whose it is.
    pub peer: PeerId,
    /// The peer's name.
    pub name: NodeName,
    /// The peer's end. For an inbound link the port is none that it listens on.
    pub address: SocketAddr,
    /// Who began it.
    pub direction: Direction,
    /// Since when it is a link.
    pub since: Timestamp,
    pub(crate) born: Instant,
    pub(crate) id: ConnectionId,
    pub(crate) admitted: Arc<Admitted>,
    /// Cancelled when another link takes over: this one then ends with its last stream.
    pub(crate) retire: CancellationToken,
    pub(crate) asks: mpsc::Sender<Ask>,
    /// Streams that the peer may still open, and this node.
    pub(crate) inbound: Arc<Semaphore>,
    pub(crate) outbound: Arc<Semaphore>,
}

impl Link {
    /// What the handshake showed: the caller, the key-exchange group and the signature.
    pub fn tls(&self) -> &Peer {
        &self.admitted.tls
    }

    /// Whether the peer would be let in still.
    pub(crate) fn recheck(&self, now: Now, members: &Members) -> Result<(), Refusal> {
        self.tls().recheck(now, members)
    }
}

/// The links of a node, one a peer.
pub type Snapshot = Arc<BTreeMap<PeerId, Arc<Link>>>;

/// Which end of a link decides which of two goes: the node with the lesser id. The other follows, so that the
/// two never close different ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decides {
    Here,
    There,
}

/// Whether a link was made when the old one had stood for long: two sides that dial at once do not.
pub(crate) fn is_late(old: &Link, new: &Link) -> bool {
    new.born.saturating_duration_since(old.born) > SIMULTANEOUS
}

/// Of two links to one peer, the one that the deciding end closes.
pub(crate) fn surplus(by: Decides, old: &Arc<Link>, new: &Arc<Link>) -> Arc<Link> {
    let is_late = is_late(old, new);
    let began = |link: &Link| match (by, link.direction) {
        (Decides::Here, direction) => direction,
        (Decides::There, Direction::Inbound) => Direction::Outbound,
        (Decides::There, Direction::Outbound) => Direction::Inbound,
    };
    Arc::clone(choose(began(old), began(new), is_late, old, new))
}

/// As the deciding end sees who began them.
fn choose<T>(old_began: Direction, new_began: Direction, is_late: bool, old: T, new: T) -> T {
    match (old_began, new_began) {
        // The peer has lost the old one, or knows no better; it has just shown that the new one works.
        (_, Direction::Inbound) if is_late => old,
        (Direction::Inbound, Direction::Inbound) => old,
        // Two sides dialled at once: the deciding one's stays.
        (Direction::Outbound, Direction::Inbound) => new,
        (Direction::Inbound, Direction::Outbound) => old,
        // This node dialled a second address of a peer it had.
        (Direction::Outbound, Direction::Outbound) => new,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_links_the_same_goes_on_both_ends() {
        #[track_caller]
        fn check(old: Direction, new: Direction, is_late: bool, expected: &str) {
            assert_eq!(choose(old, new, is_late, "old", "new"), expected, "{old:?} {new:?} {is_late}");
        }
        let (theirs, ours) = (Direction::Inbound, Direction::Outbound);
        check(theirs, ours, false, "old");
        check(ours, theirs, false, "new");
        check(ours, theirs, true, "old");
        check(theirs, theirs, false, "old");
        check(ours, ours, true, "new");
        check(theirs, ours, true, "old");
    }
}
