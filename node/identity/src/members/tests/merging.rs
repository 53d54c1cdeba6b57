//! Random histories, told to replicas in every order. Three signers write whatever they like, the third with
//! hostile numbers; the root grants, narrows, cuts off and rotates in between. Each statement comes together
//! with what it depends on.

use std::collections::BTreeSet;

use proptest::prelude::*;
use types::key::{KeySlot, Keys};
use types::{Digest, Envelope, Timestamp};

use super::super::*;
use crate::author;
use crate::statement::{Beacon, Role, Tombstone};
use crate::testing::{self, DAWN_S, Decided, ToyKeys, World, decided, machine, sealed};

const NODES: [&str; 4] = ["pi", "db", "web", "nas"];
const MACHINES: [&str; 5] = ["m0", "m1", "m2", "m3", "m4"];
const SIGNERS: [&str; 4] = ["s1", "s2", "mallory", "root"];
const MALLORY: usize = 2;
const SCOPES: [&str; 4] = ["", "svc/a", "svc/a,svc/b", "svc/*"];

#[derive(Clone, Debug)]
enum Step {
    Member {
        signer: usize,
        node: usize,
        machine: usize,
        peer: usize,
        scope: usize,
        epoch: u64,
        bound_at: u64,
    },
    Tombstone {
        signer: usize,
        machine: usize,
    },
    Handover {
        node: usize,
        old: usize,
        new: usize,
        at: u64,
    },
    Operator {
        signer: usize,
        name: usize,
        epoch: u64,
        role: Option<Role>,
    },
    Beacon {
        signer: usize,
        serial: u64,
    },
    Grant {
        signer: usize,
        rights: u8,
        scope: usize,
    },
    CutOff {
        signer: usize,
        keep: u64,
    },
    Rotate,
}

fn epoch() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 1u64..5, 1 => Just(u64::MAX)]
}

fn step() -> impl Strategy<Value = Step> {
    let member = (0usize..4, 0usize..4, 0usize..5, 0usize..5, 0usize..4, epoch(), 0u64..8).prop_map(
        |(signer, node, machine, peer, scope, epoch, bound_at)| {
            // Half of the machines bring their own peer id, as an honest one does.
            let peer = if peer < 3 { machine } else { peer };
            Step::Member { signer, node, machine, peer, scope, epoch, bound_at }
        },
    );
    let role = prop_oneof![Just(None), Just(Some(Role::View)), Just(Some(Role::Admin))];
    prop_oneof![
        10 => member,
        2 => (0usize..4, 0usize..5).prop_map(|(signer, machine)| Step::Tombstone { signer, machine }),
        3 => (0usize..4, 0usize..5, 0usize..5, 0u64..4)
            .prop_map(|(node, old, new, at)| Step::Handover { node, old, new, at }),
        2 => (0usize..4, 0usize..2, epoch(), role)
            .prop_map(|(signer, name, epoch, role)| Step::Operator { signer, name, epoch, role }),
        1 => (0usize..3, epoch()).prop_map(|(signer, serial)| Step::Beacon { signer, serial }),
        2 => (0usize..3, 0u8..8, 0usize..4)
            .prop_map(|(signer, rights, scope)| Step::Grant { signer, rights, scope }),
        1 => (0usize..3, any::<u64>()).prop_map(|(signer, keep)| Step::CutOff { signer, keep }),
        1 => Just(Step::Rotate),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step(), 1..40)
}

/// One thing that was said, and what must be known before.
#[derive(Clone, Debug)]
struct Said {
    envelopes: Vec<Envelope>,
    needs: Vec<usize>,
    by: Option<usize>,
}

/// A history as it was told, and the map of one who heard all of it in order.
struct History {
    said: Vec<Said>,
    world: World,
    first_grant: [Option<usize>; 3],
    rotations: Vec<usize>,
    cuts: Vec<usize>,
    serial: u64,
    /// Tombstones that took effect when they were said.
    buried: Vec<(usize, Digest, [Digest; 2])>,
}

impl History {
    fn new(steps: &[Step]) -> Self {
        let mut history = Self {
            said: Vec::new(),
            world: World::bare(),
            first_grant: [None; 3],
            rotations: Vec::new(),
            cuts: Vec::new(),
            serial: 0,
            buried: Vec::new(),
        };
        for signer in 0..3 {
            history.tell(&Step::Grant { signer, rights: 7, scope: 3 });
        }
        for step in steps {
            history.tell(step);
        }
        history
    }

    fn say(&mut self, envelopes: Vec<Envelope>, needs: Vec<usize>, by: Option<usize>) -> usize {
        let _ = self.world.members.merge_all(envelopes.clone());
        self.said.push(Said { envelopes, needs, by });
        self.said.len() - 1
    }

    /// What a signer's statement depends on.
    fn standing(&self, signer: usize) -> Vec<usize> {
        match signer {
            3 => self.rotations.clone(),
            _ => vec![self.first_grant[signer].expect("granted at dawn")],
        }
    }

    fn sign<K: Kind>(&mut self, signer: usize, statement: &K) -> usize {
        let name = SIGNERS[signer];
        let slots = if name == "root" { KeySlot::ROOT } else { KeySlot::SIGNER };
        let envelope = sealed(statement, &self.world.author(name), &slots);
        self.say(vec![envelope], self.standing(signer), Some(signer))
    }

    fn tell(&mut self, step: &Step) {
        self.serial += 1;
        let at = |n: u64| Timestamp::from_secs(DAWN_S + n);
        match *step {
            Step::Member { signer, node, machine: keys, peer, scope, epoch, bound_at } => {
                let mut member = self.world.forged(SIGNERS[signer], NODES[node], &machine(MACHINES[keys]));
                member.peer = machine(MACHINES[peer]).peer;
                member.scope = testing::scope(SCOPES[scope]);
                member.epoch = if signer == MALLORY { epoch } else { epoch.min(4) };
                member.bound_at =
                    if signer == MALLORY && bound_at == 0 { at(0) - REJOIN_MAX } else { at(bound_at) };
                member.issued_at = at(10);
                self.sign(signer, &member);
            }
            Step::Tombstone { signer, machine: keys } => {
                let tombstone: Tombstone = self.world.tombstone(SIGNERS[signer], &machine(MACHINES[keys]));
                let said = self.sign(signer, &tombstone);
                if tombstone.keys.iter().all(|key| self.world.members.dead_keys().contains(key)) {
                    let digest = self.said[said].envelopes[0].digest();
                    if self.world.members.item(&digest).is_some_and(|it| self.world.members.holds(it)) {
                        self.buried.push((signer, digest, tombstone.keys));
                    }
                }
            }
            Step::Handover { node, old, new, at: when } => {
                let keys = ToyKeys::node(MACHINES[old]);
                let new = machine(MACHINES[new]).authority.authority();
                let now = Now { wall: at(when), ..self.world.now };
                let handover = author::handover(&keys, testing::domain(NODES[node]), new, now);
                // What it needs is added when the history is over.
                self.say(vec![handover.expect("keys")], Vec::new(), None);
            }
            Step::Operator { signer, name, epoch, role } => {
                let mut operator = self.world.operator(SIGNERS[signer], ["ann", "bob"][name], epoch);
                operator.role = role;
                self.sign(signer, &operator);
            }
            Step::Beacon { signer, serial } => {
                let beacon = Beacon {
                    mesh: testing::mesh(),
                    signer: self.world.id(SIGNERS[signer]),
                    serial,
                    merkle_root: Digest::of(&[]),
                    n_leaves: 0,
                    issued_at: at(self.serial),
                };
                self.sign(signer, &beacon);
            }
            Step::Grant { signer, rights, scope } => {
                let rights = Right::ALL.into_iter().enumerate().filter(|(n, _)| rights & (1 << n) != 0);
                let grant = self.world.members.grant(
                    &self.world.author("root"),
                    testing::node("office"),
                    testing::signer_keys(SIGNERS[signer]),
                    rights.map(|(_, right)| right).collect(),
                    testing::scope(SCOPES[scope]),
                    self.world.now,
                );
                let said = self.say(vec![grant.expect("the root")], self.rotations.clone(), None);
                self.first_grant[signer].get_or_insert(said);
            }
            Step::CutOff { signer, keep } => self.cut_off(signer, |n| keep >> (n % 64) & 1 == 1),
            Step::Rotate => {
                let next = self.world.members.root().generation + 1;
                let promise = testing::root_keys(next + 1).digest();
                let keys = ToyKeys::root(next);
                let batch = self.world.members.rotate_root(&keys, promise, self.world.now).expect("promised");
                let needs = self.rotations.iter().chain(&self.cuts).copied().collect();
                let said = self.say(batch, needs, None);
                self.rotations.push(said);
            }
        }
    }

    /// The root keeps what a signer said so far where `keeps` says so; the kept statements come along.
    fn cut_off(&mut self, signer: usize, keeps: impl Fn(usize) -> bool) {
        let is_theirs = |(n, said): (usize, &Said)| (said.by == Some(signer) && keeps(n)).then_some(n);
        let mut needs: Vec<_> = self.said.iter().enumerate().filter_map(is_theirs).collect();
        let keep = needs.iter().map(|n| self.said[*n].envelopes[0].digest()).collect();
        let id = testing::signer_id(SIGNERS[signer]);
        let cut = self.world.members.cut_off(&self.world.author("root"), id, keep, self.world.now);
        let mut envelopes = vec![cut.expect("granted at dawn")];
        envelopes.extend(needs.iter().map(|n| self.said[*n].envelopes[0].clone()));
        needs.extend(self.standing(signer));
        needs.extend(&self.rotations);
        let said = self.say(envelopes, needs, None);
        self.cuts.push(said);
    }

    /// Adds what handovers need and what needs them: records of the old keys, and of the new.
    fn close(&mut self) {
        let mut records = Vec::new();
        let mut handovers = Vec::new();
        for (n, said) in self.said.iter().enumerate() {
            for envelope in &said.envelopes {
                match Statement::read(envelope).expect("our own") {
                    Statement::Member(it) => {
                        records.push((n, it.node().clone(), it.authority.authority()));
                    }
                    Statement::Handover(it) => {
                        handovers.push((n, it.domain.node().clone(), it.old.authority(), it.new));
                    }
                    _ => {}
                }
            }
        }
        for (handover, name, old, new) in &handovers {
            for (record, node, keys) in &records {
                if node == name && keys == old {
                    self.said[*handover].needs.push(*record);
                }
                if node == name && keys == new {
                    self.said[*record].needs.push(*handover);
                }
            }
        }
    }

    /// Everything that `n` needs, and itself.
    fn delta(&self, n: usize) -> Vec<Envelope> {
        let (mut seen, mut todo) = (BTreeSet::new(), vec![n]);
        while let Some(n) = todo.pop() {
            if seen.insert(n) {
                todo.extend(&self.said[n].needs);
            }
        }
        seen.into_iter().flat_map(|n| self.said[n].envelopes.clone()).collect()
    }

    fn replica(&self, order: &[usize]) -> Members {
        let mut members = testing::bare_members();
        for n in order {
            let _ = members.merge_all(self.delta(*n));
        }
        members
    }

    fn shuffled(&self, seed: u64) -> Vec<usize> {
        let mut order: Vec<_> = (0..self.said.len()).collect();
        let mut state = seed | 1;
        for n in (1..order.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            order.swap(n, usize::try_from(state >> 33).expect("31 bits") % (n + 1));
        }
        order
    }
}

fn join(left: &Members, right: &Members) -> Members {
    let mut joined = left.clone();
    joined.merge_all(right.items().map(|signed| signed.envelope.clone()).collect::<Vec<_>>());
    joined
}

#[track_caller]
fn same(left: &Members, right: &Members) -> Result<(), TestCaseError> {
    prop_assert_eq!(decided(left), decided(right));
    let digests = |members: &Members| -> BTreeSet<Digest> { members.items().map(|it| it.digest).collect() };
    prop_assert_eq!(digests(left), digests(right));
    prop_assert_eq!(left.summary(), right.summary());
    Ok(())
}

proptest! {
    #[test]
    fn the_order_of_arrival_decides_nothing(steps in steps(), seeds in any::<[u64; 2]>()) {
        let mut history = History::new(&steps);
        history.close();
        let told = history.replica(&(0..history.said.len()).collect::<Vec<_>>());
        for seed in seeds {
            let mut order = history.shuffled(seed);
            same(&told, &history.replica(&order))?;
            order.extend(history.shuffled(seed.rotate_left(7)));
            same(&told, &history.replica(&order))?;
        }
        same(&told, &join(&history.world.members, &told))?;
    }

    #[test]
    fn replicas_join_to_the_same_in_any_grouping(
        steps in steps(),
        seeds in any::<[u64; 3]>(),
        parts in any::<[u64; 3]>(),
    ) {
        let mut history = History::new(&steps);
        history.close();
        let part = |n: usize| {
            let mut order = history.shuffled(seeds[n]);
            order.retain(|said| parts[n] >> (said % 64) & 1 == 1);
            history.replica(&order)
        };
        let (a, b, c) = (part(0), part(1), part(2));
        same(&join(&a, &b), &join(&b, &a))?;
        same(&join(&join(&a, &b), &c), &join(&a, &join(&b, &c)))?;
        same(&join(&join(&a, &b), &b), &join(&a, &b))?;
        same(&join(&a, &a), &a)?;
        let mut fresh = testing::bare_members();
        fresh.merge_all(a.items().map(|signed| signed.envelope.clone()).collect::<Vec<_>>());
        same(&fresh, &a)?;
    }

    #[test]
    fn a_tombstone_is_never_undone_but_by_a_cut_off(steps in steps(), seed: u64) {
        let mut history = History::new(&steps);
        history.close();
        let told = history.replica(&history.shuffled(seed));
        let voided = |signer: usize, digest: &Digest| {
            let Some(standing) = told.signers().get(&testing::signer_id(SIGNERS[signer])) else { return false };
            standing.cut.as_ref().is_some_and(|cut| !cut.keep.contains(digest))
        };
        for (signer, digest, keys) in &history.buried {
            if *signer == 3 || !voided(*signer, digest) {
                for map in [&told, &history.world.members] {
                    prop_assert!(keys.iter().all(|key| map.dead_keys().contains(key)), "{digest:?}");
                    prop_assert!(map.iter().all(|it| it.authority.digests() != *keys), "{digest:?}");
                }
            }
        }
    }

    #[test]
    fn after_a_cut_off_it_is_as_if_the_stolen_signer_had_said_only_what_is_kept(
        mut steps in steps(),
        keep: u64,
        seeds in any::<[u64; 2]>(),
    ) {
        // The root itself saw what it says before it knew better, so it must not carry that on.
        steps.retain(|step| !matches!(step, Step::CutOff { signer: MALLORY, .. }));
        let mut history = History::new(&steps);
        history.cut_off(MALLORY, |n| keep >> (n % 64) & 1 == 1);
        history.close();
        let with = history.replica(&history.shuffled(seeds[0]));
        let kept: BTreeSet<_> = history.said.iter().rev().find_map(|said| {
            match Statement::read(&said.envelopes[0]).expect("our own") {
                Statement::CutOff(cut) if cut.signer == testing::signer_id("mallory") => Some(cut.keep),
                _ => None,
            }
        }).expect("cut off last");

        let mut spared = testing::bare_members();
        for n in history.shuffled(seeds[1]) {
            let is_unsaid = |envelope: &Envelope| {
                let signer = Statement::read(envelope).expect("our own").signer();
                signer == Some(testing::signer_id("mallory")) && !kept.contains(&envelope.digest())
            };
            let delta: Vec<_> = history.delta(n).into_iter().filter(|it| !is_unsaid(it)).collect();
            spared.merge_all(delta);
        }
        same(&with, &spared)?;
        prop_assert_eq!(with.wanted(), Vec::new());
    }

    #[test]
    fn nothing_beyond_a_signers_grant_decides(steps in steps(), seed: u64) {
        let mut history = History::new(&steps);
        history.close();
        let members = history.replica(&history.shuffled(seed));
        let grant = |id: SignerId| members.signers().get(&id).map(|standing| standing.grant().clone());
        for member in members.iter() {
            if member.signer != members.root().id() {
                let grant = grant(member.signer).expect("a grant");
                prop_assert!(grant.rights.contains(&Right::Members) && grant.scope.covers(&member.scope));
            }
        }
        for operator in members.operators() {
            if operator.signer != members.root().id() {
                prop_assert!(grant(operator.signer).expect("a grant").rights.contains(&Right::Operators));
            }
        }
    }
}

/// The rules for names and keys, checked from outside.
#[track_caller]
fn check_exclusive(view: &Decided, members: &Members) -> Result<(), TestCaseError> {
    let mut keys = BTreeSet::new();
    for member in members.iter() {
        for key in member.authority.digests().into_iter().chain([member.node_key().digest()]) {
            prop_assert!(keys.insert(key), "a key stands in two records");
            prop_assert!(!view.dead_keys.contains(&key), "a dead key stands in a record");
        }
        prop_assert_eq!(members.by_peer(&member.peer).map(|it| it.node()), Some(member.node()));
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_key_and_no_peer_id_stands_in_two_records(steps in steps(), seed: u64) {
        let mut history = History::new(&steps);
        history.close();
        let members = history.replica(&history.shuffled(seed));
        check_exclusive(&decided(&members), &members)?;
    }
}

#[test]
fn toy_keys_verify_what_they_sign_and_nothing_else() {
    let keys = ToyKeys::node("pi");
    let public = keys.public(KeySlot::AuthorityMlDsa).expect("the slot");
    let signature = keys.sign(KeySlot::AuthorityMlDsa, b"hello").expect("the slot");
    assert!(keys.verify(public, b"hello", &signature) && !keys.verify(public, b"hullo", &signature));
}
