//! Calls of processes on this machine: who calls, whom, and where to.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use attest::Owner;
use route::Endpoint;
use types::{Reason, Refusal, ServiceName};
use wire::Stream;
use wire::hpack::{Fields, Name};

use crate::headers::Asked;
use crate::inbound::H2;
use crate::metrics::Count;
use crate::outbound::{ATTEMPTS_MAX, Caller};
use crate::refusal::Form;
use crate::room::Shared;
use crate::table::Table;
use crate::trace;

use super::call::{Answer, Attempt, Body, Call, Limits, Out, Side};
use super::conn::{Kind, Near};
use super::lane::LaneTo;
use super::slab::Key;
use super::worker::{Due, Worker};

/// How long a request that is not gRPC may take to come before it is answered.
const FOREIGN_MAX: Duration = Duration::from_secs(1);
/// Lanes that a connection remembers.
const LANES_MAX: usize = 16;

/// What a call asks for.
struct Plan {
    caller: Arc<Caller>,
    service: Arc<ServiceName>,
    deadline: Option<Instant>,
}

impl Worker {
    /// Takes a request.
    pub(super) fn on_request(&mut self, key: Key, stream: Stream, is_end: bool, fields: &mut Fields) {
        #[cfg(test)]
        assert!(fields.value(Name::Path) != Some(b"/panic"), "on purpose");
        let counts = &self.shared.ground.counts;
        let asked = Asked::of(fields);
        let is_guest = match self.conns.get_mut(key).map(|conn| &conn.kind) {
            Some(Kind::Near(_)) => false,
            Some(Kind::Guest(_)) => true,
            Some(Kind::Upstream(_)) | None => return,
        };
        counts.add(if is_guest { Count::InboundCall } else { Count::OutboundCall });
        if !asked.is_grpc {
            return self.on_foreign((key, stream), is_end, fields);
        }
        match is_guest {
            true => self.on_inbound((key, stream), is_end, &asked, fields),
            false => self.on_outbound((key, stream), is_end, &asked, fields),
        }
    }

    fn on_outbound(&mut self, near: (Key, Stream), is_end: bool, asked: &Asked, fields: &mut Fields) {
        let plan = match self.plan(near.0, asked, fields) {
            Ok(plan) => plan,
            Err(refusal) => {
                self.refuse_at_once(near, &refusal, Form::Answer);
                return self.part(near.0);
            }
        };
        let traceparent = asked.traceparent.and_then(|idx| fields.get(idx)).map(|field| field.value);
        let span = trace::span("client", traceparent);
        let mut request = std::mem::replace(fields, self.pools.fields());
        asked.onward(&mut request, b"https", (Name::SagemeshTiming, b"1"));
        let out = Out {
            caller: plan.caller,
            service: plan.service,
            deadline: plan.deadline,
            tried: Vec::new(),
            last: None,
            is_unreachable: false,
            attempt: None,
        };
        let call = self.begin(near, is_end, request, Side::Out(out), span);
        self.route(call);
    }

    /// Takes a request that is not gRPC, whose rules its sender may break still.
    fn on_foreign(&mut self, near: (Key, Stream), is_end: bool, fields: &mut Fields) {
        let request = std::mem::replace(fields, self.pools.fields());
        let key = self.begin(near, is_end, request, Side::Foreign, tracing::Span::none());
        if is_end {
            return self.answer_foreign(key);
        }
        let timer = self.wheel.insert(self.now.mono + FOREIGN_MAX, Due::Call(key));
        if let Some(call) = self.calls.get_mut(key) {
            call.timer = Some(timer);
        }
    }

    /// Makes a call of a request.
    pub(super) fn begin(
        &mut self,
        near: (Key, Stream),
        is_end: bool,
        request: Fields,
        side: Side,
        span: tracing::Span,
    ) -> Key {
        let call = self.calls.insert(Call {
            near,
            is_head: request.value(Name::Method) == Some(b"HEAD"),
            far: None,
            request,
            body: Body::new(is_end),
            answer: Answer::default(),
            side,
            waits_on: None,
            timer: None,
            limits: Limits::default(),
            started: self.now.mono,
            sent_at: None,
            counted: None,
            status: None,
            _span: span,
        });
        if let Some(conn) = self.conns.get_mut(near.0) {
            conn.wire.set_token(near.1, call.to_bits());
        }
        call
    }

    /// Lets a connection go whose owner cannot be told: that of another may be.
    fn part(&mut self, key: Key) {
        if let Some(conn) = self.conns.touch(key)
            && let Kind::Near(near) = &conn.kind
            && near.owner.is_err()
        {
            conn.wire.leave(&mut conn.out);
        }
    }

    fn plan(&mut self, key: Key, asked: &Asked, fields: &Fields) -> Result<Plan, Refusal> {
        let gone = || Reason::NotServing.because("the connection is over");
        let Some(Kind::Near(near)) = self.conns.get_mut(key).map(|conn| &mut conn.kind) else {
            return Err(gone());
        };
        let caller = caller(near, &mut self.callers, &self.shared, &self.table)?;
        asked.check(fields)?;
        let host = asked.host(fields);
        let service = match &near.named {
            Some((named, service)) if named == host => Arc::clone(service),
            _ => {
                let text = String::from_utf8_lossy(host);
                let table = &self.table;
                let service = table.named(&text).ok_or_else(|| {
                    let form =
                        format!("`:authority` is `{text}` and must be SERVICE or SERVICE.svc.{}", table.mesh);
                    Reason::ServiceUnknown.because(form)
                })?;
                let service = Arc::new(service);
                near.named = Some((host.to_vec(), Arc::clone(&service)));
                service
            }
        };
        let deadline = asked.timeout(fields)?.map(|within| self.now.mono + within);
        Ok(Plan { caller, service, deadline })
    }

    /// Sends a call to the endpoint that the router chooses, or has it wait for a connection to there. Answers it if
    /// there is nowhere to send it.
    pub(super) fn route(&mut self, key: Key) {
        let now = self.now;
        let Some(call) = self.calls.get_mut(key) else { return };
        let Side::Out(out) = &mut call.side else { return };
        if out.tried.len() >= ATTEMPTS_MAX {
            return self.give_up(key);
        }
        let attempt =
            if out.tried.is_empty() { route::Attempt::First } else { route::Attempt::Again(&out.tried) };
        let request = route::Request { service: &out.service, deadline: out.deadline, attempt };
        let (route, pending) = match self.shared.routes.decide(now, &request) {
            Ok(decided) => decided,
            Err(refusal) => {
                out.last.get_or_insert(refusal);
                return self.give_up(key);
            }
        };
        if out.is_unreachable && out.tried.last() == Some(&route.endpoint.id) {
            return self.give_up(key);
        }
        if !out.tried.is_empty() {
            self.shared.ground.counts.add(Count::CallRetried);
        }
        let near = call.near.0;
        let endpoint = Arc::clone(&route.endpoint);
        let (deadline, is_trial) = (route.deadline, route.is_trial);
        out.attempt = Some(Attempt { endpoint: route.endpoint, deadline, is_trial, pending: Some(pending) });
        call.limits = match out.deadline {
            Some(_) => Limits { deadline: Some(deadline), answer_within: None },
            None => {
                let within = deadline.saturating_duration_since(now.mono);
                Limits { deadline: None, answer_within: Some(within) }
            }
        };
        let caller = Arc::clone(&out.caller);
        let lane = self.lane_between(near, &caller, &endpoint);
        self.place(key, lane);
    }

    /// The lane by which a caller reaches an endpoint.
    fn lane_between(&mut self, near: Key, caller: &Arc<Caller>, endpoint: &Arc<Endpoint>) -> Key {
        let known = match self.conns.get_mut(near).map(|conn| &conn.kind) {
            Some(Kind::Near(near)) => near.lanes.iter().find(|(it, _)| Arc::ptr_eq(it, endpoint)),
            _ => None,
        };
        if let Some((_, lane)) = known
            && self.lanes.get(*lane).is_some()
        {
            return *lane;
        }
        let to = LaneTo::Node { caller: Arc::clone(caller), endpoint: Arc::clone(endpoint) };
        let lane = self.lane(to);
        if let Some(Kind::Near(near)) = self.conns.get_mut(near).map(|conn| &mut conn.kind) {
            if near.lanes.len() >= LANES_MAX {
                near.lanes.clear();
            }
            near.lanes.retain(|(it, _)| !Arc::ptr_eq(it, endpoint));
            near.lanes.push((Arc::clone(endpoint), lane));
        }
        lane
    }
}

/// Who calls over a connection, by the table of the moment.
fn caller(
    near: &mut Near,
    callers: &mut HashMap<ServiceName, Arc<Caller>>,
    shared: &Shared,
    table: &Arc<Table>,
) -> Result<Arc<Caller>, Refusal> {
    if let Some((seen, caller)) = &near.seen
        && Arc::ptr_eq(seen, table)
    {
        return caller.clone();
    }
    let owner: Result<&Owner, Refusal> = near.owner.as_ref().map_err(Refusal::clone);
    let caller = owner.and_then(|owner| {
        let (service, local) = table.caller(owner)?;
        if let Some(caller) = callers.get(service) {
            return Ok(Arc::clone(caller));
        }
        let caller = Arc::new(Caller::named(service, local, table, shared, H2)?);
        callers.insert(service.clone(), Arc::clone(&caller));
        Ok(caller)
    });
    near.seen = Some((Arc::clone(table), caller.clone()));
    near.named = None;
    near.lanes.clear();
    caller
}
