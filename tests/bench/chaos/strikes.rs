//! What is done to the town while it is called, and mended after a moment. One endpoint is left well each time, but for
//! calls on connections that are cut.

use std::time::Duration;

use anyhow::Context;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::process::Signal;
use tokio::time::Instant;

use crate::machines::CALLER;
use crate::town::{N_NODES, SURVIVOR, Town};

/// How long a service that was struck stays so, in ms.
const SERVICE_MS: std::ops::Range<u64> = 100..1500;
/// How long a node stays down.
const NODE_MS: std::ops::Range<u64> = 200..3000;
/// A node is struck again no sooner than it can be thought to serve.
const RECOVERY: Duration = Duration::from_secs(3);
/// What happens how often: ends of services without warning, with one, pauses of them, ends of nodes, cuts.
const WEIGHTS: [(What, u32); 5] =
    [(What::Kill, 5), (What::Term, 3), (What::Pause, 3), (What::Node, 5), (What::Cut, 4)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Kill,
    Term,
    Pause,
    Node,
    Cut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mend {
    Serve,
    Continue,
    Start,
}

/// Strikes that came at chance, and what is to be mended.
pub(crate) struct Strikes {
    rng: ChaCha8Rng,
    every: Duration,
    next: Instant,
    mends: Vec<(Instant, usize, Mend)>,
    /// Since when each node is well, or will be.
    well_from: Vec<Instant>,
    pub(crate) n_service: u64,
    pub(crate) n_node: u64,
    pub(crate) n_connection: u64,
}

impl Strikes {
    /// One every so often on average, from now on.
    pub(crate) fn new(seed: u64, every: Duration) -> Self {
        let now = Instant::now();
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            every,
            next: now + every,
            mends: Vec::new(),
            well_from: vec![now; N_NODES],
            n_service: 0,
            n_node: 0,
            n_connection: 0,
        }
    }

    /// When something is due next.
    pub(crate) fn next_deadline(&self) -> Instant {
        self.mends.iter().map(|mend| mend.0).chain([self.next]).min().unwrap_or(self.next)
    }

    /// Does what is due.
    pub(crate) async fn act(&mut self, town: &mut Town) -> anyhow::Result<()> {
        let now = Instant::now();
        self.mend(town, Some(now)).await?;
        if self.next > now {
            return Ok(());
        }
        let mean_ms = u64::try_from(self.every.as_millis())?;
        self.next = now + Duration::from_millis(self.rng.random_range(mean_ms / 2..=mean_ms * 3 / 2));
        let well: Vec<_> = (CALLER + 1..N_NODES).filter(|idx| self.well_from[*idx] <= now).collect();
        let what = WEIGHTS.choose_weighted(&mut self.rng, |it| it.1).map_or(What::Cut, |it| it.0);
        let can_be = |idx: &&usize| what != What::Node || **idx != SURVIVOR;
        let candidates: Vec<_> = well.iter().filter(can_be).copied().collect();
        let Some(victim) = candidates.choose(&mut self.rng).copied() else { return Ok(()) };
        // Who serves alone may lose connections and no more.
        let what = if well.len() < 2 { What::Cut } else { what };
        let (signal, mend) = match what {
            What::Kill => (Signal::KILL, Mend::Serve),
            What::Term => (Signal::TERM, Mend::Serve),
            What::Pause => (Signal::STOP, Mend::Continue),
            What::Node => {
                town.kill_node(victim).await?;
                self.n_node += 1;
                self.mend_within(victim, NODE_MS, Mend::Start, RECOVERY);
                return Ok(());
            }
            What::Cut => {
                let is_local = self.rng.random_bool(0.5);
                self.n_connection += u64::from(town.cut(victim, is_local).await? > 0);
                return Ok(());
            }
        };
        town.signal(victim, signal)?;
        self.n_service += 1;
        self.mend_within(victim, SERVICE_MS, mend, RECOVERY / 3);
        Ok(())
    }

    fn mend_within(&mut self, idx: usize, ms: std::ops::Range<u64>, mend: Mend, recovery: Duration) {
        let at = Instant::now() + Duration::from_millis(self.rng.random_range(ms));
        self.mends.push((at, idx, mend));
        self.well_from[idx] = at + recovery;
    }

    /// Mends what is due, or all.
    pub(crate) async fn mend(&mut self, town: &mut Town, due: Option<Instant>) -> anyhow::Result<()> {
        let is_due = |mend: &mut (Instant, usize, Mend)| due.is_none_or(|now| mend.0 <= now);
        let mends: Vec<_> = self.mends.extract_if(.., is_due).collect();
        for (_, idx, mend) in mends {
            match mend {
                Mend::Serve => {
                    town.ended(idx).await?;
                    town.serve(idx)?;
                }
                Mend::Continue => town.signal(idx, Signal::CONT)?,
                Mend::Start => town.fleet.begin(idx).context("failed to start a node again")?,
            }
        }
        Ok(())
    }
}
