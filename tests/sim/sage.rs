//! Our own core as a simulated node.

use std::sync::Arc;
use std::time::Instant;

use membership::{Config, Effect, Input, Liveness, Membership, Outbox};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use types::Now;

use crate::keys::{SimKeys, idx, mix, peer};
use crate::mesh::{Action, Event, Mesh, Node, Verdict};
use crate::net::Weather;

/// A membership core in the simulator.
pub struct Sage {
    /// The core.
    pub core: Membership,
    outbox: Outbox,
    /// Peers that were said to have other identity items.
    pub n_items_differ: u64,
}

impl Sage {
    /// The core of node `idx` among `n` that are all admitted.
    pub fn new(now: Now, config: Config, seed: u64, me: usize, n: usize) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(mix(seed) ^ mix(me as u64) ^ now.wall.as_millis());
        let core = Membership::new(now, config, Arc::new(SimKeys::new(me)), rng).expect("a node key");
        let mut sage = Self { core, outbox: Outbox::default(), n_items_differ: 0 };
        let mut none = Vec::new();
        for other in (0..n).filter(|other| *other != me) {
            sage.input(now, Input::Admitted(peer(other)), &mut none);
        }
        sage
    }

    /// Gives the core an input and carries out what it answers.
    pub fn input(&mut self, now: Now, input: Input<'_>, out: &mut Vec<Action>) {
        self.core.handle(now, input, &mut self.outbox);
        for effect in self.outbox.effects.drain(..) {
            match effect {
                Effect::Send { to, bytes } => out.push(Action::Send { to: idx(to), bytes }),
                Effect::LivenessChanged { peer, liveness } => {
                    let verdict = match liveness {
                        Liveness::Alive => Verdict::Alive,
                        Liveness::Suspect => Verdict::Suspect,
                        Liveness::Dead => Verdict::Dead,
                        Liveness::Left => Verdict::Left,
                        Liveness::Unknown => continue,
                    };
                    out.push(Action::Judge { about: idx(peer), verdict });
                }
                Effect::RecordChanged(peer) => {
                    let version = self.core.record(peer).map_or(0, |record| record.stamp().version);
                    out.push(Action::Learn { about: idx(peer), version });
                }
                Effect::ItemsDiffer(_) => self.n_items_differ += 1,
                Effect::LinksChanged | Effect::Refused { .. } | Effect::Unavailable(_) => {}
            }
        }
    }

    /// What this node thinks of node `idx`.
    pub fn thinks(&self, idx: usize) -> Option<Liveness> {
        self.core.liveness(peer(idx))
    }
}

impl Node for Sage {
    fn handle(&mut self, now: Now, event: Event<'_>, out: &mut Vec<Action>) {
        let input = match event {
            Event::Tick => Input::Tick,
            Event::Received { from, bytes } => Input::Received { from: peer(from), bytes },
            Event::Broken(other) => Input::Disconnected(peer(other)),
        };
        self.input(now, input, out);
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.core.next_deadline()
    }
}

/// `n` nodes with shipped defaults that started within the last seconds and know each other.
pub fn mesh(seed: u64, n: usize) -> Mesh<Sage> {
    mesh_of(seed, n, &Config::default(), Weather::default())
}

/// The same with other settings.
pub fn mesh_of(seed: u64, n: usize, config: &Config, weather: Weather) -> Mesh<Sage> {
    let mut mesh = Mesh::new(seed, n, weather);
    for idx in 0..n {
        let sage = Sage::new(mesh.now_of(idx), config.clone(), seed, idx, n);
        mesh.start(idx, sage);
        mesh.run(2.0 / n as f64, |_, _| {});
    }
    mesh.run(30.0, |_, _| {});
    mesh
}

impl Mesh<Sage> {
    /// Puts a new core on machine `idx`.
    pub fn restart(&mut self, idx: usize, config: &Config) {
        let sage = Sage::new(self.now_of(idx), config.clone(), self.seed(), idx, self.len());
        self.start(idx, sage);
    }

    /// Nodes that are up and have not left.
    pub fn part_taking(&self) -> impl Iterator<Item = usize> + Clone + '_ {
        (0..self.len()).filter(|idx| self.node(*idx).is_some_and(|sage| sage.next_deadline().is_some()))
    }

    /// Pairs of nodes that take part of which the first does not hold the second present.
    pub fn lost(&self) -> usize {
        let holds = |by: usize, about: usize| {
            by == about || self.node(by).and_then(|sage| sage.thinks(about)).is_some_and(Liveness::is_present)
        };
        let all = self.part_taking();
        all.clone().map(|by| all.clone().filter(|about| !holds(by, *about)).count()).sum()
    }

    /// Pairs of a node that takes part and one that does not which the first holds present.
    pub fn ghosts(&self) -> usize {
        let all: Vec<_> = self.part_taking().collect();
        let gone: Vec<_> = (0..self.len()).filter(|idx| !all.contains(idx)).collect();
        let holds = |by: usize, about: usize| {
            self.node(by).and_then(|sage| sage.thinks(about)).is_some_and(Liveness::is_present)
        };
        all.iter().map(|by| gone.iter().filter(|about| holds(*by, **about)).count()).sum()
    }
}
