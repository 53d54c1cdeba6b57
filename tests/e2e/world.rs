//! A mesh with real keys in one process, built by verbs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ::tls::random;
use identity::author::{self, NodeKeys};
use identity::soft_keys::Secret;
use identity::statement::Right;
use identity::{KeySet, Members, Scope, SignedRecord, SoftKeys};
use types::key::{KeySlot, Keys};
use types::{Now, Refusal, SpiffeId, TrustDomain};

/// The mesh, seen by one who knows everything.
pub struct Mesh {
    pub now: Now,
    pub root: SoftKeys,
    next_root: SoftKeys,
    pub signer: SoftKeys,
    pub members: Members,
}

/// One machine of it.
pub struct Node {
    pub domain: TrustDomain,
    pub keys: Arc<SoftKeys>,
}

pub fn fresh_keys(slots: &[KeySlot]) -> SoftKeys {
    let secrets: Vec<(KeySlot, Secret)> = slots.iter().map(|slot| (*slot, random::secret(*slot))).collect();
    SoftKeys::new(secrets.iter().map(|(slot, secret)| (*slot, secret))).unwrap()
}

impl Mesh {
    /// A mesh with a root, a signer with every right, a beacon, and no member.
    pub fn found(name: &str) -> Self {
        let now = Now::read();
        let (root, next_root) = (fresh_keys(&KeySlot::ROOT), fresh_keys(&KeySlot::ROOT));
        let promised = KeySet::of(&next_root, KeySlot::ROOT).unwrap().digest();
        let first = author::root(&root, name.parse().unwrap(), promised, now).unwrap();
        let verifier: Arc<dyn Keys> = Arc::new(SoftKeys::default());
        let members = Members::new(verifier, first.digest(), first).unwrap();
        let signer = fresh_keys(&KeySlot::SIGNER);
        let mut mesh = Self { now, root, next_root, signer, members };
        let set = KeySet::of(&mesh.signer, KeySlot::SIGNER).unwrap();
        let rights = BTreeSet::from(Right::ALL);
        let node = "one".parse().unwrap();
        let grant = mesh.members.grant(&mesh.root, node, set, rights, Scope::All, now).unwrap();
        mesh.members.merge(grant).unwrap();
        mesh.shine();
        mesh
    }

    /// Replaces the root by the one it promised.
    pub fn rotate(&mut self) {
        let after = fresh_keys(&KeySlot::ROOT);
        let promised = KeySet::of(&after, KeySlot::ROOT).unwrap().digest();
        let batch = self.members.rotate_root(&self.next_root, promised, self.now).unwrap();
        self.members.merge_all(batch);
        self.root = std::mem::replace(&mut self.next_root, after);
        assert_eq!(self.members.root().id(), KeySet::of(&self.root, KeySlot::ROOT).unwrap().signer());
    }

    /// Makes a beacon.
    pub fn shine(&mut self) {
        let beacon = self.members.beacon(&self.signer, self.now).unwrap();
        self.members.merge(beacon).unwrap();
    }

    /// Makes a new machine a member.
    pub fn admit(&mut self, name: &str, scope: &str) -> Node {
        let domain = TrustDomain::new(name.parse().unwrap(), self.members.mesh().clone());
        let node = Node { domain, keys: Arc::new(fresh_keys(&KeySlot::NODE)) };
        self.sign(&node, scope).unwrap();
        node
    }

    /// Signs a record for a machine, with a new scope if it has one.
    pub fn sign(&mut self, node: &Node, scope: &str) -> Result<(), Refusal> {
        let keys = NodeKeys::of(&*node.keys).unwrap();
        let name = node.domain.node().clone();
        let record = self.members.sign_member(&self.signer, name, &keys, scope.parse().unwrap(), self.now)?;
        self.members.merge(record).map(drop)
    }

    /// Ends a machine's membership.
    pub fn revoke(&mut self, node: &Node) {
        let tombstone = self.members.revoke(&self.signer, &node.domain, "stolen", self.now).unwrap();
        self.members.merge(tombstone).unwrap();
    }

    /// Lets time pass.
    pub fn wait(&mut self, by: Duration) {
        self.now = self.now.after(by);
    }

    pub fn record(&self, node: &Node) -> SignedRecord {
        SignedRecord::of(&self.members, &node.id()).unwrap()
    }
}

impl Node {
    pub fn id(&self) -> SpiffeId {
        SpiffeId::node(self.domain.clone())
    }

    pub fn service(&self, name: &str) -> SpiffeId {
        SpiffeId::service(self.domain.clone(), name.parse().unwrap())
    }
}
