//! foca 2.0.0 in the same simulator: SWIM as its paper has it, without Lifeguard.
//!
//! Twice: as shipped (`Config::new_lan`), and with a suspicion timeout that makes it as quick to see a crash as
//! ours. Its process gets the same treatment: waiting messages first, then the timers that came due.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use foca::{AccumulatingRuntime, Foca, Identity, NoCustomBroadcast, OwnedNotification, PostcardCodec, Timer};
use mesh_sim::{Action, Event, Mesh, Node, Seen, Verdict, Weather};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use types::Now;

use crate::report::{Report, for_each_seed, percentile, secs};
use crate::simulated::starved::{Deaths, tell, watch};

/// A node's index, and a number that rises when it comes back after it was declared dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Id {
    idx: u16,
    life: u64,
}

impl Identity for Id {
    type Addr = u16;

    fn renew(&self) -> Option<Self> {
        Some(Self { idx: self.idx, life: self.life + 1 })
    }

    fn addr(&self) -> u16 {
        self.idx
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.life > adversary.life
    }
}

struct Rival {
    foca: Foca<Id, PostcardCodec, ChaCha8Rng, NoCustomBroadcast>,
    runtime: AccumulatingRuntime<Id>,
    timers: BTreeMap<(Instant, u64), Timer<Id>>,
    n_timers: u64,
}

impl Rival {
    fn new(seed: u64, idx: usize, config: foca::Config, life: u64) -> Self {
        let id = Id { idx: u16::try_from(idx).expect("few nodes"), life };
        let rng = ChaCha8Rng::seed_from_u64(seed * 1000 + u64::from(id.idx) + life);
        let foca = Foca::new(id, config, rng, PostcardCodec);
        Self { foca, runtime: AccumulatingRuntime::new(), timers: BTreeMap::new(), n_timers: 0 }
    }

    fn drain(&mut self, now: Now, out: &mut Vec<Action>) {
        while let Some((to, bytes)) = self.runtime.to_send() {
            out.push(Action::Send { to: to.idx.into(), bytes: bytes.to_vec() });
        }
        while let Some((after, timer)) = self.runtime.to_schedule() {
            self.n_timers += 1;
            self.timers.insert((now.mono + after, self.n_timers), timer);
        }
        while let Some(notification) = self.runtime.to_notify() {
            let (id, verdict) = match notification {
                OwnedNotification::MemberUp(id) => (id, Verdict::Alive),
                OwnedNotification::MemberDown(id) => (id, Verdict::Dead),
                _ => continue,
            };
            out.push(Action::Judge { about: id.idx.into(), verdict });
        }
    }
}

impl Node for Rival {
    fn handle(&mut self, now: Now, event: Event<'_>, out: &mut Vec<Action>) {
        match event {
            Event::Tick => {
                while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now.mono) {
                    // Errors are about timers of a former identity, which foca drops.
                    let _ = self.foca.handle_timer(entry.remove(), &mut self.runtime);
                }
            }
            // Errors are about messages for a former identity, which foca answers by itself.
            Event::Received { bytes, .. } => drop(self.foca.handle_data(bytes, &mut self.runtime)),
            Event::Broken(_) => {}
        }
        self.drain(now, out);
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }
}

fn start(mesh: &mut Mesh<Rival>, idx: usize, config: &foca::Config, via: usize) {
    let life = mesh.now_us() + 1;
    let rival = Rival::new(mesh.seed(), idx, config.clone(), life);
    mesh.start(idx, rival);
    mesh.tell(idx, |now, rival, out| {
        let seed_node = Id { idx: u16::try_from(via).expect("few nodes"), life: 0 };
        rival.foca.announce(seed_node, &mut rival.runtime).expect("a message to announce");
        rival.drain(now, out);
    });
}

fn mesh_of(seed: u64, config: &foca::Config) -> Mesh<Rival> {
    let mut mesh = Mesh::new(seed, 100, Weather::default());
    for idx in 0..100 {
        // The first seed node is the first node; it finds nobody at its own announcement.
        start(&mut mesh, idx, config, if idx == 0 { 1 } else { 0 });
        mesh.run(0.1, |_, _| {});
    }
    mesh.run(120.0, |_, _| {});
    mesh
}

pub(crate) fn run(is_quick: bool, report: &mut Report) {
    let shipped = foca::Config::new_lan(NonZeroU32::new(100).expect("not zero"));
    let mut quick = shipped.clone();
    quick.suspect_to_down_after = Duration::from_millis(2_500);
    for (prefix, config) in [("rival_", &shipped), ("rival_quick_", &quick)] {
        let (hours, seeds) = if is_quick { (0.2, 1..=2) } else { (1.0, 1..=5) };
        let deaths = Deaths::sum(for_each_seed(seeds.clone(), |seed| watch(mesh_of(seed, config), hours)));
        tell(prefix, &deaths, &format!("foca 2.0.0, seeds {seeds:?}"), report);
        crashes(prefix, config, is_quick, report);
    }
}

/// The same crashes as ours.
fn crashes(prefix: &str, config: &foca::Config, is_quick: bool, report: &mut Report) {
    let (seeds, per_seed) = if is_quick { (1..=1, 20) } else { (1..=5, 40) };
    let delays = for_each_seed(seeds.clone(), |seed| {
        let mut mesh = mesh_of(seed, config);
        let mut delays = Vec::new();
        for _ in 0..per_seed {
            let victim = mesh.pick(100);
            mesh.crash(victim);
            let at_us = mesh.now_us();
            let mut knows = [false; 100];
            let mut last_us = at_us + 60_000_000;
            mesh.run(60.0, |_, seen| {
                if let Seen::Judged { at_us, by, about, verdict: Verdict::Dead } = seen
                    && about == victim
                    && !std::mem::replace(&mut knows[by], true)
                {
                    last_us = at_us;
                }
            });
            delays.push(secs(last_us - at_us));
            start(&mut mesh, victim, config, (victim + 1) % 100);
            mesh.run(30.0, |_, _| {});
        }
        delays
    });
    let mut delays = delays.concat();
    delays.sort_unstable_by(f64::total_cmp);
    let note = format!("last survivor, {} crashes, seeds {seeds:?}", delays.len());
    report.figure(&format!("sim.n100.{prefix}crash_p50_s"), percentile(&delays, 0.5), &note);
    report.figure(&format!("sim.n100.{prefix}crash_p99_s"), percentile(&delays, 0.99), "");
}
