//! Where statements are kept, and which of two is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use types::{Digest, NodeName, Reason, Refusal, ServiceName};

use super::{GENERATIONS_MAX, Members, SIGNERS_MAX, STATEMENTS_PER_SIGNER_MAX, Standing};
use crate::keyset::{AuthorityId, SignerId};
use crate::statement::{CutOff, Member, Right, Signed, Statement};
use crate::view::Entry;

/// Where a statement is kept: one for each thing that one author can say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Slot {
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

impl Members {
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

    pub(super) fn check_room(&self, slot: &Slot, signed: &Signed) -> Result<(), Refusal> {
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

    /// Whether a statement is neither here nor superseded by what is.
    pub(crate) fn is_news(&self, signed: &Signed) -> bool {
        !self.slots.contains_key(&signed.digest) && !self.is_superseded(&self.slot_of(signed), signed)
    }

    pub(super) fn slot_of(&self, signed: &Signed) -> Slot {
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

    pub(super) fn put(&mut self, slot: Slot, signed: Arc<Signed>) {
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

    pub(super) fn take(&mut self, slot: &Slot) -> Option<Arc<Signed>> {
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
    pub(super) fn anchor_handovers(&mut self, member: &Member) {
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
    pub(super) fn offer(&mut self, signed: Arc<Signed>) {
        let slot = self.slot_of(&signed);
        if !self.is_superseded(&slot, &signed) {
            self.put(slot, signed);
        }
    }

    pub(super) fn is_superseded(&self, slot: &Slot, signed: &Signed) -> bool {
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
    pub(super) fn resettle(&mut self) {
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
    pub(super) fn note_fork(&mut self, signed: &Signed) {
        let Some(signer) = signed.statement.signer() else { return };
        let serial = signed.statement.serial();
        let span = (signer, serial, Digest([0; 32]))..=(signer, serial, Digest([255; 32]));
        if signer != self.root_id && self.serials.range(span).next().is_some() {
            self.forked.insert(signer);
        }
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
