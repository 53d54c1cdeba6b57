//! Calls for services on this node, from other nodes' proxies and from stock clients.
//!
//! A connection is for the one service that its hello named. Its caller is authorised once for each version of
//! the table. A call that this proxy refuses before the service has seen it carries `sagemesh-refused`, if
//! another proxy sent it: that one may then send it elsewhere. Stock clients get the same refusal without it.

use std::net::SocketAddr;
use std::sync::Arc;

use http::uri::Scheme;
use http::{HeaderValue, Request, response};
use tls::server::{ByName, Newcomers};
use tls::{Accepted, Peer, Pq, Server};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info};

use types::{Reason, Refusal, ServiceName, SpiffeId, Workload, chain};

use crate::call::{Call, Carried, End, Limits, Sent, Timing};
use crate::connections::{Direction, Open};
use crate::edges::{Counted, Tally};
use crate::headers;
use crate::link::{H2, To};
use crate::metrics::Count;
use crate::pool::Lane;
use crate::room::Shared;
use crate::serve::{Life, serve};
use crate::socket;
use crate::table::{Backend, Protocol, Table};
use crate::trace;
use crate::tunnel;

/// How often a call is tried at the service: again if the service was closing the connection.
const ATTEMPTS_MAX: usize = 2;

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

/// Serves one connection.
pub(crate) async fn connection(
    shared: Arc<Shared>,
    stream: TcpStream,
    address: SocketAddr,
    drain: CancellationToken,
) {
    let counts = &shared.ground.counts;
    let Ok(handshake) = shared.handshakes.try_acquire() else {
        counts.add(Count::ConnectionShed);
        debug!(network.peer.address = %address, "shed a connection: too many handshakes");
        return;
    };
    let met = match socket::prepare(&stream, socket::SILENCE_MAX) {
        Ok(()) => shared.server.accept(stream).await,
        Err(err) => Err(tls::Error::Handshake(err)),
    };
    drop(handshake);
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
            info!(network.peer.address = %address, error.type = reason, error = chain(&err), "refused a connection");
            return;
        }
    };
    let SpiffeId::Workload { workload: Workload::Service(service), .. } = peer.own.clone() else { return };
    counts.add(Count::InboundConnection);
    let guest = Guest { service, peer: (*peer).clone(), address };
    match &*peer.alpn {
        tunnel::ALPN => tunnel::serve(&shared, *stream, guest, drain).await,
        _ => calls(&shared, *stream, guest, drain).await,
    }
}

/// Who connected, and which service it means.
pub(crate) struct Guest {
    pub(crate) service: ServiceName,
    pub(crate) peer: Peer,
    pub(crate) address: SocketAddr,
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

async fn calls(shared: &Arc<Shared>, stream: TlsStream<TcpStream>, guest: Guest, drain: CancellationToken) {
    let open = Open::new(guest.peer.clone(), guest.address, Direction::Inbound);
    let listed = shared.ground.connections.list(open);
    let life = Life { drain, cut: listed.open.cut.clone(), load: Arc::clone(&listed.open.load) };
    let (guest, lane) = (Arc::new(guest), Arc::new(Lane::default()));
    let mut seen: Option<(Arc<Table>, Result<Backend, Refusal>)> = None;
    let on_call = |incoming: Call| {
        let table = Arc::clone(&shared.table.borrow());
        let backend = match &seen {
            Some((known, backend)) if Arc::ptr_eq(known, &table) => backend.clone(),
            _ => {
                let backend = guest.admit(&table, Protocol::Grpc);
                seen = Some((Arc::clone(&table), backend.clone()));
                backend
            }
        };
        let span = trace::span("server", &incoming.head.headers);
        call(Arc::clone(shared), table, backend, (Arc::clone(&guest), Arc::clone(&lane)), incoming)
            .instrument(span)
    };
    let ended = serve(stream, &shared.ground.config, &shared.ground.counts, &life, on_call).await;
    let why = ended.err().map(|err| err.to_string());
    debug!(network.peer.address = %guest.address, error = why, "a connection ended");
}

/// Carries one call to its service.
async fn call(
    shared: Arc<Shared>,
    table: Arc<Table>,
    backend: Result<Backend, Refusal>,
    (guest, lane): (Arc<Guest>, Arc<Lane>),
    mut call: Call,
) {
    shared.ground.counts.add(Count::InboundCall);
    if !headers::is_grpc(&call.head.headers) {
        return call.refuse_foreign().await;
    }
    let visit = Visit {
        is_proxy: call.head.headers.contains_key(headers::TIMING),
        guest,
        shared: Arc::clone(&shared),
    };
    let mut counted = visit.count();
    let admitted = backend.and_then(|backend| {
        headers::check(&call.head)?;
        visit.check_authority(&call, &table)?;
        Ok(backend)
    });
    let backend = match admitted {
        Ok(backend) => backend,
        Err(refusal) => return visit.refuse(call, &refusal, counted),
    };
    let mut last = None;
    for _ in 0..ATTEMPTS_MAX {
        let to = To::Backend(backend.address);
        let lease = tokio::select! {
            biased;
            lease = lane.lease(&to, &shared.ground, &shared.tasks) => lease,
            () = call.is_gone() => return,
        };
        let mut lease = match lease {
            Ok(lease) => lease,
            Err(refusal) => {
                last = Some(refusal);
                break;
            }
        };
        let head = visit.onward(&call);
        let carried =
            call.exchange(&mut lease, head, Limits::default(), |head, timing, _| visit.answer(head, timing));
        let Carried { sent, request_bytes, response_bytes } = carried.await;
        match sent {
            Sent::Ended(end) => {
                if let Some(counted) = &mut counted {
                    let (status, refused) = told(end);
                    let tally = Tally { status, refused, request_bytes, response_bytes, ..Tally::default() };
                    counted.tally = tally;
                }
                return;
            }
            Sent::Unsent(back, refusal) => {
                call = *back;
                last = Some(refusal);
            }
        }
    }
    let refusal = last.unwrap_or_else(|| Reason::EndpointUnreachable.because("it was not tried"));
    visit.refuse(call, &visit.guest.blame(refusal), counted);
}

/// What a stock client saw of a call's end.
fn told(end: End) -> (Option<u8>, Option<Reason>) {
    match end {
        End::Answered(status) => (Some(status.unwrap_or(2)), None),
        End::Unsent(reason) => (Some(reason.status() as u8), Some(reason)),
        End::Lost => (None, Some(Reason::CallLost)),
        End::Reset => (None, None),
        End::TimedOut => (Some(4), Some(Reason::DeadlineExceeded)),
        End::Cancelled => (Some(1), None),
    }
}

/// One call of one guest.
struct Visit {
    shared: Arc<Shared>,
    guest: Arc<Guest>,
    /// Whether another proxy sent it, which counts it by itself.
    is_proxy: bool,
}

impl Visit {
    fn count(&self) -> Option<Counted> {
        if self.is_proxy {
            return None;
        }
        let peer = &self.guest.peer;
        Some(self.shared.ground.edges.of(peer.caller.id.clone(), peer.own.clone()).enter())
    }

    fn check_authority(&self, call: &Call, table: &Table) -> Result<(), Refusal> {
        let host = headers::host(&call.head).unwrap_or_default();
        if table.named_here(host).as_ref() == Some(&self.guest.service) {
            return Ok(());
        }
        let service = &self.guest.service;
        let what = format!("the connection is for `{service}` and `:authority` is `{host}`");
        Err(Reason::ServiceUnknown.because(what))
    }

    fn refuse(&self, call: Call, refusal: &Refusal, mut counted: Option<Counted>) {
        self.shared.ground.counts.refuse(refusal.reason);
        debug!(
            sagemesh.caller = %self.guest.peer.caller.id,
            sagemesh.target = %self.guest.peer.own,
            error.type = refusal.reason.code(),
            error = %refusal,
            "refused a call"
        );
        if let Some(counted) = &mut counted {
            counted.tally.status = Some(refusal.reason.status() as u8);
            counted.tally.refused = Some(refusal.reason);
        }
        if self.is_proxy { call.refuse_proxy(refusal) } else { call.refuse(refusal) }
    }

    /// The request as the service gets it.
    fn onward(&self, call: &Call) -> Request<()> {
        let mut request = headers::onward(&call.head, Scheme::HTTP);
        headers::strip(request.headers_mut());
        let peer = &self.guest.peer;
        headers::set_client_cert(request.headers_mut(), &peer.own, &peer.caller.id);
        request
    }

    /// Makes the service's answer what the caller gets.
    fn answer(&self, head: &mut response::Parts, timing: &Timing) {
        headers::strip(&mut head.headers);
        if let Some(own) = timing.own.filter(|_| self.is_proxy) {
            let us = u64::try_from(own.as_micros()).unwrap_or(u64::MAX);
            head.headers.insert(headers::SERVER_US, HeaderValue::from(us));
        }
    }
}
