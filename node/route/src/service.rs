//! The endpoints of one service, and the choice among them.
//!
//! Power of two choices (Mitzenmacher, "The power of two choices in randomized load balancing", 2001): of two
//! endpoints drawn at random the cheaper one is taken. It comes close to the best of all, and nodes that know
//! the same do not run to the same endpoint.

use std::time::Instant;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use types::{Reason, Refusal, ServiceName, TrustDomain};

use crate::budget::Budget;
use crate::call::{Attempt, Outcome};
use crate::calls::Call;
use crate::config::Config;
use crate::endpoint::{Endpoint, EndpointId, State, View};
use crate::standing::{Rank, Standing};

/// Most endpoints of a service that are looked at; healthy ones come first.
pub const ENDPOINTS_MAX: usize = 1024;
/// What the latency of the first endpoint is taken for before its first answer, in seconds.
const LATENCY_UNKNOWN: f64 = 0.001;
/// How many calls lie at least between two that are risked to see whether an endpoint is back. So at most one
/// call in so many fails for it, however few there are.
const TRIAL_SPACING: u32 = 20;

/// One service as a router knows it.
#[derive(Debug)]
pub(crate) struct Service {
    name: ServiceName,
    /// Sorted by node, each once.
    endpoints: Vec<Standing>,
    pub(crate) in_flight: u32,
    pub(crate) budget: Budget,
    /// The median of what its endpoints take, in seconds: what a new one is taken to cost.
    neutral: f64,
    calls_since_trial: u32,
}

impl Service {
    pub(crate) fn new(now: Instant, name: &ServiceName, config: &Config) -> Self {
        Self {
            name: name.clone(),
            endpoints: Vec::new(),
            in_flight: 0,
            budget: Budget::new(now, config),
            neutral: LATENCY_UNKNOWN,
            calls_since_trial: TRIAL_SPACING,
        }
    }

    /// Replaces what is known of where it is; returns how many endpoints were left out.
    pub(crate) fn update(&mut self, now: Instant, config: &Config, list: &[Endpoint]) -> usize {
        for standing in &mut self.endpoints {
            standing.is_listed = false;
        }
        let (mut n_listed, mut left_out) = (0, 0);
        let of_mine = || list.iter().filter(|endpoint| endpoint.id.service == self.name);
        let in_order = of_mine().filter(|e| e.is_healthy).chain(of_mine().filter(|e| !e.is_healthy));
        for endpoint in in_order {
            let place = position(&self.endpoints, &endpoint.id.node);
            match place {
                Ok(idx) if self.endpoints[idx].is_listed => continue,
                _ if n_listed == ENDPOINTS_MAX => {
                    left_out += 1;
                    continue;
                }
                Ok(idx) => self.endpoints[idx].refresh(now, endpoint),
                Err(idx) => self.endpoints.insert(idx, Standing::new(endpoint)),
            }
            n_listed += 1;
        }
        self.endpoints.retain(|standing| standing.is_listed || standing.in_flight > 0);
        self.settle_neutral(now, config);
        left_out
    }

    /// Whether nothing is left of it.
    pub(crate) fn is_gone(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// Whether any node offers it.
    pub(crate) fn is_known(&self) -> bool {
        self.endpoints.iter().any(|standing| standing.is_listed)
    }

    /// Picks the endpoint for an attempt and returns its index. `candidates` is working space.
    ///
    /// # Errors
    /// [`Reason::NoEndpoint`] or [`Reason::Overloaded`].
    pub(crate) fn pick(
        &mut self,
        now: Instant,
        attempt: Attempt<'_>,
        config: &Config,
        rng: &mut ChaCha8Rng,
        candidates: &mut Vec<usize>,
    ) -> Result<usize, Refusal> {
        let (tried, may_try): (&[EndpointId], bool) = match attempt {
            Attempt::First => (&[], true),
            Attempt::Again(tried) => (tried, false),
        };
        self.calls_since_trial = self.calls_since_trial.saturating_add(1);
        candidates.clear();
        let mut best: Option<Rank> = None;
        let mut due: Option<(Instant, usize)> = None;
        let (mut is_any_open, mut is_any_in) = (false, false);
        for (idx, standing) in self.endpoints.iter_mut().enumerate() {
            if !standing.is_open() {
                continue;
            }
            is_any_open = true;
            standing.notice(now, config, rng, self.neutral);
            is_any_in |= standing.is_in();
            if standing.in_flight >= config.endpoint_calls_max {
                continue;
            }
            let is_spaced = self.calls_since_trial > TRIAL_SPACING || standing.is_unreachable();
            if let Some(until) = standing.until().filter(|until| *until <= now && may_try && is_spaced) {
                due = Some(due.map_or((until, idx), |other| other.min((until, idx))));
            }
            let rank = standing.rank(tried.contains(&standing.endpoint.id));
            if best.is_none_or(|best| rank < best) {
                candidates.clear();
                best = Some(rank);
            }
            if best == Some(rank) {
                candidates.push(idx);
            }
        }
        if let Some((_, idx)) = due {
            if !self.endpoints[idx].is_unreachable() {
                self.calls_since_trial = 0;
            }
            return Ok(idx);
        }
        // Better refused than risked: an endpoint that is out is no relief for those that are full.
        if is_any_in && best.is_some_and(|best| best.is_out) {
            candidates.clear();
        }
        match *candidates.as_slice() {
            [] if is_any_open => Err(Reason::Overloaded.because(format!(
                "every endpoint of `{}` that takes calls has {} in flight (route.endpoint_calls_max)",
                self.name, config.endpoint_calls_max
            ))),
            [] => {
                Err(Reason::NoEndpoint.because(format!("`{}` has {}", self.name, self.census(now, config))))
            }
            [only] => Ok(only),
            ref several => Ok(self.cheaper(now, several, config, rng)),
        }
    }

    /// Whether the endpoint at `idx` is neither ejected nor known to be stalled.
    pub(crate) fn is_in(&self, idx: usize) -> bool {
        self.endpoints[idx].is_in()
    }

    /// Sends an attempt to the endpoint at `idx`.
    pub(crate) fn send(&mut self, now: Instant, idx: usize, config: &Config, rng: &mut ChaCha8Rng) -> Call {
        let standing = &mut self.endpoints[idx];
        let epoch = standing.send(now, config, rng);
        self.in_flight += 1;
        Call { endpoint: standing.endpoint.clone(), began: now, epoch }
    }

    /// Learns what became of a call of its own.
    pub(crate) fn learn(
        &mut self,
        now: Instant,
        call: &Call,
        outcome: Outcome,
        config: &Config,
        rng: &mut ChaCha8Rng,
    ) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let Ok(idx) = position(&self.endpoints, &call.endpoint.id.node) else {
            debug_assert!(false, "an endpoint stays while calls to it are in flight");
            return;
        };
        let standing = &mut self.endpoints[idx];
        let was_measured = standing.is_measured();
        standing.learn(now, (call, outcome), self.neutral, config, rng);
        let (is_failing, is_over) =
            (standing.is_failing(config), !standing.is_listed && standing.in_flight == 0);
        let is_first = !was_measured && standing.is_measured();
        if is_over {
            self.endpoints.remove(idx);
        } else if is_failing && self.may_eject(config) {
            self.endpoints[idx].eject(now, config, rng);
        }
        if is_first {
            self.settle_neutral(now, config);
        }
    }

    pub(crate) fn views(&self, now: Instant, config: &Config) -> Vec<View> {
        let listed = self.endpoints.iter().filter(|standing| standing.is_listed);
        listed.map(|standing| standing.view(now, config, self.neutral)).collect()
    }

    /// How many endpoints there are and what is wrong with them, in words.
    pub(crate) fn census(&self, now: Instant, config: &Config) -> String {
        let views = self.views(now, config);
        let count = |is: fn(&State) -> bool| views.iter().filter(|view| is(&view.state)).count();
        let counts = [
            (count(|state| *state == State::Unhealthy), "unhealthy"),
            (count(|state| matches!(state, State::Ejected { .. })), "ejected"),
            (count(|state| *state == State::Stalled), "stalled"),
        ];
        let counts = counts.iter().filter(|(n, _)| *n > 0);
        let wrong: Vec<String> = counts.map(|(n, what)| format!("{n} {what}")).collect();
        let plural = if views.len() == 1 { "" } else { "s" };
        let colon = if wrong.is_empty() { "" } else { ": " };
        format!("{} endpoint{plural}{colon}{}", views.len(), wrong.join(", "))
    }

    fn cheaper(&self, now: Instant, among: &[usize], config: &Config, rng: &mut ChaCha8Rng) -> usize {
        let one = rng.random_range(0..among.len());
        let other = rng.random_range(0..among.len() - 1);
        let (one, other) = (among[one], among[if other < one { other } else { other + 1 }]);
        // Who has not answered yet is taken to be as good as the other: what was usual once may be long past.
        let peak = |idx: usize| self.endpoints[idx].peak(now, config);
        let neutral = peak(one).or_else(|| peak(other)).unwrap_or(self.neutral);
        let cost = |idx: usize| self.endpoints[idx].cost(now, config, neutral);
        if cost(other) < cost(one) { other } else { one }
    }

    /// Whether one more endpoint may be ejected for its failures.
    fn may_eject(&self, config: &Config) -> bool {
        let n_open = self.endpoints.iter().filter(|standing| standing.is_open()).count();
        let n_in = self.endpoints.iter().filter(|standing| standing.is_open() && standing.is_in()).count();
        let floor = (n_open * usize::from(config.healthy_floor_percent)).div_ceil(100);
        n_in > floor
    }

    fn settle_neutral(&mut self, now: Instant, config: &Config) {
        let listed = self.endpoints.iter().filter(|standing| standing.is_listed);
        let mut peaks: Vec<f64> = listed.filter_map(|standing| standing.peak(now, config)).collect();
        if !peaks.is_empty() {
            let middle = peaks.len() / 2;
            self.neutral = *peaks.select_nth_unstable_by(middle, f64::total_cmp).1;
        }
    }
}

fn position(endpoints: &[Standing], node: &TrustDomain) -> Result<usize, usize> {
    endpoints.binary_search_by(|standing| standing.endpoint.id.node.cmp(node))
}
