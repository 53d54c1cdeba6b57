//! The ports, and the tasks that serve what comes in by them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use types::ServiceName;

use crate::carrier::Carrier;
use crate::inbound::Visitor;
use crate::links::LinkStream;
use crate::metrics::{Count, Counts};
use crate::relay::Socket;
use crate::room::Shared;
use crate::socket::{self, SILENCE_MAX};
use crate::way::{End, Way};
use crate::{bridge, inbound, outbound, tunnel};

/// How long nothing is accepted after that failed: it fails again until files are closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A port, and whose it is.
pub(crate) enum Door {
    /// Callers on this machine.
    Outbound(TcpListener),
    /// The same by a Unix socket.
    Socket(UnixListener),
    /// Other nodes and stock clients.
    Inbound(TcpListener),
    /// Other nodes, over the links to them.
    Mesh(BoxStream<'static, LinkStream>),
    /// Callers of one service, as bytes.
    Tunnel(TcpListener, ServiceName),
}

enum Stream {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
    Link(LinkStream),
}

impl Door {
    async fn accept(&mut self) -> io::Result<Stream> {
        match self {
            Self::Outbound(listener) | Self::Inbound(listener) | Self::Tunnel(listener, _) => {
                listener.accept().await.map(|(stream, address)| Stream::Tcp(stream, address))
            }
            Self::Socket(listener) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
            Self::Mesh(arrivals) => match arrivals.next().await {
                Some(stream) => Ok(Stream::Link(stream)),
                // The mesh has stopped.
                None => std::future::pending().await,
            },
        }
    }

    /// Serves until `drain`, then waits for the connections to end. They are ended when this is dropped.
    pub(crate) async fn serve(
        mut self,
        shared: Arc<Shared>,
        permits: Arc<Semaphore>,
        drain: CancellationToken,
    ) {
        let counts = Arc::clone(&shared.ground.counts);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = drain.cancelled() => break,
                Some(ended) = connections.join_next() => note(&counts, ended),
                accepted = self.accept() => match accepted {
                    Ok(stream) => match Arc::clone(&permits).try_acquire_owned() {
                        Ok(permit) => {
                            connections.spawn(self.connection(&shared, stream, permit, drain.clone()));
                        }
                        Err(_) => {
                            counts.add(Count::ConnectionShed);
                            debug!("shed a connection: too many are open");
                        }
                    },
                    Err(err) => {
                        warn!(error = %err, "failed to accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(self);
        while let Some(ended) = connections.join_next().await {
            note(&counts, ended);
        }
    }

    fn connection(
        &self,
        shared: &Arc<Shared>,
        stream: Stream,
        permit: OwnedSemaphorePermit,
        drain: CancellationToken,
    ) -> futures::future::BoxFuture<'static, ()> {
        let shared = Arc::clone(shared);
        match (self, stream) {
            (Self::Inbound(_), Stream::Tcp(stream, address)) => Box::pin(async move {
                if let Err(err) = socket::prepare(&stream, SILENCE_MAX) {
                    return debug!(error = %err, "lost a connection as it was made");
                }
                let (carrier, end) = (Carrier::Left(stream), End::direct(address));
                inbound::connection(shared, Visitor { carrier, end, node: None }, permit, drain).await;
            }),
            (_, Stream::Link(LinkStream { bytes, node, address })) => Box::pin(async move {
                match bridge::lay(bytes, &shared.ground) {
                    Ok(carrier) => {
                        let end = End { address, way: Way::Mesh, detour: None };
                        let visitor = Visitor { carrier, end, node: Some(node) };
                        inbound::connection(shared, visitor, permit, drain).await;
                    }
                    Err(err) => warn!(error = %err, "failed to take a stream of a link"),
                }
            }),
            (Self::Tunnel(_, service), Stream::Tcp(stream, address)) => {
                let service = service.clone();
                Box::pin(async move {
                    let _permit = permit;
                    tunnel::open(shared, stream, address, service, drain).await;
                })
            }
            (_, Stream::Tcp(stream, address)) => Box::pin(async move {
                let prepared = socket::prepare(&stream, SILENCE_MAX).and_then(|()| stream.local_addr());
                let Ok(local) = prepared else { return };
                let owner = shared.attestor.caller(local, address).await;
                if let Ok(stream) = stream.into_std() {
                    outbound::connection(&shared, Socket::Tcp(stream), owner, permit);
                }
            }),
            (_, Stream::Unix(stream)) => Box::pin(async move {
                let owner = shared.attestor.peer(&stream);
                if let Ok(stream) = stream.into_std() {
                    outbound::connection(&shared, Socket::Unix(stream), owner, permit);
                }
            }),
        }
    }
}

fn note(counts: &Counts, ended: Result<(), JoinError>) {
    if ended.is_err_and(|err| err.is_panic()) {
        counts.add(Count::ConnectionPanicked);
    }
}
