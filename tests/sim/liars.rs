//! Admitted peers that lie.

use membership::{Input, Liveness};
use mesh_sim::{Mesh, Sage, Seen, SimKeys, Verdict, mesh, peer};
use proto::membership::v1 as wire;
use proto::{Message, Name};
use types::{Envelope, KeySlot, Reason};

use crate::for_seeds;

fn short(idx: usize) -> u64 {
    membership::ShortId::of(peer(idx)).0
}

/// What node `author` would sign.
fn signed(author: usize, domain: &str, payload: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let keys = SimKeys::new(author);
    let mut sealed = Envelope::seal(domain, payload, &keys, &[KeySlot::Node]).expect("a node key");
    (sealed.payload, sealed.signatures.remove(0).value)
}

fn accusation(accuser: usize, subject: usize, incarnation: u64, signer: usize) -> wire::Packet {
    let charge = wire::Charge { subject: short(subject), incarnation };
    let (charge, signature) = signed(signer, &wire::Charge::full_name(), charge.encode_to_vec());
    let accusations = vec![wire::Accusation { accuser: short(accuser), charge, signature }];
    wire::Packet { accusations, ..Default::default() }
}

/// A step of `author`'s record, without entries, signed by `signer`.
fn step(author: usize, incarnation: u64, version: u64, signer: usize) -> wire::Packet {
    // The digest over no entries.
    let types::Digest(root) = types::Digest::of(&[b"sagemesh record v1", b""]);
    let presence = wire::Presence::Here.into();
    let head = wire::Head { incarnation, version, floor: version, root: root[..16].to_vec(), presence };
    let (head, signature) = signed(signer, &wire::Head::full_name(), head.encode_to_vec());
    let delta = wire::Delta { author: short(author), head, signature, base: 0, entries: vec![], hops: 0 };
    wire::Packet { deltas: vec![delta], ..Default::default() }
}

fn say(mesh: &mut Mesh<Sage>, liar: usize, to: usize, packet: &wire::Packet) {
    let bytes = packet.encode_to_vec();
    mesh.tell(to, |now, sage, out| {
        sage.input(now, Input::Received { from: peer(liar), bytes: &bytes }, out);
    });
}

fn n_refused(mesh: &Mesh<Sage>, idx: usize, reason: Reason) -> u64 {
    mesh.node(idx).and_then(|sage| sage.core.refused().get(&reason).copied()).unwrap_or(0)
}

fn incarnation(mesh: &Mesh<Sage>, idx: usize) -> u64 {
    mesh.node(idx).expect("it is up").core.own_record().stamp().incarnation
}

#[test]
fn liars_bury_nobody_who_answers() {
    // Four accusers are a quorum: even then whoever answers lives.
    for n_liars in [1, 4] {
        for_seeds(1..=2, |seed| {
            let mut mesh = mesh(seed, 20);
            let mut n_dead = 0;
            for _ in 0..30 {
                for liar in 0..n_liars {
                    for victim in n_liars..20 {
                        let packet = accusation(liar, victim, incarnation(&mesh, victim), liar);
                        (n_liars..20)
                            .filter(|to| *to != victim)
                            .for_each(|to| say(&mut mesh, liar, to, &packet));
                    }
                }
                mesh.run(2.0, |_, seen| {
                    n_dead += u32::from(matches!(seen, Seen::Judged { verdict: Verdict::Dead, .. }));
                });
            }
            assert_eq!(n_dead, 0, "{n_liars} liars");
            mesh.run(10.0, |_, _| {});
            assert_eq!(mesh.lost(), 0);
        });
    }
}

#[test]
fn what_another_did_not_sign_is_refused_and_counted() {
    let mut mesh = mesh(1, 10);
    let ahead = incarnation(&mesh, 2) + 9;
    say(&mut mesh, 0, 1, &step(2, ahead, ahead, 0));
    assert_eq!(n_refused(&mesh, 1, Reason::SignatureInvalid), 1);
    let framed = accusation(3, 2, incarnation(&mesh, 2), 0);
    say(&mut mesh, 0, 1, &framed);
    assert_eq!(n_refused(&mesh, 1, Reason::SignatureInvalid), 2);
    assert_eq!(mesh.node(1).and_then(|sage| sage.thinks(2)), Some(Liveness::Alive));
    say(&mut mesh, 0, 1, &wire::Packet { items: vec![1], ..Default::default() });
    assert_eq!(n_refused(&mesh, 1, Reason::PacketMalformed), 1);
    let large = wire::Entry { key: "a/b".to_owned(), value: vec![0; 2000], version: 1 };
    let mut packet = step(0, ahead, ahead, 0);
    packet.deltas[0].entries.push(large);
    say(&mut mesh, 0, 1, &packet);
    assert_eq!(n_refused(&mesh, 1, Reason::StateTooLarge), 1);
    for _ in 0..3 {
        let exchange = Some(wire::Exchange::default());
        say(&mut mesh, 0, 1, &wire::Packet { exchange, ..Default::default() });
    }
    assert_eq!(n_refused(&mesh, 1, Reason::RateLimited), 2);
}

#[test]
fn an_old_record_does_not_revive_the_dead() {
    for_seeds(1..=2, |seed| {
        let mut mesh = mesh(seed, 20);
        let old = incarnation(&mesh, 5);
        mesh.crash(5);
        mesh.run(15.0, |_, _| {});
        assert_eq!(mesh.ghosts(), 0);
        for to in 1..20 {
            // Signed by the dead node indeed, and heard of before.
            say(&mut mesh, 0, to, &step(5, old - 1, old - 1, 5));
        }
        mesh.run(10.0, |_, _| {});
        assert_eq!(mesh.ghosts(), 0);
        assert_eq!(n_refused(&mesh, 1, Reason::StateStale), 1);
    });
}

#[test]
fn a_false_incarnation_does_not_make_its_node_run_away() {
    let mut mesh = mesh(1, 10);
    let before = incarnation(&mesh, 2);
    say(&mut mesh, 0, 2, &accusation(0, 2, u64::MAX - 1, 0));
    mesh.run(5.0, |_, _| {});
    assert_eq!(incarnation(&mesh, 2), before);
    say(&mut mesh, 0, 2, &accusation(0, 2, before, 0));
    mesh.run(1.0, |_, _| {});
    assert_eq!(incarnation(&mesh, 2), before + 1, "a true accusation is answered");
}
