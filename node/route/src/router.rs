//! The core itself.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use types::{Now, ServiceName};

use crate::call::{Decision, Outcome, Request, Ticket};
use crate::config::Config;
use crate::endpoint::Endpoint;

/// Picks endpoints and learns from what became of calls.
pub struct Router {
    _config: Config,
    _rng: ChaCha8Rng,
}

impl Router {
    /// A router that knows no endpoint. `rng` is seeded by the caller.
    pub fn new(config: Config, rng: ChaCha8Rng) -> Self {
        Self { _config: config, _rng: rng }
    }

    /// Replaces what is known of where services are. What was learnt of endpoints that stay is kept.
    pub fn update(&mut self, _now: Now, _endpoints: &BTreeMap<ServiceName, Vec<Endpoint>>) {}

    /// Says where an attempt goes.
    pub fn decide(&mut self, _now: Now, _request: &Request<'_>) -> Decision {
        unreachable!("written by the next commit")
    }

    /// Learns what became of an attempt. A ticket that is not in flight changes nothing.
    pub fn report(&mut self, _now: Now, _ticket: Ticket, _outcome: Outcome) {}
}
