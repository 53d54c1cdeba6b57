//! Whole services in virtual time: instances that fall silent, die, or come back, under a steady load.
//!
//! Each test runs over several seeds, with 2 and with 10 instances; a failure prints which.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::call::{Attempt, Outcome, Request, Route};
use crate::config::Config;
use crate::endpoint::{EndpointId, State};
use crate::testing::{Story, answered, idx_of, ms, service};

const DEADLINE: Duration = Duration::from_secs(1);
/// From the caller's node to the server's and back.
const ROUND_TRIP: Duration = Duration::from_micros(400);

/// What is wrong with an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Nothing comes back, not even a reset.
    Cut,
    /// Connections are reset, and new ones refused.
    Killed,
}

/// Something that is to happen.
#[derive(Debug)]
enum Event {
    Arrival,
    Ends { call: usize, outcome: Outcome },
    Fault(Option<Fault>),
}

struct Call {
    route: Route,
    began: Duration,
    tried: Vec<EndpointId>,
    is_open: bool,
}

/// A service of `n` instances. Instance 0 is the one that has faults.
struct World {
    story: Story,
    rng: ChaCha8Rng,
    time: Duration,
    agenda: BinaryHeap<Reverse<(Duration, usize)>>,
    events: Vec<Option<Event>>,
    calls: Vec<Call>,
    fault: Option<Fault>,
    rate: u32,
    /// How long instances work on a call.
    work: fn(&mut ChaCha8Rng) -> Duration,
    /// When calls failed for their callers.
    failed: Vec<Duration>,
    /// When calls were sent to instance 0.
    sent: Vec<Duration>,
    taken: Vec<u32>,
}

impl World {
    fn new(n: usize, seed: u64, rate: u32) -> Self {
        let mut world = Self {
            story: Story::with(n, Config::default(), seed),
            rng: ChaCha8Rng::seed_from_u64(seed ^ 0x51),
            time: Duration::ZERO,
            agenda: BinaryHeap::new(),
            events: Vec::new(),
            calls: Vec::new(),
            fault: None,
            rate,
            work: |rng| Duration::from_micros(rng.random_range(4500..5500)),
            failed: Vec::new(),
            sent: Vec::new(),
            taken: vec![0; n],
        };
        world.at(Duration::ZERO, Event::Arrival);
        world
    }

    fn at(&mut self, time: Duration, event: Event) {
        self.agenda.push(Reverse((time, self.events.len())));
        self.events.push(Some(event));
    }

    fn runs_until(&mut self, end: Duration) {
        while let Some(Reverse((time, idx))) =
            self.agenda.peek().copied().filter(|Reverse((at, _))| *at <= end)
        {
            self.agenda.pop();
            self.story.waits(time - self.time);
            self.time = time;
            match self.events[idx].take().expect("an event happens once") {
                Event::Arrival => {
                    self.send(self.time, Vec::new());
                    let gap = Duration::from_secs(1) / self.rate;
                    let gap = gap.mul_f64(-(1.0 - self.rng.random::<f64>()).ln());
                    self.at(self.time + gap, Event::Arrival);
                }
                Event::Ends { call, outcome } => self.end(call, outcome),
                Event::Fault(fault) => self.strike(fault),
            }
        }
        self.story.waits(end - self.time);
        self.time = end;
    }

    fn send(&mut self, began: Duration, tried: Vec<EndpointId>) {
        let attempt = if tried.is_empty() { Attempt::First } else { Attempt::Again(&tried) };
        let deadline = Some(self.story.now.mono + (began + DEADLINE).saturating_sub(self.time));
        let request = Request { service: &service(), deadline, attempt };
        let route = match self.story.router.decide(self.story.now, &request) {
            crate::Decision::Send(route) => route,
            crate::Decision::Refuse(_) => return self.failed.push(self.time),
        };
        let idx = idx_of(&route.endpoint);
        self.taken[idx] += 1;
        let fault = self.fault.filter(|_| idx == 0);
        if idx == 0 {
            self.sent.push(self.time);
        }
        let (took, outcome) = match fault {
            None => {
                let took = ROUND_TRIP + (self.work)(&mut self.rng);
                (took, answered(took))
            }
            // Before it is sent, the shell waits in vain for a sign of life.
            Some(Fault::Cut) if route.is_trial => ((began + DEADLINE - self.time) / 2, Outcome::Unsent),
            Some(Fault::Cut) => (began + DEADLINE - self.time, Outcome::TimedOut),
            Some(Fault::Killed) => (ROUND_TRIP, Outcome::Unsent),
        };
        let call = self.calls.len();
        self.at(self.time + took, Event::Ends { call, outcome });
        self.calls.push(Call { route, began, tried, is_open: true });
    }

    fn end(&mut self, call: usize, outcome: Outcome) {
        if !std::mem::take(&mut self.calls[call].is_open) {
            return;
        }
        let route = self.calls[call].route.clone();
        self.story.reports(&route, outcome);
        match outcome {
            Outcome::Answered { .. } => {}
            Outcome::Unsent => {
                let mut tried = std::mem::take(&mut self.calls[call].tried);
                tried.push(route.endpoint.id.clone());
                self.send(self.calls[call].began, tried);
            }
            _ => self.failed.push(self.time),
        }
    }

    fn strike(&mut self, fault: Option<Fault>) {
        self.fault = fault;
        let is_hit = |call: &Call| call.is_open && idx_of(&call.route.endpoint) == 0;
        let hit: Vec<usize> = (0..self.calls.len()).filter(|idx| is_hit(&self.calls[*idx])).collect();
        for call in hit {
            match fault {
                Some(Fault::Killed) => self.end(call, Outcome::Lost),
                Some(Fault::Cut) => {
                    let at = self.calls[call].began + DEADLINE;
                    let route = self.calls[call].route.clone();
                    let began = self.calls[call].began;
                    // Its answer does not come through.
                    self.calls[call].is_open = false;
                    let idx = self.calls.len();
                    self.calls.push(Call { route, began, tried: Vec::new(), is_open: true });
                    self.at(at, Event::Ends { call: idx, outcome: Outcome::TimedOut });
                }
                None => {}
            }
        }
    }

    /// When calls were sent to instance 0 in the seconds after `from`.
    fn sent_after(&self, from: Duration) -> Vec<Duration> {
        self.sent.iter().copied().filter(|at| *at > from).collect()
    }
}

fn each(check: impl Fn(usize, u64)) {
    for n in [2, 10] {
        for seed in 1..=8 {
            eprintln!("{n} instances, seed {seed}");
            check(n, seed);
        }
    }
}

const FAULT_AT: Duration = Duration::from_secs(20);
const END: Duration = Duration::from_secs(80);

#[test]
fn an_instance_that_falls_silent_costs_few_calls() {
    each(|n, seed| {
        let mut world = World::new(n, seed, 200);
        world.at(FAULT_AT, Event::Fault(Some(Fault::Cut)));
        world.runs_until(END);
        let before = world.failed.iter().filter(|at| **at <= FAULT_AT).count();
        let late = world.sent_after(FAULT_AT + ms(100));
        eprintln!("  {} failed, tried at {late:.1?}", world.failed.len());
        assert_eq!(before, 0);
        assert!(world.failed.len() <= 5, "{} failed", world.failed.len());
        // Not one but to see whether it is back, ever more rarely.
        assert!(late.len() <= 8, "{late:?}");
        assert!(matches!(world.story.state(0), State::Ejected { .. }));
    });
}

#[test]
fn an_instance_that_is_killed_costs_fewer() {
    each(|n, seed| {
        let mut world = World::new(n, seed, 200);
        world.at(FAULT_AT, Event::Fault(Some(Fault::Killed)));
        world.runs_until(END);
        let late = world.sent_after(FAULT_AT + ms(200));
        eprintln!("  {} failed, tried at {late:.1?}", world.failed.len());
        assert!(world.failed.len() <= 5, "{} failed", world.failed.len());
        assert!(late.len() <= 8, "{late:?}");
        assert!(matches!(world.story.state(0), State::Ejected { .. }));
    });
}

#[test]
fn an_instance_that_comes_back_takes_its_share() {
    for fault in [Fault::Cut, Fault::Killed] {
        each(|n, seed| {
            let mut world = World::new(n, seed, 200);
            world.at(FAULT_AT, Event::Fault(Some(fault)));
            world.at(FAULT_AT + ms(10_000), Event::Fault(None));
            world.runs_until(FAULT_AT + ms(45_000));
            world.taken.fill(0);
            world.runs_until(FAULT_AT + ms(65_000));
            let (mine, all) = (world.taken[0], world.taken.iter().sum::<u32>());
            let share = f64::from(mine) * n as f64 / f64::from(all);
            eprintln!("  {fault:?}: {share:.2} of its share");
            assert!((0.6..=1.4).contains(&share), "{share}");
        });
    }
}

#[test]
fn equal_instances_are_called_equally_and_none_fails() {
    each(|n, seed| {
        let mut world = World::new(n, seed, 1000);
        world.runs_until(Duration::from_secs(20));
        let all: u32 = world.taken.iter().sum();
        for taken in &world.taken {
            let share = f64::from(*taken) * n as f64 / f64::from(all);
            assert!((0.8..=1.2).contains(&share), "{:?}", world.taken);
        }
        assert!(world.failed.is_empty());
    });
}

/// One call in ten takes a hundred times as long as the others, and more than any patience.
#[test]
fn slow_methods_do_not_look_like_silence() {
    each(|n, seed| {
        let mut world = World::new(n, seed, 200);
        world.work = |rng| ms(if rng.random_bool(0.1) { 500 } else { 5 });
        world.runs_until(Duration::from_secs(30));
        let all: u32 = world.taken.iter().sum();
        let least = world.taken.iter().min().copied().unwrap_or_default();
        let share = f64::from(least) * n as f64 / f64::from(all);
        eprintln!("  the least gets {share:.2} of its share");
        assert!(share > 0.6 && world.failed.is_empty(), "{:?}", world.taken);
    });
}
