//! The router, shared by all calls: its lock is held for a decision or a report, never while anything waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use route::{Decision, Endpoint, Outcome, Request, Route, Router, Ticket};
use types::{Now, Refusal, ServiceName};

/// The router of this node.
pub(crate) struct Routes(Mutex<Router>);

/// An attempt that is not reported yet. Dropped, it counts as given up by the caller.
pub(crate) struct Pending {
    routes: Arc<Routes>,
    ticket: Option<Ticket>,
}

impl Routes {
    /// `seed` is what chance follows from.
    pub(crate) fn new(config: route::Config, seed: [u8; 32]) -> Self {
        let rng = ChaCha8Rng::from_seed(seed);
        Self(Mutex::new(Router::new(config, rng)))
    }

    fn router(&self) -> MutexGuard<'_, Router> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn update(&self, endpoints: &BTreeMap<ServiceName, Vec<Endpoint>>) {
        self.router().update(Now::read(), endpoints);
    }

    pub(crate) fn endpoints(&self, service: &ServiceName) -> Vec<route::View> {
        self.router().endpoints(Now::read(), service)
    }

    /// Says where an attempt goes.
    ///
    /// # Errors
    /// Why nowhere.
    pub(crate) fn decide(
        self: &Arc<Self>,
        now: Now,
        request: &Request<'_>,
    ) -> Result<(Route, Pending), Refusal> {
        match self.router().decide(now, request) {
            Decision::Send(route) => {
                let pending = Pending { routes: Arc::clone(self), ticket: Some(route.ticket) };
                Ok((route, pending))
            }
            Decision::Refuse(refusal) => Err(refusal),
        }
    }
}

impl Pending {
    pub(crate) fn report(mut self, now: Now, outcome: Outcome) {
        if let Some(ticket) = self.ticket.take() {
            self.routes.router().report(now, ticket, outcome);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.routes.router().report(Now::read(), ticket, Outcome::Cancelled);
        }
    }
}
