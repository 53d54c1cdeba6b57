//! The member map under hostile authors who can all sign: merging twice changes nothing, neither the order of
//! a batch nor who tells whom decides anything, and no key or peer id stands in two records.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

use identity::author::NodeKeys;
use identity::keyset::{AuthorityId, SignerId};
use identity::members::REJOIN_MAX;
use identity::statement::{
    Beacon, Company, CutOff, Grant, Handover, Kind, Member, Operator, Right, Role, Root, Statement, Tombstone,
};
use identity::{KeySet, Members, Merged};
use sagemesh_fuzz::edit::{Edit, edited};
use sagemesh_fuzz::{Lenient, mesh};
use types::envelope::Signature;
use types::key::KeySlot;
use types::{Digest, Envelope, NodeName, ServiceName, Timestamp};

const STEPS_MAX: usize = 32;
const NODES: [&str; 3] = ["pi", "db", "web"];
const SCOPES: [&str; 3] = ["", "svc/a", "svc/*"];
const N_SIGNERS: u8 = 3;
const N_MACHINES: u8 = 5;
const N_ROOTS: u8 = 4;

/// One statement. Numbers pick from small sets, so that statements meet.
#[derive(Arbitrary, Clone, Debug)]
enum Step {
    Root {
        generation: u8,
        keys: u8,
        next: u8,
    },
    Grant {
        signer: u8,
        rights: u8,
        scope: u8,
        epoch: Number,
        root: u8,
    },
    CutOff {
        signer: u8,
        keep: Vec<u8>,
        epoch: Number,
        root: u8,
    },
    Member {
        node: u8,
        keys: u8,
        other: Option<u8>,
        peer: u8,
        scope: u8,
        epoch: Number,
        bound_at: Number,
        life: Number,
        by: By,
    },
    Tombstone {
        keys: u8,
        other: Option<u8>,
        by: By,
    },
    Handover {
        node: u8,
        old: u8,
        new: u8,
        at: Number,
    },
    Operator {
        name: u8,
        role: u8,
        epoch: Number,
        life: Number,
        by: By,
    },
    Beacon {
        by: By,
        at: Number,
    },
    /// What an earlier one says, changed in any byte.
    Changed {
        of: u8,
        edits: Vec<Edit>,
    },
}

/// Who signs, and the count it gives.
#[derive(Arbitrary, Clone, Debug)]
struct By {
    signer: u8,
    serial: Number,
}

/// Small numbers, and those at the end.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Number(u8);

impl Number {
    fn get(self) -> u64 {
        match self.0 {
            small @ 0..=250 => u64::from(small),
            large => u64::MAX - u64::from(255 - large),
        }
    }

    /// A moment near dawn, at the start of time, or at its end.
    fn at(self) -> Timestamp {
        match self.0 {
            near @ 0..=250 => Timestamp::from_secs(mesh::DAWN_S + u64::from(near)),
            251 => Timestamp::default(),
            252 => Timestamp::from_secs(mesh::DAWN_S) - REJOIN_MAX,
            _ => Timestamp::from_secs(self.get()),
        }
    }
}

#[derive(Arbitrary, Debug)]
struct Input {
    steps: Vec<Step>,
    order: Vec<u8>,
    split: u8,
    days: u16,
}

fuzz_target!(|input: Input| {
    let mut said = Vec::new();
    for step in input.steps.iter().take(STEPS_MAX) {
        said.extend(step.say(&said));
    }
    let told = told(&said);
    check(&told);

    let mut again = told.clone();
    let results = again.merge_all(said.clone());
    assert!(results.iter().all(|(_, result)| *result != Ok(Merged::Added)), "merging twice is merging once");
    same(&told, &again);

    let mut shuffled = said.clone();
    for (idx, by) in input.order.iter().enumerate().take(shuffled.len()) {
        let len = shuffled.len();
        shuffled.swap(idx, usize::from(*by) % len);
    }
    same(&told, &self::told(&shuffled));
    same(&told, &self::told(told.items().map(|signed| &signed.envelope)));

    let (one, other) = shuffled.split_at(usize::from(input.split) % (shuffled.len() + 1));
    let (one, other) = (self::told(one), self::told(other));
    if roots(&one).iter().all(|(generation, root)| roots(&other).get(generation).is_none_or(|it| it == root))
    {
        let joined = join(&one, &other);
        check(&joined);
        same(&joined, &join(&other, &one));
    }

    let mut pruned = told;
    pruned.prune(mesh::dawn().after(Duration::from_secs(86_400) * u32::from(input.days)));
    check(&pruned);
    pruned.merge_all(said);
    check(&pruned);
});

fn told<'a>(said: impl IntoIterator<Item = &'a Envelope>) -> Members {
    let mut members = BARE.clone();
    members.merge_all(said.into_iter().cloned());
    members
}

fn join(one: &Members, other: &Members) -> Members {
    let mut joined = one.clone();
    joined.merge_all(other.items().map(|signed| signed.envelope.clone()).collect::<Vec<_>>());
    joined
}

fn roots(members: &Members) -> BTreeMap<u32, Digest> {
    let roots = members.items().filter_map(|signed| match &signed.statement {
        Statement::Root(root) => Some((root.generation, signed.digest)),
        _ => None,
    });
    roots.collect()
}

/// What a map decides.
#[derive(Debug, PartialEq)]
struct Decided {
    members: BTreeMap<NodeName, Digest>,
    operators: BTreeMap<ServiceName, Operator>,
    revoked: Vec<bool>,
    signers: BTreeSet<SignerId>,
    items: BTreeSet<Digest>,
    summary: Digest,
}

fn decided(members: &Members) -> Decided {
    let record = |member: &Member| members.record(&member.domain).expect("it counts").1.digest;
    Decided {
        members: members.iter().map(|member| (member.node().clone(), record(member))).collect(),
        operators: members.operators().map(|it| (it.name.clone(), it.clone())).collect(),
        revoked: MACHINES.iter().map(|keys| members.is_revoked(&keys.authority)).collect(),
        signers: members.signers().keys().copied().collect(),
        items: members.items().map(|signed| signed.digest).collect(),
        summary: members.summary(),
    }
}

#[track_caller]
fn same(one: &Members, other: &Members) {
    assert_eq!(decided(one), decided(other));
}

/// What holds in every map.
#[track_caller]
fn check(members: &Members) {
    let mut used = BTreeSet::new();
    for member in members.iter() {
        let [classical, post_quantum] = member.authority.digests();
        for key in [classical, post_quantum, member.node_key().digest()] {
            assert!(used.insert(key), "a key of `{}` stands in two records", member.node());
        }
        assert!(!members.is_revoked(&member.authority), "`{}` was revoked", member.node());
        assert_eq!(members.by_peer(&member.peer).map(|it| it.node()), Some(member.node()));
        assert_eq!(members.refusal(&member.domain, &member.authority), None);
    }
    for name in NODES {
        let domain = mesh::domain(name);
        assert!(members.get(&domain).is_some() || !members.why_not(&domain).detail.is_empty());
    }
    let _ = (members.is_stale(mesh::dawn()), members.wanted());
    for signer in members.signers().keys() {
        let _ = members.audit(*signer);
    }
}

/// Making keys takes longer than merging, so they are made once.
static MACHINES: LazyLock<Vec<NodeKeys>> = LazyLock::new(|| {
    let keys = |seed| NodeKeys::of(&Lenient::new(100 + seed, &KeySlot::NODE)).expect("every slot");
    (0..N_MACHINES).map(keys).collect()
});
static SIGNERS: LazyLock<Vec<KeySet>> = LazyLock::new(|| (0..N_SIGNERS).map(mesh::signer_keys).collect());
static ROOTS: LazyLock<Vec<KeySet>> = LazyLock::new(|| (1..=N_ROOTS).map(mesh::root_keys).collect());
static BARE: LazyLock<Members> = LazyLock::new(mesh::bare);

fn machine(which: u8) -> &'static NodeKeys {
    &MACHINES[usize::from(which % N_MACHINES)]
}

/// The authority of a machine; with the ML-DSA key of another if one is named.
fn authority(which: u8, other: Option<u8>) -> KeySet {
    let classical = machine(which).authority.classical.clone();
    KeySet { classical, post_quantum: machine(other.unwrap_or(which)).authority.post_quantum.clone() }
}

fn root(which: u8) -> KeySet {
    ROOTS[usize::from(which % N_ROOTS)].clone()
}

fn signer(which: u8) -> KeySet {
    SIGNERS[usize::from(which % N_SIGNERS)].clone()
}

fn pick<T: std::str::FromStr<Err: std::fmt::Debug>>(from: &[&str], which: u8) -> T {
    from[usize::from(which) % from.len()].parse().expect("each is one")
}

/// What says `statement` and counts as signed. Roots sign with the same algorithms as signers.
fn seal<K: Kind>(statement: &K, slots: [KeySlot; 2]) -> Envelope {
    let signature = |slot: KeySlot| Signature { algorithm: slot.algorithm() as u32, value: Vec::new() };
    let signatures = slots.map(signature).to_vec();
    Envelope { domain: K::DOMAIN.to_owned(), payload: statement.encode(), signatures }
}

impl By {
    /// The signer, the root of the first generation as one of them, and its count.
    fn get(&self) -> (SignerId, u64) {
        let id = match self.signer % (N_SIGNERS + 1) {
            N_SIGNERS => root(0).signer(),
            seed => signer(seed).signer(),
        };
        (id, self.serial.get())
    }
}

impl Step {
    fn say(&self, said: &[Envelope]) -> Option<Envelope> {
        let mesh = mesh::name();
        let dawn = mesh::dawn().wall;
        let earlier = |of: u8| said.get(usize::from(of) % said.len().max(1));
        Some(match self {
            Self::Root { generation, keys, next } => {
                let (generation, next_keys) = (u32::from(*generation % 5), root(*next).digest());
                let keys = root(*keys);
                seal(
                    &Root { mesh, generation, keys, next_keys, issued_at: dawn, company: Company::default() },
                    KeySlot::ROOT,
                )
            }
            Self::Grant { signer, rights, scope, epoch, root } => {
                let rights = Right::ALL.into_iter().enumerate().filter(|(n, _)| rights & (1 << n) != 0);
                let grant = Grant {
                    mesh,
                    node: pick(&NODES, 0),
                    keys: self::signer(*signer),
                    rights: rights.map(|(_, right)| right).collect(),
                    scope: pick(&SCOPES, *scope),
                    epoch: epoch.get(),
                    issued_at: dawn,
                    root: self::root(*root).signer(),
                };
                seal(&grant, KeySlot::ROOT)
            }
            Self::CutOff { signer, keep, epoch, root } => {
                let cut = CutOff {
                    mesh,
                    signer: self::signer(*signer).signer(),
                    keep: keep.iter().filter_map(|of| earlier(*of)).map(Envelope::digest).collect(),
                    epoch: epoch.get(),
                    issued_at: dawn,
                    root: self::root(*root).signer(),
                };
                seal(&cut, KeySlot::ROOT)
            }
            Self::Member { node, keys, other, peer, scope, epoch, bound_at, life, by } => {
                let (signer, serial) = by.get();
                let peer = machine(*peer);
                let member = Member {
                    domain: mesh::domain(NODES[usize::from(*node) % NODES.len()]),
                    peer: peer.peer,
                    authority: authority(*keys, *other),
                    jwt: peer.jwt.clone(),
                    scope: pick(&SCOPES, *scope),
                    epoch: epoch.get(),
                    bound_at: bound_at.at(),
                    issued_at: bound_at.at(),
                    not_after: bound_at.at() + Duration::from_secs(86_400 * life.get().min(1000)),
                    signer,
                    serial,
                };
                seal(&member, KeySlot::SIGNER)
            }
            Self::Tombstone { keys, other, by } => {
                let (signer, serial) = by.get();
                let keys = authority(*keys, *other).digests();
                let (node, note) = (pick(&NODES, 0), String::new());
                seal(&Tombstone { mesh, keys, node, note, issued_at: dawn, signer, serial }, KeySlot::SIGNER)
            }
            Self::Handover { node, old, new, at } => {
                let (old, new): (_, AuthorityId) = (authority(*old, None), authority(*new, None).authority());
                let domain = mesh::domain(NODES[usize::from(*node) % NODES.len()]);
                seal(&Handover { domain, old, new, issued_at: at.at() }, KeySlot::AUTHORITY)
            }
            Self::Operator { name, role, epoch, life, by } => {
                let (signer, serial) = by.get();
                let operator = Operator {
                    mesh,
                    name: pick(&["ada", "bob"], *name),
                    role: [None, Some(Role::View), Some(Role::Admin)][usize::from(*role) % 3],
                    key: authority(0, None).classical,
                    epoch: epoch.get(),
                    issued_at: dawn,
                    not_after: life.at(),
                    signer,
                    serial,
                };
                seal(&operator, KeySlot::SIGNER)
            }
            Self::Beacon { by, at } => {
                let (signer, serial) = by.get();
                let merkle_root = Digest::of(&[]);
                let beacon = Beacon { mesh, signer, serial, merkle_root, n_leaves: 0, issued_at: at.at() };
                seal(&beacon, KeySlot::SIGNER)
            }
            Self::Changed { of, edits } => {
                let it = earlier(*of)?;
                Envelope { payload: edited(&it.payload, edits), ..it.clone() }
            }
        })
    }
}
