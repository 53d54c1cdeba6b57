//! Who counts, computed from the statements that hold.
//!
//! A name is bound to the authority keys that had it first, by `bound_at`. Other keys get it from the root,
//! by a handover that the old keys signed, or once a tombstone has ended the old ones. No peer id and no
//! authority key stands in two members' records. Everything is a function of the set of statements, so all
//! nodes that know the same agree.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use types::{Digest, NodeName, PeerId, Reason, Refusal, ServiceName, Timestamp, TrustDomain};

use crate::keyset::{AuthorityId, KeySet};
use crate::members::Members;
use crate::statement::{Member, Signed, Statement};

/// A member whose record counts.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) member: Arc<Member>,
    pub(crate) signed: Arc<Signed>,
}

/// What follows from the statements.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) members: BTreeMap<NodeName, Entry>,
    pub(crate) peers: BTreeMap<PeerId, NodeName>,
    pub(crate) operators: BTreeMap<ServiceName, Arc<Signed>>,
    dead_keys: BTreeSet<Digest>,
    lost: BTreeMap<(NodeName, AuthorityId), Refusal>,
}

/// All that holds for one name and one pair of authority keys.
struct Claim {
    entry: Entry,
    bound_at: Timestamp,
    is_by_root: bool,
}

impl Claim {
    /// Earlier claims win: what the root signed, latest first; then whoever was first.
    fn precedence(&self) -> (bool, u64, AuthorityId) {
        let at = self.bound_at.as_secs();
        let at = if self.is_by_root { u64::MAX - at } else { at };
        (!self.is_by_root, at, self.entry.member.authority.authority())
    }
}

impl View {
    pub(crate) fn new(members: &Members) -> Self {
        let mut view = Self::default();
        let mut claims: BTreeMap<(NodeName, AuthorityId), Claim> = BTreeMap::new();
        let mut handovers = BTreeSet::new();
        for signed in members.holding() {
            match &signed.statement {
                Statement::Tombstone(it) => view.dead_keys.extend(it.keys),
                Statement::Handover(it) => {
                    handovers.insert((it.domain.node().clone(), it.old.authority(), it.new));
                }
                Statement::Operator(it) => view.offer_operator(it.name.clone(), it.epoch, signed),
                Statement::Member(member) => {
                    offer_member(&mut claims, member, signed, member.signer == members.root().id());
                }
                _ => {}
            }
        }
        let mut claims: Vec<_> = claims.into_values().collect();
        claims.sort_by_cached_key(Claim::precedence);
        let mut used = BTreeMap::new();
        for claim in claims {
            view.settle(claim, &handovers, &mut used);
        }
        view
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

    /// Takes a claim into the view, or notes why it loses to those settled before.
    fn settle(
        &mut self,
        claim: Claim,
        handovers: &BTreeSet<(NodeName, AuthorityId, AuthorityId)>,
        used: &mut BTreeMap<Digest, NodeName>,
    ) {
        let member = Arc::clone(&claim.entry.member);
        let (node, authority) = (member.node().clone(), member.authority.authority());
        let mut lose = |refusal| {
            self.lost.insert((node.clone(), authority), refusal);
        };
        if member.authority.digests().iter().any(|key| self.dead_keys.contains(key)) {
            return lose(Reason::MemberRevoked.because(format!("the keys of `{node}` were revoked")));
        }
        if let Some(holder) = self.members.get(&node) {
            let held = holder.member.authority.authority();
            if !handovers.contains(&(node.clone(), held, authority)) {
                let detail = format!("`{node}` is bound to other keys since {}", holder.member.bound_at);
                return lose(Reason::NameBound.because(detail));
            }
        }
        let keys = {
            let [classical, post_quantum] = member.authority.digests();
            [classical, post_quantum, member.node_key().digest()]
        };
        if let Some(other) = keys.iter().find_map(|key| used.get(key).filter(|other| **other != node)) {
            let detail = format!("a key of `{node}` is already `{other}`'s");
            return lose(Reason::KeyInUse.because(detail));
        }
        for key in keys {
            used.insert(key, node.clone());
        }
        if let Some(old) = self.members.insert(node.clone(), claim.entry) {
            let refusal = Reason::NameBound.because(format!("`{node}` was handed over to other keys"));
            self.lost.insert((node.clone(), old.member.authority.authority()), refusal);
            self.peers.remove(&old.member.peer);
        }
        self.peers.insert(member.peer, node);
    }

    pub(crate) fn is_revoked(&self, authority: &KeySet) -> bool {
        authority.digests().iter().any(|key| self.dead_keys.contains(key))
    }

    /// Why nobody has this name: what is known of one that lost it, or that nothing is known.
    pub(crate) fn why_not(&self, node: &NodeName) -> Refusal {
        let lost = self.lost.iter().find(|((name, _), _)| name == node).map(|(_, refusal)| refusal.clone());
        lost.unwrap_or_else(|| Reason::MemberUnknown.because(format!("no record of `{node}` is known")))
    }

    pub(crate) fn refusal(&self, domain: &TrustDomain, authority: &KeySet) -> Option<Refusal> {
        let node = domain.node();
        if self.is_revoked(authority) {
            return Some(Reason::MemberRevoked.because(format!("the keys of `{node}` were revoked")));
        }
        if let Some(refusal) = self.lost.get(&(node.clone(), authority.authority())) {
            return Some(refusal.clone());
        }
        match self.members.get(node) {
            Some(entry) if entry.member.authority == *authority => None,
            Some(_) => Some(Reason::NameBound.because(format!("`{node}` is bound to other keys"))),
            None => Some(self.why_not(node)),
        }
    }
}

/// Among records of one name and one pair of keys the highest epoch counts, whoever signed it.
fn offer_member(
    claims: &mut BTreeMap<(NodeName, AuthorityId), Claim>,
    member: &Arc<Member>,
    signed: &Arc<Signed>,
    is_by_root: bool,
) {
    let entry = Entry { member: Arc::clone(member), signed: Arc::clone(signed) };
    let key = (member.node().clone(), member.authority.authority());
    let Some(claim) = claims.get_mut(&key) else {
        claims.insert(key, Claim { entry, bound_at: member.bound_at, is_by_root });
        return;
    };
    claim.bound_at = claim.bound_at.min(member.bound_at);
    claim.is_by_root |= is_by_root;
    let rank = |entry: &Entry| (entry.member.epoch, Reverse(entry.signed.digest));
    if rank(&entry) > rank(&claim.entry) {
        claim.entry = entry;
    }
}
