//! Connections of processes on this machine, and the services that they are.

use std::sync::Arc;

use tls::{Client, Svids};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tracing::{debug, info};

use attest::Owner;
use route::EndpointId;
use types::{Refusal, ServiceName, SpiffeId};

use crate::dial::Far;
use crate::metrics::Count;
use crate::relay::{Newcomer, Socket};
use crate::room::Shared;
use crate::table::{Local, Table};

/// Endpoints that one call is tried at: the most that `route.attempts_max` can be. `route` says how many.
pub(crate) const ATTEMPTS_MAX: usize = 10;

/// A service on this node that calls.
pub(crate) struct Caller {
    pub(crate) service: ServiceName,
    pub(crate) id: SpiffeId,
    pub(crate) svids: watch::Receiver<Arc<Svids>>,
    client: Client,
}

impl Caller {
    /// The service that a process is, with what it calls by.
    ///
    /// # Errors
    /// Why it is none.
    pub(crate) fn of(owner: &Owner, table: &Table, shared: &Shared, alpn: &[u8]) -> Result<Self, Refusal> {
        let (service, local) = table.caller(owner)?;
        Self::named(service, local, table, shared, alpn)
    }

    /// A service of this node, with what it calls by.
    ///
    /// # Errors
    /// Why it has no certificates.
    pub(crate) fn named(
        service: &ServiceName,
        local: &Local,
        table: &Table,
        shared: &Shared,
        alpn: &[u8],
    ) -> Result<Self, Refusal> {
        let pq = shared.ground.config.pq;
        let members = shared.members.clone();
        let svids = local.svids.clone()?;
        Ok(Self {
            service: service.clone(),
            id: table.id(service),
            svids: svids.clone(),
            client: Client::new(pq, vec![alpn.to_vec()], svids, members),
        })
    }

    /// How an endpoint is reached as this caller.
    pub(crate) fn far(&self, endpoint: &route::Endpoint) -> Far {
        Far {
            client: self.client.clone(),
            svids: self.svids.clone(),
            target: target(&endpoint.id),
            node: endpoint.id.node.clone(),
            address: endpoint.address,
        }
    }
}

/// The service at an endpoint.
pub(crate) fn target(endpoint: &EndpointId) -> SpiffeId {
    SpiffeId::service(endpoint.node.clone(), endpoint.service.clone())
}

/// Hands a connection to a worker. One whose owner is no service as well: its calls are refused, each with the advice
/// that its caller needs, and it is closed soon. One of a user who holds as many as it may is closed at once.
pub(crate) fn connection(
    shared: &Shared,
    socket: Socket,
    owner: Result<Owner, Refusal>,
    permit: OwnedSemaphorePermit,
) {
    let counts = &shared.ground.counts;
    let share = match &owner {
        Ok(owner) => match shared.shares.take(owner.uid) {
            Some(share) => Some(share),
            None => {
                counts.add(Count::ConnectionShed);
                return debug!("shed a connection: its user has too many open");
            }
        },
        Err(refusal) => {
            info!(error.type = refusal.reason.code(), error = %refusal, "failed to tell who calls");
            None
        }
    };
    counts.add(Count::OutboundConnection);
    shared.crew.adopt(Newcomer::Near { socket, owner, share, permit });
}
