//! What lies between nodes: connections with their delays, stalls and breaks.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// What a message costs beside its bytes: TLS record 22, yamux header 12, length prefix 2, TCP/IP 52.
pub const MESSAGE_OVERHEAD_BYTES: u64 = 22 + 12 + 2 + 52;
/// What opening a connection costs each side: hybrid mTLS with an ML-DSA leaf (FINDINGS).
const DIAL_BYTES: u64 = 10_300;

/// How bad the network is. Times in µs.
#[derive(Clone, Debug)]
pub struct Weather {
    /// One-way delay, uniform from the first to the second.
    pub delay_us: (u64, u64),
    /// Share of messages that were lost once and so are late.
    pub late_share: f64,
    /// How late these are, uniform.
    pub late_us: (u64, u64),
    /// Share of messages before which the connection stalls.
    pub stall_share: f64,
    /// For how long, uniform.
    pub stall_us: (u64, u64),
    /// Share of messages on which the connection breaks, with all that is on its way.
    pub break_share: f64,
    /// How long TCP keeps sending into silence before it gives a connection up.
    pub user_timeout_us: u64,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            delay_us: (1_000, 50_000),
            late_share: 0.1,
            late_us: (200_000, 1_000_000),
            stall_share: 1e-4,
            stall_us: (1_000_000, 5_000_000),
            break_share: 1e-5,
            user_timeout_us: 20_000_000,
        }
    }
}

impl Weather {
    pub(crate) fn delay(&self, rng: &mut ChaCha8Rng) -> u64 {
        let late = if rng.random_bool(self.late_share) { draw(self.late_us, rng) } else { 0 };
        draw(self.delay_us, rng) + late
    }
}

pub(crate) fn draw((from, to): (u64, u64), rng: &mut ChaCha8Rng) -> u64 {
    rng.random_range(from..=to)
}

/// One direction of a pair of nodes.
#[derive(Clone, Default)]
pub(crate) struct Lane {
    /// When the last message arrives; no later one arrives before it.
    arrival_us: u64,
    /// When the silence began into which the sender sends.
    pub(crate) silent_since_us: Option<u64>,
}

/// A pair of nodes. Connections are opened by the first message.
#[derive(Clone, Default)]
struct Pair {
    /// When the connection is or was ready; `None` while there is none.
    ready_us: Option<u64>,
    /// Counts connections, so that nothing arrives from a former one.
    life: u32,
}

/// All pairs of nodes.
pub(crate) struct Net {
    pub(crate) weather: Weather,
    n: usize,
    lanes: Vec<Lane>,
    pairs: Vec<Pair>,
    /// Bytes that each node put on the wire.
    pub(crate) sent_bytes: Vec<u64>,
    /// Messages that each node put on the wire.
    pub(crate) sent: Vec<u64>,
    pub(crate) longest_bytes: usize,
}

/// What becomes of a message on a connection that works.
pub(crate) enum Fate {
    Arrives(u64),
    Breaks,
}

impl Net {
    pub(crate) fn new(n: usize, weather: Weather) -> Self {
        let (lanes, pairs) = (vec![Lane::default(); n * n], vec![Pair::default(); n * n]);
        Self { weather, n, lanes, pairs, sent_bytes: vec![0; n], sent: vec![0; n], longest_bytes: 0 }
    }

    pub(crate) fn lane(&mut self, from: usize, to: usize) -> &mut Lane {
        &mut self.lanes[from * self.n + to]
    }

    pub(crate) fn life(&self, a: usize, b: usize) -> u32 {
        self.pairs[a.min(b) * self.n + a.max(b)].life
    }

    /// Counts a message against its sender.
    pub(crate) fn count(&mut self, from: usize, payload_bytes: usize) {
        self.sent_bytes[from] += payload_bytes as u64 + MESSAGE_OVERHEAD_BYTES;
        self.sent[from] += 1;
        self.longest_bytes = self.longest_bytes.max(payload_bytes);
    }

    /// Ends the connection between two nodes, if there is one.
    pub(crate) fn hang_up(&mut self, a: usize, b: usize) {
        let pair = &mut self.pairs[a.min(b) * self.n + a.max(b)];
        (pair.ready_us, pair.life) = (None, pair.life + 1);
        for (from, to) in [(a, b), (b, a)] {
            *self.lane(from, to) = Lane::default();
        }
    }

    /// Sends on the connection between two nodes that can reach each other, opening it if need be.
    pub(crate) fn fate(&mut self, now_us: u64, from: usize, to: usize, rng: &mut ChaCha8Rng) -> Fate {
        let weather = &self.weather;
        let pair = &mut self.pairs[from.min(to) * self.n + from.max(to)];
        let ready_us = *pair.ready_us.get_or_insert_with(|| {
            // TCP, TLS and the choice of a protocol: three round trips.
            let trips: u64 = (0..6).map(|_| weather.delay(rng)).sum();
            self.sent_bytes[from] += DIAL_BYTES;
            self.sent_bytes[to] += DIAL_BYTES;
            now_us + trips
        });
        if rng.random_bool(weather.break_share) {
            return Fate::Breaks;
        }
        let mut arrival_us = now_us.max(ready_us) + weather.delay(rng);
        if rng.random_bool(weather.stall_share) {
            arrival_us += draw(weather.stall_us, rng);
        }
        let lane = &mut self.lanes[from * self.n + to];
        // INVARIANT: a stream keeps its order, so one late message holds up all behind it.
        lane.arrival_us = arrival_us.max(lane.arrival_us);
        Fate::Arrives(lane.arrival_us)
    }
}
