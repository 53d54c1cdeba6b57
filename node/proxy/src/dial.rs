//! Connections to services: how they are made until HTTP/2 begins on them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tls::{Client, Expect, Peer, Svids};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::rustls::Connection;

use types::{Now, Reason, Refusal, SpiffeId, chain};

use crate::config::Config;
use crate::connections::Connections;
use crate::edges::Edges;
use crate::metrics::Counts;
use crate::relay::{Reply, Socket};
use crate::socket;

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
    pub(crate) target: SpiffeId,
    pub(crate) address: SocketAddr,
}

/// What connections need of the room.
pub(crate) struct Ground {
    pub(crate) config: Config,
    pub(crate) counts: Arc<Counts>,
    pub(crate) edges: Arc<Edges>,
    pub(crate) connections: Arc<Connections>,
}

/// A connection on which HTTP/2 can begin.
pub(crate) struct Made {
    pub(crate) socket: Socket,
    pub(crate) tls: Option<Connection>,
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
    let socket = handed_over(stream, address)?;
    Ok(Made { socket, tls: None, far: None })
}

async fn node(far: &Far, ground: &Ground) -> Result<Made, Refusal> {
    let own = Arc::clone(&far.svids.borrow());
    let (stream, peer) = secure(far, ground).await?;
    let (stream, tls) = stream.into_inner();
    let socket = handed_over(stream, far.address)?;
    Ok(Made { socket, tls: Some(tls.into()), far: Some((peer, own)) })
}

fn handed_over(stream: TcpStream, address: SocketAddr) -> Result<Socket, Refusal> {
    stream.into_std().map(Socket::Tcp).map_err(|err| unreachable(address, &err.to_string()))
}

/// Connects to a service on another node, and shakes hands.
pub(crate) async fn secure(
    far: &Far,
    ground: &Ground,
) -> Result<(tokio_rustls::client::TlsStream<TcpStream>, Peer), Refusal> {
    let config = &ground.config;
    let own = Arc::clone(&far.svids.borrow());
    if own.not_after <= Now::read().wall {
        // The other end would refuse it, and could not say why.
        let how = format!("the certificate of {} ended at {} and was not replaced", own.id, own.not_after);
        return Err(Reason::SvidExpired.because(how));
    }
    let silence_max = config.ping_interval + config.ping_timeout;
    let stream = connect(far.address, config.connect_timeout, silence_max).await?;
    let shaking = far.client.connect(stream, Expect::Id(far.target.clone()));
    match timeout(config.connect_timeout, shaking).await {
        Ok(Ok(met)) => Ok(met),
        Ok(Err(tls::Error::Refused(refusal))) => Err(refusal),
        Ok(Err(err)) => Err(unreachable(far.address, &chain(&err))),
        Err(_) => Err(unreachable(far.address, "no TLS handshake in time")),
    }
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
