//! What is no statement of this mesh's.

use types::key::KeySlot;
use types::{Reason, Timestamp};

use super::super::*;
use crate::author;
use crate::keyset::KeySet;
use crate::scope::Scope;
use crate::soft_keys::{Secret, SoftKeys};
use crate::statement::{JWT_KEYS_MAX, JwtKey, MEMBER_LEN_MAX};
use crate::testing::{DAWN_S, ToyKeys, World, bare_members, decided, domain, machine, sealed};

#[track_caller]
fn check<T: std::fmt::Debug>(result: Result<T, Refusal>, expected: Reason) {
    assert_eq!(result.map_err(|refusal| refusal.reason).err(), Some(expected));
}

#[test]
fn what_is_forged_truncated_or_anothers_is_refused_and_changes_nothing() {
    let mut world = World::new();
    world.joins("s1", "pi");
    let older = world.joins("s1", "db");
    world.renews("s1", "db", None).expect("renewed");
    let before = (decided(&world.members), world.members.summary());
    let member = world.forged("s1", "web", &machine("web"));
    let good = sealed(&member, &world.author("s1"), &KeySlot::SIGNER);

    for n in 0..2 {
        let mut forged = good.clone();
        forged.signatures[n].value[3] ^= 1;
        check(world.takes(&forged), Reason::SignatureInvalid);
    }
    let mut swapped = good.clone();
    swapped.signatures.swap(0, 1);
    check(world.takes(&swapped), Reason::SignatureInvalid);
    let mut single = good.clone();
    single.signatures.truncate(1);
    check(world.takes(&single), Reason::SignatureInvalid);
    check(world.takes(&sealed(&member, &ToyKeys::signer("s2"), &KeySlot::SIGNER)), Reason::SignatureInvalid);
    let mut altered = good.clone();
    *altered.payload.last_mut().expect("it is long") ^= 1;
    check(world.takes(&altered), Reason::SignatureInvalid);

    let whole = good.to_bytes();
    for len in (0..whole.len()).step_by(7) {
        if let Ok(torn) = Envelope::from_bytes(&whole[..len]) {
            assert!(world.takes(&torn).is_err(), "{len} of {} bytes", whole.len());
        }
    }
    let mut renamed = good.clone();
    renamed.domain = "sagemesh.identity.v1.Beacon".to_owned();
    assert!(world.takes(&renamed).is_err());

    let mut elsewhere = member.clone();
    elsewhere.domain = "web.work.mesh".parse().expect("a name");
    check(world.slips_in("s1", &elsewhere).1, Reason::MeshMismatch);
    check(world.slips_in("nobody", &world_member(&member, "nobody")).1, Reason::SignerUnknown);
    assert_eq!(world.takes(&older), Ok(Merged::Superseded));
    assert_eq!((decided(&world.members), world.members.summary()), before);
    assert_eq!(world.takes(&good), Ok(Merged::Added));
    assert_eq!(world.takes(&good), Ok(Merged::Known));
}

fn world_member(member: &Member, signer: &str) -> Member {
    Member { signer: crate::testing::signer_id(signer), ..member.clone() }
}

#[test]
fn another_root_grants_nothing() {
    let mut world = World::new();
    let grant = Grant {
        mesh: crate::testing::mesh(),
        node: crate::testing::node("x"),
        keys: crate::testing::signer_keys("rogue"),
        rights: Right::ALL.into(),
        scope: Scope::All,
        epoch: 9,
        issued_at: world.now.wall,
        root: crate::testing::root_keys(7).signer(),
    };
    check(world.takes(&sealed(&grant, &ToyKeys::root(7), &KeySlot::ROOT)), Reason::RootMismatch);
    let claimed = Grant { root: world.members.root().id(), ..grant };
    check(world.takes(&sealed(&claimed, &ToyKeys::root(7), &KeySlot::ROOT)), Reason::SignatureInvalid);
    check(world.joins_with("rogue", "web", &machine("web")), Reason::NotASigner);
}

#[test]
fn times_out_of_order_are_refused() {
    let mut world = World::new();
    let good = world.forged("s1", "web", &machine("web"));
    let at = |n: u64| Timestamp::from_secs(DAWN_S + n);
    for (bound_at, issued_at, not_after) in [(2, 1, 3), (0, 3, 3), (0, 3, 2)] {
        let mut bad = good.clone();
        (bad.bound_at, bad.issued_at, bad.not_after) = (at(bound_at), at(issued_at), at(not_after));
        check(world.slips_in("s1", &bad).1, Reason::RecordInvalid);
    }
    let mut longest = good;
    (longest.issued_at, longest.not_after) = (at(0), Timestamp::from_secs(253_402_300_800));
    check(world.slips_in("s1", &longest).1, Reason::RecordInvalid);
    longest.not_after = Timestamp::from_secs(253_402_300_799);
    assert_eq!(world.slips_in("s1", &longest).1, Ok(Merged::Added));
}

fn soft(byte: u8, slots: &[KeySlot]) -> SoftKeys {
    let secrets: Vec<_> = slots.iter().map(|slot| (*slot, Secret::new([byte; 32]))).collect();
    SoftKeys::new(secrets.iter().map(|(slot, secret)| (*slot, secret))).expect("keys")
}

/// The longest names and the widest list of services, with real keys and signatures.
#[test]
fn a_record_of_the_widest_scope_fits_or_is_refused_by_its_length() {
    let (root, signer, pi) = (soft(1, &KeySlot::ROOT), soft(2, &KeySlot::SIGNER), soft(3, &KeySlot::NODE));
    let label = |n: usize| format!("{n:02}{}", "x".repeat(61));
    let mesh: types::MeshName = format!("{}.{}", label(0), "y".repeat(61)).parse().expect("the longest");
    assert_eq!(mesh.as_str().len(), types::name::MESH_LEN_MAX);
    let next = KeySet::of(&soft(4, &KeySlot::ROOT), KeySlot::ROOT).expect("keys");
    let now = World::bare().now;
    let first = author::root(&root, mesh, next.digest(), now).expect("keys");
    let mut members = Members::new(Arc::new(soft(9, &[])), first.digest(), first).expect("its own root");
    let keys = KeySet::of(&signer, KeySlot::SIGNER).expect("keys");
    let office = label(1).parse().expect("a name");
    let grant = members.grant(&root, office, keys, Right::ALL.into(), Scope::All, now).expect("the root");
    members.merge(grant).expect("by the root");

    // As many services of as many bytes as a scope takes.
    let services: Vec<_> =
        (0..crate::scope::SERVICES_MAX).map(|n| format!("svc/{n:02}{}", "s".repeat(30))).collect();
    let widest = Scope::read(services.iter().map(String::as_str)).expect("just within");
    assert_eq!(services.iter().map(|item| item.len() - 4).sum::<usize>(), crate::scope::SERVICES_LEN_MAX);
    let mut node_keys = author::NodeKeys::of(&pi).expect("keys");
    let jwt = node_keys.jwt[0].clone();
    let mut sign = |n_jwt: usize, kid_len: usize| {
        node_keys.jwt = vec![JwtKey { kid: "k".repeat(kid_len), ..jwt.clone() }; n_jwt];
        let name = label(2).parse().expect("a name");
        let signed = members.sign_member(&signer, name, &node_keys, widest.clone(), now);
        signed.map(|envelope| envelope.to_bytes().len())
    };
    for n in 1..=JWT_KEYS_MAX {
        let len = sign(n, 16).expect("it fits");
        eprintln!("the widest scope with {n} JWT keys: {len} of {MEMBER_LEN_MAX} bytes");
        assert!(len <= MEMBER_LEN_MAX);
    }
    // With the longest key ids too there is room for 11 bytes, and then the refusal says so.
    let longest = sign(JWT_KEYS_MAX, 64).expect("it fits");
    assert_eq!(longest, MEMBER_LEN_MAX - 11);
    node_keys.jwt = vec![JwtKey { kid: "k".repeat(64), ..jwt }; JWT_KEYS_MAX];
    let name = label(2).parse().expect("a name");
    let envelope = members.sign_member(&signer, name, &node_keys, widest, now).expect("it fits");
    let Ok(Statement::Member(member)) = Statement::read(&envelope) else { panic!("a member record") };
    let hostile = Member { epoch: u64::MAX, serial: u64::MAX, ..Member::clone(&member) };
    let envelope = Envelope::seal(Member::DOMAIN, hostile.encode(), &signer, &KeySlot::SIGNER).expect("keys");
    let refusal = members.merge(envelope).expect_err("too long");
    assert_eq!(refusal.reason, Reason::RecordInvalid);
    assert!(refusal.detail.ends_with("has 7507 bytes of 7500"), "{}", refusal.detail);
}

#[test]
fn a_scope_beyond_its_bounds_is_refused_when_signed() {
    let mut world = World::new();
    let mut record = world.forged("s1", "pi", &machine("pi"));
    let many = (0..=crate::scope::SERVICES_MAX).map(|n| crate::testing::service(&format!("s{n}")));
    record.scope = Scope::Only(many.collect());
    check(world.slips_in("s1", &record).1, Reason::RecordInvalid);
    let (s1, now) = (world.author("s1"), world.now);
    let signed =
        world.members.sign_member(&s1, crate::testing::node("pi"), &machine("pi"), record.scope, now);
    check(signed, Reason::RecordInvalid);
    assert!(world.members.get(&domain("pi")).is_none());
    assert_eq!(bare_members().iter().count(), 0);
}
