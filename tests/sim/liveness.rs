//! Who is taken for alive, dead or gone.

use std::time::Duration;

use membership::{Config, Input, Liveness};
use mesh_sim::{Mesh, Sage, Seen, Verdict, Weather, mesh, mesh_of};

use crate::for_seeds;

/// Runs for `secs` seconds and says who was judged so by whom.
fn judged(mesh: &mut Mesh<Sage>, secs: f64, wanted: Verdict) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    mesh.run(secs, |_, seen| match seen {
        Seen::Judged { by, about, verdict, .. } if verdict == wanted => found.push((by, about)),
        _ => {}
    });
    found
}

/// Runs until `holds`, for `secs` seconds at most; says whether it came to hold.
fn comes_to_hold(mesh: &mut Mesh<Sage>, secs: u32, holds: impl Fn(&Mesh<Sage>) -> bool) -> bool {
    (0..secs * 2).any(|_| {
        mesh.run(0.5, |_, _| {});
        holds(mesh)
    })
}

#[test]
fn a_mesh_finds_itself() {
    for_seeds(1..=3, |seed| {
        let mesh = mesh(seed, 40);
        assert_eq!((mesh.lost(), mesh.ghosts()), (0, 0));
    });
}

#[test]
fn a_crash_is_seen_by_every_survivor_and_nobody_else_dies() {
    for_seeds(1..=3, |seed| {
        let mut mesh = mesh(seed, 40);
        mesh.crash(7);
        let mut dead = judged(&mut mesh, 12.0, Verdict::Dead);
        dead.sort_unstable();
        let all: Vec<_> = (0..40).filter(|by| *by != 7).map(|by| (by, 7)).collect();
        assert_eq!(dead, all);
        mesh.restart(7, &Config::default());
        assert!(comes_to_hold(&mut mesh, 10, |mesh| mesh.lost() == 0), "it is taken back");
    });
}

#[test]
fn deaths_reach_those_who_do_not_probe() {
    for_seeds(1..=3, |seed| {
        let config = Config { full_mesh_max: 10, rings: 3, few_rings: 3, ..Config::default() };
        let mut mesh = mesh_of(seed, 60, &config, Weather::default());
        assert_eq!(mesh.lost(), 0);
        assert!(mesh.node(3).is_some_and(|sage| sage.core.links().count() <= 6), "few connections are held");
        mesh.crash(7);
        assert!(comes_to_hold(&mut mesh, 20, |mesh| mesh.ghosts() == 0));
        assert_eq!(mesh.lost(), 0);
    });
}

#[test]
fn who_leaves_is_not_suspected() {
    for_seeds(1..=3, |seed| {
        let mut mesh = mesh(seed, 30);
        mesh.tell(5, |now, sage, out| sage.input(now, Input::Leave, out));
        let suspected = judged(&mut mesh, 20.0, Verdict::Suspect);
        assert!(suspected.iter().all(|(_, about)| *about != 5), "{suspected:?}");
        let left = |by: usize| mesh.node(by).and_then(|sage| sage.thinks(5)) == Some(Liveness::Left);
        assert!((0..30).all(|by| by == 5 || left(by)));
        mesh.restart(5, &Config::default());
        assert!(comes_to_hold(&mut mesh, 10, |mesh| mesh.lost() == 0), "it may come back");
    });
}

#[test]
fn the_halves_of_a_parted_mesh_find_each_other_again() {
    for_seeds(1..=3, |seed| {
        let mut mesh = mesh(seed, 40);
        mesh.part(|idx| u8::from(idx % 2 == 0));
        mesh.run(40.0, |_, _| {});
        assert_eq!(mesh.lost(), 2 * 20 * 20, "each half buries the other");
        mesh.crash(3);
        mesh.tell(4, |now, sage, out| sage.input(now, Input::Leave, out));
        mesh.run(40.0, |_, _| {});
        mesh.heal();
        assert!(comes_to_hold(&mut mesh, 30, |mesh| mesh.lost() == 0 && mesh.ghosts() == 0));
        mesh.run(20.0, |_, _| {});
        assert_eq!((mesh.lost(), mesh.ghosts()), (0, 0), "and that lasts");
    });
}

#[test]
fn a_process_that_stood_still_doubts_itself_first() {
    for_seeds(1..=5, |seed| {
        let mut mesh = mesh(seed, 30);
        let before = mesh.node(9).map(|sage| sage.core.own_record().stamp().incarnation);
        mesh.stall(9, 25);
        mesh.run(24.9, |_, _| {});
        let dead = judged(&mut mesh, 20.0, Verdict::Dead);
        assert_eq!(dead, [], "neither does it bury others, nor they it again");
        let after = mesh.node(9).map(|sage| sage.core.own_record().stamp().incarnation);
        assert!(after > before, "it came back by an incarnation of its own");
        assert_eq!(mesh.lost(), 0);
    });
}

#[test]
fn nobody_dies_who_runs_while_others_starve() {
    for_seeds(1..=2, |seed| {
        let mut mesh = mesh(seed, 40);
        for idx in 0..10 {
            mesh.starve(idx * 4);
        }
        let (mut n_false, mut n) = (0, 0);
        mesh.run(300.0, |mesh, seen| {
            if let Seen::Judged { about, verdict: Verdict::Dead, .. } = seen {
                n += 1;
                n_false += u32::from(mesh.has_run_for(about, 2));
            }
        });
        assert_eq!(n_false, 0);
        assert!(n > 100, "long stalls are seen: {n}");
    });
}

#[test]
fn a_clock_that_was_set_back_does_not_bury_its_node() {
    for_seeds(1..=3, |seed| {
        let mut mesh = mesh(seed, 20);
        mesh.crash(2);
        mesh.run(30.0, |_, _| {});
        mesh.set_clock_back(2, Duration::from_secs(86_400));
        mesh.restart(2, &Config::default());
        assert!(comes_to_hold(&mut mesh, 15, |mesh| mesh.lost() == 0));
    });
}

#[test]
fn one_witness_alone_takes_the_longest() {
    for_seeds(1..=3, |seed| {
        let mut mesh = mesh(seed, 2);
        mesh.crash(1);
        // Six times the least of 3 s, after a probe.
        assert_eq!(judged(&mut mesh, 15.0, Verdict::Dead), []);
        assert_eq!(judged(&mut mesh, 15.0, Verdict::Dead), [(0, 1)]);
    });
}
