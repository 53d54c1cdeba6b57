//! Connections of other nodes' proxies and of stock clients: each is for the one service that its hello named.

use std::sync::Arc;

use tls::server::{ByName, Newcomers};
use tls::{Accepted, Peer, Pq, Server};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use types::{Reason, Refusal, ServiceName, SpiffeId, TrustDomain, Workload, chain};

use crate::carrier::{Carrier, into_socket};
use crate::connections::{Direction, Open};
use crate::metrics::Count;
use crate::relay::Newcomer;
use crate::room::Shared;
use crate::table::{Backend, Protocol, Table};
use crate::tunnel;
use crate::way::{End, Way};

/// What gRPC calls are carried by.
pub(crate) const H2: &[u8] = b"h2";

/// The server of the inbound port: presents the service that the hello names.
pub(crate) fn server(
    table: tokio::sync::watch::Receiver<Arc<Table>>,
    members: tokio::sync::watch::Receiver<Arc<identity::Members>>,
) -> Server {
    let alpn = vec![H2.to_vec(), tunnel::ALPN.to_vec()];
    let config = tls::server::Config { pq: Pq::Prefer, alpn, newcomers: Newcomers::Refused };
    let choose: Arc<ByName> = Arc::new(move |name: Option<&str>| {
        let table = Arc::clone(&table.borrow());
        let Some(name) = name else {
            let how = format!("the hello names no service: name SERVICE.{} (SNI)", table.node);
            return Err(Reason::ServiceUnknown.because(how));
        };
        let service = table.named_here(name).ok_or_else(|| {
            Reason::ServiceUnknown
                .because(format!("the hello names `{name}`, which is no service of this node"))
        })?;
        let (local, _) = table.served(&service)?;
        local.svids.as_ref().map(|svids| Arc::clone(&svids.borrow())).map_err(Clone::clone)
    });
    Server::by_name(config, choose, members)
}

/// Who is at the other end of a connection before it says so.
pub(crate) struct Visitor {
    pub(crate) carrier: Carrier,
    pub(crate) end: End,
    /// The node whose mesh link it came over, if it did.
    pub(crate) node: Option<TrustDomain>,
}

/// Lets one connection in. Tunnels are served here, calls by a worker.
pub(crate) async fn connection(
    shared: Arc<Shared>,
    visitor: Visitor,
    permit: OwnedSemaphorePermit,
    drain: CancellationToken,
) {
    let Visitor { carrier, end, node } = visitor;
    let (counts, address) = (&shared.ground.counts, end.address);
    let Ok(handshake) = shared.handshakes.try_acquire() else {
        counts.add(Count::ConnectionShed);
        debug!(network.peer.address = %address, "shed a connection: too many handshakes");
        return;
    };
    let met = shared.server.accept(carrier).await;
    drop(handshake);
    let met = match met {
        Ok(Accepted::Peer(_, peer)) if !is_of(&peer, node.as_ref()) => {
            let what = format!("{} came over the mesh link of another node", peer.caller.id);
            Err(Reason::PeerMismatch.because(what).into())
        }
        met => met,
    };
    let (stream, peer) = match met {
        Ok(Accepted::Peer(stream, peer)) => (stream, peer),
        // The server refuses newcomers by itself.
        Ok(Accepted::Newcomer(..)) => return,
        Err(err) => {
            let refusal = match &err {
                tls::Error::Refused(refusal) => Some(refusal),
                _ => None,
            };
            counts.add(if refusal.is_some() { Count::InboundRefused } else { Count::InboundFailed });
            let reason = refusal.map(|it| {
                counts.refuse(it.reason);
                it.reason.code()
            });
            info!(
                network.peer.address = %address,
                sagemesh.way = end.way.name(),
                error.type = reason,
                error = chain(&err),
                "refused a connection"
            );
            return;
        }
    };
    let SpiffeId::Workload { workload: Workload::Service(service), .. } = peer.own.clone() else { return };
    counts.add(Count::InboundConnection);
    if end.way == Way::Mesh {
        counts.add(Count::InboundByMesh);
    }
    let guest = Guest { service, peer: (*peer).clone(), end };
    if &*peer.alpn == tunnel::ALPN {
        return tunnel::serve(&shared, *stream, guest, drain).await;
    }
    let (carrier, tls) = stream.into_inner();
    let Ok(socket) = into_socket(carrier) else { return };
    let open = Open::new(guest.peer.clone(), guest.end.clone(), Direction::Inbound);
    let listed = shared.ground.connections.list(open);
    let tls = Some(Box::new(tls.into()));
    shared.crew.adopt(Newcomer::Guest { socket, tls, guest: Arc::new(guest), listed, permit });
}

/// Whether a peer belongs to the node whose link it came over. Anybody may come by the port.
fn is_of(peer: &Peer, node: Option<&TrustDomain>) -> bool {
    node.is_none_or(|node| peer.caller.member().is_some_and(|member| member.domain == *node))
}

/// Who connected, and which service it means.
pub(crate) struct Guest {
    pub(crate) service: ServiceName,
    pub(crate) peer: Peer,
    pub(crate) end: End,
}

impl Guest {
    /// Where its service is, if it may use it now by that protocol.
    ///
    /// # Errors
    /// Why it may not.
    pub(crate) fn admit(&self, table: &Table, protocol: Protocol) -> Result<Backend, Refusal> {
        let (local, backend) = table.served(&self.service)?;
        local.policy.check(&self.service, &self.peer.caller.id)?;
        if backend.protocol != protocol {
            let how = match backend.protocol {
                Protocol::Grpc => "speaks gRPC: call it through the outbound port, or offer ALPN `h2`",
                Protocol::Tcp => "is reached by a tunnel (`[[outbound]] listen`) and speaks no gRPC",
            };
            return Err(Reason::RequestMalformed.because(format!("`{}` {how}", self.service)));
        }
        backend.health.clone()?;
        Ok(backend.clone())
    }

    /// Says of the service what connecting to it said of an address, which means nothing to a caller elsewhere.
    pub(crate) fn blame(&self, refusal: Refusal) -> Refusal {
        if refusal.reason != Reason::EndpointUnreachable {
            return refusal;
        }
        Reason::ServiceUnreachable.because(format!("`{}`: {}", self.peer.own, refusal.detail))
    }
}
