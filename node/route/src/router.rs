//! The core itself.

use std::collections::BTreeMap;
use std::time::Instant;

use rand_chacha::ChaCha8Rng;
use types::{Now, Reason, Refusal, ServiceName};

use crate::call::{Attempt, Decision, Outcome, Request, Route, Ticket};
use crate::calls::{CALLS_MAX, Calls};
use crate::config::Config;
use crate::endpoint::{Endpoint, EndpointId, View};
use crate::service::Service;

/// Most services that are routed to.
pub const SERVICES_MAX: usize = 4096;

/// Picks endpoints and learns from what became of calls.
pub struct Router {
    config: Config,
    rng: ChaCha8Rng,
    services: BTreeMap<ServiceName, Service>,
    calls: Calls,
    left_out: usize,
    /// Working space, kept so that a call allocates nothing.
    candidates: Vec<usize>,
}

impl Router {
    /// A router that knows no endpoint. `config` was checked and `rng` is seeded by the caller.
    pub fn new(config: Config, rng: ChaCha8Rng) -> Self {
        debug_assert_eq!(config.check(), Ok(()));
        Self {
            config,
            rng,
            services: BTreeMap::new(),
            calls: Calls::default(),
            left_out: 0,
            candidates: Vec::new(),
        }
    }

    /// Replaces what is known of where services are. What was learnt of endpoints that stay is kept. An endpoint
    /// stands under the service that its id names, or is passed over.
    pub fn update(&mut self, now: Now, endpoints: &BTreeMap<ServiceName, Vec<Endpoint>>) {
        self.left_out = 0;
        for (name, service) in &mut self.services {
            if !endpoints.contains_key(name) {
                service.update(now.mono, &self.config, &[]);
            }
        }
        self.services.retain(|_, service| !service.is_gone());
        for (name, list) in endpoints {
            if let Some(service) = self.services.get_mut(name) {
                self.left_out += service.update(now.mono, &self.config, list);
            } else if self.services.len() < SERVICES_MAX {
                let mut service = Service::new(now.mono, name, &self.config);
                self.left_out += service.update(now.mono, &self.config, list);
                self.services.insert(name.clone(), service);
            } else {
                self.left_out += list.len();
            }
        }
        self.services.retain(|_, service| !service.is_gone());
    }

    /// Says where an attempt goes. Endpoints that are out are passed over, unless all are: then the least bad one
    /// is taken.
    pub fn decide(&mut self, now: Now, request: &Request<'_>) -> Decision {
        match self.place(now.mono, request) {
            Ok(route) => Decision::Send(route),
            Err(refusal) => Decision::Refuse(refusal),
        }
    }

    /// Learns what became of an attempt. A ticket that is not in flight changes nothing.
    pub fn report(&mut self, now: Now, ticket: Ticket, outcome: Outcome) {
        let Some(call) = self.calls.remove(ticket) else { return };
        let name = &call.endpoint.id.service;
        let Some(service) = self.services.get_mut(name) else {
            debug_assert!(false, "a service stays while calls to it are in flight");
            return;
        };
        service.learn(now.mono, &call, outcome, &self.config, &mut self.rng);
        if service.is_gone() {
            self.services.remove(name);
        }
    }

    /// What is held of each endpoint of `service`, sorted by node; empty if it is unknown.
    pub fn endpoints(&self, now: Now, service: &ServiceName) -> Vec<View> {
        self.services.get(service).map_or_else(Vec::new, |service| service.views(now.mono, &self.config))
    }

    /// The services that are offered somewhere.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.iter().filter(|(_, service)| service.is_known()).map(|(name, _)| name)
    }

    /// How many attempts are in flight.
    pub fn in_flight(&self) -> usize {
        self.calls.len()
    }

    /// How many endpoints the last update named beyond [`SERVICES_MAX`] and [`crate::ENDPOINTS_MAX`].
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    fn place(&mut self, now: Instant, request: &Request<'_>) -> Result<Route, Refusal> {
        let (config, name) = (&self.config, request.service);
        let deadline = request.deadline.unwrap_or_else(|| now + config.timeout);
        if deadline <= now {
            let detail = format!("the deadline of a call to `{name}` passed before it could be sent");
            return Err(Reason::DeadlineExceeded.because(detail));
        }
        let Some(service) = self.services.get_mut(name).filter(|service| service.is_known()) else {
            return Err(Reason::ServiceUnknown.because(format!("no node offers `{name}`")));
        };
        if service.in_flight >= config.service_calls_max {
            let n = service.in_flight;
            let detail = format!("{n} calls to `{name}` are in flight (route.service_calls_max)");
            return Err(Reason::Overloaded.because(detail));
        }
        if self.calls.is_full() {
            let detail = format!("{CALLS_MAX} calls are in flight, the most that a node carries");
            return Err(Reason::Overloaded.because(detail));
        }
        match request.attempt {
            Attempt::First => service.budget.earn(now, config),
            Attempt::Again(tried) => may_repeat(now, service, tried, config)
                .map_err(|why| unreachable_at(tried, name, why, &service.census(now, config)))?,
        }
        let idx = service.pick(now, request.attempt, config, &mut self.rng, &mut self.candidates)?;
        let is_trial = !service.is_in(idx);
        let call = service.send(now, idx, config, &mut self.rng);
        let endpoint = call.endpoint.clone();
        let ticket = self.calls.insert(call).expect("it was seen not to be full");
        Ok(Route { ticket, endpoint, deadline, is_trial })
    }
}

/// Whether a call that was sent to `tried` in vain may be sent once more; if not, why.
fn may_repeat(
    now: Instant,
    service: &mut Service,
    tried: &[EndpointId],
    config: &Config,
) -> Result<(), &'static str> {
    if tried.len() >= config.attempts_max as usize {
        Err("no more attempts are made (route.attempts_max)")
    } else if !service.budget.spend(now, config) {
        Err("the budget for further attempts is spent (route.retry_percent)")
    } else {
        Ok(())
    }
}

fn unreachable_at(tried: &[EndpointId], service: &ServiceName, why: &str, census: &str) -> Refusal {
    let nodes: Vec<String> = tried.iter().map(|id| id.node.to_string()).collect();
    let nodes = nodes.join(", ");
    let detail = format!("no connection for `{service}` to {nodes}; {why}; it has {census}");
    Reason::EndpointUnreachable.because(detail)
}
