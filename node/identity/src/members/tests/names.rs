//! Who has a name.

use types::{Reason, Timestamp};

use super::super::*;
use crate::author::{self, NodeKeys};
use crate::testing::{ToyKeys, World, decided, domain, machine, node, scope, signer_id};

const MACHINES: [&str; 6] = ["pi", "new", "third", "old", "rogue", "db"];

#[track_caller]
fn check<T: std::fmt::Debug>(result: Result<T, Refusal>, expected: Reason) {
    assert_eq!(result.map_err(|refusal| refusal.reason).err(), Some(expected));
}

#[test]
fn a_new_machine_without_the_old_key_is_refused_a_name() {
    let mut world = World::new();
    world.joins("s1", "pi");
    world.days(1);
    check(world.joins_with("s1", "pi", &machine("new")), Reason::NameBound);
    check(world.joins_with("s2", "pi", &machine("new")), Reason::NameBound);
    assert_eq!(world.holder("pi", &MACHINES), Some("pi"));
}

#[test]
fn a_signer_whose_clock_is_behind_takes_no_name_away() {
    let mut world = World::new();
    let early = world.now;
    world.days(1);
    world.joins("s1", "pi");
    world.now = early;
    check(world.joins_with("s2", "pi", &machine("new")), Reason::NameBound);
    let thief = NodeKeys { peer: machine("pi").peer, ..machine("new") };
    check(world.joins_with("s2", "nas", &thief), Reason::KeyInUse);
}

#[test]
fn a_name_is_free_after_a_tombstone_but_not_for_the_same_keys() {
    let mut world = World::new();
    world.joins("s1", "pi");
    world.revokes("s2", "pi");
    assert_eq!(world.holder("pi", &MACHINES), None);
    check(world.joins_with("s1", "pi", &machine("pi")), Reason::MemberRevoked);
    check(world.joins_with("s1", "other", &machine("pi")), Reason::MemberRevoked);
    let half = KeySet { classical: machine("pi").authority.classical, ..machine("new").authority };
    check(
        world.joins_with("s1", "pi", &NodeKeys { authority: half, ..machine("new") }),
        Reason::MemberRevoked,
    );
    world.joins_with("s1", "pi", &machine("new")).expect("free");
    assert_eq!(world.holder("pi", &MACHINES), Some("new"));
}

#[test]
fn a_name_passes_by_handover_and_along_a_chain_of_them() {
    let mut world = World::new();
    world.joins("s1", "pi");
    world.days(1);
    world.hands_over("pi", "pi", "new");
    assert_eq!(world.holder("pi", &MACHINES), Some("pi"));
    check(world.joins_with("s2", "pi", &machine("third")), Reason::NameBound);
    world.joins_with("s2", "pi", &machine("new")).expect("handed over");
    assert_eq!(world.holder("pi", &MACHINES), Some("new"));
    world.days(1);
    world.hands_over("pi", "new", "third");
    world.joins_with("s1", "pi", &machine("third")).expect("handed over");
    assert_eq!(world.holder("pi", &MACHINES), Some("third"));
    check(world.joins_with("s1", "pi", &machine("pi")), Reason::NameBound);
}

#[test]
fn a_chain_of_handovers_holds_where_a_signers_clock_was_behind() {
    let mut world = World::new();
    world.joins("s1", "pi");
    world.days(1);
    let early = world.now;
    world.days(1);
    world.hands_over("pi", "pi", "new");
    world.joins_with("s1", "pi", &machine("new")).expect("handed over");
    world.hands_over("pi", "new", "third");
    // The second link is bound before the first by the clocks of those who signed them.
    world.now = early;
    world.joins_with("s2", "pi", &machine("third")).expect("handed over");
    assert_eq!(world.holder("pi", &MACHINES), Some("third"));
}

#[test]
fn the_root_binds_a_name_anew_and_back_again() {
    let mut world = World::new();
    world.joins("s1", "pi");
    for (days, seed) in [(1, "new"), (1, "third"), (1, "pi"), (1, "new")] {
        world.days(days);
        world.joins_with("root", "pi", &machine(seed)).expect("the root may");
        assert_eq!(world.holder("pi", &MACHINES), Some(seed));
    }
    check(world.joins_with("s1", "pi", &machine("third")), Reason::NameBound);
}

/// Found here: the claim's earliest `bound_at` also ordered what the root had bound, so a signer's back-dated
/// record of the same keys undid the root's latest word.
#[test]
fn a_back_dated_record_does_not_reorder_what_the_root_bound() {
    let mut world = World::new();
    world.joins("s1", "pi");
    world.days(1);
    world.joins_with("root", "pi", &machine("new")).expect("the root may");
    world.days(1);
    world.joins_with("root", "pi", &machine("third")).expect("the root may");
    let mut forged = world.forged("s2", "pi", &machine("third"));
    forged.bound_at = Timestamp::default();
    assert_eq!(world.slips_in("s2", &forged).1, Ok(Merged::Added));
    assert_eq!(world.holder("pi", &MACHINES), Some("third"));
}

/// Found here: a later handover by the old keys took the place of the one that had taken effect, so whoever
/// found the old machine's disk had the name back.
#[test]
fn old_keys_cannot_take_a_handover_back() {
    let mut world = World::new();
    world.joins("s1", "pi");
    world.days(1);
    world.hands_over("pi", "pi", "new");
    world.joins_with("s1", "pi", &machine("new")).expect("handed over");
    for seed in ["rogue", "third", "pi"] {
        world.days(1);
        let to = machine(seed).authority.authority();
        let again = author::handover(&ToyKeys::node("pi"), domain("pi"), to, world.now).expect("keys");
        let _ = world.takes(&again);
        assert_eq!(world.holder("pi", &MACHINES), Some("new"), "after a handover to {seed}");
        check(world.joins_with("s1", "pi", &machine(seed)), Reason::NameBound);
    }
}

/// Found here: revoking a name that had been handed over gave it back to the keys that it came from.
#[test]
fn revoking_the_new_keys_does_not_bring_the_old_ones_back() {
    let mut world = World::new();
    world.joins("s1", "pi");
    world.days(1);
    world.hands_over("pi", "pi", "new");
    world.joins_with("s1", "pi", &machine("new")).expect("handed over");
    world.revokes("s1", "pi");
    assert_eq!(world.holder("pi", &MACHINES), None);
    let old = world.members.refusal(&domain("pi"), &machine("pi").authority);
    assert_eq!(old.map(|refusal| refusal.reason), Some(Reason::NameBound));
    world.days(1);
    world.joins_with("s2", "pi", &machine("third")).expect("free");
    assert_eq!(world.holder("pi", &MACHINES), Some("third"));
}

#[test]
fn a_cycle_of_handovers_ends_with_one_holder() {
    let mut world = World::new();
    world.joins("s1", "pi");
    world.days(1);
    world.hands_over("pi", "pi", "new");
    world.joins_with("s1", "pi", &machine("new")).expect("handed over");
    world.hands_over("pi", "new", "pi");
    assert_eq!(world.holder("pi", &MACHINES), Some("new"));
}

#[test]
fn a_handover_by_a_stranger_or_to_nobody_moves_nothing() {
    let mut world = World::new();
    world.joins("s1", "pi");
    world.joins("s1", "db");
    let before = decided(&world.members);
    let to = machine("rogue").authority.authority();
    for keys in ["rogue", "db"] {
        let stranger = author::handover(&ToyKeys::node(keys), domain("pi"), to, world.now).expect("keys");
        check(world.takes(&stranger), Reason::MemberUnknown);
    }
    world.hands_over("pi", "pi", "rogue");
    assert_eq!(decided(&world.members), before);
}

#[test]
fn a_joiner_with_anothers_peer_id_or_authority_key_is_refused() {
    let mut world = World::new();
    world.joins("s1", "db");
    world.days(1);
    let (db, rogue) = (machine("db"), machine("rogue"));
    let keys = |classical: &NodeKeys, post_quantum: &NodeKeys| KeySet {
        classical: classical.authority.classical.clone(),
        post_quantum: post_quantum.authority.post_quantum.clone(),
    };
    for thief in [
        NodeKeys { peer: db.peer, ..rogue.clone() },
        NodeKeys { authority: keys(&db, &rogue), ..rogue.clone() },
        NodeKeys { authority: keys(&rogue, &db), ..rogue.clone() },
        db.clone(),
    ] {
        for signer in ["s1", "s2", "root"] {
            check(world.joins_with(signer, "web", &thief), Reason::KeyInUse);
        }
    }
    assert_eq!(world.members.by_peer(&db.peer).map(|it| it.node().clone()), Some(node("db")));
}

#[test]
fn renewals_keep_when_the_name_was_bound() {
    let mut world = World::new();
    world.joins("s1", "pi");
    let bound_at = world.now.wall;
    for signer in ["s1", "s2", "root", "s2"] {
        world.days(40);
        world.renews(signer, "pi", Some("svc/api")).expect("renewed");
        let held = world.members.get(&domain("pi")).expect("a member");
        assert_eq!((held.bound_at, held.signer), (bound_at, world.id(signer)));
    }
    assert_eq!(world.members.get(&domain("pi")).map(|it| it.epoch), Some(5));
    assert_eq!(world.members.get(&domain("pi")).map(|it| it.scope.clone()), Some(scope("svc/api")));
}

#[test]
fn of_two_records_with_one_epoch_the_lower_digest_counts() {
    let mut world = World::new();
    let forged: Vec<_> = (0..6).map(|_| world.forged("s1", "pi", &machine("pi"))).collect();
    let mut lowest = None;
    for record in &forged {
        let (envelope, _) = world.slips_in("s1", record);
        lowest = lowest.min(Some(envelope.digest())).or(Some(envelope.digest()));
    }
    let held = world.members.record(&domain("pi")).map(|(_, signed)| signed.digest);
    assert_eq!(held, lowest);
}

/// Found here: a renewal was answered that did not count, since its epoch could not pass the last one.
#[test]
fn a_record_that_would_not_count_is_not_answered() {
    let mut world = World::new();
    world.joins("s1", "pi");
    let mut forged = world.forged("s2", "pi", &machine("pi"));
    forged.epoch = u64::MAX;
    world.slips_in("s2", &forged).1.expect("a signer in force");
    check(world.renews("s1", "pi", None), Reason::SignerQuota);
    let operator = world.operator("s2", "ann", u64::MAX);
    world.slips_in("s2", &operator).1.expect("a signer in force");
    let (s1, key) = (world.author("s1"), operator.key.clone());
    check(world.members.sign_operator(&s1, operator.name.clone(), None, key, world.now), Reason::SignerQuota);
    // The cut-off heals both.
    world.cuts_off("s2", &[]);
    world.renews("s1", "pi", None).expect("renewed");
    assert_eq!(world.members.get(&domain("pi")).map(|it| it.signer), Some(signer_id("s1")));
    assert_eq!(world.members.operators().count(), 0);
}
