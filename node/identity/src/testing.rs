//! A small mesh for tests: keys that cost a digest, a clock that only tests move, and verbs that read as a
//! story. Nothing here is safe to use elsewhere: whoever sees a toy key can sign with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use types::key::{KeySlot, Keys, PublicKey, Unavailable};
use types::{Digest, Envelope, MeshName, NodeName, Now, Refusal, ServiceName, Timestamp, TrustDomain};

use crate::author::{self, MEMBER_VALID, NodeKeys};
use crate::keyset::{KeySet, SignerId};
use crate::members::{Members, Merged};
use crate::scope::Scope;
use crate::statement::{Kind, Member, Operator, Right, Role, Tombstone};

/// When every story begins: 2026-01-01T00:00:00Z.
pub(crate) const DAWN_S: u64 = 1_767_225_600;
const DAY: Duration = Duration::from_secs(86_400);

/// Keys whose signature is a digest of the public key and the message.
pub(crate) struct ToyKeys(BTreeMap<KeySlot, PublicKey>);

impl ToyKeys {
    fn new(seed: &str, slots: &[KeySlot]) -> Self {
        let public = |slot: KeySlot| {
            let digest = Digest::of(&[b"toy key", slot.name().as_bytes(), seed.as_bytes()]);
            let len = slot.algorithm().public_key_len();
            let bytes: Vec<u8> = digest.0.into_iter().cycle().take(len).collect();
            PublicKey::new(slot.algorithm(), &bytes).expect("it has the length of its algorithm")
        };
        Self(slots.iter().map(|slot| (*slot, public(*slot))).collect())
    }

    pub(crate) fn node(seed: &str) -> Self {
        Self::new(seed, &KeySlot::NODE)
    }

    pub(crate) fn signer(seed: &str) -> Self {
        Self::new(seed, &KeySlot::SIGNER)
    }

    pub(crate) fn root(generation: u32) -> Self {
        Self::new(&format!("root {generation}"), &KeySlot::ROOT)
    }
}

impl Keys for ToyKeys {
    fn public(&self, slot: KeySlot) -> Result<&PublicKey, Unavailable> {
        self.0.get(&slot).ok_or(Unavailable(slot))
    }

    fn sign(&self, slot: KeySlot, message: &[u8]) -> Result<Vec<u8>, Unavailable> {
        Ok(toy_signature(self.public(slot)?, message))
    }

    fn verify(&self, key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
        toy_signature(key, message) == signature
    }
}

fn toy_signature(key: &PublicKey, message: &[u8]) -> Vec<u8> {
    Digest::of(&[&key.as_bytes()[..32], message]).0.to_vec()
}

pub(crate) fn mesh() -> MeshName {
    "home.mesh".parse().expect("a name")
}

pub(crate) fn node(name: &str) -> NodeName {
    name.parse().expect("a name")
}

pub(crate) fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(node(name), mesh())
}

pub(crate) fn service(name: &str) -> ServiceName {
    name.parse().expect("a name")
}

pub(crate) fn scope(text: &str) -> Scope {
    text.parse().expect("a scope")
}

/// The public keys of the machine `seed`.
pub(crate) fn machine(seed: &str) -> NodeKeys {
    NodeKeys::of(&ToyKeys::node(seed)).expect("every slot")
}

pub(crate) fn signer_id(seed: &str) -> SignerId {
    signer_keys(seed).signer()
}

pub(crate) fn signer_keys(seed: &str) -> KeySet {
    KeySet::of(&ToyKeys::signer(seed), KeySlot::SIGNER).expect("both slots")
}

pub(crate) fn root_keys(generation: u32) -> KeySet {
    KeySet::of(&ToyKeys::root(generation), KeySlot::ROOT).expect("both slots")
}

pub(crate) fn sealed<K: Kind>(statement: &K, keys: &ToyKeys, slots: &[KeySlot]) -> Envelope {
    Envelope::seal(K::DOMAIN, statement.encode(), keys, slots).expect("every slot")
}

/// Only the first root.
pub(crate) fn bare_members() -> Members {
    let first = author::root(&ToyKeys::root(1), mesh(), root_keys(2).digest(), dawn()).expect("keys");
    Members::new(Arc::new(ToyKeys::new("", &[])), first.digest(), first).expect("its own root")
}

pub(crate) fn dawn() -> Now {
    Now { mono: std::time::Instant::now(), wall: Timestamp::from_secs(DAWN_S) }
}

/// One node's knowledge of a mesh, and everybody's keys.
pub(crate) struct World {
    pub(crate) members: Members,
    pub(crate) now: Now,
    serial: u64,
}

impl World {
    /// A mesh with the signers `s1` and `s2`, who may do all.
    pub(crate) fn new() -> Self {
        let mut world = Self::bare();
        world.grants("s1", &Right::ALL, "svc/*");
        world.grants("s2", &Right::ALL, "svc/*");
        world
    }

    /// A mesh with nothing but its root.
    pub(crate) fn bare() -> Self {
        Self { members: bare_members(), now: dawn(), serial: 1 << 32 }
    }

    /// The keys of a signer, or of the root in force.
    pub(crate) fn author(&self, name: &str) -> ToyKeys {
        match name {
            "root" => ToyKeys::root(self.members.root().generation),
            _ => ToyKeys::signer(name),
        }
    }

    pub(crate) fn id(&self, name: &str) -> SignerId {
        if name == "root" { self.members.root().id() } else { signer_id(name) }
    }

    pub(crate) fn days(&mut self, n: u32) {
        self.now = self.now.after(DAY * n);
    }

    pub(crate) fn takes(&mut self, envelope: &Envelope) -> Result<Merged, Refusal> {
        self.members.merge(envelope.clone())
    }

    #[track_caller]
    fn taken(&mut self, envelope: Result<Envelope, Refusal>) -> Envelope {
        let envelope = envelope.expect("a statement");
        assert_eq!(self.takes(&envelope), Ok(Merged::Added));
        envelope
    }

    #[track_caller]
    pub(crate) fn grants(&mut self, signer: &str, rights: &[Right], widest: &str) -> Envelope {
        let rights: BTreeSet<_> = rights.iter().copied().collect();
        let (root, keys) = (self.author("root"), signer_keys(signer));
        let grant = self.members.grant(&root, node("office"), keys, rights, scope(widest), self.now);
        self.taken(grant)
    }

    #[track_caller]
    pub(crate) fn cuts_off(&mut self, signer: &str, keep: &[&Envelope]) -> Envelope {
        let keep = keep.iter().map(|envelope| envelope.digest()).collect();
        let cut = self.members.cut_off(&self.author("root"), signer_id(signer), keep, self.now);
        self.taken(cut)
    }

    #[track_caller]
    pub(crate) fn rotates(&mut self) -> Vec<Envelope> {
        let next = self.members.root().generation + 1;
        let promise = root_keys(next + 1).digest();
        let batch = self.members.rotate_root(&ToyKeys::root(next), promise, self.now).expect("the next keys");
        for (_, result) in self.members.merge_all(batch.clone()) {
            assert_eq!(result, Ok(Merged::Added));
        }
        batch
    }

    /// `signer` makes the machine of that name a member.
    #[track_caller]
    pub(crate) fn joins(&mut self, signer: &str, name: &str) -> Envelope {
        self.joins_with(signer, name, &machine(name)).expect("nothing in the way")
    }

    pub(crate) fn joins_with(
        &mut self,
        signer: &str,
        name: &str,
        keys: &NodeKeys,
    ) -> Result<Envelope, Refusal> {
        let author = self.author(signer);
        let record = self.members.sign_member(&author, node(name), keys, Scope::NONE, self.now)?;
        assert_eq!(self.takes(&record), Ok(Merged::Added));
        Ok(record)
    }

    pub(crate) fn renews(&mut self, signer: &str, name: &str, to: Option<&str>) -> Result<Envelope, Refusal> {
        let record = self.members.renew(&self.author(signer), &domain(name), to.map(scope), self.now)?;
        assert_eq!(self.takes(&record), Ok(Merged::Added));
        Ok(record)
    }

    #[track_caller]
    pub(crate) fn revokes(&mut self, signer: &str, name: &str) -> Envelope {
        let tombstone = self.members.revoke(&self.author(signer), &domain(name), "stolen", self.now);
        self.taken(tombstone)
    }

    #[track_caller]
    pub(crate) fn hands_over(&mut self, name: &str, old: &str, new: &str) -> Envelope {
        let new = machine(new).authority.authority();
        let handover = author::handover(&ToyKeys::node(old), domain(name), new, self.now).expect("keys");
        self.taken(Ok(handover))
    }

    #[track_caller]
    pub(crate) fn signs_operator(&mut self, signer: &str, name: &str, role: Option<Role>) -> Envelope {
        let key = operator_key(name);
        let operator = self.members.sign_operator(&self.author(signer), service(name), role, key, self.now);
        self.taken(operator)
    }

    #[track_caller]
    pub(crate) fn signs_beacon(&mut self, signer: &str) -> Envelope {
        let beacon = self.members.beacon(&self.author(signer), self.now);
        self.taken(beacon)
    }

    /// A record that `signer` could write with its own hands, whatever the map says.
    pub(crate) fn forged(&mut self, signer: &str, name: &str, keys: &NodeKeys) -> Member {
        self.serial += 1;
        Member {
            domain: domain(name),
            peer: keys.peer,
            authority: keys.authority.clone(),
            jwt: keys.jwt.clone(),
            scope: Scope::NONE,
            epoch: 1,
            bound_at: self.now.wall,
            issued_at: self.now.wall,
            not_after: self.now.wall + MEMBER_VALID,
            signer: self.id(signer),
            serial: self.serial,
        }
    }

    /// Signs with the hands of `signer`, and merges.
    pub(crate) fn slips_in<K: Kind>(
        &mut self,
        signer: &str,
        statement: &K,
    ) -> (Envelope, Result<Merged, Refusal>) {
        let slots = if signer == "root" { KeySlot::ROOT } else { KeySlot::SIGNER };
        let envelope = sealed(statement, &self.author(signer), &slots);
        let result = self.takes(&envelope);
        (envelope, result)
    }

    pub(crate) fn tombstone(&mut self, signer: &str, keys: &NodeKeys) -> Tombstone {
        self.serial += 1;
        Tombstone {
            mesh: mesh(),
            keys: keys.authority.digests(),
            node: node("x"),
            note: String::new(),
            issued_at: self.now.wall,
            signer: self.id(signer),
            serial: self.serial,
        }
    }

    pub(crate) fn operator(&mut self, signer: &str, name: &str, epoch: u64) -> Operator {
        self.serial += 1;
        Operator {
            mesh: mesh(),
            name: service(name),
            role: Some(Role::Admin),
            key: operator_key("mallory"),
            epoch,
            issued_at: self.now.wall,
            not_after: self.now.wall + MEMBER_VALID,
            signer: self.id(signer),
            serial: self.serial,
        }
    }

    /// Whose keys have the name now, among these machines.
    pub(crate) fn holder<'a>(&self, name: &str, machines: &[&'a str]) -> Option<&'a str> {
        let held = self.members.get(&domain(name))?;
        machines.iter().copied().find(|seed| machine(seed).authority == held.authority)
    }
}

pub(crate) fn operator_key(name: &str) -> PublicKey {
    ToyKeys::node(name).public(KeySlot::Jwt).expect("the slot").clone()
}

/// What a map decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decided {
    pub(crate) members: BTreeMap<NodeName, Digest>,
    pub(crate) operators: BTreeMap<ServiceName, Operator>,
    pub(crate) dead_keys: BTreeSet<Digest>,
}

pub(crate) fn decided(members: &Members) -> Decided {
    let digest = |member: &Arc<Member>| members.record(&member.domain).expect("it counts").1.digest;
    Decided {
        members: members.iter().map(|member| (member.node().clone(), digest(member))).collect(),
        operators: members.operators().map(|it| (it.name.clone(), it.clone())).collect(),
        dead_keys: members.dead_keys().clone(),
    }
}
