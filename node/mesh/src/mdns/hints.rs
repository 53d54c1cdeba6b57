//! Which of the addresses that are heard are worth a dial, so that no neighbour decides how much is dialled.
//!
//! Anybody on a link can announce anything. What a peer's announcements can cause is bounded for each peer, and
//! for all strangers together, so one that is lied about costs others nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use types::PeerId;

/// Most addresses of one peer that are taken in each [`WINDOW`].
pub(super) const ADDRESSES_MAX: usize = 4;
/// Most peers that are no members yet, in each [`WINDOW`].
pub(super) const STRANGERS_MAX: usize = 8;
/// Most peers of whom something is remembered.
pub(super) const PEERS_MAX: usize = 1024;
/// For how long it is remembered what was taken.
pub(super) const WINDOW: Duration = Duration::from_secs(300);

/// What the map of members says of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Member,
    /// It may belong to the mesh though this node has not heard of it.
    Stranger,
}

/// What becomes of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Taken,
    /// It was taken not long ago.
    Known,
    /// Too much was taken not long ago.
    Shed,
}

#[derive(Debug)]
struct Recent {
    since: Instant,
    standing: Standing,
    addresses: Vec<SocketAddr>,
}

/// What was taken not long ago.
#[derive(Debug, Default)]
pub(super) struct Hints(BTreeMap<PeerId, Recent>);

impl Hints {
    /// Decides of an address at which `peer` is said to be.
    pub(super) fn offer(
        &mut self,
        now: Instant,
        peer: PeerId,
        standing: Standing,
        address: SocketAddr,
    ) -> Verdict {
        let is_over = |recent: &Recent| now.saturating_duration_since(recent.since) >= WINDOW;
        if self.0.get(&peer).is_some_and(is_over) {
            self.0.remove(&peer);
        }
        if !self.0.contains_key(&peer) {
            if !self.has_room(standing) {
                self.0.retain(|_, recent| !is_over(recent));
            }
            if !self.has_room(standing) {
                return Verdict::Shed;
            }
        }
        let fresh = || Recent { since: now, standing, addresses: Vec::new() };
        let recent = self.0.entry(peer).or_insert_with(fresh);
        if recent.addresses.contains(&address) {
            return Verdict::Known;
        }
        if recent.addresses.len() >= ADDRESSES_MAX {
            return Verdict::Shed;
        }
        recent.addresses.push(address);
        Verdict::Taken
    }

    fn has_room(&self, standing: Standing) -> bool {
        let is_stranger = |recent: &&Recent| recent.standing == Standing::Stranger;
        self.0.len() < PEERS_MAX
            && (standing == Standing::Member || self.0.values().filter(is_stranger).count() < STRANGERS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: usize) -> PeerId {
        PeerId(std::array::from_fn(|idx| n.to_be_bytes().get(idx).copied().unwrap_or(9)))
    }

    fn address(n: usize) -> SocketAddr {
        let [.., high, low] = n.to_be_bytes();
        SocketAddr::from(([10, 0, high, low], 7400))
    }

    /// How many of `n` offers are taken.
    fn taken(
        hints: &mut Hints,
        now: Instant,
        standing: Standing,
        n: usize,
        offer: fn(usize) -> (usize, usize),
    ) -> usize {
        let offered = (0..n).map(offer);
        let verdicts = offered.map(|(who, at)| hints.offer(now, peer(who), standing, address(at)));
        verdicts.filter(|verdict| *verdict == Verdict::Taken).count()
    }

    #[test]
    fn ten_thousand_addresses_of_one_peer_cause_a_few_dials() {
        let (mut hints, now) = (Hints::default(), Instant::now());
        assert_eq!(taken(&mut hints, now, Standing::Member, 10_000, |n| (1, n)), ADDRESSES_MAX);
        assert_eq!(taken(&mut hints, now + WINDOW / 2, Standing::Member, 10_000, |n| (1, n)), 0);
        assert_eq!(taken(&mut hints, now + WINDOW, Standing::Member, 10_000, |n| (1, n)), ADDRESSES_MAX);
        let other = hints.offer(now, peer(2), Standing::Member, address(1));
        assert_eq!(other, Verdict::Taken, "another peer is not held up");
    }

    #[test]
    fn ten_thousand_names_cause_a_few_dials_and_keep_no_member_out() {
        let (mut hints, now) = (Hints::default(), Instant::now());
        assert_eq!(taken(&mut hints, now, Standing::Stranger, 10_000, |n| (n, n)), STRANGERS_MAX);
        assert_eq!(hints.0.len(), STRANGERS_MAX);
        assert_eq!(hints.offer(now, peer(20_000), Standing::Member, address(1)), Verdict::Taken);
        assert_eq!(
            taken(&mut hints, now + WINDOW, Standing::Stranger, 10_000, |n| (n + 50, n)),
            STRANGERS_MAX
        );
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut hints, now) = (Hints::default(), Instant::now());
        assert_eq!(taken(&mut hints, now, Standing::Member, 10_000, |n| (n, n)), PEERS_MAX);
        assert_eq!(hints.0.len(), PEERS_MAX);
        assert_eq!(taken(&mut hints, now + WINDOW, Standing::Member, 1, |_| (5000, 1)), 1);
        assert_eq!(hints.0.len(), 1);
    }

    #[test]
    fn what_is_heard_again_is_known() {
        let (mut hints, now) = (Hints::default(), Instant::now());
        let mut offer = |at| hints.offer(at, peer(1), Standing::Member, address(1));
        assert_eq!(
            [offer(now), offer(now), offer(now + WINDOW)],
            [Verdict::Taken, Verdict::Known, Verdict::Taken]
        );
    }
}
