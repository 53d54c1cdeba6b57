//! Who counts, computed from the statements that hold.
//!
//! A name is bound to the authority keys that had it first, by `bound_at`. Other keys get it from the root,
//! by a handover that the old keys signed, or once a tombstone has ended the old ones. No peer id and no
//! authority key stands in two members' records. Everything is a function of the set of statements, so all
//! nodes that know the same agree.
//!
//! Keys that handed a name over do not get it back when their successor's are revoked: the name is free then.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use types::{Digest, NodeName, PeerId, Reason, Refusal, ServiceName, Timestamp, TrustDomain};

use crate::keyset::{AuthorityId, KeySet, SignerId, pair_digest};
use crate::members::Members;
use crate::statement::{Member, Signed, Statement};

/// A member's record, with the digests of its keys: they are asked for at every change of the map.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) member: Arc<Member>,
    pub(crate) signed: Arc<Signed>,
    pub(crate) authority: AuthorityId,
    /// The authority's two, and the node's.
    keys: [Digest; 3],
}

impl Entry {
    pub(crate) fn new(member: &Arc<Member>, signed: &Arc<Signed>) -> Self {
        let [classical, post_quantum] = member.authority.digests();
        Self {
            member: Arc::clone(member),
            signed: Arc::clone(signed),
            authority: AuthorityId(pair_digest(&[classical, post_quantum])),
            keys: [classical, post_quantum, member.node_key().digest()],
        }
    }

    fn key(&self) -> (NodeName, AuthorityId) {
        (self.member.node().clone(), self.authority)
    }

    fn rank(&self) -> (u64, Reverse<Digest>) {
        (self.member.epoch, Reverse(self.signed.digest))
    }
}

/// What follows from the statements.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) members: BTreeMap<NodeName, Arc<Entry>>,
    pub(crate) peers: BTreeMap<PeerId, Arc<Entry>>,
    pub(crate) operators: BTreeMap<ServiceName, Arc<Signed>>,
    dead_keys: BTreeSet<Digest>,
    lost: BTreeMap<(NodeName, AuthorityId), Refusal>,
}

/// All that holds for one name and one pair of authority keys.
struct Claim {
    entry: Arc<Entry>,
    bound_at: Timestamp,
    /// When the root bound it. What others say of when that was does not move it.
    bound_by_root_at: Option<Timestamp>,
}

impl Claim {
    fn add(&mut self, entry: &Arc<Entry>, root: SignerId) {
        let member = &entry.member;
        self.bound_at = self.bound_at.min(member.bound_at);
        if member.signer == root {
            self.bound_by_root_at = self.bound_by_root_at.max(Some(member.bound_at));
        }
        if entry.rank() > self.entry.rank() {
            self.entry = Arc::clone(entry);
        }
    }

    /// Earlier claims win: what the root signed, latest first; then whoever was first.
    fn precedence(&self) -> (Reverse<Option<Timestamp>>, Timestamp, AuthorityId) {
        (Reverse(self.bound_by_root_at), self.bound_at, self.entry.authority)
    }
}

impl View {
    pub(crate) fn new(members: &Members) -> Self {
        let mut settling = Settling::default();
        for signed in members.known() {
            match &signed.statement {
                Statement::Tombstone(it) if members.holds(signed) => settling.view.dead_keys.extend(it.keys),
                Statement::Handover(it) => {
                    let old = (it.domain.node().clone(), it.old.authority());
                    settling.handovers.entry(old).or_default().insert(it.new);
                }
                Statement::Operator(it) if members.holds(signed) => {
                    settling.view.offer_operator(it.name.clone(), it.epoch, signed);
                }
                _ => {}
            }
        }
        let mut entries = Vec::new();
        for entry in members.records() {
            match members.check_rights(&entry.signed) {
                Ok(()) => entries.push(entry),
                Err(refusal) => drop(settling.view.lost.insert(entry.key(), refusal)),
            }
        }
        for claim in claims(entries, members.root().id()) {
            settling.settle(claim);
        }
        settling.view
    }

    fn offer_operator(&mut self, name: ServiceName, epoch: u64, signed: &Arc<Signed>) {
        let key = |signed: &Signed| match &signed.statement {
            Statement::Operator(it) => (it.epoch, Reverse(signed.digest)),
            _ => (0, Reverse(signed.digest)),
        };
        let is_higher = |held: &Arc<Signed>| key(held) >= (epoch, Reverse(signed.digest));
        if !self.operators.get(&name).is_some_and(is_higher) {
            self.operators.insert(name, Arc::clone(signed));
        }
    }

    #[cfg(test)]
    pub(crate) fn dead_keys(&self) -> &BTreeSet<Digest> {
        &self.dead_keys
    }

    pub(crate) fn is_revoked(&self, authority: &KeySet) -> bool {
        authority.digests().iter().any(|key| self.dead_keys.contains(key))
    }

    /// Why nobody has this name: what is known of one that lost it, or that nothing is known.
    pub(crate) fn why_not(&self, node: &NodeName) -> Refusal {
        let mut lost = self.lost.range((node.clone(), AuthorityId(Digest([0; 32])))..);
        let lost = lost.next().filter(|((name, _), _)| name == node).map(|(_, refusal)| refusal.clone());
        lost.unwrap_or_else(|| Reason::MemberUnknown.because(format!("no record of `{node}` is known")))
    }

    pub(crate) fn refusal(&self, domain: &TrustDomain, authority: &KeySet) -> Option<Refusal> {
        let node = domain.node();
        if self.members.get(node).is_some_and(|entry| entry.member.authority == *authority) {
            return None;
        }
        if self.is_revoked(authority) {
            return Some(Reason::MemberRevoked.because(format!("the keys of `{node}` were revoked")));
        }
        if let Some(refusal) = self.lost.get(&(node.clone(), authority.authority())) {
            return Some(refusal.clone());
        }
        match self.members.get(node) {
            Some(_) => Some(Reason::NameBound.because(format!("`{node}` is bound to other keys"))),
            None => Some(self.why_not(node)),
        }
    }
}

/// Claims in the order of their precedence. Among records of one name and one pair of keys the highest epoch
/// counts, whoever signed it.
fn claims(mut entries: Vec<&Arc<Entry>>, root: SignerId) -> Vec<Claim> {
    entries.sort_unstable_by(|a, b| {
        a.member.node().cmp(b.member.node()).then_with(|| a.authority.cmp(&b.authority))
    });
    let mut claims: Vec<Claim> = Vec::new();
    for entry in entries {
        let is_same = |claim: &&mut Claim| {
            claim.entry.authority == entry.authority && claim.entry.member.node() == entry.member.node()
        };
        if let Some(claim) = claims.last_mut().filter(is_same) {
            claim.add(entry, root);
            continue;
        }
        let mut claim =
            Claim { entry: Arc::clone(entry), bound_at: entry.member.bound_at, bound_by_root_at: None };
        claim.add(entry, root);
        claims.push(claim);
    }
    claims.sort_by_key(Claim::precedence);
    claims
}

/// A view that claims are added to, in the order of their precedence.
#[derive(Default)]
struct Settling {
    view: View,
    /// From a name and the keys that had it to the keys that may have it next.
    handovers: BTreeMap<(NodeName, AuthorityId), BTreeSet<AuthorityId>>,
    used: HashMap<Digest, Arc<Entry>>,
    /// Claims of dead keys.
    dead: BTreeSet<(NodeName, AuthorityId)>,
    /// Claims that lost to another's, in case those who give them the name come later.
    waiting: BTreeMap<(NodeName, AuthorityId), Claim>,
}

impl Settling {
    fn settle(&mut self, claim: Claim) {
        let mut next = Some(claim);
        while let Some(claim) = next {
            next = self.settle_one(claim);
        }
    }

    /// Takes a claim into the view, or notes why it loses to those settled before. Answers one that was
    /// waiting for it.
    fn settle_one(&mut self, claim: Claim) -> Option<Claim> {
        let key = claim.entry.key();
        let node = &key.0;
        if claim.entry.keys[..2].iter().any(|key| self.view.dead_keys.contains(key)) {
            if self.view.members.get(node).is_some_and(|held| self.is_handed_over(&held.key(), key.1)) {
                self.vacate(node);
            }
            self.lose(&key, Reason::MemberRevoked, format!("the keys of `{node}` were revoked"));
            self.dead.insert(key.clone());
            return self.next(&key);
        }
        let is_dead = |new: &AuthorityId| self.dead.contains(&(node.clone(), *new));
        if self.handovers.get(&key).is_some_and(|new| new.iter().any(is_dead)) {
            self.lose(&key, Reason::NameBound, format!("`{node}` was handed over to other keys"));
            return None;
        }
        if let Some(holder) = self.view.members.get(node)
            && !self.is_handed_over(&holder.key(), key.1)
        {
            let detail = format!("`{node}` is bound to other keys since {}", holder.member.bound_at);
            self.lose(&key, Reason::NameBound, detail);
            self.waiting.insert(key, claim);
            return None;
        }
        let other = |key| self.used.get(key).map(|entry| entry.member.node()).filter(|other| *other != node);
        if let Some(other) = claim.entry.keys.iter().find_map(other) {
            let detail = format!("a key of `{node}` is already `{other}`'s");
            self.lose(&key, Reason::KeyInUse, detail);
            return None;
        }
        self.vacate(node);
        self.used.extend(claim.entry.keys.map(|key| (key, Arc::clone(&claim.entry))));
        self.view.peers.insert(claim.entry.member.peer, Arc::clone(&claim.entry));
        self.view.members.insert(node.clone(), claim.entry);
        self.view.lost.remove(&key);
        self.next(&key)
    }

    fn lose(&mut self, key: &(NodeName, AuthorityId), reason: Reason, detail: String) {
        self.view.lost.insert(key.clone(), reason.because(detail));
    }

    /// Ends the claim of whoever has the name, for the sake of keys that it was handed over to.
    fn vacate(&mut self, node: &NodeName) {
        let Some(old) = self.view.members.remove(node) else { return };
        self.view.peers.remove(&old.member.peer);
        self.lose(&old.key(), Reason::NameBound, format!("`{node}` was handed over to other keys"));
    }

    fn is_handed_over(&self, old: &(NodeName, AuthorityId), new: AuthorityId) -> bool {
        self.handovers.get(old).is_some_and(|to| to.contains(&new))
    }

    /// The first of those that were waiting for the name to pass from these keys to theirs.
    fn next(&mut self, old: &(NodeName, AuthorityId)) -> Option<Claim> {
        let waiting = |new: &AuthorityId| self.waiting.get(&(old.0.clone(), *new));
        let first = self.handovers.get(old)?.iter().filter_map(waiting).min_by_key(|it| it.precedence())?;
        let key = first.entry.key();
        self.waiting.remove(&key)
    }
}
