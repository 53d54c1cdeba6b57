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

mod reading;
mod rotation;
mod slots;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use types::key::Keys;
use types::{Digest, Envelope, Now, Reason, Refusal, Timestamp};

use self::slots::Slot;
use crate::keyset::{AuthorityId, KeySet, SignerId};
use crate::statement::{Beacon, CutOff, Grant, Kind, Member, Operator, Right, Root, Signed, Statement};
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

/// The signed member map of one mesh. Cloning shares the statements and copies the indexes.
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
        let torn = self.torn_roots(&batch);
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
            let result = match torn.contains(&digest) {
                true => Err(Reason::RootTorn.because("the new root comes without all that it names")),
                false => signed.and_then(|signed| self.admit(signed)),
            };
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
    pub(crate) fn check(&self, signed: &Signed) -> Result<(), Refusal> {
        let open = |domain, keys: &KeySet| signed.envelope.open(domain, &keys.both(), &*self.keys).map(drop);
        match &signed.statement {
            Statement::Root(next) => {
                if !rotation::follows(next, &self.root) {
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

impl std::fmt::Debug for Members {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} members of {}", self.view.members.len(), self.root.mesh)
    }
}

#[cfg(test)]
mod tests;
