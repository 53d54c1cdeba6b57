//! How one endpoint stands: what it costs to call it, and whether it is out.
//!
//! It goes out at once when it cannot be reached, breaks a connection or falls silent, and after several failures
//! in a row otherwise. After a pause it gets one call to be tried with; the pause doubles each time until such a
//! call is answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::call::Outcome;
use crate::calls::Call;
use crate::config::Config;
use crate::endpoint::{Endpoint, State, View, Why};
use crate::latency::Latency;
use crate::silence::Silence;

/// Statuses by which a server, not a caller, is at fault (grpc/doc/statuscodes.md): UNKNOWN, DEADLINE_EXCEEDED,
/// INTERNAL, UNAVAILABLE, DATA_LOSS.
const FAILURES: [u8; 5] = [2, 4, 13, 14, 15];
/// How much pauses vary, so that nodes do not try an endpoint all at once.
const JITTER: std::ops::Range<f64> = 0.8..1.2;
/// Beyond this a doubled pause has met its bound.
const STRIKES_MAX: u32 = 20;

/// Why an endpoint is out, the least bad first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    Ejected(Why),
    // The worst: a call to it costs its whole deadline, while one that is not sent can be sent elsewhere.
    Silent,
}

/// Since when an endpoint is out.
#[derive(Clone, Copy, Debug)]
struct Out {
    cause: Cause,
    since: Instant,
    /// When it gets a call to be tried with. Put off as that call is sent, so that there is only one.
    until: Instant,
}

/// How far a call would sink to be sent somewhere; the least counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) is_out: bool,
    /// The call was sent there before, in vain.
    is_tried: bool,
    cause: Option<Cause>,
}

/// One endpoint and what became of calls to it.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) endpoint: Arc<Endpoint>,
    /// Whether it is still offered. One that is not stays until its last call is reported.
    pub(crate) is_listed: bool,
    pub(crate) in_flight: u32,
    latency: Latency,
    silence: Silence,
    failures: u32,
    strikes: u32,
    out: Option<Out>,
    /// When it was last let in again: failures of calls that began earlier are stale.
    restored: Option<Instant>,
}

impl Standing {
    pub(crate) fn new(endpoint: &Endpoint) -> Self {
        Self {
            endpoint: Arc::new(endpoint.clone()),
            is_listed: true,
            in_flight: 0,
            latency: Latency::default(),
            silence: Silence::default(),
            failures: 0,
            strikes: 0,
            out: None,
            restored: None,
        }
    }

    /// Takes in what is said of the endpoint now.
    pub(crate) fn refresh(&mut self, now: Instant, endpoint: &Endpoint) {
        self.is_listed = true;
        if *self.endpoint == *endpoint {
            return;
        }
        if self.endpoint.address != endpoint.address {
            // What was learnt is about another place.
            self.silence.heard();
            self.latency = Latency::default();
            self.restore(now);
        } else if !self.endpoint.is_healthy
            && let Some(out) = &mut self.out
        {
            // Its node is back: it may be tried at once.
            out.until = now;
            self.strikes = 0;
        }
        self.endpoint = Arc::new(endpoint.clone());
    }

    /// Whether it is offered and well by its own word.
    pub(crate) fn is_open(&self) -> bool {
        self.is_listed && self.endpoint.is_healthy
    }

    /// Whether it is neither ejected nor known to be stalled.
    pub(crate) fn is_in(&self) -> bool {
        self.out.is_none()
    }

    /// Whether it failed so often in a row that it had better be ejected.
    pub(crate) fn is_failing(&self, config: &Config) -> bool {
        self.out.is_none() && self.failures >= config.eject_failures
    }

    pub(crate) fn rank(&self, is_tried: bool) -> Rank {
        Rank { is_out: self.out.is_some(), is_tried, cause: self.out.map(|out| out.cause) }
    }

    /// When it may be tried, if it is out.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.out.map(|out| out.until)
    }

    /// Whether a call to it is safe to be sent elsewhere if it fails: connecting fails, and nothing is sent.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.out.is_some_and(|out| out.cause == Cause::Ejected(Why::Unreachable))
    }

    /// Whether it has answered since it came, or came back.
    pub(crate) fn is_measured(&self) -> bool {
        self.latency.is_known()
    }

    /// What it is expected to take, in seconds; `None` before its first answer.
    pub(crate) fn peak(&self, now: Instant, config: &Config) -> Option<f64> {
        self.latency.peak(now, config.decay)
    }

    /// The cost of one more call. Silence counts as a latency long before any deadline passes.
    pub(crate) fn cost(&self, now: Instant, config: &Config, neutral: f64) -> f64 {
        let peak = self.latency.peak(now, config.decay).unwrap_or(neutral);
        peak.max(self.silence.at(now).as_secs_f64()) * (f64::from(self.in_flight) + 1.0)
    }

    /// Finds out whether it has stalled by now.
    pub(crate) fn notice(&mut self, now: Instant, config: &Config, rng: &mut ChaCha8Rng, neutral: f64) {
        if self.out.is_none() && self.is_silent(now, config, neutral) {
            self.leave(now, Cause::Silent, config, rng);
        }
    }

    /// Sends a call and returns its epoch, for [`Call::epoch`].
    pub(crate) fn send(&mut self, now: Instant, config: &Config, rng: &mut ChaCha8Rng) -> u64 {
        self.in_flight += 1;
        if let Some(Out { cause, since, until }) = self.out
            && until <= now
        {
            self.strikes = (self.strikes + 1).min(STRIKES_MAX);
            let until = now + pause(cause, self.strikes, config, rng);
            self.out = Some(Out { cause, since, until });
        }
        self.silence.sent(now)
    }

    /// Learns what became of a call, all but whether many failures get it ejected: see
    /// [`Standing::is_failing`].
    pub(crate) fn learn(
        &mut self,
        now: Instant,
        (call, outcome): (&Call, Outcome),
        neutral: f64,
        config: &Config,
        rng: &mut ChaCha8Rng,
    ) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let age = || now.saturating_duration_since(call.began);
        match outcome {
            Outcome::Answered { latency, status } => {
                self.silence.heard();
                self.answer(now, call.began, latency, status, config);
            }
            Outcome::Unsent | Outcome::Lost => {
                self.silence.settle(call.epoch);
                let why = if outcome == Outcome::Lost { Why::Lost } else { Why::Unreachable };
                self.break_off(now, call.began, why, config, rng);
            }
            Outcome::TimedOut => {
                self.latency.worsen(now, age(), config.decay);
                self.fail(call.began);
            }
            // Who gives up early says nothing of the endpoint; who gives up late has waited in vain.
            Outcome::Cancelled if age() < self.patience(config, neutral) => self.silence.settle(call.epoch),
            Outcome::Cancelled if self.silence.is_heard_since(call.epoch) => {}
            Outcome::Cancelled => self.latency.worsen(now, age(), config.decay),
        }
    }

    /// Takes it out for its failures.
    pub(crate) fn eject(&mut self, now: Instant, config: &Config, rng: &mut ChaCha8Rng) {
        self.leave(now, Cause::Ejected(Why::Failing), config, rng);
    }

    pub(crate) fn view(&self, now: Instant, config: &Config, neutral: f64) -> View {
        let state = match self.out {
            _ if !self.endpoint.is_healthy => State::Unhealthy,
            Some(Out { cause: Cause::Ejected(why), until, .. }) => State::Ejected { until, why },
            Some(Out { cause: Cause::Silent, .. }) => State::Stalled,
            None if self.is_silent(now, config, neutral) => State::Stalled,
            None => State::Ready,
        };
        let latency = self.latency.peak(now, config.decay).map(Duration::from_secs_f64);
        View { endpoint: self.endpoint.clone(), in_flight: self.in_flight, latency, state }
    }

    fn answer(
        &mut self,
        now: Instant,
        began: Instant,
        latency: Duration,
        status: Option<u8>,
        config: &Config,
    ) {
        let has_failed = status.is_some_and(|status| FAILURES.contains(&status));
        let is_back = |out: Out| out.cause == Cause::Silent || (!has_failed && began >= out.since);
        if self.out.is_some_and(is_back) {
            self.latency.forgive();
            self.restore(now);
        }
        if has_failed {
            // Failing is often fast; that must not attract calls.
            self.latency.worsen(now, latency, config.decay);
            self.fail(began);
        } else {
            self.latency.observe(now, latency, config.decay);
            self.failures = 0;
        }
    }

    /// A call that began then found no connection, or lost it.
    fn break_off(&mut self, now: Instant, began: Instant, why: Why, config: &Config, rng: &mut ChaCha8Rng) {
        let is_stale = self.is_stale(began);
        match &mut self.out {
            Some(out) if began >= out.since => out.cause = Cause::Ejected(why),
            None if !is_stale => self.leave(now, Cause::Ejected(why), config, rng),
            _ => {}
        }
    }

    fn fail(&mut self, began: Instant) {
        if !self.is_stale(began) {
            self.failures = self.failures.saturating_add(1);
        }
    }

    fn is_stale(&self, began: Instant) -> bool {
        self.restored.is_some_and(|restored| began < restored)
    }

    fn leave(&mut self, now: Instant, cause: Cause, config: &Config, rng: &mut ChaCha8Rng) {
        let until = now + pause(cause, self.strikes, config, rng);
        self.out = Some(Out { cause, since: now, until });
    }

    fn restore(&mut self, now: Instant) {
        self.out = None;
        self.strikes = 0;
        self.failures = 0;
        self.restored = Some(now);
    }

    fn is_silent(&self, now: Instant, config: &Config, neutral: f64) -> bool {
        let silence = self.silence.at(now);
        silence > config.stall_min && silence > self.patience(config, neutral)
    }

    /// For how long it may be silent.
    fn patience(&self, config: &Config, neutral: f64) -> Duration {
        let usual = self.latency.usual().unwrap_or(neutral) * f64::from(config.stall_factor);
        config.stall_min.max(Duration::try_from_secs_f64(usual).unwrap_or(Duration::MAX))
    }
}

fn pause(cause: Cause, strikes: u32, config: &Config, rng: &mut ChaCha8Rng) -> Duration {
    let first = if cause == Cause::Silent { config.stall_retry } else { config.eject_min };
    let longest = config.eject_max.max(first);
    first.saturating_mul(1 << strikes).min(longest).mul_f64(rng.random_range(JITTER))
}
