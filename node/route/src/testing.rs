//! For unit tests: one router, and a clock that a story moves.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use types::{Now, Refusal, ServiceName, Timestamp};

use crate::call::{Attempt, Decision, Outcome, Request, Route};
use crate::config::Config;
use crate::endpoint::{Endpoint, EndpointId, State};
use crate::router::Router;

pub(crate) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(crate) fn service() -> ServiceName {
    "orders".parse().expect("a name")
}

/// The endpoint of `orders` on node `n<idx>`.
pub(crate) fn endpoint(idx: usize) -> Endpoint {
    let node = format!("n{idx}.home.mesh").parse().expect("a trust domain");
    let port = 7450 + u16::try_from(idx % 1000).expect("small");
    Endpoint {
        id: EndpointId { node, service: service() },
        address: ([10, 0, 0, 1], port).into(),
        is_healthy: true,
    }
}

/// The index that [`endpoint`] was given.
pub(crate) fn idx_of(endpoint: &Endpoint) -> usize {
    endpoint.id.node.node().as_str()[1..].parse().expect("n and a number")
}

/// What `Answered` says of a call that went well.
pub(crate) fn answered(latency: Duration) -> Outcome {
    Outcome::Answered { latency, status: Some(0) }
}

pub(crate) struct Story {
    pub(crate) router: Router,
    pub(crate) now: Now,
    pub(crate) offered: Vec<Endpoint>,
}

impl Story {
    pub(crate) fn new(n: usize) -> Self {
        Self::with(n, Config::default(), 1)
    }

    pub(crate) fn with(n: usize, config: Config, seed: u64) -> Self {
        let now = Now { mono: Instant::now(), wall: Timestamp::from_secs(1000) };
        let router = Router::new(config, ChaCha8Rng::seed_from_u64(seed));
        let mut story = Self { router, now, offered: (0..n).map(endpoint).collect() };
        story.update();
        story
    }

    /// Tells the router what is offered.
    pub(crate) fn update(&mut self) {
        self.router.update(self.now, &BTreeMap::from([(service(), self.offered.clone())]));
    }

    pub(crate) fn waits(&mut self, time: Duration) {
        self.now = self.now.after(time);
    }

    pub(crate) fn tries(&mut self, attempt: Attempt<'_>) -> Result<Route, Refusal> {
        let request = Request { service: &service(), deadline: None, attempt };
        match self.router.decide(self.now, &request) {
            Decision::Send(route) => Ok(route),
            Decision::Refuse(refusal) => Err(refusal),
        }
    }

    #[track_caller]
    pub(crate) fn calls(&mut self) -> Route {
        self.tries(Attempt::First).expect("an endpoint")
    }

    pub(crate) fn reports(&mut self, route: &Route, outcome: Outcome) {
        self.router.report(self.now, route.ticket, outcome);
    }

    /// One whole call that takes `latency`; returns where it went.
    pub(crate) fn makes(&mut self, latency: Duration) -> usize {
        let route = self.calls();
        self.waits(latency);
        self.reports(&route, answered(latency));
        idx_of(&route.endpoint)
    }

    /// Calls until one goes to the endpoint `idx`; the others are answered by then.
    #[track_caller]
    pub(crate) fn calls_at(&mut self, idx: usize) -> Route {
        for _ in 0..1000 {
            let route = self.calls();
            if idx_of(&route.endpoint) == idx {
                return route;
            }
            self.waits(ms(1));
            self.reports(&route, answered(ms(1)));
        }
        panic!("no call goes to endpoint {idx}: {:?}", self.router.endpoints(self.now, &service()));
    }

    #[track_caller]
    pub(crate) fn state(&self, idx: usize) -> State {
        let views = self.router.endpoints(self.now, &service());
        views.iter().find(|view| idx_of(&view.endpoint) == idx).expect("it is listed").state
    }
}
