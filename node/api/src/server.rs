//! The two listeners, and what keeps them going.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use prost_types::FileDescriptorSet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthReporter;
use tracing::{debug, info, warn};

use identity::join::Exporter;
use proto::identity::v1::identity_service_server::{self, IdentityServiceServer};
use proto::mesh::v1::mesh_service_server::{self, MeshServiceServer};
use proto::service::v1::service_service_server::{self, ServiceServiceServer};
use tls::server::Newcomers;
use tls::{Accepted, News, Svids};
use types::{Reason, chain};

use crate::config::{Config, HANDSHAKES_MAX, JOINERS_MAX, MESSAGE_LEN_MAX};
use crate::connection;
use crate::error::Error;
use crate::gate::Gate;
use crate::joining;
use crate::mesh_service::Api;
use crate::metrics::{Count, Counts};
use crate::node::Node;
use crate::origin::Origin;
use crate::places::Places;
use crate::socket::{self, Socket};

/// How long nothing is accepted after accepting failed, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The application protocol of gRPC.
const H2: &[u8] = b"h2";

/// The API with both of its listeners, which holds its ports and does not serve yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    socket: Socket,
    shared: Arc<Shared>,
    health: HealthReporter,
}

/// What every connection needs.
struct Shared {
    config: Config,
    node: Arc<dyn Node>,
    gate: Gate,
    tls: tls::Server,
    news: News,
    counts: Arc<Counts>,
    stop: CancellationToken,
    handshakes: Arc<Semaphore>,
    joiners: Arc<Semaphore>,
    /// Connections on the port, and on the socket: neither takes the other's places.
    remote: Arc<Semaphore>,
    local: Arc<Places>,
}

impl Server {
    /// Takes the port and the socket. `svids` are the node's own; what peers bring along of
    /// themselves goes to `news`.
    ///
    /// # Errors
    /// Why they cannot be had; nothing listens then.
    pub async fn bind(
        config: Config,
        node: Arc<dyn Node>,
        svids: watch::Receiver<Arc<Svids>>,
        news: News,
    ) -> Result<Self, Error> {
        config.check()?;
        let listener = listen(config.listen).await?;
        let failed = |source| Error::Listen { address: config.listen, source };
        let address = listener.local_addr().map_err(failed)?;
        let socket = Socket::bind(&config.socket, &config.group)?;
        let counts = Arc::new(Counts::default());
        let stop = CancellationToken::new();
        let tls_config =
            tls::server::Config { pq: config.pq, alpn: vec![H2.to_vec()], newcomers: Newcomers::Welcome };
        let tls = tls::Server::new(tls_config, svids.clone(), node.members());
        let api = Api { node: Arc::clone(&node), svids, address, stop: stop.clone() };
        let (routes, health) = routes(api)?;
        let gate = Gate { routes, members: node.members(), counts: Arc::clone(&counts) };
        let remote = Arc::new(Semaphore::new(config.connections_max));
        let local = Places::new(config.connections_max);
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        let joiners = Arc::new(Semaphore::new(JOINERS_MAX));
        let shared =
            Shared { config, node, gate, tls, news, counts, stop, handshakes, joiners, remote, local };
        Ok(Self { listener, address, socket, shared: Arc::new(shared), health })
    }

    /// Where it listens.
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What it counts.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.shared.counts)
    }

    /// Serves until `shutdown`, then finishes the calls that are there, for [`Config::drain`] at most.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { listener, address, socket, shared, health } = self;
        let mut tasks = JoinSet::new();
        let mut ready = shared.node.ready();
        let mut is_ready = *ready.borrow_and_update();
        tell(&health, is_ready).await;
        info!(server.address = %address, socket = %shared.config.socket.display(), "serving the API");
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, from)) => shared.admit_remote(stream, from, &mut tasks),
                    Err(err) => pause(&err).await,
                },
                accepted = socket.listener.accept() => match accepted {
                    Ok((stream, _)) => shared.admit_local(stream, &socket, &mut tasks),
                    Err(err) => pause(&err).await,
                },
                Ok(()) = ready.changed() => {
                    is_ready = *ready.borrow_and_update();
                    tell(&health, is_ready).await;
                }
                Some(ended) = tasks.join_next() => shared.reap(ended),
            }
        }
        drop((listener, socket));
        tell(&health, false).await;
        shared.stop.cancel();
        let drained = timeout(shared.config.drain, async {
            while let Some(ended) = tasks.join_next().await {
                shared.reap(ended);
            }
        });
        if drained.await.is_err() {
            warn!(connections = tasks.len(), "closing connections whose calls did not end in time");
            tasks.shutdown().await;
        }
    }
}

impl Shared {
    fn admit_remote(self: &Arc<Self>, stream: TcpStream, from: SocketAddr, tasks: &mut JoinSet<()>) {
        let Ok(place) = Arc::clone(&self.handshakes).try_acquire_owned() else {
            self.counts.add(Count::ConnectionShed);
            debug!(source.address = %from, "shed a connection: too many handshakes");
            return;
        };
        let shared = Arc::clone(self);
        tasks.spawn(async move { shared.greet(stream, from, place).await });
    }

    fn admit_local(self: &Arc<Self>, stream: UnixStream, socket: &Socket, tasks: &mut JoinSet<()>) {
        let origin = match socket.origin(&stream) {
            Ok(origin) => origin,
            // It was closed already.
            Err(err) => return debug!(error = %err, "failed to tell who is at the socket"),
        };
        let Some(place) = self.local.take(origin.bounded_uid()) else {
            self.counts.add(Count::ConnectionShed);
            debug!(caller = %origin, "shed a connection on the socket: too many are there");
            return;
        };
        let shared = Arc::clone(self);
        tasks.spawn(async move {
            let _place = place;
            shared.serve(socket::Connection::new(stream), origin).await;
        });
    }

    /// Shakes hands, and serves whoever it is.
    async fn greet(&self, stream: TcpStream, from: SocketAddr, handshake: OwnedSemaphorePermit) {
        // Small answers shall not wait for each other.
        let _ = stream.set_nodelay(true);
        let accepted = tokio::select! {
            accepted = self.tls.accept(stream) => accepted,
            () = self.stop.cancelled() => return,
        };
        drop(handshake);
        match accepted {
            Ok(Accepted::Peer(stream, peer)) => {
                let Ok(_place) = self.remote.try_acquire() else {
                    self.counts.add(Count::ConnectionShed);
                    warn!(caller = %peer.caller.id, "shed a connection: too many are there");
                    return;
                };
                self.news.tell(&peer);
                debug!(source.address = %from, peer = %peer, "a caller connected");
                self.serve(*stream, Origin::Remote(Arc::from(peer))).await;
            }
            Ok(Accepted::Newcomer(stream, exporter)) => self.join(*stream, exporter, from).await,
            Err(err) => {
                self.counts.add(Count::ConnectionRefused);
                info!(source.address = %from, error = %chain(&err), "refused a connection");
            }
        }
    }

    async fn join(&self, stream: TlsStream<TcpStream>, exporter: Exporter, from: SocketAddr) {
        let Ok(_place) = self.joiners.try_acquire() else {
            self.counts.add(Count::JoinShed);
            let (reason, bound) = (Reason::Overloaded, JOINERS_MAX);
            warn!(source.address = %from, %reason, bound, "refused a newcomer: too many join");
            return;
        };
        match joining::join(stream, exporter, &*self.node).await {
            Ok(()) => {
                self.counts.add(Count::Joined);
                info!(source.address = %from, "a newcomer joined");
            }
            Err(err) => {
                self.counts.add(Count::JoinRefused);
                let reason = err.reason().map_or("", Reason::code);
                warn!(source.address = %from, reason, error = %chain(&err), "nobody joined");
            }
        }
    }

    async fn serve<S>(&self, stream: S, origin: Origin)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        connection::serve(stream, origin, self.gate.clone(), &self.config, self.stop.clone()).await;
    }

    /// Takes note of a task that ended. What panicked took its connection along and nothing else.
    fn reap(&self, ended: Result<(), JoinError>) {
        if ended.is_err_and(|err| err.is_panic()) {
            self.counts.add(Count::ConnectionPanicked);
            warn!("a connection panicked");
        }
    }
}

async fn pause(err: &io::Error) {
    warn!(error = %err, "failed to accept a connection: accepting again soon");
    sleep(ACCEPT_PAUSE).await;
}

/// Listens, on IPv4 alone where the machine has no IPv6.
async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    let failed = |source| Error::Listen { address, source };
    match TcpListener::bind(address).await {
        Err(err) if address.ip() == Ipv6Addr::UNSPECIFIED && is_without_ipv6(&err) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await.map_err(failed)
        }
        other => other.map_err(failed),
    }
}

fn is_without_ipv6(err: &io::Error) -> bool {
    // EAFNOSUPPORT has no kind of its own.
    const EAFNOSUPPORT: i32 = 97;
    err.raw_os_error() == Some(EAFNOSUPPORT) || err.kind() == io::ErrorKind::AddrNotAvailable
}

/// All services, each of which takes and gives gzip.
fn routes(api: Api) -> Result<(Routes, HealthReporter), Error> {
    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure().include_reflection_service(false);
        let builder = builder.register_file_descriptor_set(served());
        let files = [
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        files
            .into_iter()
            .fold(builder, tonic_reflection::server::Builder::register_encoded_file_descriptor_set)
    };
    let failed = |err| Error::Reflection(Box::new(err));
    let reporter = HealthReporter::new();
    let health = tonic_health::server::HealthService::from_health_reporter(reporter.clone());
    macro_rules! tuned {
        ($server:expr) => {
            $server.accept_compressed(Gzip).send_compressed(Gzip).max_decoding_message_size(MESSAGE_LEN_MAX)
        };
    }
    let routes = Routes::new(tuned!(MeshServiceServer::new(api.clone())))
        .add_service(tuned!(IdentityServiceServer::new(api.clone())))
        .add_service(tuned!(ServiceServiceServer::new(api)))
        .add_service(tuned!(HealthServer::new(health)))
        .add_service(tuned!(reflection().build_v1().map_err(failed)?))
        .add_service(tuned!(reflection().build_v1alpha().map_err(failed)?));
    Ok((routes.prepare(), reporter))
}

/// What there is to describe: the demo's shop is served elsewhere.
fn served() -> FileDescriptorSet {
    let mut set =
        <FileDescriptorSet as prost::Message>::decode(proto::DESCRIPTORS).expect("compiled with the program");
    set.file.retain(|file| !file.name().starts_with("sagemesh/shop/"));
    set
}

/// Tells health checks, of the whole and of each service, whether the node serves.
async fn tell(health: &HealthReporter, is_ready: bool) {
    let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    let ours = [
        mesh_service_server::SERVICE_NAME,
        identity_service_server::SERVICE_NAME,
        service_service_server::SERVICE_NAME,
    ];
    for name in ours.into_iter().chain([""]) {
        health.set_service_status(name, status).await;
    }
}
