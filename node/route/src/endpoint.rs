//! Where a service can be reached, and what a router holds of it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use types::{ServiceName, TrustDomain};

/// One node that offers one service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId {
    /// The node.
    pub node: TrustDomain,
    /// The service.
    pub service: ServiceName,
}

/// One node that offers one service, and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Which one.
    pub id: EndpointId,
    /// The inbound port of the node's mesh proxy.
    pub address: SocketAddr,
    /// Whether its node says that it is well, and membership does not hold that node dead.
    pub is_healthy: bool,
}

/// What a router holds of an endpoint, for people and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Which one.
    pub endpoint: Arc<Endpoint>,
    /// Calls that wait for its answer.
    pub in_flight: u32,
    /// The latency that is expected of it; absent before its first answer.
    pub latency: Option<Duration>,
    /// Whether it gets calls.
    pub state: State,
}

/// Whether an endpoint gets calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It does.
    Ready,
    /// Its own node says that it is not well, or is dead: it gets none.
    Unhealthy,
    /// It gets one call to try it with once `until` has passed.
    Ejected {
        /// When that is.
        until: Instant,
        /// What it did.
        why: Why,
    },
    /// It owes answers and gives none; it gets a call to try it with now and then.
    Stalled,
}

/// Why an endpoint was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Calls to it failed, several in a row.
    Failing,
    /// A connection to it broke while a call was under way.
    Lost,
    /// It could not be connected to.
    Unreachable,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Failing => "calls to it fail",
            Self::Lost => "the connection to it broke",
            Self::Unreachable => "it cannot be connected to",
        })
    }
}
