//! Calls for services on this machine, from other nodes' proxies and from stock clients.
//!
//! A connection is for the one service that its hello named. Its caller is authorised once for each version of
//! the table. A call that this proxy refuses before the service has seen it carries `sagemesh-refused`, if
//! another proxy sent it: that one may then send it elsewhere. Stock clients get the same refusal without it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tracing::debug;
use types::{Reason, Refusal};
use wire::Stream;
use wire::hpack::{Fields, Name};

use crate::edges::Counted;
use crate::headers::Asked;
use crate::refusal::Form;
use crate::table::Protocol;
use crate::trace;

use super::call::{In, Side};
use super::conn::{Guest, Kind};
use super::lane::LaneTo;
use super::slab::Key;
use super::worker::Worker;

impl Worker {
    pub(super) fn on_inbound(
        &mut self,
        near: (Key, Stream),
        is_end: bool,
        asked: &Asked,
        fields: &mut Fields,
    ) {
        let Some(Kind::Guest(guest)) = self.conns.get_mut(near.0).map(|conn| &mut conn.kind) else { return };
        let is_proxy = asked.is_from_proxy;
        // Proxies keep the deadlines of the calls that they send.
        let timeout = if is_proxy { Ok(None) } else { in_time(asked, fields) };
        let admitted = admit(guest, &self.table, asked, fields).and_then(|address| Ok((address, timeout?)));
        // Proxies count by themselves.
        let mut counted: Option<Counted> = (!is_proxy).then(|| {
            let peer = &guest.guest.peer;
            let edge = || self.inbox.edges.of(peer.caller.id.clone(), peer.own.clone());
            guest.edge.get_or_insert_with(edge).enter()
        });
        let guest = Arc::clone(&guest.guest);
        let (address, timeout) = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => {
                debug!(sagemesh.caller = %guest.peer.caller.id, sagemesh.target = %guest.peer.own, "refused a call");
                if let Some(counted) = &mut counted {
                    counted.tally.status = Some(refusal.reason.status() as u8);
                    counted.tally.refused = Some(refusal.reason);
                }
                let form = if is_proxy { Form::AnswerToProxy } else { Form::Answer };
                return self.refuse_at_once(near, &refusal, form);
            }
        };
        let traceparent = asked.traceparent.and_then(|idx| fields.get(idx)).map(|field| field.value);
        let span = trace::span("server", traceparent);
        let mut request = std::mem::replace(fields, self.pools.fields());
        if let Some(Kind::Guest(guest)) = self.conns.get_mut(near.0).map(|conn| &conn.kind) {
            asked.onward(&mut request, b"http", (Name::XForwardedClientCert, &guest.client_cert));
        }
        let side = Side::In(In { guest, is_proxy, n_tried: 0 });
        let call = self.begin(near, is_end, request, side, span);
        if let Some(call) = self.calls.get_mut(call) {
            call.counted = counted;
            call.limits.deadline = timeout.map(|within| self.now.mono + within);
        }
        let lane = self.lane_to(near.0, address);
        self.place(call, lane);
    }

    /// The lane of one guest to a backend.
    pub(super) fn lane_to(&mut self, near: Key, address: SocketAddr) -> Key {
        let Some(Kind::Guest(guest)) = self.conns.get_mut(near).map(|conn| &conn.kind) else {
            return Key::from_bits(0);
        };
        if let Some((known, lane)) = guest.lane
            && known == address
            && self.lanes.get(lane).is_some()
        {
            return lane;
        }
        let caller = guest.guest.peer.caller.id.clone();
        let lane = self.lane(LaneTo::Backend { caller, address });
        if let Some(Kind::Guest(guest)) = self.conns.get_mut(near).map(|conn| &mut conn.kind) {
            guest.lane = Some((address, lane));
        }
        lane
    }
}

/// How long a call has that names a deadline.
fn in_time(asked: &Asked, fields: &Fields) -> Result<Option<Duration>, Refusal> {
    match asked.timeout(fields)? {
        Some(Duration::ZERO) => Err(Reason::DeadlineExceeded.because("it had passed when the call came")),
        timeout => Ok(timeout),
    }
}

/// Where a call goes, if it may.
fn admit(
    guest: &mut Guest,
    table: &Arc<crate::table::Table>,
    asked: &Asked,
    fields: &Fields,
) -> Result<SocketAddr, Refusal> {
    let is_seen = guest.seen.as_ref().is_some_and(|(seen, _)| Arc::ptr_eq(seen, table));
    if !is_seen {
        guest.seen = Some((Arc::clone(table), guest.guest.admit(table, Protocol::Grpc)));
        guest.named = None;
    }
    let backend = guest.seen.as_ref().map(|(_, backend)| backend);
    let address = match backend {
        Some(Ok(backend)) => backend.address,
        Some(Err(refusal)) => return Err(refusal.clone()),
        None => return Err(Reason::NotServing.because("no table")),
    };
    asked.check(fields)?;
    let host = asked.host(fields);
    if guest.named.as_deref() != Some(host) {
        let service = &guest.guest.service;
        let text = String::from_utf8_lossy(host);
        if table.named_here(&text).as_ref() != Some(service) {
            let what = format!("the connection is for `{service}` and `:authority` is `{text}`");
            return Err(Reason::ServiceUnknown.because(what));
        }
        guest.named = Some(host.to_vec());
    }
    Ok(address)
}
