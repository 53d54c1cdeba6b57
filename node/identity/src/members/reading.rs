//! Reading what follows from the statements.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use types::key::Keys;
use types::{Digest, MeshName, Now, PeerId, Refusal, TrustDomain};

use super::slots::Slot;
use super::{BEACON_AGE_MAX, Members, Standing, order};
use crate::keyset::{AuthorityId, KeySet, SignerId};
use crate::statement::{Beacon, CLOCK_LEEWAY, Member, Operator, Root, Signed, Statement};
use crate::view::Entry;

impl Members {
    /// The mesh.
    pub fn mesh(&self) -> &MeshName {
        &self.root.mesh
    }

    /// The root in force.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The digest of the first root, by which people know the mesh.
    pub fn fingerprint(&self) -> Digest {
        self.items.get(&Slot::Root(1)).map(|signed| signed.digest).expect("there is a first root")
    }

    /// What verifies signatures.
    pub fn keys(&self) -> &dyn Keys {
        &*self.keys
    }

    /// Signers that the root in force has granted, cut off or not.
    pub fn signers(&self) -> &BTreeMap<SignerId, Standing> {
        &self.signers
    }

    /// Signers seen to have signed two statements with one count: their keys are used in two places.
    pub fn forked(&self) -> &BTreeSet<SignerId> {
        &self.forked
    }

    /// Members in the order of their names; some may have ended.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.view.members.values().map(|entry| &entry.member)
    }

    /// The member of that trust domain, if its record counts; it may have ended.
    pub fn get(&self, domain: &TrustDomain) -> Option<&Arc<Member>> {
        self.record(domain).map(|(member, _)| member)
    }

    /// The member of that trust domain with its record as it was signed.
    pub fn record(&self, domain: &TrustDomain) -> Option<(&Arc<Member>, &Arc<Signed>)> {
        let entry = self.view.members.get(domain.node())?;
        (domain.mesh() == &self.root.mesh).then_some((&entry.member, &entry.signed))
    }

    /// The member with that peer id, if its record counts.
    pub fn by_peer(&self, peer: &PeerId) -> Option<&Arc<Member>> {
        self.view.peers.get(peer).map(|entry| &entry.member)
    }

    /// Operators in the order of their names; some may have ended or have no role.
    pub fn operators(&self) -> impl Iterator<Item = &Operator> {
        self.view.operators.values().filter_map(|signed| match &signed.statement {
            Statement::Operator(operator) => Some(operator),
            _ => None,
        })
    }

    /// Why a record with these keys does not count; `None` if it does.
    pub fn refusal(&self, domain: &TrustDomain, authority: &KeySet) -> Option<Refusal> {
        self.view.refusal(domain, authority)
    }

    /// Why no record of that name counts.
    pub fn why_not(&self, domain: &TrustDomain) -> Refusal {
        self.view.why_not(domain.node())
    }

    #[cfg(test)]
    pub(crate) fn dead_keys(&self) -> &BTreeSet<Digest> {
        self.view.dead_keys()
    }

    /// Whether a tombstone in force names one of these keys.
    pub fn is_revoked(&self, authority: &KeySet) -> bool {
        self.view.is_revoked(authority)
    }

    /// Every statement that others would take, in an order in which it can be merged.
    pub fn items(&self) -> impl Iterator<Item = &Arc<Signed>> {
        let mut items: Vec<_> = self.items.values().filter(|signed| self.is_backed(signed)).collect();
        items.sort_by_key(|signed| (order(signed), signed.digest));
        items.into_iter()
    }

    /// The statement with that digest.
    pub fn item(&self, digest: &Digest) -> Option<&Arc<Signed>> {
        self.slots.get(digest).and_then(|slot| self.items.get(slot))
    }

    /// A digest of [`Members::items`]: two nodes with the same one know the same.
    pub fn summary(&self) -> Digest {
        let is_backed = |slot: &Slot| self.items.get(slot).is_some_and(|signed| self.is_backed(signed));
        let backed = self.slots.iter().filter(|(_, slot)| is_backed(slot));
        let digests: Vec<&[u8]> = backed.map(|(digest, _)| &digest.0[..]).collect();
        Digest::of(&digests)
    }

    /// Digests that a cut-off keeps but whose statements are not here: to be asked for.
    pub fn wanted(&self) -> Vec<Digest> {
        let keeps = self.signers.values().filter_map(|standing| standing.cut.as_ref());
        keeps.flat_map(|cut| &cut.keep).filter(|digest| !self.slots.contains_key(digest)).copied().collect()
    }

    /// Notes that a peer with these keys was verified once: it stays welcome when beacons fail to come.
    pub fn mark_verified(&mut self, authority: AuthorityId) {
        // INVARIANT: only authorities of members, so the set is as bounded as they are.
        if self.view.members.values().any(|entry| entry.authority == authority) {
            self.verified.insert(authority);
        }
    }

    /// Whether a peer with these keys was verified once.
    pub fn is_verified(&self, authority: AuthorityId) -> bool {
        self.verified.contains(&authority)
    }

    /// Whether the newest beacon is too old to trust peers that were never verified. One from the future says
    /// nothing: it would outlast every silence.
    pub fn is_stale(&self, now: Now) -> bool {
        let newest =
            self.beacons().map(|beacon| beacon.issued_at).filter(|at| *at <= now.wall + CLOCK_LEEWAY);
        newest.max().is_none_or(|at| now.wall.since(at) > BEACON_AGE_MAX)
    }

    /// The newest beacon of each signer in force.
    pub(crate) fn beacons(&self) -> impl Iterator<Item = &Beacon> {
        let slot = |signer| Slot::Beacon(SignerId(Digest(signer)));
        let beacons = self.items.range(slot([0; 32])..=slot([255; 32])).map(|(_, signed)| signed);
        beacons.filter(|signed| self.holds(signed)).filter_map(|signed| match &signed.statement {
            Statement::Beacon(beacon) => Some(beacon),
            _ => None,
        })
    }

    /// Records of members, whether or not they hold.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.records.values()
    }

    /// Everything that is known, whether or not it holds.
    pub(crate) fn known(&self) -> impl Iterator<Item = &Arc<Signed>> {
        self.items.values()
    }

    /// The highest count of a signer that is known.
    pub(crate) fn serial(&self, signer: SignerId) -> u64 {
        let span = (signer, 0, Digest([0; 32]))..=(signer, u64::MAX, Digest([255; 32]));
        self.serials.range(span).next_back().map_or(0, |(_, serial, _)| *serial)
    }
}
