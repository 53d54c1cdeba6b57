//! A small mesh that is the same in every run: a root, two signers, the nodes `pi` and `db`, and an operator.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use identity::author::{self, NodeKeys};
use identity::statement::{Operator, Right, Role, SignedRecord};
use identity::svid::{self, Request};
use identity::{Caller, KeySet, Members, Scope, SoftKeys, Who};
use rustls_pki_types::CertificateDer;
use types::key::{KeySlot, Keys};
use types::{Envelope, MeshName, Now, SpiffeId, Timestamp, TrustDomain};

use crate::keys::{Lenient, real};

/// What time it is: 2026-01-01T00:00:00Z.
pub const DAWN_S: u64 = 1_767_225_600;
/// The nodes, with the seeds of their keys and their scopes.
pub const NODES: [(&str, u8, &str); 2] = [("pi", 11, "svc/api"), ("db", 12, "svc/*")];
/// The operator's name and the seed of its key.
pub const OPERATOR: (&str, u8) = ("ada", 31);

/// The mesh. Its nodes have real keys, since their leaves are verified by a library; who checks signatures on
/// statements is up to the verifier.
pub struct Mesh {
    /// The map, with every statement in it.
    pub members: Members,
    /// One of the signers.
    pub signer: Lenient,
    /// The nodes' own, in their order.
    pub nodes: Vec<SoftKeys>,
}

/// The moment at which everything happens.
pub fn dawn() -> Now {
    Now { mono: Instant::now(), wall: Timestamp::from_secs(DAWN_S) }
}

/// Its name.
pub fn name() -> MeshName {
    "home.mesh".parse().expect("a name")
}

/// The trust domain of a node.
pub fn domain(node: &str) -> TrustDomain {
    TrustDomain::new(node.parse().expect("a name"), name())
}

/// A map with nothing but the root of that seed, whose successor has the next seed.
pub fn bare() -> Members {
    let first = author::root(&Lenient::new(1, &KeySlot::ROOT), name(), root_keys(2).digest(), dawn());
    let first = first.expect("both slots");
    Members::new(Arc::new(Lenient::default()), first.digest(), first).expect("its own root")
}

/// The keys of the root of that seed.
pub fn root_keys(seed: u8) -> KeySet {
    KeySet::of(&Lenient::new(seed, &KeySlot::ROOT), KeySlot::ROOT).expect("both slots")
}

/// The keys of the signer of that seed.
pub fn signer_keys(seed: u8) -> KeySet {
    KeySet::of(&Lenient::new(seed, &KeySlot::SIGNER), KeySlot::SIGNER).expect("both slots")
}

impl Mesh {
    /// Founds it. Whatever is merged later is believed, whoever signed it.
    pub fn found() -> Self {
        let mut mesh = Self {
            members: bare(),
            signer: Lenient::new(21, &KeySlot::SIGNER),
            nodes: NODES.iter().map(|(_, seed, _)| real(*seed, &KeySlot::NODE)).collect(),
        };
        let root = Lenient::new(1, &KeySlot::ROOT);
        for seed in [21, 22] {
            let (office, rights) = ("office".parse().expect("a name"), BTreeSet::from(Right::ALL));
            let grant = mesh.members.grant(&root, office, signer_keys(seed), rights, Scope::All, dawn());
            mesh.take(grant.expect("the root's keys"));
        }
        for (idx, (name, _, scope)) in NODES.iter().enumerate() {
            let (keys, scope) =
                (NodeKeys::of(&mesh.nodes[idx]).expect("all slots"), scope.parse().expect("a scope"));
            let name = name.parse().expect("a name");
            mesh.take(mesh.members.sign_member(&mesh.signer, name, &keys, scope, dawn()).expect("a record"));
        }
        let key = real(OPERATOR.1, &[KeySlot::Operator]).public(KeySlot::Operator).expect("the slot").clone();
        let operator = OPERATOR.0.parse().expect("a name");
        let operator = mesh.members.sign_operator(&mesh.signer, operator, Some(Role::Admin), key, dawn());
        mesh.take(operator.expect("a record"));
        mesh.take(mesh.members.beacon(&mesh.signer, dawn()).expect("a beacon"));
        mesh
    }

    fn take(&mut self, envelope: Envelope) {
        self.members.merge(envelope).expect("the mesh's own");
    }

    /// Every statement, and one of each kind that the mesh has no use for yet.
    pub fn statements(&self) -> Vec<Envelope> {
        let mut all: Vec<_> = self.members.items().map(|signed| signed.envelope.clone()).collect();
        let pi = domain("pi");
        let new = NodeKeys::of(&Lenient::new(13, &KeySlot::NODE)).expect("all slots").authority.authority();
        all.push(author::handover(&self.nodes[0], pi.clone(), new, dawn()).expect("pi's keys"));
        all.push(self.members.revoke(&self.signer, &pi, "stolen", dawn()).expect("a tombstone"));
        let keep = all.iter().map(Envelope::digest).collect();
        let root = Lenient::new(1, &KeySlot::ROOT);
        all.push(self.members.cut_off(&root, signer_keys(22).signer(), keep, dawn()).expect("a cut-off"));
        let next = Lenient::new(2, &KeySlot::ROOT);
        all.extend(
            self.members.rotate_root(&next, root_keys(3).digest(), dawn()).expect("the promised keys"),
        );
        all
    }

    /// A leaf for `id` with a key of the slot's algorithm, signed by the authority's of the same.
    pub fn leaf(&self, id: &SpiffeId, slot: KeySlot, record: Option<&Envelope>) -> CertificateDer<'static> {
        let idx = NODES.iter().position(|(name, ..)| id.domain() == Some(&domain(name))).expect("a node's");
        let member = self.members.get(&domain(NODES[idx].0)).expect("it is a member");
        let leaf_keys = real(41, &[slot]);
        let request = Request { id, key: leaf_keys.public(slot).expect("the slot"), serial: [7; 16], record };
        svid::issue(&self.nodes[idx], member, request, dawn()).expect("it is in scope")
    }

    /// Leaves of every sort.
    pub fn leaves(&self) -> Vec<CertificateDer<'static>> {
        let id = |text: &str| text.parse::<SpiffeId>().expect("an id");
        let (node, service) = (id("spiffe://pi.home.mesh/node"), id("spiffe://pi.home.mesh/svc/api"));
        let record = SignedRecord::of(&self.members, &node).expect("pi's record");
        let record = Some(record.envelope());
        let keys = real(OPERATOR.1, &[KeySlot::Operator]);
        let operator = OPERATOR.0.parse().expect("a name");
        let operator = svid::operator_certificate(&keys, &name(), &operator, [7; 16], dawn());
        vec![
            self.leaf(&node, KeySlot::AuthorityP256, record),
            self.leaf(&node, KeySlot::AuthorityMlDsa, record),
            self.leaf(&service, KeySlot::AuthorityP256, None),
            self.leaf(&service, KeySlot::AuthorityMlDsa, None),
            self.leaf(&id("spiffe://db.home.mesh/svc/any"), KeySlot::AuthorityP256, None),
            operator.expect("the operator's key"),
        ]
    }
}

/// Asserts that a caller who was let in is one that the map lets in. A record that the leaf carried is
/// merged first, as its receiver does.
pub fn check_caller(caller: &Caller, members: &Members) {
    let mut members = members.clone();
    if let Some(record) = &caller.carried {
        members.merge(record.clone()).expect("`verify` merged it too");
    }
    match &caller.who {
        Who::Member(member) => {
            assert_eq!(caller.id.domain(), Some(&member.domain), "its own trust domain and no other");
            assert_eq!(members.get(&member.domain), Some(member), "the record that counts");
            svid::check_scope(member, &caller.id).expect("in scope");
        }
        Who::Operator { role, .. } => {
            let is_named =
                |it: &&Operator| caller.id.to_string().ends_with(&format!("/operator/{}", it.name));
            let operator = members.operators().find(is_named).expect("the map knows it");
            assert_eq!(operator.role, Some(*role));
        }
    }
    caller.still_holds(dawn(), &members).expect("who was let in now is let in now");
}
