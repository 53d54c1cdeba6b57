//! What other rooms hold of this one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use types::call::CallStats;
use types::{EdgeKey, Reason, ServiceName, TrustDomain};
use wire::Flood;

use crate::connections::ConnectionView;
use crate::metrics::Count;
use crate::room::Shared;

/// Tells what is carried. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Handle {
    /// What was counted of calls since the last time this was asked, by who calls whom: calls of this node's
    /// services, as they saw them, and calls of stock clients for its services. Calls that proxies of other
    /// nodes send are counted there. At most 4,096 edges for each worker, and as many for tunnels.
    pub fn stats(&self) -> Vec<(EdgeKey, CallStats)> {
        let mut all: HashMap<EdgeKey, CallStats> = self.shared.ground.edges.take().into_iter().collect();
        for (edge, stats) in self.shared.crew.take_edges() {
            all.entry(edge).or_default().merge(&stats);
        }
        all.into_iter().collect()
    }

    /// The open connections to other nodes and stock clients.
    pub fn connections(&self) -> Vec<ConnectionView> {
        self.shared.ground.connections.views()
    }

    /// Nodes that are reached over the mesh since the ports that they name cannot be reached from here, with these.
    pub fn detours(&self) -> Vec<(TrustDomain, SocketAddr)> {
        self.shared.ground.detours.places()
    }

    /// What is held of each endpoint of a service, sorted by node; empty if the service is unknown.
    pub fn explain(&self, service: &ServiceName) -> Vec<route::View> {
        self.shared.routes.endpoints(service)
    }

    /// Calls in flight, and open streams of all connections, as they were at most 5 s ago. A call has two streams once
    /// it was sent on.
    pub fn open(&self) -> (usize, usize) {
        self.shared.crew.open()
    }

    /// How often something has happened since the start.
    pub fn count(&self, count: Count) -> u64 {
        self.shared.ground.counts.of(count)
    }

    /// How many calls, tunnels and connections were refused for a reason since the start.
    pub fn refused(&self, reason: Reason) -> u64 {
        self.shared.ground.counts.refused(reason)
    }

    /// How many connections were ended for a flood since the start.
    pub fn floods(&self, flood: Flood) -> u64 {
        self.shared.ground.counts.floods(flood)
    }

    /// How many frames that are a flood if too many come have come since the start.
    pub fn frames(&self, flood: Flood) -> u64 {
        self.shared.ground.counts.frames(flood)
    }
}
