//! What becomes of records.

use membership::{Config, Input, PACKET_LEN_MAX, VALUE_LEN_MAX};
use mesh_sim::{Mesh, Sage, mesh, peer};
use types::{Digest, Reason};

use crate::for_seeds;

/// The nodes that hold `value` under `key` in the record of node `about`.
fn n_hold(mesh: &Mesh<Sage>, about: usize, key: &str, value: Option<&[u8]>) -> usize {
    let holds = |by: &usize| {
        let record = mesh.node(*by).and_then(|sage| sage.core.record(peer(about)));
        record.is_some_and(|record| record.value(key) == value)
    };
    mesh.up().filter(|by| *by != about && holds(by)).count()
}

#[test]
fn a_change_and_a_removal_reach_all() {
    for_seeds(1..=3, |seed| {
        let mut mesh = mesh(seed, 40);
        mesh.tell(3, |now, sage, _| sage.core.put(now, "route/load", b"7").expect("within bounds"));
        mesh.tell(3, |now, sage, _| sage.core.put(now, "heal/mode", b"observe").expect("within bounds"));
        mesh.run(5.0, |_, _| {});
        assert_eq!(n_hold(&mesh, 3, "route/load", Some(b"7")), 39);
        mesh.run(5.0, |_, _| {});
        mesh.tell(3, |now, sage, _| sage.core.delete(now, "route/load"));
        mesh.run(5.0, |_, _| {});
        assert_eq!(n_hold(&mesh, 3, "route/load", None), 39);
        assert_eq!(n_hold(&mesh, 3, "heal/mode", Some(b"observe")), 39);
    });
}

#[test]
fn many_changes_make_few_signatures() {
    for_seeds(1..=2, |seed| {
        let mut mesh = mesh(seed, 10);
        let version = |mesh: &Mesh<Sage>| mesh.node(1).map(|sage| sage.core.own_record().stamp().version);
        let before = version(&mesh).expect("it is up");
        for n in 0..100 {
            let value = n.to_string();
            mesh.tell(1, |now, sage, _| sage.core.put(now, "a/n", value.as_bytes()).expect("within bounds"));
            mesh.run(0.2, |_, _| {});
        }
        mesh.run(10.0, |_, _| {});
        let n_signed = version(&mesh).expect("it is up") - before;
        // A few at once, and then one in 5 s.
        assert!((4..=9).contains(&n_signed), "{n_signed} in 20 s");
        assert_eq!(n_hold(&mesh, 1, "a/n", Some(b"99")), 9, "and the last one counts");
    });
}

#[test]
fn a_newcomer_gets_large_records_in_bounded_packets() {
    for_seeds(1..=2, |seed| {
        let mut mesh = mesh(seed, 30);
        mesh.crash(0);
        mesh.run(20.0, |_, _| {});
        for idx in 1..30 {
            for key in ["a/1", "a/2", "a/3", "a/4", "a/5", "a/6", "a/7"] {
                let value = [b'x'; VALUE_LEN_MAX];
                mesh.tell(idx, |now, sage, _| sage.core.put(now, key, &value).expect("within bounds"));
            }
        }
        mesh.run(30.0, |_, _| {});
        mesh.restart(0, &Config::default());
        mesh.run(30.0, |_, _| {});
        let newcomer = mesh.node(0).expect("it is up");
        let n =
            (1..30).filter(|idx| newcomer.core.record(peer(*idx)).is_some_and(|r| r.entries().len() == 7));
        assert_eq!(n.count(), 29);
        assert!(mesh.longest_bytes() < PACKET_LEN_MAX / 2, "{} bytes in a packet", mesh.longest_bytes());
    });
}

#[test]
fn what_does_not_fit_is_refused_where_it_is_put() {
    let mut mesh = mesh(1, 2);
    let put = |mesh: &mut Mesh<Sage>, key: &str, len: usize| {
        let answer = mesh.tell(0, |now, sage, _| sage.core.put(now, key, &vec![0; len]));
        answer.expect("it is up").map_err(|refusal| refusal.reason)
    };
    assert_eq!(put(&mut mesh, "a/b", VALUE_LEN_MAX + 1), Err(Reason::StateTooLarge));
    assert_eq!(put(&mut mesh, "no-room", 1), Err(Reason::StateTooLarge));
    for n in 0..7 {
        assert_eq!(put(&mut mesh, &format!("a/{n}"), VALUE_LEN_MAX), Ok(()));
    }
    assert_eq!(put(&mut mesh, "a/last", VALUE_LEN_MAX), Err(Reason::StateTooLarge));
}

#[test]
fn another_set_of_identity_items_is_noticed() {
    for_seeds(1..=2, |seed| {
        let mut mesh = mesh(seed, 12);
        mesh.run(20.0, |_, _| {});
        let n_told = |mesh: &Mesh<Sage>| {
            mesh.up().filter(|idx| mesh.node(*idx).is_some_and(|sage| sage.n_items_differ > 0)).count()
        };
        assert_eq!(n_told(&mesh), 0, "equal sets are no news");
        mesh.tell(0, |now, sage, out| sage.input(now, Input::Items(Digest([1; 32])), out));
        mesh.run(5.0, |_, _| {});
        assert!(n_told(&mesh) >= 6, "its neighbours hear of it");
    });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = |seed| {
        let mut mesh = mesh(seed, 20);
        mesh.starve(4);
        let mut seen = Vec::new();
        mesh.run(60.0, |_, what| seen.push(what));
        (mesh.sent_bytes(), mesh.sent(), seen)
    };
    assert_eq!(trace(5), trace(5));
    assert_ne!(trace(5), trace(6));
}
