//! Probes: a ping, then helpers, then an accusation (SWIM section 3; Lifeguard section IV.A).
//!
//! On streams a lost packet is a late one, and everything behind it is late as well. So a probe waits long
//! beside a round trip, a late answer still counts until the very end, and helpers go round a stuck
//! connection. Numbers of pings are drawn at random: who was not asked cannot answer.

use std::time::{Duration, Instant};

use rand::RngExt;
use rand::seq::{IteratorRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use types::Now;

use crate::core::{Membership, Outbox};
use crate::member::{Liveness, ShortId};
use crate::wire::{Ask, Packet};

/// Most pings that wait for an answer.
const PINGS_MAX: usize = 1024;
/// Most of them on behalf of others.
const RELAYS_MAX: usize = 64;
/// From one of many dead to the next, when one came back from what looks like a partition.
const RETRY_BURST_INTERVAL: Duration = Duration::from_millis(100);
/// Most of them in one go.
const RETRY_BURST_MAX: usize = 32;

/// What is being probed, and when the next probe is due.
#[derive(Debug)]
pub(crate) struct Prober {
    pub(crate) next_at: Instant,
    /// Whom to probe next, from the back; shuffled anew when empty (SWIM section 4.3).
    order: Vec<ShortId>,
    pings: Vec<Ping>,
    pub(crate) retry_at: Instant,
    retries: Vec<ShortId>,
    /// Pings that were given up for want of room.
    pub(crate) n_shed: u64,
}

/// A ping that waits for its answer.
#[derive(Debug)]
struct Ping {
    number: u32,
    target: ShortId,
    purpose: Purpose,
    due: Instant,
}

#[derive(Debug)]
enum Purpose {
    /// This node's own probe; helpers are asked at `due`.
    Direct { end: Instant },
    /// The same after that.
    Indirect { asked: usize, nacks: usize },
    /// Asks a suspect whether it lives; this node accuses it as well at `due`.
    Check,
    /// The same after that.
    LateCheck,
    /// On behalf of another; it hears that there was no answer at `due`.
    Relay { to: ShortId, number: u32 },
    /// The same after that.
    LateRelay { to: ShortId, number: u32 },
    /// To see whether a dead or unknown member can be reached.
    Retry,
}

impl Prober {
    pub(crate) fn new(at: Instant) -> Self {
        Self {
            next_at: at,
            order: Vec::new(),
            pings: Vec::new(),
            retry_at: at,
            retries: Vec::new(),
            n_shed: 0,
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        let pings = self.pings.iter().map(|ping| ping.due);
        pings.fold(self.next_at.min(self.retry_at), Instant::min)
    }

    /// Forgets what it waits for: this node slept, and the answers may lie unread.
    pub(crate) fn forget_pings(&mut self) {
        self.pings.clear();
    }

    /// Probes `id` before all others.
    pub(crate) fn prefer(&mut self, id: ShortId) {
        self.order.retain(|known| *known != id);
        self.order.push(id);
    }

    /// Tries to reach `ids` one after the other, soon.
    pub(crate) fn retry_soon(&mut self, now: Now, ids: Vec<ShortId>, rng: &mut ChaCha8Rng) {
        self.retries = ids;
        self.retries.shuffle(rng);
        self.retries.truncate(RETRY_BURST_MAX);
        self.retry_at = self.retry_at.min(now.mono + RETRY_BURST_INTERVAL);
    }

    fn take(&mut self, number: u32) -> Option<Ping> {
        let idx = self.pings.iter().position(|ping| ping.number == number)?;
        Some(self.pings.swap_remove(idx))
    }
}

impl Membership {
    /// Starts what is due and ends what ran out.
    pub(crate) fn run_probes(&mut self, now: Now, out: &mut Outbox) {
        if self.prober.next_at <= now.mono {
            self.prober.next_at = now.mono + self.health.scale(self.config.probe_interval);
            if let Some(target) = self.next_target() {
                let end = now.mono + self.health.scale(self.config.probe_timeout);
                let due = now.mono + self.health.scale(self.config.ping_timeout);
                self.ping(target, Purpose::Direct { end }, due, out);
            }
        }
        if self.prober.retry_at <= now.mono {
            self.retry(now, out);
        }
        while let Some(idx) = self.prober.pings.iter().position(|ping| ping.due <= now.mono) {
            let ping = self.prober.pings.swap_remove(idx);
            self.run_out(now, &ping, out);
        }
    }

    /// Asks a suspect that this node has a connection to whether it lives.
    pub(crate) fn check(&mut self, now: Now, subject: ShortId, out: &mut Outbox) {
        let patience = self.config.probe_timeout.saturating_sub(self.config.ping_timeout);
        let due = now.mono + self.health.scale(patience);
        self.ping(subject, Purpose::Check, due, out);
    }

    /// A ping was answered.
    pub(crate) fn take_ack(&mut self, from: ShortId, number: u32, out: &mut Outbox) {
        let Some(ping) = self.prober.take(number) else { return };
        if from == ping.target {
            self.note_answer(from);
        }
        match ping.purpose {
            Purpose::Direct { .. } | Purpose::Indirect { .. } => self.health.improve(),
            Purpose::Relay { to, number } | Purpose::LateRelay { to, number } => {
                self.send(to, &Packet { ack: Some(number), ..Packet::default() }, out);
            }
            Purpose::Check | Purpose::LateCheck | Purpose::Retry => {}
        }
    }

    /// A helper is there, and the target did not answer it either.
    pub(crate) fn take_nack(&mut self, number: u32) {
        let ping = self.prober.pings.iter_mut().find(|ping| ping.number == number);
        if let Some(Ping { purpose: Purpose::Indirect { asked, nacks }, .. }) = ping {
            *nacks = (*nacks + 1).min(*asked);
        }
    }

    /// A peer asks this node to ping another.
    pub(crate) fn help(&mut self, now: Now, from: ShortId, ask: Ask, out: &mut Outbox) {
        let is_relay =
            |ping: &&Ping| matches!(ping.purpose, Purpose::Relay { .. } | Purpose::LateRelay { .. });
        if self.prober.pings.iter().filter(is_relay).count() >= RELAYS_MAX {
            return self.refuse_rate(from, "pings on behalf of others", out);
        }
        if self.members.is_present(ask.target) {
            let patience = self.config.probe_timeout.saturating_sub(self.config.ping_timeout) / 2;
            let purpose = Purpose::Relay { to: from, number: ask.number };
            self.ping(ask.target, purpose, now.mono + patience, out);
        }
    }

    fn run_out(&mut self, now: Now, ping: &Ping, out: &mut Outbox) {
        let Ping { number, target, .. } = *ping;
        let later = |purpose, due| Ping { number, target, purpose, due };
        match ping.purpose {
            Purpose::Direct { end } => {
                let asked = self.ask_helpers(number, target, out);
                self.prober.pings.push(later(Purpose::Indirect { asked, nacks: 0 }, end));
            }
            Purpose::Indirect { asked, nacks } => {
                // A helper that is silent too is a sign that this node is the slow one.
                let missing = if asked == 0 { 1 } else { asked - nacks };
                self.health.worsen(u32::try_from(missing).unwrap_or(u32::MAX));
                self.accuse(now, target, out);
            }
            Purpose::Check => {
                // Neighbours are the jury; more accusers than that would only make noise.
                if self.gossip.has_link(target) {
                    self.accuse(now, target, out);
                }
                let due = now.mono + self.config.probe_timeout * 2;
                self.prober.pings.push(later(Purpose::LateCheck, due));
            }
            Purpose::Relay { to, number: theirs } => {
                self.send(to, &Packet { nack: Some(theirs), ..Packet::default() }, out);
                let due = now.mono + self.config.probe_timeout;
                self.prober.pings.push(later(Purpose::LateRelay { to, number: theirs }, due));
            }
            Purpose::LateCheck | Purpose::LateRelay { .. } | Purpose::Retry => {}
        }
    }

    fn ask_helpers(&mut self, number: u32, target: ShortId, out: &mut Outbox) -> usize {
        let helpers: Vec<_> = if self.is_full_mesh() {
            let present = self.members.iter().filter(|m| m.liveness == Liveness::Alive && m.id != target);
            present.map(|member| member.id).sample(&mut self.rng, self.config.helpers)
        } else {
            let links = self.gossip.link_ids().filter(|id| *id != target);
            links.sample(&mut self.rng, self.config.helpers)
        };
        for helper in &helpers {
            let ask = Some(Ask { number, target });
            self.send(*helper, &Packet { ask, ..Packet::default() }, out);
        }
        helpers.len()
    }

    fn ping(&mut self, target: ShortId, purpose: Purpose, due: Instant, out: &mut Outbox) {
        if self.prober.pings.len() >= PINGS_MAX {
            self.prober.pings.swap_remove(0);
            self.prober.n_shed += 1;
        }
        let number = self.rng.random();
        self.prober.pings.push(Ping { number, target, purpose, due });
        // Whoever is accused hears of it first (Lifeguard section IV.C).
        let accusations = self.members.by_id(target).map_or(Vec::new(), |m| m.accusations.clone());
        self.send(target, &Packet { ping: Some(number), accusations, ..Packet::default() }, out);
    }

    fn next_target(&mut self) -> Option<ShortId> {
        let is_full_mesh = self.is_full_mesh();
        for _ in 0..2 {
            while let Some(id) = self.prober.order.pop() {
                if self.members.is_present(id) && (is_full_mesh || self.gossip.has_link(id)) {
                    return Some(id);
                }
            }
            self.prober.order = if is_full_mesh {
                let present = self.members.iter().filter(|member| member.liveness.is_present());
                present.map(|member| member.id).collect()
            } else {
                self.gossip.link_ids().collect()
            };
            self.prober.order.shuffle(&mut self.rng);
        }
        None
    }

    fn retry(&mut self, now: Now, out: &mut Outbox) {
        let is_gone = |liveness| matches!(liveness, Liveness::Dead | Liveness::Unknown);
        let mut target = None;
        while let (None, Some(id)) = (target, self.prober.retries.pop()) {
            target = self.members.by_id(id).filter(|member| is_gone(member.liveness)).map(|m| m.id);
        }
        let target = target.or_else(|| {
            let gone = self.members.iter().filter(|member| is_gone(member.liveness));
            gone.map(|member| member.id).choose(&mut self.rng)
        });
        let is_burst = !self.prober.retries.is_empty();
        let wait = if is_burst { RETRY_BURST_INTERVAL } else { self.config.retry_interval };
        self.prober.retry_at = now.mono + wait;
        if let Some(target) = target {
            self.ping(target, Purpose::Retry, now.mono + self.config.retry_interval, out);
        }
    }
}
