//! The mesh: nodes, the network between them, and what is done to both.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use types::{Now, Timestamp};

use crate::net::{Fate, Net, Weather, draw};
use crate::wheel::Wheel;

/// Processes that starve alternate between 1–20 s of standing still and 1–20 s of running.
const STARVED_US: (u64, u64) = (1_000_000, 20_000_000);
/// When virtual time begins.
const EPOCH_S: u64 = 1_800_000_000;

/// What a simulated node must do. Nodes are known by their index.
pub trait Node {
    /// Digests one event.
    fn handle(&mut self, now: Now, event: Event<'_>, out: &mut Vec<Action>);
    /// When it wants to be woken.
    fn next_deadline(&self) -> Option<Instant>;
}

/// What happens to a node.
pub enum Event<'a> {
    /// Its deadline has come.
    Tick,
    /// A message came in.
    Received {
        /// From whom.
        from: usize,
        /// The message.
        bytes: &'a [u8],
    },
    /// The connection to this node broke.
    Broken(usize),
}

/// What a node does.
pub enum Action {
    /// Sends a message.
    Send {
        /// To whom.
        to: usize,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Changes its mind about another.
    Judge {
        /// About whom.
        about: usize,
        /// What it thinks now.
        verdict: Verdict,
    },
    /// Took over a new record of another.
    Learn {
        /// Whose.
        about: usize,
        /// Its version.
        version: u64,
    },
}

/// What one node thinks of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words say it")]
pub enum Verdict {
    Alive,
    Suspect,
    Dead,
    Left,
}

/// What an onlooker sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A node changed its mind about another.
    Judged {
        /// When.
        at_us: u64,
        /// Who.
        by: usize,
        /// About whom.
        about: usize,
        /// What it thinks now.
        verdict: Verdict,
    },
    /// A node took over a new record of another.
    Learned {
        /// When.
        at_us: u64,
        /// Who.
        by: usize,
        /// Whose.
        about: usize,
        /// Its version.
        version: u64,
    },
}

struct Slot<N> {
    /// Absent while the machine is down.
    node: Option<N>,
    wake_us: u64,
    /// Messages that wait in the kernel while the process stands still.
    inbox: Vec<Happening>,
    is_stalled: bool,
    /// When it last ran again.
    ran_since_us: u64,
    /// Which side of a partition it is on.
    side: u8,
    is_starving: bool,
    /// How far its wall clock is off.
    skew: Duration,
    is_fast: bool,
}

enum Happening {
    Tick,
    Message { from: usize, life: u32, bytes: Vec<u8> },
    Broken { peer: usize },
}

enum Due {
    Wake {
        node: usize,
    },
    Message {
        from: usize,
        to: usize,
        life: u32,
        bytes: Vec<u8>,
    },
    /// TCP gives up on a silent peer.
    GiveUp {
        from: usize,
        to: usize,
        life: u32,
    },
    Stall {
        node: usize,
    },
    Resume {
        node: usize,
    },
}

/// Many nodes under one clock.
pub struct Mesh<N> {
    seed: u64,
    now_us: u64,
    start: Instant,
    slots: Vec<Slot<N>>,
    net: Net,
    queue: Wheel<Due>,
    /// What TCP holds back for peers that do not answer.
    held: BTreeMap<(usize, usize), Vec<Vec<u8>>>,
    rng: ChaCha8Rng,
    actions: Vec<Action>,
}

impl<N: Node> Mesh<N> {
    /// `n` machines, all of them down.
    pub fn new(seed: u64, n: usize, weather: Weather) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let slots = (0..n).map(|_| Slot {
            node: None,
            wake_us: u64::MAX,
            inbox: Vec::new(),
            is_stalled: false,
            ran_since_us: 0,
            side: 0,
            is_starving: false,
            skew: Duration::from_millis(rng.random_range(0..300_000)),
            is_fast: rng.random_bool(0.5),
        });
        let slots = slots.collect();
        Self {
            seed,
            now_us: 0,
            start: Instant::now(),
            slots,
            net: Net::new(n, weather),
            queue: Wheel::new(),
            held: BTreeMap::new(),
            rng,
            actions: Vec::new(),
        }
    }

    /// The seed of this run, for messages of failing tests.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Virtual time in µs.
    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    /// Virtual time as node `idx` sees it, with its own wrong clock.
    pub fn now_of(&self, idx: usize) -> Now {
        let since = Duration::from_micros(self.now_us);
        let wall = Timestamp::from_secs(EPOCH_S) + since;
        let slot = &self.slots[idx];
        let wall = if slot.is_fast { wall + slot.skew } else { wall - slot.skew };
        Now { mono: self.start + since, wall }
    }

    /// How many machines there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Node `idx`, unless its machine is down.
    pub fn node(&self, idx: usize) -> Option<&N> {
        self.slots[idx].node.as_ref()
    }

    /// Nodes whose machine is up.
    pub fn up(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.len()).filter(|idx| self.slots[*idx].node.is_some())
    }

    /// Whether the process of node `idx` has been running for at least `secs` seconds.
    pub fn has_run_for(&self, idx: usize, secs: u64) -> bool {
        let slot = &self.slots[idx];
        !slot.is_stalled && self.now_us - slot.ran_since_us >= secs * 1_000_000
    }

    /// Bytes that all nodes have put on the wire so far, overheads included.
    pub fn sent_bytes(&self) -> u64 {
        self.net.sent_bytes.iter().sum()
    }

    /// Messages that all nodes have sent so far.
    pub fn sent(&self) -> u64 {
        self.net.sent.iter().sum()
    }

    /// Bytes of the longest message so far.
    pub fn longest_bytes(&self) -> usize {
        self.net.longest_bytes
    }

    /// Sets the wall clock of machine `idx` back by so much.
    pub fn set_clock_back(&mut self, idx: usize, by: Duration) {
        let slot = &mut self.slots[idx];
        (slot.skew, slot.is_fast) = (by, false);
    }

    /// A number below `n` from the run's own randomness.
    pub fn pick(&mut self, n: usize) -> usize {
        self.rng.random_range(0..n)
    }

    /// A wait in seconds, exponential with this mean.
    pub fn draw_wait(&mut self, mean_s: f64) -> f64 {
        -self.rng.random_range(f64::EPSILON..1.0).ln() * mean_s
    }

    /// Puts a node on machine `idx`, new or in the place of a former one.
    pub fn start(&mut self, idx: usize, node: N) {
        for other in 0..self.len() {
            // The new kernel knows nothing of the old connections: it resets them when they speak.
            if other != idx && self.held.remove(&(other, idx)).is_some() {
                self.happen(other, Happening::Broken { peer: idx }, &mut |_| {});
            }
            self.held.remove(&(idx, other));
            self.net.hang_up(idx, other);
        }
        let slot = &mut self.slots[idx];
        (slot.node, slot.is_stalled, slot.ran_since_us) = (Some(node), false, self.now_us);
        slot.inbox.clear();
        self.happen(idx, Happening::Tick, &mut |_| {});
    }

    /// Takes machine `idx` down, without a word to anyone.
    pub fn crash(&mut self, idx: usize) {
        self.slots[idx].node = None;
    }

    /// Lets someone speak to a node from outside; what it does is done.
    pub fn tell<R>(&mut self, idx: usize, say: impl FnOnce(Now, &mut N, &mut Vec<Action>) -> R) -> Option<R> {
        let now = self.now_of(idx);
        let mut actions = Vec::new();
        let node = self.slots[idx].node.as_mut()?;
        let answer = say(now, node, &mut actions);
        self.act(idx, &mut actions, &mut |_| {});
        self.reschedule(idx);
        Some(answer)
    }

    /// Parts the mesh: who is on another side cannot be reached.
    pub fn part(&mut self, side_of: impl Fn(usize) -> u8) {
        for (idx, slot) in self.slots.iter_mut().enumerate() {
            slot.side = side_of(idx);
        }
    }

    /// Ends the partition. TCP sends again what it holds, within its back-off.
    pub fn heal(&mut self) {
        self.part(|_| 0);
        for ((from, to), messages) in std::mem::take(&mut self.held) {
            if self.slots[to].node.is_none() {
                self.held.insert((from, to), messages);
                continue;
            }
            self.net.lane(from, to).silent_since_us = None;
            let at_us = self.now_us + self.rng.random_range(0..1_000_000);
            let life = self.net.life(from, to);
            for bytes in messages {
                self.queue.push(at_us, Due::Message { from, to, life, bytes });
            }
        }
    }

    /// From now on the process of node `idx` alternates between standing still and running.
    pub fn starve(&mut self, idx: usize) {
        self.slots[idx].is_starving = true;
        let at_us = self.now_us + draw(STARVED_US, &mut self.rng);
        self.queue.push(at_us, Due::Stall { node: idx });
    }

    /// The process of node `idx` stands still for `secs` seconds.
    pub fn stall(&mut self, idx: usize, secs: u64) {
        self.slots[idx].is_stalled = true;
        self.queue.push(self.now_us + secs * 1_000_000, Due::Resume { node: idx });
    }

    /// Runs for `secs` seconds.
    pub fn run(&mut self, secs: f64, mut see: impl FnMut(&Self, Seen)) {
        let end_us = self.now_us + micros(Duration::from_secs_f64(secs));
        let mut seen = Vec::new();
        while let Some((at_us, due)) = self.queue.pop_before(end_us) {
            self.now_us = self.now_us.max(at_us);
            self.run_due(due, &mut |what| seen.push(what));
            for what in seen.drain(..) {
                see(self, what);
            }
        }
        self.now_us = end_us;
    }

    fn run_due(&mut self, due: Due, see: &mut dyn FnMut(Seen)) {
        match due {
            Due::Wake { node } => {
                if self.slots[node].wake_us <= self.now_us {
                    self.slots[node].wake_us = u64::MAX;
                    self.happen(node, Happening::Tick, see);
                }
            }
            Due::Message { from, to, life, bytes } => {
                self.happen(to, Happening::Message { from, life, bytes }, see);
            }
            Due::GiveUp { from, to, life } => {
                let is_silent = self.net.lane(from, to).silent_since_us.is_some();
                if is_silent && self.net.life(from, to) == life {
                    self.held.remove(&(from, to));
                    self.net.hang_up(from, to);
                    self.happen(from, Happening::Broken { peer: to }, see);
                }
            }
            Due::Stall { node } => {
                self.slots[node].is_stalled = true;
                let at_us = self.now_us + draw(STARVED_US, &mut self.rng);
                self.queue.push(at_us, Due::Resume { node });
            }
            Due::Resume { node } => {
                let slot = &mut self.slots[node];
                (slot.is_stalled, slot.ran_since_us) = (false, self.now_us);
                for happening in std::mem::take(&mut slot.inbox) {
                    self.happen(node, happening, see);
                }
                self.happen(node, Happening::Tick, see);
                if self.slots[node].is_starving {
                    let at_us = self.now_us + draw(STARVED_US, &mut self.rng);
                    self.queue.push(at_us, Due::Stall { node });
                }
            }
        }
    }

    fn happen(&mut self, idx: usize, happening: Happening, see: &mut dyn FnMut(Seen)) {
        if self.slots[idx].is_stalled {
            if !matches!(happening, Happening::Tick) {
                self.slots[idx].inbox.push(happening);
            }
            return;
        }
        let now = self.now_of(idx);
        let event = match &happening {
            Happening::Tick => Event::Tick,
            // What a former connection had on its way is gone with it.
            Happening::Message { from, life, .. } if self.net.life(*from, idx) != *life => return,
            Happening::Message { from, bytes, .. } => Event::Received { from: *from, bytes },
            Happening::Broken { peer } => Event::Broken(*peer),
        };
        let mut actions = std::mem::take(&mut self.actions);
        let Some(node) = self.slots[idx].node.as_mut() else { return };
        node.handle(now, event, &mut actions);
        self.act(idx, &mut actions, see);
        self.actions = actions;
        self.reschedule(idx);
    }

    fn reschedule(&mut self, idx: usize) {
        let slot = &mut self.slots[idx];
        let Some(at) = slot.node.as_ref().and_then(Node::next_deadline) else { return };
        // Rounded up: a node that is woken too early asks again for the same moment.
        let at_us = micros(at.saturating_duration_since(self.start)) + 1;
        if at_us < slot.wake_us {
            slot.wake_us = at_us;
            self.queue.push(at_us, Due::Wake { node: idx });
        }
    }

    fn act(&mut self, by: usize, actions: &mut Vec<Action>, see: &mut dyn FnMut(Seen)) {
        let at_us = self.now_us;
        for action in actions.drain(..) {
            match action {
                Action::Send { to, bytes } => self.send(by, to, bytes, see),
                Action::Judge { about, verdict } => see(Seen::Judged { at_us, by, about, verdict }),
                Action::Learn { about, version } => see(Seen::Learned { at_us, by, about, version }),
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, bytes: Vec<u8>, see: &mut dyn FnMut(Seen)) {
        self.net.count(from, bytes.len());
        let is_reachable = self.slots[to].node.is_some() && self.slots[from].side == self.slots[to].side;
        let life = self.net.life(from, to);
        if !is_reachable {
            self.held.entry((from, to)).or_default().push(bytes);
            let now_us = self.now_us;
            let lane = self.net.lane(from, to);
            if lane.silent_since_us.is_none() {
                lane.silent_since_us = Some(now_us);
                let at_us = now_us + self.net.weather.user_timeout_us;
                self.queue.push(at_us, Due::GiveUp { from, to, life });
            }
            return;
        }
        match self.net.fate(self.now_us, from, to, &mut self.rng) {
            Fate::Arrives(at_us) => self.queue.push(at_us, Due::Message { from, to, life, bytes }),
            Fate::Breaks => {
                self.net.hang_up(from, to);
                self.happen(from, Happening::Broken { peer: to }, see);
                self.happen(to, Happening::Broken { peer: from }, see);
            }
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).expect("virtual time ends before 500,000 years")
}
