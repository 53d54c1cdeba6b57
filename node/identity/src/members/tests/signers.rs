//! Who may say what, and what remains of it.

use types::key::KeySlot;
use types::{Digest, Reason, Timestamp};

use super::super::*;
use crate::author;
use crate::scope::Scope;
use crate::statement::Company;
use crate::statement::Role;
use crate::testing::{
    ToyKeys, World, bare_members, decided, domain, machine, mesh, node, root_keys, scope, sealed, service,
    signer_id, signer_keys,
};

#[track_caller]
fn check<T: std::fmt::Debug>(result: Result<T, Refusal>, expected: Reason) {
    assert_eq!(result.map_err(|refusal| refusal.reason).err(), Some(expected));
}

#[test]
fn nothing_beyond_a_signers_rights_or_scope_is_accepted() {
    let mut world = World::new();
    world.joins("s1", "pi");
    world.grants("clerk", &[Right::Members], "svc/a");
    let clerk = world.author("clerk");
    let before = decided(&world.members);

    check(world.members.revoke(&clerk, &domain("pi"), "", world.now), Reason::BeyondRights);
    let key = crate::testing::operator_key("ann");
    let operator = world.members.sign_operator(&clerk, service("ann"), Some(Role::View), key, world.now);
    check(operator, Reason::BeyondRights);
    for wide in ["svc/*", "svc/b", "svc/a,svc/b"] {
        let member = world.members.sign_member(&clerk, node("db"), &machine("db"), scope(wide), world.now);
        check(member, Reason::BeyondRights);
        check(world.renews("clerk", "pi", Some(wide)), Reason::BeyondRights);
    }
    // Nor with its own hands.
    let tombstone = world.tombstone("clerk", &machine("pi"));
    check(world.slips_in("clerk", &tombstone).1, Reason::BeyondRights);
    let operator = world.operator("clerk", "ann", 1);
    check(world.slips_in("clerk", &operator).1, Reason::BeyondRights);
    let mut member = world.forged("clerk", "pi", &machine("pi"));
    (member.scope, member.epoch) = (scope("svc/*"), 9);
    check(world.slips_in("clerk", &member).1, Reason::BeyondRights);
    assert_eq!(decided(&world.members), before);
    world.renews("clerk", "pi", Some("svc/a")).expect("within its scope");
}

#[test]
fn a_narrower_grant_takes_effect_on_what_is_there() {
    let mut world = World::new();
    world.joins("s1", "pi");
    world.renews("s1", "pi", Some("svc/a,svc/b")).expect("renewed");
    world.signs_operator("s1", "ann", Some(Role::Admin));
    world.grants("s1", &[Right::Members], "svc/a");
    assert!(world.members.get(&domain("pi")).is_none());
    let refusal = world.members.refusal(&domain("pi"), &machine("pi").authority);
    assert_eq!(refusal.map(|it| it.reason), Some(Reason::BeyondRights));
    assert_eq!(world.members.operators().count(), 0);
    world.grants("s1", &Right::ALL, "svc/*");
    assert!(world.members.get(&domain("pi")).is_some());
    assert_eq!(world.members.operators().count(), 1);
}

/// Found here: once a grant was narrowed, the record that no longer counted did not meet those who learnt of
/// the grant first; they went by the record before, and a replay of that one gave a scope back that its
/// signer had taken away.
#[test]
fn a_narrower_grant_brings_no_older_record_back() {
    let mut world = World::new();
    world.grants("s1", &Right::ALL, "svc/*");
    let root = world.members.root().id();
    let wide: Vec<_> = world.members.items().map(|it| it.envelope.clone()).collect();
    world.joins("s1", "pi");
    let first = world.renews("s1", "pi", Some("svc/a")).expect("renewed");
    let second = world.renews("s1", "pi", Some("svc/b")).expect("renewed");
    let narrow = world.grants("s1", &Right::ALL, "svc/a");
    assert_eq!(world.members.root().id(), root);
    assert!(world.members.get(&domain("pi")).is_none());
    assert_eq!(world.takes(&first), Ok(Merged::Superseded));

    let mut late = bare_members();
    late.merge_all(wide);
    for envelope in [&narrow, &first] {
        assert_eq!(late.merge(envelope.clone()), Ok(Merged::Added));
    }
    assert!(late.get(&domain("pi")).is_some());
    check(late.merge(second), Reason::BeyondRights);
    assert!(late.get(&domain("pi")).is_none());
    assert_eq!(late.summary(), world.members.summary());
    // The signer gives the name a record again, above the one that counts no more.
    world.joins_with("s1", "pi", &machine("pi")).expect("its own name");
    assert_eq!(world.members.get(&domain("pi")).map(|it| it.epoch), Some(4));
}

/// Found here: a narrower grant undid the tombstones of its signer, and the dead rose.
#[test]
fn a_narrower_grant_undoes_no_tombstone() {
    let mut world = World::new();
    world.joins("s2", "pi");
    world.revokes("s1", "pi");
    world.grants("s1", &[Right::Members], "");
    assert!(world.members.is_revoked(&machine("pi").authority));
    world.rotates();
    assert!(world.members.is_revoked(&machine("pi").authority));
    world.cuts_off("s1", &[]);
    assert!(world.members.get(&domain("pi")).is_some());
}

#[test]
fn a_cut_off_leaves_no_trace_of_a_stolen_signer() {
    let mut world = World::new();
    world.joins("s1", "pi");
    world.joins("s1", "db");
    let before = decided(&world.members);
    let mut thief = world.forged("s2", "pi", &machine("rogue"));
    (thief.bound_at, thief.epoch) = (Timestamp::default(), u64::MAX);
    let mut peer = world.forged("s2", "aaa", &machine("aaa"));
    (peer.bound_at, peer.peer) = (Timestamp::default(), machine("db").peer);
    world.slips_in("s2", &thief).1.expect("in force");
    world.slips_in("s2", &peer).1.expect("in force");
    let grave = world.tombstone("s2", &machine("pi"));
    world.slips_in("s2", &grave).1.expect("in force");
    let king = world.operator("s2", "king", u64::MAX);
    world.slips_in("s2", &king).1.expect("in force");
    assert_ne!(decided(&world.members), before);
    world.cuts_off("s2", &[]);
    assert_eq!(decided(&world.members), before);
    thief.serial += 9;
    check(world.slips_in("s2", &thief).1, Reason::SignerCutOff);
    check(world.joins_with("s2", "web", &machine("web")), Reason::NotASigner);
}

#[test]
fn what_a_cut_off_keeps_counts_again_though_it_was_overwritten() {
    let mut world = World::new();
    let legit = world.joins("s2", "pi");
    let mut thief = world.forged("s2", "pi", &machine("pi"));
    (thief.epoch, thief.peer) = (u64::MAX, machine("rogue").peer);
    world.slips_in("s2", &thief).1.expect("in force");
    assert_eq!(world.takes(&legit), Ok(Merged::Superseded));
    world.cuts_off("s2", &[&legit]);
    assert_eq!(world.members.wanted(), [legit.digest()]);
    assert!(world.members.get(&domain("pi")).is_none());
    assert_eq!(world.takes(&legit), Ok(Merged::Added));
    assert!(world.members.wanted().is_empty());
    assert_eq!(world.members.get(&domain("pi")).map(|it| it.peer), Some(machine("pi").peer));
}

#[test]
fn a_second_cut_off_changes_what_the_first_kept() {
    let mut world = World::new();
    let (pi, db) = (world.joins("s2", "pi"), world.joins("s2", "db"));
    world.cuts_off("s2", &[&pi, &db]);
    assert_eq!(world.members.iter().count(), 2);
    world.cuts_off("s2", &[&db]);
    assert_eq!(world.members.iter().map(|it| it.node().clone()).collect::<Vec<_>>(), [node("db")]);
    world.cuts_off("s2", &[&pi]);
    assert_eq!(world.members.wanted(), [pi.digest()]);
}

#[test]
fn the_next_root_is_the_promised_one() {
    let mut world = World::new();
    let promise = root_keys(9).digest();
    check(world.members.rotate_root(&ToyKeys::root(3), promise, world.now), Reason::RootMismatch);
    let mut usurper = world.members.root().clone();
    (usurper.generation, usurper.keys) = (2, root_keys(3));
    let usurper = sealed(&usurper, &ToyKeys::root(3), &KeySlot::ROOT);
    check(world.takes(&usurper), Reason::RootMismatch);
    // Nor may the root in force follow itself, nor a generation be left out.
    for (generation, keys) in [(2, 1), (3, 2), (1, 2)] {
        let mut root = world.members.root().clone();
        (root.generation, root.keys) = (generation, root_keys(keys));
        check(world.takes(&sealed(&root, &ToyKeys::root(keys), &KeySlot::ROOT)), Reason::RootMismatch);
    }
    world.rotates();
    world.rotates();
    assert_eq!(world.members.root().generation, 3);
}

/// Found here: what the root itself had signed did not outlive the root, its tombstones included.
#[test]
fn all_that_counted_still_counts_after_a_rotation() {
    let mut world = World::new();
    world.joins("s1", "pi");
    world.joins("s2", "web");
    world.joins("s1", "nas");
    let kept = world.joins("s2", "db");
    world.days(1);
    world.joins_with("root", "pi", &machine("new")).expect("the root may");
    world.revokes("root", "nas");
    world.signs_operator("root", "ann", Some(Role::Admin));
    world.cuts_off("s2", &[&kept]);
    let before = decided(&world.members);
    let names = |world: &World| {
        world.members.iter().map(|it| (it.domain.clone(), it.authority.clone())).collect::<Vec<_>>()
    };
    let had = names(&world);
    world.rotates();
    assert_eq!(names(&world), had);
    assert_eq!(decided(&world.members).dead_keys, before.dead_keys);
    assert_eq!(decided(&world.members).operators.len(), 1);
    assert!(world.members.signers()[&signer_id("s2")].is_cut_off());
    world.joins("s1", "late");
}

#[test]
fn after_a_rotation_the_old_root_decides_nothing() {
    let mut world = World::new();
    world.joins("s1", "pi");
    let old = ToyKeys::root(1);
    let late = |world: &World| {
        let grant = world.members.grant(
            &old,
            node("x"),
            signer_keys("rogue"),
            Right::ALL.into(),
            Scope::All,
            world.now,
        );
        let cut = world.members.cut_off(&old, signer_id("s1"), BTreeSet::new(), world.now);
        (grant, cut)
    };
    let (grant, cut) = late(&world);
    let member = world.forged("root", "pi", &machine("rogue"));
    let member = sealed(&member, &old, &KeySlot::ROOT);
    world.rotates();
    let before = decided(&world.members);
    check(world.takes(&grant.expect("made before")), Reason::RootMismatch);
    check(world.takes(&cut.expect("made before")), Reason::RootMismatch);
    check(world.takes(&member), Reason::SignerUnknown);
    let (grant, cut) = late(&world);
    check(grant, Reason::RootMismatch);
    check(cut, Reason::RootMismatch);
    assert_eq!(decided(&world.members), before);
    assert!(world.members.get(&domain("pi")).is_some());
}

#[test]
fn a_second_root_of_a_generation_is_refused() {
    let mut world = World::new();
    let other = |world: &World, n| {
        let batch = world.members.rotate_root(&ToyKeys::root(2), root_keys(n).digest(), world.now);
        batch.expect("promised").remove(0)
    };
    let roots: Vec<_> = (10..16).map(|n| other(&world, n)).collect();
    world.rotates();
    let in_force = world.members.root().clone();
    for root in &roots {
        check(world.takes(root), Reason::RootMismatch);
    }
    assert_eq!(*world.members.root(), in_force);
}

/// Found here: grants of earlier roots took up the room of those of the root in force.
#[test]
fn rotations_do_not_use_up_the_room_for_grants() {
    let mut world = World::bare();
    for n in 0..SIGNERS_MAX {
        world.grants(&format!("s{n}"), &Right::ALL, "");
    }
    let one_more = world.members.grant(
        &world.author("root"),
        node("x"),
        signer_keys("more"),
        BTreeSet::new(),
        Scope::NONE,
        world.now,
    );
    check(world.takes(&one_more.expect("the root")), Reason::SignerQuota);
    world.rotates();
    assert_eq!(world.members.signers().len(), SIGNERS_MAX);
}

#[test]
fn a_signers_quota_is_its_own() {
    let mut world = World::new();
    let author = world.author("s2");
    let record = world.forged("s2", "pi", &machine("pi"));
    let graves: Vec<_> = (0..STATEMENTS_PER_SIGNER_MAX as u64 + 10)
        .map(|n| {
            let mut grave = world.tombstone("s2", &machine("pi"));
            grave.keys = [Digest::of(&[&n.to_be_bytes()]), Digest::default()];
            sealed(&grave, &author, &KeySlot::SIGNER)
        })
        .collect();
    let results = world.members.merge_all(graves.iter().cloned());
    let refused = results.iter().filter(|(_, result)| result.is_err()).count();
    assert_eq!(refused, 10);
    check(world.slips_in("s2", &record).1, Reason::SignerQuota);
    world.joins("s1", "db");
    // What is there may still be replaced, and is known when it comes again.
    let again = results.iter().position(|(_, result)| result.is_ok()).expect("some were");
    let known = graves.iter().find(|it| it.digest() == results[again].0).expect("one of them");
    assert_eq!(world.takes(known), Ok(Merged::Known));
    world.cuts_off("s2", &[]);
    assert_eq!(world.members.items().count(), 1 + 2 + 1 + 1);
}

#[test]
fn a_fork_is_noted_and_a_replacement_is_none() {
    let mut world = World::new();
    world.joins("s1", "pi");
    world.renews("s1", "pi", Some("svc/a")).expect("renewed");
    world.signs_beacon("s1");
    let old = world.joins("s1", "db");
    world.renews("s1", "db", None).expect("renewed");
    world.takes(&old).expect("known before");
    assert!(world.members.forked().is_empty());
    let mut one = world.forged("s2", "web", &machine("web"));
    world.slips_in("s2", &one).1.expect("in force");
    one.domain = domain("nas");
    one.authority = machine("nas").authority;
    world.slips_in("s2", &one).1.expect("in force");
    assert_eq!(world.members.forked().iter().copied().collect::<Vec<_>>(), [signer_id("s2")]);
}

/// Found here: a signer counted only what still held, so after a narrower grant it used counts again that
/// others had seen, and was taken for forked.
#[test]
fn a_narrower_grant_makes_no_signer_look_forked() {
    let mut world = World::new();
    world.joins("s1", "db");
    world.joins("s1", "pi");
    world.renews("s1", "pi", Some("svc/b")).expect("renewed");
    world.grants("s1", &Right::ALL, "svc/a");
    world.joins("s1", "web");
    world.joins("s1", "nas");
    assert!(world.members.forked().is_empty());
}

#[test]
fn a_batch_merges_whatever_its_order() {
    let mut world = World::new();
    let kept = world.joins("s2", "db");
    world.joins("s1", "pi");
    world.days(1);
    world.hands_over("pi", "pi", "new");
    world.joins_with("s1", "pi", &machine("new")).expect("handed over");
    world.cuts_off("s2", &[&kept]);
    world.rotates();
    world.signs_beacon("s1");
    let mut batch: Vec<_> = world.members.items().map(|it| it.envelope.clone()).collect();
    for _ in 0..batch.len() {
        batch.rotate_left(1);
        batch.reverse();
        let mut other = bare_members();
        let results = other.merge_all(batch.clone());
        assert!(results.iter().all(|(_, result)| result.is_ok()), "{results:?}");
        assert_eq!(decided(&other), decided(&world.members));
        assert_eq!(other.summary(), world.members.summary());
    }
}

/// Found here: whoever relayed a new root could leave out a cut-off, and the thief was back.
#[test]
fn a_root_counts_with_all_that_comes_with_it_or_not_at_all() {
    let mut world = World::new();
    world.joins("s1", "pi");
    world.joins("s1", "stolen");
    let buried = world.members.revoke(&world.author("root"), &domain("stolen"), "stolen", world.now);
    world.takes(&buried.expect("the root may")).expect("a tombstone");
    world.cuts_off("s2", &[]);
    let before = world.members.clone();
    let batch = before.rotate_root(&ToyKeys::root(2), root_keys(3).digest(), world.now).expect("promised");
    assert_eq!(batch.len(), 1 + before.signers().len() + 2, "root, grants, cut-off and tombstone");

    for left_out in 1..batch.len() {
        let mut torn = batch.clone();
        torn.remove(left_out);
        let mut members = before.clone();
        let results = members.merge_all(torn);
        assert!(results.iter().all(|(_, result)| result.is_err()), "without {left_out}: {results:?}");
        assert_eq!(members.root(), before.root());
        // One with the right words and a wrong signature is none.
        let mut forged = batch.clone();
        forged[left_out].signatures[0].value[0] ^= 1;
        members.merge_all(forged);
        assert_eq!(members.root(), before.root());
    }
    // Found here: a forged root beside the real one, with the same keys, decided what had to come with it.
    let Statement::Root(real) = Statement::read(&batch[0]).expect("a root") else { panic!("a root") };
    for company in
        [Company::default(), Company { granted: BTreeSet::from([Digest::default()]), ..real.company.clone() }]
    {
        for n in 0..8 {
            let issued_at = real.issued_at + Duration::from_secs(n);
            let fake = Root { company: company.clone(), issued_at, ..real.clone() };
            let fake = Envelope { payload: fake.encode(), ..batch[0].clone() };
            let mut members = before.clone();
            members.merge_all([fake, batch[0].clone()]);
            assert_eq!(members.root(), before.root());
        }
    }
    world.members.merge_all(batch);
    assert_eq!(world.members.root().generation, 2);
    assert!(world.members.get(&domain("pi")).is_some() && world.members.get(&domain("stolen")).is_none());
}

#[test]
fn who_missed_a_root_needs_the_company_of_the_last_only() {
    let mut world = World::new();
    world.joins("s1", "pi");
    let mut late = world.members.clone();
    world.rotates();
    world.rotates();
    late.merge_all(world.members.items().map(|signed| signed.envelope.clone()));
    assert_eq!(late.summary(), world.members.summary());
    assert_eq!(late.root().generation, 3);
}

#[test]
fn a_mesh_begins_with_its_own_root_only() {
    let first =
        author::root(&ToyKeys::root(1), mesh(), root_keys(2).digest(), crate::testing::dawn()).expect("keys");
    let keys = || Arc::new(ToyKeys::root(1));
    assert!(Members::new(keys(), first.digest(), first.clone()).is_ok());
    check(Members::new(keys(), Digest::default(), first.clone()), Reason::RootMismatch);
    let mut forged = first;
    forged.signatures[1].value[0] ^= 1;
    check(Members::new(keys(), forged.digest(), forged), Reason::SignatureInvalid);
    let mut second = bare_members().root().clone();
    second.generation = 2;
    let second = sealed(&second, &ToyKeys::root(1), &KeySlot::ROOT);
    check(Members::new(keys(), second.digest(), second), Reason::RootMismatch);
}
