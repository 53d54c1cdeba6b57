//! The signed member map: a set of statements that merges the same in any order, and what follows from it.
//!
//! Every statement has a slot, and a slot keeps the highest epoch, ties going to the lower digest; so merging
//! is commutative, associative and idempotent (a join semilattice: Shapiro et al. 2011, "Conflict-free
//! Replicated Data Types", §3). Slots are per signer, so a stolen signer overwrites nobody else's statements,
//! and a cut-off removes all of its own but those that the root keeps. Who counts is computed afresh from the
//! slots by [`View`], with no memory of the order of arrival.
//!
//! Two things are not merged: of two roots of one generation the first seen stays (only the holder of that
//! root's keys can make two), and what a statement needs (its root, its grant, the record a handover starts
//! from) must be there before it or in the same batch; otherwise it is refused and comes again by
//! anti-entropy. docs/adr/0003-members.md says why.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use types::key::Keys;
use types::{Digest, Envelope, MeshName, NodeName, Now, PeerId, Reason, Refusal, ServiceName, TrustDomain};

use crate::keyset::{AuthorityId, KeySet, SignerId};
use crate::statement::{
    CLOCK_LEEWAY, CutOff, Grant, Handover, Kind, Member, Operator, Right, Root, Signed, Statement,
};
use crate::view::View;

/// Most statements kept of one signer.
pub const STATEMENTS_PER_SIGNER_MAX: usize = 16_384;
/// Most grants, and most cut-offs, kept of one root.
pub const SIGNERS_MAX: usize = 256;
/// Most generations of roots.
pub const GENERATIONS_MAX: usize = 64;
/// How long after its record ended a node may still be renewed, and its name stays bound.
pub const REJOIN_MAX: Duration = Duration::from_secs(365 * 86_400);
/// How old the newest beacon may be before peers that were never verified are refused.
pub const BEACON_AGE_MAX: Duration = Duration::from_secs(72 * 3600);

/// What became of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// It is new and was kept.
    Added,
    /// It was there.
    Known,
    /// A higher one of the same slot was there.
    Superseded,
}

/// Where a statement is kept: one for each thing that one author can say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Root(u32),
    Grant { signer: SignerId, root: SignerId },
    CutOff { signer: SignerId, root: SignerId },
    Kept(Digest),
    Member { node: NodeName, authority: AuthorityId, signer: SignerId },
    Tombstone { authority: AuthorityId, signer: SignerId },
    Handover { node: NodeName, old: AuthorityId },
    Operator { name: ServiceName, signer: SignerId },
    Beacon(SignerId),
}

/// How a signer stands with the root in force.
#[derive(Clone, Debug)]
pub struct Standing {
    pub(crate) grant: Grant,
    pub(crate) cut: Option<CutOff>,
}

impl Standing {
    /// The grant.
    pub const fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Whether the root cut it off.
    pub const fn is_cut_off(&self) -> bool {
        self.cut.is_some()
    }

    /// Whether what has this digest still counts.
    fn keeps(&self, digest: &Digest) -> bool {
        self.cut.as_ref().is_none_or(|cut| cut.keep.contains(digest))
    }
}

/// The signed member map of one mesh. Cloning is cheap: statements are shared.
#[derive(Clone)]
pub struct Members {
    keys: Arc<dyn Keys>,
    items: BTreeMap<Slot, Arc<Signed>>,
    slots: BTreeMap<Digest, Slot>,
    counts: BTreeMap<SignerId, usize>,
    serials: BTreeSet<(SignerId, u64, Digest)>,
    forked: BTreeSet<SignerId>,
    verified: BTreeSet<AuthorityId>,
    root: Root,
    signers: BTreeMap<SignerId, Standing>,
    view: View,
}

impl Members {
    /// The map of the mesh whose first root has the digest `fingerprint`. `keys` verifies signatures.
    ///
    /// # Errors
    /// [`Reason::RootMismatch`] if `root` is another, or what [`Envelope::open`] says.
    pub fn new(keys: Arc<dyn Keys>, fingerprint: Digest, root: Envelope) -> Result<Self, Refusal> {
        let signed = Signed::read(root)?;
        let Statement::Root(first) = &signed.statement else {
            return Err(Reason::RootMismatch.because("the first statement is no root"));
        };
        if signed.digest != fingerprint || first.generation != 1 {
            let detail =
                format!("expected the root {}, found {}", fingerprint.short(), signed.digest.short());
            return Err(Reason::RootMismatch.because(detail));
        }
        signed.envelope.open(Root::DOMAIN, &first.keys.both(), &*keys)?;
        let mut members = Self {
            keys,
            items: BTreeMap::new(),
            slots: BTreeMap::new(),
            counts: BTreeMap::new(),
            serials: BTreeSet::new(),
            forked: BTreeSet::new(),
            verified: BTreeSet::new(),
            root: first.clone(),
            signers: BTreeMap::new(),
            view: View::default(),
        };
        members.put(Slot::Root(1), Arc::new(signed));
        Ok(members)
    }

    /// Merges one statement.
    ///
    /// # Errors
    /// Why it was refused; nothing changed then.
    pub fn merge(&mut self, envelope: Envelope) -> Result<Merged, Refusal> {
        self.merge_all([envelope]).pop().expect("one answer for one statement").1
    }

    /// Merges statements that may depend on one another, in the order in which they do. Answers for each in
    /// that order, by its digest.
    pub fn merge_all(
        &mut self,
        envelopes: impl IntoIterator<Item = Envelope>,
    ) -> Vec<(Digest, Result<Merged, Refusal>)> {
        let mut batch: Vec<_> =
            envelopes.into_iter().map(|envelope| (envelope.digest(), Signed::read(envelope))).collect();
        batch.sort_by_key(|(digest, signed)| (signed.as_ref().map_or((9, 0), order), *digest));
        let mut is_changed = false;
        let merge = |(digest, signed): (Digest, Result<Signed, Refusal>)| {
            let result = signed.and_then(|signed| self.admit(signed));
            is_changed |= result == Ok(Merged::Added);
            (digest, result)
        };
        let results = batch.into_iter().map(merge).collect();
        if is_changed {
            self.view = View::new(self);
        }
        results
    }

    fn admit(&mut self, signed: Signed) -> Result<Merged, Refusal> {
        if self.slots.contains_key(&signed.digest) {
            return Ok(Merged::Known);
        }
        if signed.statement.mesh() != &self.root.mesh {
            let detail = format!("a statement about `{}` in `{}`", signed.statement.mesh(), self.root.mesh);
            return Err(Reason::MeshMismatch.because(detail));
        }
        let slot = self.slot_of(&signed);
        if self.items.get(&slot).is_some_and(|held| rank(held) >= rank(&signed)) {
            // A second root of a generation is evidence, not an update.
            return match slot {
                Slot::Root(_) => {
                    Err(Reason::RootMismatch.because("another root of that generation is known"))
                }
                _ => Ok(Merged::Superseded),
            };
        }
        self.check(&signed)?;
        self.check_room(&slot, &signed)?;
        self.note_fork(&signed);
        let signed = Arc::new(signed);
        self.put(slot, Arc::clone(&signed));
        match &signed.statement {
            Statement::Root(root) => {
                self.root = root.clone();
                self.renew_signers();
            }
            Statement::Grant(_) => self.renew_signers(),
            Statement::CutOff(cut) => {
                self.renew_signers();
                self.drop_cut(cut.signer);
            }
            _ => {}
        }
        Ok(Merged::Added)
    }

    /// Checks that whoever must have signed did, and might.
    fn check(&self, signed: &Signed) -> Result<(), Refusal> {
        let open = |domain, keys: &KeySet| signed.envelope.open(domain, &keys.both(), &*self.keys).map(drop);
        match &signed.statement {
            Statement::Root(next) => {
                let is_next = next.generation == self.root.generation.saturating_add(1);
                if !is_next || next.keys.digest() != self.root.next_keys {
                    let detail =
                        format!("generation {} does not follow {}", next.generation, self.root.generation);
                    return Err(Reason::RootMismatch.because(detail));
                }
                open(Root::DOMAIN, &next.keys)
            }
            Statement::Grant(grant) => {
                self.check_root(grant.root)?;
                open(Grant::DOMAIN, &self.root.keys)
            }
            Statement::CutOff(cut) => {
                self.check_root(cut.root)?;
                open(CutOff::DOMAIN, &self.root.keys)
            }
            Statement::Handover(handover) => {
                let is_theirs = |held: &Arc<Signed>| {
                    matches!(&held.statement, Statement::Member(member)
                        if member.domain == handover.domain && member.authority == handover.old)
                };
                if !self.items.values().any(is_theirs) {
                    let node = handover.domain.node();
                    let detail = format!("a handover of `{node}` from keys that no record binds to it");
                    return Err(Reason::MemberUnknown.because(detail));
                }
                open(Handover::DOMAIN, &handover.old)
            }
            Statement::Member(member) => {
                let keys = self.may_sign(member.signer, Some(Right::Members), &signed.digest)?;
                open(Member::DOMAIN, keys)?;
                self.check_scope(member)
            }
            Statement::Tombstone(it) => {
                let keys = self.may_sign(it.signer, Some(Right::Tombstones), &signed.digest)?;
                open(crate::statement::Tombstone::DOMAIN, keys)
            }
            Statement::Operator(it) => {
                let keys = self.may_sign(it.signer, Some(Right::Operators), &signed.digest)?;
                open(Operator::DOMAIN, keys)
            }
            Statement::Beacon(it) => {
                let keys = self.may_sign(it.signer, None, &signed.digest)?;
                open(crate::statement::Beacon::DOMAIN, keys)
            }
        }
    }

    fn check_root(&self, root: SignerId) -> Result<(), Refusal> {
        if root != self.root.id() {
            let detail = format!("signed by {root:?}, which is not the root in force");
            return Err(Reason::RootMismatch.because(detail));
        }
        Ok(())
    }

    /// The keys of a signer that may sign what has this right and digest.
    fn may_sign(&self, id: SignerId, right: Option<Right>, digest: &Digest) -> Result<&KeySet, Refusal> {
        if id == self.root.id() {
            return Ok(&self.root.keys);
        }
        let standing = self
            .signers
            .get(&id)
            .ok_or_else(|| Reason::SignerUnknown.because(format!("no grant in force for {id:?}")))?;
        if !standing.keeps(digest) {
            let detail = format!("{id:?} of `{}` was cut off", standing.grant.node);
            return Err(Reason::SignerCutOff.because(detail));
        }
        if right.is_some_and(|right| !standing.grant.rights.contains(&right)) {
            let detail = format!("{id:?} of `{}` lacks the right to {right:?}", standing.grant.node);
            return Err(Reason::BeyondRights.because(detail));
        }
        Ok(&standing.grant.keys)
    }

    fn check_scope(&self, member: &Member) -> Result<(), Refusal> {
        match self.signers.get(&member.signer) {
            Some(standing) if !standing.grant.scope.covers(&member.scope) => {
                let detail = format!("the scope {} exceeds {}", member.scope, standing.grant.scope);
                Err(Reason::BeyondRights.because(detail))
            }
            _ => Ok(()),
        }
    }

    /// Whether a statement in a slot still counts: its signer is in force, or the root keeps it.
    pub(crate) fn holds(&self, signed: &Signed) -> bool {
        let right = match &signed.statement {
            Statement::Member(_) => Some(Right::Members),
            Statement::Tombstone(_) => Some(Right::Tombstones),
            Statement::Operator(_) => Some(Right::Operators),
            Statement::Beacon(_) => None,
            Statement::Handover(_) => return true,
            Statement::Root(_) | Statement::Grant(_) | Statement::CutOff(_) => return false,
        };
        let may_sign = |id| self.may_sign(id, right, &signed.digest).is_ok();
        let is_in_scope = match &signed.statement {
            Statement::Member(member) => self.check_scope(member).is_ok(),
            _ => true,
        };
        is_in_scope && signed.statement.signer().is_some_and(may_sign)
    }

    fn check_room(&self, slot: &Slot, signed: &Signed) -> Result<(), Refusal> {
        let (n, max) = match slot {
            Slot::Root(_) => (self.root.generation as usize, GENERATIONS_MAX),
            Slot::Grant { .. } | Slot::CutOff { .. } => {
                let is_same = |held: &&Slot| std::mem::discriminant(*held) == std::mem::discriminant(slot);
                (self.items.keys().filter(is_same).count(), SIGNERS_MAX)
            }
            // At most one for each record, and those are bounded.
            Slot::Handover { .. } => (0, 1),
            _ => {
                let signer = signed.statement.signer().expect("the slots left are a signer's");
                (self.counts.get(&signer).copied().unwrap_or(0), STATEMENTS_PER_SIGNER_MAX)
            }
        };
        if n >= max && !self.items.contains_key(slot) {
            return Err(Reason::SignerQuota.because(format!("{n} statements of one author are kept already")));
        }
        Ok(())
    }

    fn slot_of(&self, signed: &Signed) -> Slot {
        if let Some(signer) = signed.statement.signer()
            && self.signers.get(&signer).is_some_and(Standing::is_cut_off)
        {
            return Slot::Kept(signed.digest);
        }
        match &signed.statement {
            Statement::Root(it) => Slot::Root(it.generation),
            Statement::Grant(it) => Slot::Grant { signer: it.keys.signer(), root: it.root },
            Statement::CutOff(it) => Slot::CutOff { signer: it.signer, root: it.root },
            Statement::Member(it) => Slot::Member {
                node: it.node().clone(),
                authority: it.authority.authority(),
                signer: it.signer,
            },
            Statement::Tombstone(it) => Slot::Tombstone { authority: it.authority(), signer: it.signer },
            Statement::Handover(it) => {
                Slot::Handover { node: it.domain.node().clone(), old: it.old.authority() }
            }
            Statement::Operator(it) => Slot::Operator { name: it.name.clone(), signer: it.signer },
            Statement::Beacon(it) => Slot::Beacon(it.signer),
        }
    }

    fn put(&mut self, slot: Slot, signed: Arc<Signed>) {
        self.take(&slot);
        if let Some(signer) = signed.statement.signer() {
            *self.counts.entry(signer).or_default() += 1;
            self.serials.insert((signer, signed.statement.serial(), signed.digest));
        }
        self.slots.insert(signed.digest, slot.clone());
        self.items.insert(slot, signed);
    }

    fn take(&mut self, slot: &Slot) -> Option<Arc<Signed>> {
        let signed = self.items.remove(slot)?;
        self.slots.remove(&signed.digest);
        if let Some(signer) = signed.statement.signer() {
            *self.counts.entry(signer).or_insert(1) -= 1;
            self.serials.remove(&(signer, signed.statement.serial(), signed.digest));
        }
        Some(signed)
    }

    /// Computes who may sign from the root in force, its grants and its cut-offs.
    fn renew_signers(&mut self) {
        let root = self.root.id();
        let grants = self.items.values().filter_map(|signed| match &signed.statement {
            Statement::Grant(grant) if grant.root == root => Some(grant),
            _ => None,
        });
        let cut = |signer| match &self.items.get(&Slot::CutOff { signer, root })?.statement {
            Statement::CutOff(cut) => Some(cut.clone()),
            _ => None,
        };
        self.signers = grants
            .map(|grant| {
                let id = grant.keys.signer();
                (id, Standing { grant: grant.clone(), cut: cut(id) })
            })
            .collect();
    }

    /// Drops what a signer that was cut off had said, but for what the root keeps.
    fn drop_cut(&mut self, signer: SignerId) {
        let Some(standing) = self.signers.get(&signer).cloned() else { return };
        let is_theirs = |signed: &Arc<Signed>| signed.statement.signer() == Some(signer);
        let slots: Vec<_> =
            self.items.iter().filter(|(_, signed)| is_theirs(signed)).map(|(slot, _)| slot.clone()).collect();
        for slot in slots {
            let Some(signed) = self.take(&slot) else { continue };
            if standing.keeps(&signed.digest) {
                self.put(Slot::Kept(signed.digest), signed);
            }
        }
    }

    /// One count, two statements: the signer's keys are used in two places, or it was set back.
    fn note_fork(&mut self, signed: &Signed) {
        let Some(signer) = signed.statement.signer() else { return };
        let serial = signed.statement.serial();
        let span = (signer, serial, Digest([0; 32]))..=(signer, serial, Digest([255; 32]));
        if signer != self.root.id() && self.serials.range(span).next().is_some() {
            self.forked.insert(signer);
        }
    }

    /// Drops what ended so long ago that it binds nothing any more. Tombstones stay for ever.
    pub fn prune(&mut self, now: Now) {
        let is_over = |signed: &Arc<Signed>| match &signed.statement {
            Statement::Member(it) => it.not_after + REJOIN_MAX < now.wall,
            Statement::Operator(it) => it.not_after + REJOIN_MAX < now.wall,
            _ => false,
        };
        let slots: Vec<_> =
            self.items.iter().filter(|(_, signed)| is_over(signed)).map(|(slot, _)| slot.clone()).collect();
        if slots.is_empty() {
            return;
        }
        for slot in slots {
            self.take(&slot);
        }
        self.view = View::new(self);
    }
}

/// Reading what follows.
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
        self.view.peers.get(peer).and_then(|node| self.view.members.get(node)).map(|entry| &entry.member)
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

    /// Whether a tombstone in force names one of these keys.
    pub fn is_revoked(&self, authority: &KeySet) -> bool {
        self.view.is_revoked(authority)
    }

    /// Every statement, in an order in which it can be merged.
    pub fn items(&self) -> impl Iterator<Item = &Arc<Signed>> {
        let mut items: Vec<_> = self.items.values().collect();
        items.sort_by_key(|signed| (order(signed), signed.digest));
        items.into_iter()
    }

    /// The statement with that digest.
    pub fn item(&self, digest: &Digest) -> Option<&Arc<Signed>> {
        self.slots.get(digest).and_then(|slot| self.items.get(slot))
    }

    /// A digest of all statements: two nodes with the same one know the same.
    pub fn summary(&self) -> Digest {
        let digests: Vec<&[u8]> = self.slots.keys().map(|digest| &digest.0[..]).collect();
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
        if self.view.members.values().any(|entry| entry.member.authority.authority() == authority) {
            self.verified.insert(authority);
        }
    }

    /// Whether a peer with these keys was verified once.
    pub fn is_verified(&self, authority: AuthorityId) -> bool {
        self.verified.contains(&authority)
    }

    /// Whether the newest beacon is too old to trust peers that were never verified.
    pub fn is_stale(&self, now: Now) -> bool {
        let newest = self.beacons().map(|beacon| beacon.issued_at.min(now.wall + CLOCK_LEEWAY)).max();
        newest.is_none_or(|at| now.wall.since(at) > BEACON_AGE_MAX)
    }

    pub(crate) fn beacons(&self) -> impl Iterator<Item = &crate::statement::Beacon> {
        self.holding().filter_map(|signed| match &signed.statement {
            Statement::Beacon(beacon) => Some(beacon),
            _ => None,
        })
    }

    /// What counts of what signers and authorities said.
    pub(crate) fn holding(&self) -> impl Iterator<Item = &Arc<Signed>> {
        self.items.values().filter(|signed| self.holds(signed))
    }
}

/// The order in which statements can be merged.
fn order(signed: &Signed) -> (u8, u32) {
    match &signed.statement {
        Statement::Root(root) => (0, root.generation),
        Statement::Grant(_) => (1, 0),
        Statement::CutOff(_) => (2, 0),
        Statement::Member(_) => (3, 0),
        Statement::Tombstone(_) => (4, 0),
        Statement::Handover(_) => (5, 0),
        Statement::Operator(_) => (6, 0),
        Statement::Beacon(_) => (7, 0),
    }
}

/// Which of two statements in one slot counts: the higher epoch, then the lower digest.
fn rank(signed: &Signed) -> (u64, Reverse<Digest>) {
    let epoch = match &signed.statement {
        Statement::Root(_) | Statement::Tombstone(_) => 0,
        Statement::Grant(it) => it.epoch,
        Statement::CutOff(it) => it.epoch,
        Statement::Member(it) => it.epoch,
        Statement::Handover(it) => it.issued_at.as_secs(),
        Statement::Operator(it) => it.epoch,
        Statement::Beacon(it) => it.serial,
    };
    (epoch, Reverse(signed.digest))
}

impl std::fmt::Debug for Members {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} members of {}", self.view.members.len(), self.root.mesh)
    }
}
