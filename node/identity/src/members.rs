//! The signed member map: a set of statements that merges the same in any order, and what follows from it.
//!
//! Every statement has a slot, and a slot keeps the highest epoch, ties going to the lower digest; so merging
//! is commutative, associative and idempotent (a join semilattice: Shapiro et al. 2011, "Conflict-free
//! Replicated Data Types", §3). Slots are per signer, so a stolen signer overwrites nobody else's statements,
//! and a cut-off removes all of its own but those that the root keeps. Who counts is computed afresh from the
//! slots by [`View`], with no memory of the order of arrival.
//!
//! What its signer lately may no longer say keeps its slot and counts for nothing: else the older statement
//! that it replaced could be replayed, and would count or not by the order in which a grant arrived. Only the
//! right to tombstones lasts until a cut-off, since the dead must not rise when a grant is narrowed.
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
use types::{
    Digest, Envelope, MeshName, NodeName, Now, PeerId, Reason, Refusal, ServiceName, Timestamp, TrustDomain,
};

use crate::keyset::{AuthorityId, KeySet, SignerId};
use crate::statement::{
    Beacon, CLOCK_LEEWAY, CutOff, Grant, Kind, Member, Operator, Right, Root, Signed, Statement,
};
use crate::view::{Entry, View};

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
    /// Grants with the right to tombstones have a slot of their own, so that none makes it forgotten.
    Grant {
        signer: SignerId,
        root: SignerId,
        buries: bool,
    },
    CutOff {
        signer: SignerId,
        root: SignerId,
    },
    Kept(Digest),
    Member {
        node: NodeName,
        authority: AuthorityId,
        signer: SignerId,
    },
    Tombstone {
        authority: AuthorityId,
        signer: SignerId,
    },
    /// One waits for the record of the new keys; those whose record is there cannot be taken back.
    Handover {
        node: NodeName,
        old: AuthorityId,
        new: Option<AuthorityId>,
    },
    Operator {
        name: ServiceName,
        signer: SignerId,
    },
    Beacon(SignerId),
}

/// How a signer stands with the root in force.
#[derive(Clone, Debug)]
pub struct Standing {
    pub(crate) grant: Grant,
    pub(crate) cut: Option<CutOff>,
    /// Whether any grant had the right to tombstones.
    may_bury: bool,
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

    fn has(&self, right: Right) -> bool {
        self.grant.rights.contains(&right) || (right == Right::Tombstones && self.may_bury)
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
    records: BTreeMap<Digest, Arc<Entry>>,
    counts: BTreeMap<SignerId, usize>,
    serials: BTreeSet<(SignerId, u64, Digest)>,
    forked: BTreeSet<SignerId>,
    verified: BTreeSet<AuthorityId>,
    root: Root,
    root_id: SignerId,
    signers: BTreeMap<SignerId, Standing>,
    /// What ended before is refused: it was pruned, or will be.
    horizon: Timestamp,
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
            records: BTreeMap::new(),
            counts: BTreeMap::new(),
            serials: BTreeSet::new(),
            forked: BTreeSet::new(),
            verified: BTreeSet::new(),
            root: first.clone(),
            root_id: first.id(),
            signers: BTreeMap::new(),
            horizon: Timestamp::default(),
            view: View::default(),
        };
        members.put(Slot::Root(1), Arc::new(signed));
        Ok(members)
    }

    /// Merges one statement.
    ///
    /// # Errors
    /// Why it was refused, and counts for nothing. Nothing changed then, but for [`Reason::BeyondRights`]:
    /// the statement keeps its slot, so that no older one of its signer's comes back.
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
        let mut results = Vec::with_capacity(batch.len());
        let (mut is_settled, mut is_changed) = (true, false);
        for (digest, signed) in batch {
            // Roots, grants and cut-offs come first; what is there is sorted by them once they are complete.
            let is_standing = signed.as_ref().is_ok_and(|signed| stands(&signed.statement));
            let is_beacon = signed.as_ref().is_ok_and(|it| matches!(it.statement, Statement::Beacon(_)));
            if !is_standing && !is_settled {
                self.resettle();
                is_settled = true;
            }
            let result = signed.and_then(|signed| self.admit(signed));
            let is_kept = match &result {
                Ok(merged) => *merged == Merged::Added,
                Err(refusal) => refusal.reason == Reason::BeyondRights,
            };
            is_changed |= is_kept && !is_beacon;
            is_settled &= !(is_kept && is_standing);
            results.push((digest, result));
        }
        if !is_settled {
            self.resettle();
        }
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
        if is_over(&signed.statement, self.horizon) {
            return Err(Reason::MemberExpired.because("it ended so long ago that it binds nothing any more"));
        }
        let slot = self.slot_of(&signed);
        if self.is_superseded(&slot, &signed) {
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
                self.root_id = root.id();
            }
            Statement::Member(member) => self.anchor_handovers(member),
            _ => {}
        }
        self.check_rights(&signed)?;
        Ok(Merged::Added)
    }

    /// Checks that whoever must have signed did.
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
            Statement::Handover(it) => {
                let (node, old) = (it.domain.node(), it.old.authority());
                if !self.records_of(node, old).any(|held| self.is_backed(held)) {
                    let detail = format!("a handover of `{node}` from keys that no record binds to it");
                    return Err(Reason::MemberUnknown.because(detail));
                }
                open(crate::statement::Handover::DOMAIN, &it.old)
            }
            Statement::Member(it) => open(Member::DOMAIN, self.signer_keys(it.signer, &signed.digest)?),
            Statement::Tombstone(it) => {
                open(crate::statement::Tombstone::DOMAIN, self.signer_keys(it.signer, &signed.digest)?)
            }
            Statement::Operator(it) => open(Operator::DOMAIN, self.signer_keys(it.signer, &signed.digest)?),
            Statement::Beacon(it) => open(Beacon::DOMAIN, self.signer_keys(it.signer, &signed.digest)?),
        }
    }

    fn check_root(&self, root: SignerId) -> Result<(), Refusal> {
        if root != self.root_id {
            let detail = format!("signed by {root:?}, which is not the root in force");
            return Err(Reason::RootMismatch.because(detail));
        }
        Ok(())
    }

    /// How a signer stands that may say what has this digest; `None` for the root, which may say all.
    fn standing(&self, id: SignerId, digest: &Digest) -> Result<Option<&Standing>, Refusal> {
        if id == self.root_id {
            return Ok(None);
        }
        let standing = self
            .signers
            .get(&id)
            .ok_or_else(|| Reason::SignerUnknown.because(format!("no grant in force for {id:?}")))?;
        if !standing.keeps(digest) {
            let detail = format!("{id:?} of `{}` was cut off", standing.grant.node);
            return Err(Reason::SignerCutOff.because(detail));
        }
        Ok(Some(standing))
    }

    fn signer_keys(&self, id: SignerId, digest: &Digest) -> Result<&KeySet, Refusal> {
        Ok(self.standing(id, digest)?.map_or(&self.root.keys, |standing| &standing.grant.keys))
    }

    /// Checks that a statement's signer may say that.
    pub(crate) fn check_rights(&self, signed: &Signed) -> Result<(), Refusal> {
        let Some(id) = signed.statement.signer() else { return Ok(()) };
        let Some(standing) = self.standing(id, &signed.digest)? else { return Ok(()) };
        let grant = &standing.grant;
        if let Some(right) = right_for(&signed.statement).filter(|right| !standing.has(*right)) {
            let detail = format!("{id:?} of `{}` lacks the right to {right:?}", grant.node);
            return Err(Reason::BeyondRights.because(detail));
        }
        if let Statement::Member(member) = &signed.statement
            && !grant.scope.covers(&member.scope)
        {
            let detail = format!("the scope {} exceeds {}", member.scope, grant.scope);
            return Err(Reason::BeyondRights.because(detail));
        }
        Ok(())
    }

    /// Whether a statement in a slot counts: its signer is in force and may say that, or the root keeps it.
    pub(crate) fn holds(&self, signed: &Signed) -> bool {
        !stands(&signed.statement) && self.check_rights(signed).is_ok()
    }

    /// Whether everyone who knows the root in force and its grants would take it. What a signer said that the
    /// root in force has not granted yet is kept to be there when it does, but is nobody else's business.
    fn is_backed(&self, signed: &Signed) -> bool {
        match &signed.statement {
            Statement::Handover(it) => {
                self.records_of(it.domain.node(), it.old.authority()).any(|held| self.is_backed(held))
            }
            statement => {
                statement.signer().is_none_or(|id| id == self.root_id || self.signers.contains_key(&id))
            }
        }
    }

    /// All records of one name and one pair of authority keys, whoever signed them.
    pub(crate) fn records_of(
        &self,
        node: &NodeName,
        authority: AuthorityId,
    ) -> impl Iterator<Item = &Arc<Signed>> {
        let slot = |signer| Slot::Member { node: node.clone(), authority, signer: SignerId(signer) };
        let kept = self.items.range(Slot::Kept(Digest([0; 32]))..=Slot::Kept(Digest([255; 32])));
        let node = node.clone();
        let is_of = move |held: &&Arc<Entry>| *held.member.node() == node && held.authority == authority;
        let kept = kept.filter_map(|(_, signed)| self.records.get(&signed.digest)).filter(is_of);
        let named = self.items.range(slot(Digest([0; 32]))..=slot(Digest([255; 32])));
        named.map(|(_, signed)| signed).chain(kept.map(|entry| &entry.signed))
    }

    fn check_room(&self, slot: &Slot, signed: &Signed) -> Result<(), Refusal> {
        let (n, max) = match slot {
            Slot::Root(_) => (self.root.generation as usize, GENERATIONS_MAX),
            Slot::Grant { root, .. } => {
                let is_same = |held: &&Slot| matches!(held, Slot::Grant { root: of, .. } if of == root);
                (self.items.keys().filter(is_same).count(), SIGNERS_MAX)
            }
            Slot::CutOff { root, .. } => {
                let is_same = |held: &&Slot| matches!(held, Slot::CutOff { root: of, .. } if of == root);
                (self.items.keys().filter(is_same).count(), SIGNERS_MAX)
            }
            // At most two for each record, and those are bounded.
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
            Statement::Grant(it) => Slot::Grant {
                signer: it.keys.signer(),
                root: it.root,
                buries: it.rights.contains(&Right::Tombstones),
            },
            Statement::CutOff(it) => Slot::CutOff { signer: it.signer, root: it.root },
            Statement::Member(it) => Slot::Member {
                node: it.node().clone(),
                authority: it.authority.authority(),
                signer: it.signer,
            },
            Statement::Tombstone(it) => Slot::Tombstone { authority: it.authority(), signer: it.signer },
            Statement::Handover(it) => Slot::Handover {
                node: it.domain.node().clone(),
                old: it.old.authority(),
                new: self.records_of(it.domain.node(), it.new).next().map(|_| it.new),
            },
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
        if let Statement::Member(member) = &signed.statement {
            self.records.insert(signed.digest, Arc::new(Entry::new(member, &signed)));
        }
        if let Slot::Handover { node, old, new: Some(_) } = &slot {
            let waiting = Slot::Handover { node: node.clone(), old: *old, new: None };
            if self.items.get(&waiting).is_some_and(|held| rank(held) < rank(&signed)) {
                self.take(&waiting);
            }
        }
        self.slots.insert(signed.digest, slot.clone());
        self.items.insert(slot, signed);
    }

    fn take(&mut self, slot: &Slot) -> Option<Arc<Signed>> {
        let signed = self.items.remove(slot)?;
        self.slots.remove(&signed.digest);
        self.records.remove(&signed.digest);
        if let Some(signer) = signed.statement.signer() {
            *self.counts.entry(signer).or_insert(1) -= 1;
            self.serials.remove(&(signer, signed.statement.serial(), signed.digest));
        }
        Some(signed)
    }

    /// A handover to keys that now have a record can no longer be replaced by another.
    fn anchor_handovers(&mut self, member: &Member) {
        let (node, new) = (member.node(), member.authority.authority());
        let slot = |old| Slot::Handover { node: node.clone(), old: AuthorityId(old), new: None };
        let to_new = |(slot, signed): (&Slot, &Arc<Signed>)| match (slot, &signed.statement) {
            (Slot::Handover { new: None, .. }, Statement::Handover(it)) if it.new == new => {
                Some(slot.clone())
            }
            _ => None,
        };
        let last = Slot::Handover {
            node: node.clone(),
            old: AuthorityId(Digest([255; 32])),
            new: Some(AuthorityId(Digest([255; 32]))),
        };
        let waiting: Vec<_> = self.items.range(slot(Digest([0; 32]))..=last).filter_map(to_new).collect();
        for slot in waiting {
            if let Some(signed) = self.take(&slot) {
                self.offer(signed);
            }
        }
    }

    /// Puts a statement that was admitted before into its slot, unless a higher one is there.
    fn offer(&mut self, signed: Arc<Signed>) {
        let slot = self.slot_of(&signed);
        if !self.is_superseded(&slot, &signed) {
            self.put(slot, signed);
        }
    }

    fn is_superseded(&self, slot: &Slot, signed: &Signed) -> bool {
        let is_higher = |held: &Arc<Signed>| rank(held) >= rank(signed);
        match slot {
            // The one that waits is the highest of all by its author, so that it is the same everywhere.
            Slot::Handover { node, old, new: None } => self.handovers_of(node, *old).any(is_higher),
            _ => self.items.get(slot).is_some_and(is_higher),
        }
    }

    /// What the keys that had a name said about who gets it.
    fn handovers_of(&self, node: &NodeName, old: AuthorityId) -> impl Iterator<Item = &Arc<Signed>> {
        let slot = |new| Slot::Handover { node: node.clone(), old, new };
        let last = AuthorityId(Digest([255; 32]));
        self.items.range(slot(None)..=slot(Some(last))).map(|(_, signed)| signed)
    }

    /// Sorts all statements afresh after a root, a grant or a cut-off, and drops what can never count again:
    /// what an earlier root signed, what a cut-off does not keep, and handovers of what no record binds.
    fn resettle(&mut self) {
        self.renew_signers();
        let past_roots: BTreeSet<_> = self
            .items
            .values()
            .filter_map(|signed| match &signed.statement {
                Statement::Root(root) if root.id() != self.root_id => Some(root.id()),
                _ => None,
            })
            .collect();
        let items = std::mem::take(&mut self.items);
        self.slots.clear();
        self.records.clear();
        self.counts.clear();
        self.serials.clear();
        let is_of_use = |members: &Self, signed: &Signed| match &signed.statement {
            Statement::Root(_) => true,
            Statement::Grant(it) => it.root == members.root_id,
            Statement::CutOff(it) => it.root == members.root_id,
            Statement::Handover(it) => {
                members.records_of(it.domain.node(), it.old.authority()).next().is_some()
            }
            statement => statement.signer().is_some_and(|id| {
                let is_kept = |standing: &Standing| standing.keeps(&signed.digest);
                !past_roots.contains(&id) && members.signers.get(&id).is_none_or(is_kept)
            }),
        };
        let (handovers, others): (Vec<_>, Vec<_>) =
            items.into_values().partition(|signed| matches!(signed.statement, Statement::Handover(_)));
        // Handovers last: whether they are of use, and their slots, follow from the records that remain.
        for signed in others.into_iter().chain(handovers) {
            if is_of_use(self, &signed) {
                self.offer(signed);
            }
        }
    }

    /// Computes who may sign from the root in force, its grants and its cut-offs.
    fn renew_signers(&mut self) {
        let root = self.root_id;
        let mut signers: BTreeMap<SignerId, Standing> = BTreeMap::new();
        let mut ranks = BTreeMap::new();
        for signed in self.items.values() {
            let Statement::Grant(grant) = &signed.statement else { continue };
            if grant.root != root {
                continue;
            }
            let id = grant.keys.signer();
            let standing = signers.entry(id).or_insert_with(|| Standing {
                grant: grant.clone(),
                cut: self.cut(id, root),
                may_bury: false,
            });
            standing.may_bury |= grant.rights.contains(&Right::Tombstones);
            if ranks.get(&id).is_none_or(|held| *held < rank(signed)) {
                ranks.insert(id, rank(signed));
                standing.grant = grant.clone();
            }
        }
        self.signers = signers;
    }

    fn cut(&self, signer: SignerId, root: SignerId) -> Option<CutOff> {
        match &self.items.get(&Slot::CutOff { signer, root })?.statement {
            Statement::CutOff(cut) => Some(cut.clone()),
            _ => None,
        }
    }

    /// One count, two statements: the signer's keys are used in two places, or it was set back.
    fn note_fork(&mut self, signed: &Signed) {
        let Some(signer) = signed.statement.signer() else { return };
        let serial = signed.statement.serial();
        let span = (signer, serial, Digest([0; 32]))..=(signer, serial, Digest([255; 32]));
        if signer != self.root_id && self.serials.range(span).next().is_some() {
            self.forked.insert(signer);
        }
    }

    /// Drops what ended so long ago that it binds nothing any more, and refuses it from now on: else whoever
    /// kept an old record could take a name back that somebody else has now. Tombstones stay for ever.
    pub fn prune(&mut self, now: Now) {
        self.horizon = now.wall - REJOIN_MAX;
        let is_over = |signed: &&Arc<Signed>| is_over(&signed.statement, self.horizon);
        let digests: Vec<_> = self.items.values().filter(is_over).map(|signed| signed.digest).collect();
        if digests.is_empty() {
            return;
        }
        for digest in digests {
            if let Some(slot) = self.slots.get(&digest).cloned() {
                self.take(&slot);
            }
        }
        self.resettle();
        self.view = View::new(self);
        let known: BTreeSet<_> = self.records.values().map(|entry| entry.authority).collect();
        self.verified.retain(|authority| known.contains(authority));
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

/// Whether it says who may sign.
const fn stands(statement: &Statement) -> bool {
    matches!(statement, Statement::Root(_) | Statement::Grant(_) | Statement::CutOff(_))
}

/// The right that a signer needs to say it.
const fn right_for(statement: &Statement) -> Option<Right> {
    match statement {
        Statement::Member(_) => Some(Right::Members),
        Statement::Tombstone(_) => Some(Right::Tombstones),
        Statement::Operator(_) => Some(Right::Operators),
        Statement::Root(_)
        | Statement::Grant(_)
        | Statement::CutOff(_)
        | Statement::Handover(_)
        | Statement::Beacon(_) => None,
    }
}

/// Whether it ended before `horizon`.
fn is_over(statement: &Statement, horizon: Timestamp) -> bool {
    match statement {
        Statement::Member(it) => it.not_after < horizon,
        Statement::Operator(it) => it.not_after < horizon,
        _ => false,
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

#[cfg(test)]
mod tests;
