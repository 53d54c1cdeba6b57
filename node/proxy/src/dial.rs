//! Connections to services: how they are made until HTTP/2 begins on them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tls::{Client, Peer, Svids};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::rustls::Connection;

use types::{Reason, Refusal, SpiffeId, TrustDomain};

use crate::carrier::{Carrier, into_socket};
use crate::config::Config;
use crate::connections::{Connections, Direction, Listed, Open};
use crate::detours::{Detours, Place};
use crate::edges::Edges;
use crate::links::Links;
use crate::metrics::{Count, Counts};
use crate::relay::{Reply, Socket};
use crate::socket;
use crate::tasks::Tasks;
use crate::way::{End, Way, secure};

/// Whom a connection leads to.
#[derive(Clone)]
pub(crate) enum To {
    /// A service on this machine, in the clear.
    Backend(SocketAddr),
    /// A service on another node.
    Node(Box<Far>),
}

/// A service on another node, and as whom it is called.
#[derive(Clone)]
pub(crate) struct Far {
    pub(crate) client: Client,
    pub(crate) svids: watch::Receiver<Arc<Svids>>,
    /// The service, and its node.
    pub(crate) target: SpiffeId,
    pub(crate) node: TrustDomain,
    /// The node's inbound port. Port 0: it has none that could be reached.
    pub(crate) address: SocketAddr,
}

impl Far {
    /// The node, and the port at which it is dialled.
    pub(crate) fn place(&self) -> Place {
        (self.node.clone(), self.address)
    }

    /// Whether its node says that it is reached over the mesh alone.
    pub(crate) const fn has_no_port(&self) -> bool {
        self.address.port() == 0
    }
}

/// What connections need of the room.
pub(crate) struct Ground {
    pub(crate) config: Config,
    pub(crate) counts: Arc<Counts>,
    pub(crate) edges: Arc<Edges>,
    pub(crate) connections: Arc<Connections>,
    /// Links to other nodes, if there is a mesh.
    pub(crate) links: Option<Arc<dyn Links>>,
    pub(crate) detours: Detours<Far>,
    /// Bridges to streams of links.
    pub(crate) bridges: Tasks,
}

impl Ground {
    /// Lists a connection that was made to another node, and counts it.
    pub(crate) fn list_made(&self, peer: Peer, end: End) -> Listed {
        self.counts.add(Count::UpstreamConnection);
        if end.way == Way::Mesh {
            self.counts.add(Count::UpstreamByMesh);
        }
        self.connections.list(Open::new(peer, end, Direction::Outbound))
    }
}

/// A connection on which HTTP/2 can begin.
pub(crate) struct Made {
    pub(crate) socket: Socket,
    pub(crate) tls: Option<Connection>,
    pub(crate) end: End,
    /// Who is at the other end, and as whom this end called; absent for backends.
    pub(crate) far: Option<(Peer, Arc<Svids>)>,
}

/// Makes a connection, and says what came of it.
pub(crate) async fn dial(to: To, ground: Arc<Ground>, reply: Reply) {
    let made = match &to {
        To::Backend(address) => backend(*address, &ground).await,
        To::Node(far) => node(far, &ground).await,
    };
    reply.send(made);
}

async fn backend(address: SocketAddr, ground: &Ground) -> Result<Made, Refusal> {
    let stream = connect(address, ground.config.connect_timeout, socket::SILENCE_MAX).await?;
    let socket = handed_over(Carrier::Left(stream), address)?;
    Ok(Made { socket, tls: None, end: End::direct(address), far: None })
}

async fn node(far: &Far, ground: &Ground) -> Result<Made, Refusal> {
    let own = Arc::clone(&far.svids.borrow());
    let (stream, peer, end) = secure(far, ground).await?;
    let (carrier, tls) = stream.into_inner();
    let socket = handed_over(carrier, end.address)?;
    Ok(Made { socket, tls: Some(tls.into()), end, far: Some((peer, own)) })
}

fn handed_over(carrier: Carrier, address: SocketAddr) -> Result<Socket, Refusal> {
    into_socket(carrier).map_err(|err| unreachable(address, &err.to_string()))
}

/// Connects to a port.
pub(crate) async fn connect(
    address: SocketAddr,
    within: Duration,
    silence_max: Duration,
) -> Result<TcpStream, Refusal> {
    let connecting = async {
        let stream = TcpStream::connect(address).await?;
        socket::prepare(&stream, silence_max)?;
        Ok::<_, std::io::Error>(stream)
    };
    match timeout(within, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(err)) => Err(unreachable(address, &err.to_string())),
        Err(_) => Err(unreachable(address, "no connection in time")),
    }
}

pub(crate) fn unreachable(address: SocketAddr, why: &str) -> Refusal {
    Reason::EndpointUnreachable.because(format!("failed to connect to {address}: {why}"))
}
