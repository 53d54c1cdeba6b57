//! Connections that are carried as bytes: any protocol over TCP, half-closed ends included.
//!
//! The proxies speak `sagemesh-tcp/1`: over TLS the serving side first says one byte, 1 for "connected to the
//! service", after which both streams are one; or 0 and a refusal's code with its length before it, after
//! which it closes. Nothing of the caller's is sent before, so that a refused tunnel can be tried elsewhere.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::info;

use route::{Attempt, EndpointId, Outcome, Route};
use types::{Now, Reason, Refusal, ServiceName};

use crate::carrier::Carrier;
use crate::connections::{Direction, Listed, Open};
use crate::dial::connect;
use crate::edges::{Edges, Tally};
use crate::inbound::Guest;
use crate::metrics::Count;
use crate::outbound::{ATTEMPTS_MAX, Caller, target};
use crate::room::Shared;
use crate::socket::{self, SILENCE_MAX};
use crate::table::Protocol;
use crate::way::secure;

/// What tunnels speak.
pub(crate) const ALPN: &[u8] = b"sagemesh-tcp/1";
/// The service is connected.
const CONNECTED: u8 = 1;
/// It is not; a code follows.
const REFUSED: u8 = 0;

/// Carries a connection that a process on this machine made to the port of a service.
pub(crate) async fn open(
    shared: Arc<Shared>,
    mut stream: TcpStream,
    peer: SocketAddr,
    service: ServiceName,
    drain: CancellationToken,
) {
    shared.ground.counts.add(Count::OutboundTunnel);
    let prepared = socket::prepare(&stream, SILENCE_MAX).and_then(|()| stream.local_addr());
    let Ok(local) = prepared else { return };
    let far = async {
        let owner = shared.attestor.caller(local, peer).await?;
        let table = Arc::clone(&shared.table.borrow());
        let caller = Caller::of(&owner, &table, &shared, ALPN)?;
        let (far, listed) = reach(&shared, &caller, &service).await?;
        Ok((caller, far, listed))
    };
    match far.await {
        Ok((caller, far, listed)) => {
            let callee = listed.open.peer.caller.id.clone();
            let mut counted = shared.ground.edges.of(caller.id, callee).enter();
            let carried = splice(&mut stream, far, &listed, &drain, &shared).await;
            counted.tally = tally(carried.ok());
        }
        Err(refusal) => refused(&shared, &refusal, &service, peer),
    }
}

/// Counts a tunnel as one call, which is lost if it did not end by itself.
fn tally(carried: Option<(u64, u64)>) -> Tally {
    let (request_bytes, response_bytes) = carried.unwrap_or_default();
    Tally { status: carried.map(|_| 0), request_bytes, response_bytes, ..Tally::default() }
}

fn refused(shared: &Shared, refusal: &Refusal, service: &ServiceName, peer: SocketAddr) {
    shared.ground.counts.refuse(refusal.reason);
    info!(
        sagemesh.service = %service,
        network.peer.address = %peer,
        error.type = refusal.reason.code(),
        error = %refusal,
        "refused a tunnel"
    );
}

type Far = tokio_rustls::client::TlsStream<Carrier>;

/// Connects to the service at one endpoint after another.
async fn reach(shared: &Shared, caller: &Caller, service: &ServiceName) -> Result<(Far, Listed), Refusal> {
    let mut tried: Vec<EndpointId> = Vec::new();
    let mut last = None;
    while tried.len() < ATTEMPTS_MAX {
        let attempt = if tried.is_empty() { Attempt::First } else { Attempt::Again(&tried) };
        let decided = shared.routes.decide(Now::read(), &route::Request { service, deadline: None, attempt });
        let (route, pending) = match decided {
            Ok(decided) => decided,
            Err(refusal) => return Err(last.unwrap_or(refusal)),
        };
        let begun = std::time::Instant::now();
        match dial(shared, caller, &route).await {
            Ok(far) => {
                pending.report(Now::read(), Outcome::Answered { latency: begun.elapsed(), status: None });
                return Ok(far);
            }
            Err(refusal) => {
                pending.report(Now::read(), Outcome::Unsent);
                let callee = target(&route.endpoint.id);
                count_refusal(&shared.ground.edges, caller, callee, &refusal);
                tried.push(route.endpoint.id.clone());
                if refusal.reason == Reason::PolicyDenied {
                    return Err(refusal);
                }
                last = Some(refusal);
            }
        }
    }
    Err(last.unwrap_or_else(|| Reason::NoEndpoint.because("no endpoint was tried")))
}

fn count_refusal(edges: &Edges, caller: &Caller, callee: types::SpiffeId, refusal: &Refusal) {
    let mut counted = edges.of(caller.id.clone(), callee).enter();
    counted.tally.status = Some(refusal.reason.status() as u8);
    counted.tally.refused = Some(refusal.reason);
}

async fn dial(shared: &Shared, caller: &Caller, route: &Route) -> Result<(Far, Listed), Refusal> {
    let far = caller.far(&route.endpoint);
    let ground = &shared.ground;
    let (mut stream, peer, end) = secure(&far, ground).await?;
    match timeout(admission_timeout(ground.config.connect_timeout), admission(&mut stream)).await {
        Ok(Ok(())) => {}
        Ok(Err(refusal)) => return Err(refusal),
        Err(_) => return Err(Reason::EndpointUnreachable.because("the other node did not answer in time")),
    }
    Ok((stream, ground.list_made(peer, end)))
}

/// The other proxy connects to its service within its own bound first.
fn admission_timeout(connect_timeout: Duration) -> Duration {
    connect_timeout * 2
}

async fn admission(stream: &mut Far) -> Result<(), Refusal> {
    let broken = |err: io::Error| {
        let what = format!("the other node did not let this one in ({err}): its log says why");
        Reason::EndpointUnreachable.because(what)
    };
    if stream.read_u8().await.map_err(broken)? == CONNECTED {
        return Ok(());
    }
    let len = stream.read_u8().await.map_err(broken)?;
    let mut code = vec![0; usize::from(len)];
    stream.read_exact(&mut code).await.map_err(broken)?;
    let reason = std::str::from_utf8(&code).ok().and_then(Reason::from_code);
    Err(reason.unwrap_or(Reason::EndpointUnreachable).because("the serving node refused the tunnel"))
}

/// Serves a tunnel that another node's proxy opened.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    mut stream: TlsStream<Carrier>,
    guest: Guest,
    drain: CancellationToken,
) {
    shared.ground.counts.add(Count::InboundTunnel);
    let table = Arc::clone(&shared.table.borrow());
    let within = shared.ground.config.connect_timeout;
    let backend = match guest.admit(&table, Protocol::Tcp) {
        Ok(backend) => {
            connect(backend.address, within, SILENCE_MAX).await.map_err(|refusal| guest.blame(refusal))
        }
        Err(refusal) => Err(refusal),
    };
    let mut backend = match backend {
        Ok(backend) => backend,
        Err(refusal) => {
            refused(shared, &refusal, &guest.service, guest.end.address);
            let _ = timeout(within, turn_away(&mut stream, refusal.reason)).await;
            return;
        }
    };
    let open = Open::new(guest.peer.clone(), guest.end.clone(), Direction::Inbound);
    let listed = shared.ground.connections.list(open);
    let admitted = async {
        stream.write_u8(CONNECTED).await?;
        stream.flush().await
    };
    if !matches!(timeout(within, admitted).await, Ok(Ok(()))) {
        return;
    }
    let mut changes = shared.table.clone();
    let denied = async {
        while changes.changed().await.is_ok() {
            let table = Arc::clone(&changes.borrow_and_update());
            let policy = table
                .served(&guest.service)
                .and_then(|(local, _)| local.policy.check(&guest.service, &guest.peer.caller.id));
            if let Err(refusal) = policy {
                return refused(shared, &refusal, &guest.service, guest.end.address);
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = splice(&mut backend, stream, &listed, &drain, shared) => {}
        () = denied => {}
    }
}

async fn turn_away(stream: &mut TlsStream<Carrier>, reason: Reason) -> io::Result<()> {
    let code = reason.code().as_bytes();
    stream.write_u8(REFUSED).await?;
    stream.write_u8(u8::try_from(code.len()).unwrap_or(u8::MAX)).await?;
    stream.write_all(code).await?;
    stream.shutdown().await
}

/// Makes two streams one until both have ended, or the peer no longer counts, or the node's time to drain is
/// over. Answers how many bytes went from `near` and to it.
async fn splice<T: AsyncRead + AsyncWrite + Unpin>(
    near: &mut TcpStream,
    mut far: T,
    listed: &Listed,
    drain: &CancellationToken,
    shared: &Shared,
) -> io::Result<(u64, u64)> {
    listed.open.set_calls(1);
    let drained = async {
        drain.cancelled().await;
        tokio::time::sleep(shared.ground.config.drain_timeout).await;
    };
    tokio::select! {
        carried = copy_bidirectional(near, &mut far) => carried,
        () = listed.open.cut.cancelled() => Err(io::ErrorKind::ConnectionAborted.into()),
        () = drained => Err(io::ErrorKind::TimedOut.into()),
    }
}
