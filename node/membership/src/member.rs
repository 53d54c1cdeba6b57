//! The peers that may take part, and what is known of each.

use std::fmt;
use std::time::Instant;

use types::{PeerId, Reason, Refusal};

use crate::charge::Accusation;
use crate::record::{Record, Stamp};

/// Most peers that one core follows.
pub const MEMBERS_MAX: usize = 4096;

/// The first eight bytes of a peer id, big endian: what packets name nodes by. To make a key with a given
/// short id takes 2^64 tries, and the second of two equal ones is not admitted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShortId(pub u64);

impl ShortId {
    /// The short id of `peer`.
    pub fn of(peer: PeerId) -> Self {
        let mut first = [0; 8];
        first.copy_from_slice(&peer.0[..8]);
        Self(u64::from_be_bytes(first))
    }
}

impl fmt::Debug for ShortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Whether a member is there, as far as this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Liveness {
    /// Admitted, and nothing heard of it yet.
    Unknown,
    /// It is there.
    Alive,
    /// Someone saw it fail, and it has time to answer.
    Suspect,
    /// It did not answer in time.
    Dead,
    /// It said that it leaves.
    Left,
}

impl Liveness {
    /// Whether it takes part in rings, probes and gossip.
    pub const fn is_present(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

/// One admitted peer.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) id: ShortId,
    pub(crate) peer: PeerId,
    pub(crate) liveness: Liveness,
    /// The newest stamp it signed. Outlives the record, so that nothing old can come back.
    pub(crate) stamp: Stamp,
    /// Absent while nothing is known, and long after a death.
    pub(crate) record: Option<Record>,
    /// The version before the last step, which neighbours probably hold.
    pub(crate) version_before: u64,
    /// Verified, of its present incarnation; at most one an accuser and few in all.
    pub(crate) accusations: Vec<Accusation>,
    /// When its liveness last changed.
    pub(crate) since: Instant,
    /// Until when its exchanges are not answered.
    pub(crate) exchange_free_at: Instant,
}

/// All admitted peers but this node, sorted by short id.
#[derive(Debug, Default)]
pub(crate) struct Members {
    /// The ids of `sorted`, apart so that a search stays within a few cache lines.
    ids: Vec<ShortId>,
    sorted: Vec<Member>,
    n_present: usize,
}

impl Members {
    /// Adds a peer of which nothing is known. Admitting twice changes nothing.
    ///
    /// # Errors
    /// [`Reason::KeyInUse`] if another has its short id, [`Reason::MeshFull`].
    pub(crate) fn admit(&mut self, peer: PeerId, at: Instant) -> Result<(), Refusal> {
        let id = ShortId::of(peer);
        match self.idx(id) {
            Ok(idx) if self.sorted[idx].peer == peer => Ok(()),
            Ok(_) => Err(Reason::KeyInUse.because(format!("{peer} has the short id of another member"))),
            Err(_) if self.sorted.len() >= MEMBERS_MAX => {
                Err(Reason::MeshFull.because(format!("there are {MEMBERS_MAX} members already")))
            }
            Err(idx) => {
                let member = Member {
                    id,
                    peer,
                    liveness: Liveness::Unknown,
                    stamp: Stamp::default(),
                    record: None,
                    version_before: 0,
                    accusations: Vec::new(),
                    since: at,
                    exchange_free_at: at,
                };
                self.ids.insert(idx, id);
                self.sorted.insert(idx, member);
                Ok(())
            }
        }
    }

    /// Forgets a peer and all that is known of it.
    pub(crate) fn remove(&mut self, id: ShortId) -> Option<Member> {
        let idx = self.idx(id).ok()?;
        self.ids.remove(idx);
        let member = self.sorted.remove(idx);
        self.n_present -= usize::from(member.liveness.is_present());
        Some(member)
    }

    pub(crate) fn by_id(&self, id: ShortId) -> Option<&Member> {
        self.idx(id).ok().map(|idx| &self.sorted[idx])
    }

    pub(crate) fn by_id_mut(&mut self, id: ShortId) -> Option<&mut Member> {
        self.idx(id).ok().map(|idx| &mut self.sorted[idx])
    }

    /// The member with this peer id.
    pub(crate) fn by_peer(&self, peer: PeerId) -> Option<&Member> {
        self.by_id(ShortId::of(peer)).filter(|member| member.peer == peer)
    }

    /// Whether `id` takes part.
    pub(crate) fn is_present(&self, id: ShortId) -> bool {
        self.by_id(id).is_some_and(|member| member.liveness.is_present())
    }

    /// Sets a member's liveness; says whether that changed it.
    pub(crate) fn set_liveness(&mut self, id: ShortId, to: Liveness, at: Instant) -> bool {
        let Ok(idx) = self.idx(id) else { return false };
        let member = &mut self.sorted[idx];
        if member.liveness == to {
            return false;
        }
        self.n_present += usize::from(to.is_present());
        self.n_present -= usize::from(member.liveness.is_present());
        member.liveness = to;
        member.since = at;
        true
    }

    /// In the order of short ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.sorted.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.sorted.iter_mut()
    }

    /// How many there are, this node not counted.
    pub(crate) fn len(&self) -> usize {
        self.sorted.len()
    }

    /// How many take part, this node not counted.
    pub(crate) fn n_present(&self) -> usize {
        self.n_present
    }

    fn idx(&self, id: ShortId) -> Result<usize, usize> {
        self.ids.binary_search(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn one_short_id_stands_for_one_peer() {
        let now = Instant::now();
        let mut members = Members::default();
        let peer = testing::peer(1);
        let mut twin = peer;
        twin.0[31] ^= 1;
        assert_eq!(members.admit(peer, now), Ok(()));
        assert_eq!(members.admit(peer, now), Ok(()));
        assert_eq!(members.admit(twin, now).map_err(|r| r.reason), Err(Reason::KeyInUse));
        assert!(members.by_peer(twin).is_none());
    }

    #[test]
    fn presence_is_counted_through_every_change() {
        let now = Instant::now();
        let mut members = Members::default();
        let (one, two) = (testing::peer(1), testing::peer(2));
        members.admit(one, now).expect("room");
        members.admit(two, now).expect("room");
        for to in [Liveness::Alive, Liveness::Suspect, Liveness::Dead, Liveness::Alive] {
            assert!(members.set_liveness(ShortId::of(one), to, now));
            assert_eq!(members.n_present(), usize::from(to.is_present()));
        }
        members.remove(ShortId::of(one));
        assert_eq!(members.n_present(), 0);
    }
}
