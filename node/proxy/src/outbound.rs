//! Calls of processes on this machine: who calls, whom, and where to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Request, response};
use tls::{Client, Svids};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info};

use attest::Owner;
use route::{Attempt, EndpointId, Outcome, Route};
use types::{Reason, Refusal, ServiceName, SpiffeId};

use crate::call::{Call, Carried, End, Limits, Sent, Timing};
use crate::connections::Load;
use crate::edges::{Counted, Tally};
use crate::headers;
use crate::link::{Far, H2, Lease, To, unreachable};
use crate::metrics::Count;
use crate::pool::Key;
use crate::room::Shared;
use crate::routes::Pending;
use crate::serve::{Life, serve};
use crate::table::Table;
use crate::trace;

/// Endpoints that one call is tried at: the most that `route.attempts_max` can be. `route` says how many.
pub(crate) const ATTEMPTS_MAX: usize = 10;

/// How long a connection stays whose owner is no service: until its calls were refused.
const UNMAPPED_MAX: Duration = Duration::from_secs(10);

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
            address: endpoint.address,
        }
    }
}

/// The service at an endpoint.
pub(crate) fn target(endpoint: &EndpointId) -> SpiffeId {
    SpiffeId::service(endpoint.node.clone(), endpoint.service.clone())
}

/// Who calls over one connection, by the table of the moment.
struct Callers {
    owner: Arc<Result<Owner, Refusal>>,
    seen: Option<Seen>,
}

/// Who an owner is by one table.
type Seen = (Arc<Table>, Result<Arc<Caller>, Refusal>);

impl Callers {
    fn caller(&mut self, shared: &Shared) -> Seen {
        let table = Arc::clone(&shared.table.borrow());
        match &self.seen {
            Some((seen, caller)) if Arc::ptr_eq(seen, &table) => (table, caller.clone()),
            _ => {
                let owner = self.owner.as_ref().as_ref().map_err(Refusal::clone);
                let caller = owner.and_then(|owner| Caller::of(owner, &table, shared, H2)).map(Arc::new);
                self.seen = Some((Arc::clone(&table), caller.clone()));
                (table, caller)
            }
        }
    }
}

/// Carries the calls of one connection. One whose owner is no service is served as well: its calls are
/// refused, each with the advice that its caller needs, and it is closed soon. So is one of a user who holds as many
/// as it may, at once.
pub(crate) async fn connection<T: AsyncRead + AsyncWrite + Unpin>(
    shared: Arc<Shared>,
    stream: T,
    owner: Result<Owner, Refusal>,
    drain: CancellationToken,
) {
    let counts = &shared.ground.counts;
    let share = owner.as_ref().map(|owner| shared.shares.take(owner.uid));
    let (Ok(Some(_)) | Err(_)) = &share else {
        counts.add(Count::ConnectionShed);
        debug!("shed a connection: its user has too many open");
        return;
    };
    counts.add(Count::OutboundConnection);
    let is_told = owner.is_ok();
    if let Err(refusal) = &owner {
        info!(error.type = refusal.reason.code(), error = %refusal, "failed to tell who calls");
    }
    let owner = Arc::new(owner);
    let outstays = outstays(&shared, Arc::clone(&owner));
    let mut callers = Callers { owner, seen: None };
    let drain = drain.child_token();
    let life = Life { drain: drain.clone(), cut: CancellationToken::new(), load: Arc::<Load>::default() };
    let on_call = |incoming: Call| {
        if !is_told {
            // Another connection may be told from another.
            drain.cancel();
        }
        let (table, caller) = callers.caller(&shared);
        let span = trace::span("client", &incoming.head.headers);
        call(Arc::clone(&shared), table, caller, incoming).instrument(span)
    };
    tokio::select! {
        ended = serve(stream, &shared.ground.config, counts, &life, on_call) => {
            if let Err(err) = ended {
                debug!(error = %err, "the connection of a caller broke");
            }
        }
        () = outstays => debug!("closed a connection whose owner is no service"),
    }
}

/// Waits until a connection shall end because its owner is no service.
async fn outstays(shared: &Shared, owner: Arc<Result<Owner, Refusal>>) {
    sleep(UNMAPPED_MAX).await;
    let is_mapped = owner.as_ref().as_ref().is_ok_and(|owner| shared.table.borrow().caller(owner).is_ok());
    if is_mapped {
        std::future::pending::<()>().await;
    }
}

/// What a call asks for.
struct Plan {
    service: ServiceName,
    deadline: Option<Instant>,
}

fn plan(call: &Call, table: &Table) -> Result<Plan, Refusal> {
    headers::check(&call.head)?;
    let host = headers::host(&call.head).unwrap_or_default();
    let service = table.named(host).ok_or_else(|| {
        let form = format!("`:authority` is `{host}` and must be SERVICE or SERVICE.svc.{}", table.mesh);
        Reason::ServiceUnknown.because(form)
    })?;
    let timeout = headers::timeout(&call.head.headers)?;
    Ok(Plan { service, deadline: timeout.map(|within| Instant::now() + within) })
}

/// Carries one call.
async fn call(shared: Arc<Shared>, table: Arc<Table>, caller: Result<Arc<Caller>, Refusal>, mut call: Call) {
    shared.ground.counts.add(Count::OutboundCall);
    if !headers::is_grpc(&call.head.headers) {
        return call.refuse_foreign().await;
    }
    let planned = caller.and_then(|caller| Ok((caller, plan(&call, &table)?)));
    let (caller, plan) = match planned {
        Ok(planned) => planned,
        Err(refusal) => return refuse(&shared, call, &refusal),
    };
    let mut tried: Vec<EndpointId> = Vec::new();
    let mut last: Option<Refusal> = None;
    // Where no connection could be made; a call does not wait for that twice.
    let mut is_unreachable = false;
    while tried.len() < ATTEMPTS_MAX {
        let attempt = if tried.is_empty() { Attempt::First } else { Attempt::Again(&tried) };
        let request = route::Request { service: &plan.service, deadline: plan.deadline, attempt };
        let (route, pending) = match shared.routes.decide(&request) {
            Ok(decided) => decided,
            Err(refusal) => {
                last.get_or_insert(refusal);
                break;
            }
        };
        if is_unreachable && tried.last() == Some(&route.endpoint.id) {
            break;
        }
        if !tried.is_empty() {
            shared.ground.counts.add(Count::CallRetried);
        }
        let n_tried = tried.len();
        match attempt_at(&shared, &caller, &plan, &route, pending, (call, n_tried)).await {
            None => return,
            Some(back) => {
                call = *back.call;
                last = Some(back.refusal);
                is_unreachable = back.is_unreachable;
                tried.push(route.endpoint.id.clone());
            }
        }
    }
    let refusal = last.unwrap_or_else(|| Reason::NoEndpoint.because("no endpoint was tried"));
    if let Some(endpoint) = tried.last() {
        let mut counted = shared.ground.edges.of(caller.id.clone(), target(endpoint)).enter();
        let (status, refused) = (Some(refusal.reason.status() as u8), Some(refusal.reason));
        counted.tally = Tally { status, refused, retried: tried.len() as u64 - 1, ..Tally::default() };
    }
    refuse(&shared, call, &refusal);
}

fn refuse(shared: &Shared, call: Call, refusal: &Refusal) {
    shared.ground.counts.refuse(refusal.reason);
    debug!(error.type = refusal.reason.code(), error = %refusal, "refused a call");
    call.refuse(refusal);
}

/// A call that reached no server where it was tried, and why.
struct Back {
    call: Box<Call>,
    refusal: Refusal,
    /// Whether no connection could be made.
    is_unreachable: bool,
}

/// Tries a call at one endpoint. Answers the call if it reached no server there.
async fn attempt_at(
    shared: &Shared,
    caller: &Caller,
    plan: &Plan,
    route: &Route,
    pending: Pending,
    (mut call, n_tried): (Call, usize),
) -> Option<Back> {
    let far = caller.far(&route.endpoint);
    let (target, address) = (far.target.clone(), far.address);
    let lane = shared.pool.lane(Key { caller: caller.service.clone(), target, address });
    let to = To::Node(Box::new(far));
    let until = connect_until(route);
    let leasing = async {
        let lease = lane.lease(&to, &shared.ground, &shared.tasks).await?;
        if route.is_trial {
            // Its node may be gone, and the connection not know it yet.
            lease.link.gives_sign().await;
        }
        Ok(lease)
    };
    let lease = tokio::select! {
        biased;
        lease = leasing => lease,
        () = call.is_gone() => return None,
        () = sleep_until(until.into()) => Err(unreachable(address, "no connection in time")),
    };
    match lease {
        Ok(lease) => send(shared, plan, route, pending, (call, n_tried), lease).await,
        Err(_) if Instant::now() >= route.deadline => {
            pending.report(Outcome::TimedOut);
            let refusal = Reason::DeadlineExceeded.because(format!("no connection to {address} in time"));
            refuse(shared, call, &refusal);
            None
        }
        Err(refusal) => {
            pending.report(Outcome::Unsent);
            Some(Back { call: Box::new(call), refusal, is_unreachable: true })
        }
    }
}

/// How long a call waits for a connection, or for a sign of life on one. One that only shows whether an endpoint
/// is back leaves half of its time to another endpoint: a node that was cut off gives no sign for as long as many
/// calls have.
fn connect_until(route: &Route) -> Instant {
    let left = route.deadline.saturating_duration_since(Instant::now());
    if route.is_trial { route.deadline - left / 2 } else { route.deadline }
}

/// Sends a call to an endpoint over a connection that takes calls.
async fn send(
    shared: &Shared,
    plan: &Plan,
    route: &Route,
    pending: Pending,
    (call, n_tried): (Call, usize),
    mut lease: Lease,
) -> Option<Back> {
    let now = Instant::now();
    let limits = match plan.deadline {
        Some(_) => Limits { deadline: Some(route.deadline), answer_within: None },
        None => Limits { deadline: None, answer_within: Some(route.deadline.saturating_duration_since(now)) },
    };
    let head = onward(&call, limits.deadline);
    let mut counted: Option<Counted> = lease.link.edge.as_ref().map(|edge| edge.enter());
    let mut tally = Tally { retried: n_tried as u64, ..Tally::default() };
    let mut pending = Some(pending);
    let on_head = |head: &mut response::Parts, timing: &Timing, is_end: bool| {
        let status = is_end.then(|| headers::status(&head.headers)).flatten();
        if let Some(pending) = pending.take() {
            pending.report(Outcome::Answered { latency: timing.latency, status });
        }
        tally.latency = Some(timing.latency);
        tally.gap =
            timing.own.zip(headers::server_time(&head.headers)).map(|(own, far)| own.saturating_sub(far));
        tally.refused = headers::refused(&head.headers);
        headers::strip(&mut head.headers);
    };
    let Carried { sent, request_bytes, response_bytes } =
        call.exchange(&mut lease, head, limits, on_head).await;
    (tally.request_bytes, tally.response_bytes) = (request_bytes, response_bytes);
    let (outcome, back) = match sent {
        Sent::Ended(end) => (conclude(shared, end, &mut tally), None),
        Sent::Unsent(call, refusal) => {
            tally.is_void = true;
            (Outcome::Unsent, Some(Back { call, refusal, is_unreachable: false }))
        }
    };
    if let Some(pending) = pending {
        pending.report(outcome);
    }
    if let Some(counted) = &mut counted {
        counted.tally = tally;
    }
    back
}

/// Counts the end of a call, and says what it means to the router if that has not heard of it yet.
fn conclude(shared: &Shared, end: End, tally: &mut Tally) -> Outcome {
    let refused = |tally: &mut Tally, reason: Reason| {
        shared.ground.counts.refuse(reason);
        tally.refused = Some(reason);
        tally.status = Some(reason.status() as u8);
    };
    match end {
        End::Answered(status) => {
            // A call that ends without a status ended with UNKNOWN, as its caller sees it.
            tally.status = Some(status.unwrap_or(2));
            Outcome::Cancelled
        }
        End::Unsent(reason) => {
            refused(tally, reason);
            Outcome::Unsent
        }
        End::Lost => {
            refused(tally, Reason::CallLost);
            tally.status = None;
            Outcome::Lost
        }
        End::Reset => Outcome::Lost,
        End::TimedOut => {
            refused(tally, Reason::DeadlineExceeded);
            Outcome::TimedOut
        }
        End::Cancelled => {
            tally.status = Some(CANCELLED);
            Outcome::Cancelled
        }
    }
}

/// The gRPC status of a call whose caller went away.
const CANCELLED: u8 = 1;

/// The request as the other node's proxy gets it.
fn onward(call: &Call, deadline: Option<Instant>) -> Request<()> {
    let mut request = headers::onward(&call.head, Scheme::HTTPS);
    let map: &mut HeaderMap = request.headers_mut();
    headers::strip(map);
    map.remove(headers::CLIENT_CERT);
    map.insert(headers::TIMING, HeaderValue::from_static("1"));
    if let Some(deadline) = deadline {
        let left = deadline.saturating_duration_since(Instant::now());
        map.insert(headers::GRPC_TIMEOUT, headers::format_timeout(left));
    }
    request
}
