//! Where a service can be reached.

use std::net::SocketAddr;

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
