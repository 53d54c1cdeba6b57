//! What time does: beacons, audits, pruning.

use std::time::Duration;

use types::key::KeySlot;
use types::{Digest, Reason};

use super::super::*;
use crate::author::Audit;
use crate::statement::{CLOCK_LEEWAY, Role};
use crate::testing::{World, bare_members, domain, machine, sealed, signer_id};

const HOUR: Duration = Duration::from_secs(3600);

fn heard(world: &World, missing: &[&Envelope]) -> Members {
    let missing: Vec<_> = missing.iter().map(|envelope| envelope.digest()).collect();
    let mut members = bare_members();
    let items = world.members.items().filter(|it| !missing.contains(&it.digest));
    members.merge_all(items.map(|it| it.envelope.clone()).collect::<Vec<_>>());
    members
}

#[test]
fn an_audit_tells_complete_newer_and_gap_apart() {
    let mut world = World::new();
    let s1 = signer_id("s1");
    let pi = world.joins("s1", "pi");
    world.joins("s1", "db");
    assert_eq!(world.members.audit(s1), None);
    world.signs_beacon("s1");
    assert_eq!(world.members.audit(s1), Some(Audit::Complete { n: 2 }));
    assert_eq!(heard(&world, &[&pi]).audit(s1), Some(Audit::Gap { known: 1, due: 2 }));
    world.joins("s1", "web");
    assert_eq!(world.members.audit(s1), Some(Audit::Newer));
    world.signs_beacon("s1");
    assert_eq!(world.members.audit(s1), Some(Audit::Complete { n: 3 }));
    // A narrower grant hides nothing from an audit.
    world.renews("s1", "web", Some("svc/b")).expect("renewed");
    world.signs_beacon("s1");
    world.grants("s1", &Right::ALL, "svc/a");
    assert_eq!(world.members.audit(s1), Some(Audit::Complete { n: 3 }));
}

#[test]
fn an_audit_shows_a_signer_that_says_different_things_in_different_places() {
    let mut world = World::new();
    world.joins("s1", "pi");
    let mut other = World::new();
    other.members = world.members.clone();
    world.joins("s1", "db");
    other.joins("s1", "web");
    let beacon = world.signs_beacon("s1");
    other.takes(&beacon).expect("a beacon");
    assert_eq!(other.members.audit(signer_id("s1")), Some(Audit::Gap { known: 2, due: 2 }));
}

#[test]
fn without_a_beacon_for_72_hours_a_node_is_stale() {
    let mut world = World::new();
    assert!(world.members.is_stale(world.now));
    world.signs_beacon("s1");
    assert!(!world.members.is_stale(world.now.after(BEACON_AGE_MAX)));
    assert!(world.members.is_stale(world.now.after(BEACON_AGE_MAX + Duration::from_secs(1))));
    // The newest of any signer counts; that of one which was cut off does not.
    world.days(2);
    world.signs_beacon("s2");
    assert!(!world.members.is_stale(world.now.after(HOUR * 50)));
    world.cuts_off("s2", &[]);
    assert!(world.members.is_stale(world.now.after(HOUR * 50)));
}

/// Found here: a beacon from the future counted as made now, for ever.
#[test]
fn a_beacon_from_the_future_says_nothing() {
    let mut world = World::new();
    let present = world.now;
    world.now = present.after(CLOCK_LEEWAY);
    world.signs_beacon("s1");
    assert!(!world.members.is_stale(present));
    world.now = present.after(HOUR * 24 * 3650);
    world.signs_beacon("s1");
    assert!(world.members.is_stale(present));
    assert!(world.members.is_stale(present.after(HOUR * 24 * 30)));
    world.now = present;
    world.signs_beacon("s2");
    assert!(!world.members.is_stale(present));
}

#[test]
fn a_kept_beacon_of_a_cut_off_signer_keeps_nobody_fresh() {
    let mut world = World::new();
    let beacon = world.signs_beacon("s1");
    world.cuts_off("s1", &[&beacon]);
    assert!(world.members.is_stale(world.now));
}

#[test]
fn pruning_frees_a_name_and_keeps_every_tombstone() {
    let mut world = World::new();
    world.joins("s1", "pi");
    world.joins("s1", "nas");
    world.revokes("s1", "nas");
    world.signs_operator("s1", "ann", Some(Role::View));
    world.members.mark_verified(machine("pi").authority.authority());
    world.days(90 + 365);
    world.members.prune(world.now);
    assert!(world.members.get(&domain("pi")).is_some());
    let refused = world.joins_with("s2", "pi", &machine("new")).map_err(|refusal| refusal.reason);
    assert_eq!(refused.err(), Some(Reason::NameBound));
    let before = world.now;
    world.days(1);
    world.members.prune(world.now);
    assert!(world.members.get(&domain("pi")).is_none());
    assert!(!world.members.is_verified(machine("pi").authority.authority()));
    world.joins_with("s2", "pi", &machine("new")).expect("free");
    assert!(world.members.is_revoked(&machine("nas").authority));
    assert_eq!(world.members.operators().count(), 1);
    world.days(365);
    world.members.prune(world.now);
    assert_eq!(world.members.operators().count(), 0);
    assert!(world.members.is_revoked(&machine("nas").authority));
    // Where the clock was wrong, the next pruning puts it right.
    world.members.prune(before);
    world.now = before;
    world.joins("s1", "web");
}

/// Found here: an old record that somebody had kept took its name back after it had been pruned.
#[test]
fn what_was_pruned_does_not_come_back() {
    let mut world = World::new();
    let old = world.joins("s1", "pi");
    world.days(90 + 366);
    world.members.prune(world.now);
    world.joins_with("s2", "pi", &machine("new")).expect("free");
    let refused = world.takes(&old).map_err(|refusal| refusal.reason);
    assert_eq!(refused, Err(Reason::MemberExpired));
    assert_eq!(world.holder("pi", &["pi", "new"]), Some("new"));
}

#[test]
fn a_node_that_slept_long_is_renewed_until_rejoin_max() {
    let mut world = World::new();
    world.joins("s1", "pi");
    world.days(90 + 365);
    let (s2, pi) = (world.author("s2"), domain("pi"));
    assert!(world.members.renew(&s2, &pi, None, world.now).is_ok());
    world.days(1);
    let refused = world.members.renew(&s2, &pi, None, world.now).map_err(|refusal| refusal.reason);
    assert_eq!(refused.err(), Some(Reason::MemberExpired));
    world.revokes("s1", "pi");
    let refused = world.members.renew(&s2, &pi, None, world.now).map_err(|refusal| refusal.reason);
    assert_eq!(refused.err(), Some(Reason::MemberUnknown));
}

#[test]
fn handovers_go_with_the_records_that_they_start_from() {
    let mut world = World::new();
    world.joins("s1", "pi");
    let handover = world.hands_over("pi", "pi", "new");
    world.days(90 + 366);
    world.members.prune(world.now);
    assert!(world.members.item(&handover.digest()).is_none());
    let mut world = World::new();
    world.joins("s2", "pi");
    let handover = world.hands_over("pi", "pi", "new");
    world.cuts_off("s2", &[]);
    assert!(world.members.item(&handover.digest()).is_none());
}

/// `cargo test -p sagemesh-identity --release -- --ignored --nocapture what_merging_costs`
#[test]
#[ignore = "it prints times, and holds nothing to them"]
fn what_merging_costs() {
    for n in [1_000, 10_000] {
        let mut world = World::new();
        let author = world.author("s1");
        let record = |world: &mut World, n: usize| {
            let member = world.forged("s1", &format!("n{n}"), &machine(&format!("n{n}")));
            sealed(&member, &author, &KeySlot::SIGNER)
        };
        let records: Vec<_> = (0..n).map(|n| record(&mut world, n)).collect();
        let late: Vec<_> = (n..n + 20).map(|n| record(&mut world, n)).collect();
        let timed = |what: &str, times: u32, work: &mut dyn FnMut()| {
            let begin = std::time::Instant::now();
            (0..times).for_each(|_| work());
            eprintln!("{n} members: {what}: {:?}", begin.elapsed() / times);
        };
        let mut bulk = Some(records);
        timed("merge all at once", 1, &mut || {
            let _ = world.members.merge_all(bulk.take().expect("once"));
        });
        timed("build the view", 20, &mut || drop(View::new(&world.members)));
        timed("clone", 20, &mut || drop(world.members.clone()));
        let mut late = late.into_iter();
        timed("merge one", 20, &mut || {
            world.members.merge(late.next().expect("20")).expect("a member");
        });
        timed("sign one", 5, &mut || {
            world.joins("s1", &format!("late{}", world.members.iter().count()));
        });
        timed("merge a beacon", 5, &mut || {
            world.signs_beacon("s1");
        });
        timed("narrow a grant", 5, &mut || {
            world.grants("s2", &Right::ALL, "svc/a");
        });
        timed("summary", 5, &mut || assert_ne!(world.members.summary(), Digest::default()));
        timed("is stale", 5, &mut || assert!(!world.members.is_stale(world.now)));
    }
}
