//! How calls end, and what is told of it: to callers, to the router, and to who counts.

use route::Outcome;
use tracing::debug;
use types::reason::Status;
use types::{Reason, Refusal};
use wire::{Code, Stream};

use crate::edges::Tally;
use crate::outbound::target;
use crate::refusal::{Form, NOT_GRPC, not_grpc};

use super::call::{Call, End, Side};
use super::slab::Key;
use super::worker::{Broken, Worker};

/// How often a call is tried at a service on this machine: again if the service was closing the connection.
const LOCAL_ATTEMPTS_MAX: usize = 2;
/// The gRPC status of a call whose caller went away.
const CANCELLED: u8 = 1;
/// The gRPC status of a call that ended without one, as its caller sees it.
const UNKNOWN: u8 = 2;
/// And of one whose time was over.
const DEADLINE_EXCEEDED: u8 = 4;
/// And of one whose server failed.
const INTERNAL: u8 = 13;

impl Worker {
    /// Refuses a request of which nothing is known but that it has too many headers.
    pub(super) fn on_too_large(&mut self, near: Key, stream: Stream) {
        let n_max = self.shared.ground.config.header_bytes_max;
        let how = format!("the call's headers exceed `proxy.header_bytes_max`, which is {n_max} bytes");
        self.refuse_at_once((near, stream), &Reason::Overloaded.because(how), Form::Answer);
    }

    /// Answers what is not gRPC, in words.
    pub(super) fn answer_foreign(&mut self, key: Key) {
        let Some(call) = self.calls.get_mut(key) else { return };
        // The answer to HEAD has no body (RFC 9110, section 9.3.2).
        let is_head = call.is_head;
        let Some(conn) = self.conns.touch(call.near.0) else { return };
        let sent = conn.wire.send_headers(call.near.1, &not_grpc(), is_head, &mut conn.out);
        if sent.is_err() || is_head {
            return self.finish(key, End::Cancelled);
        }
        call.answer.has_begun = true;
        call.answer.is_over = true;
        call.answer.bytes = NOT_GRPC.as_bytes().to_vec();
        self.download_on(key);
    }

    /// Refuses a request of which no call was made.
    pub(super) fn refuse_at_once(&mut self, near: (Key, Stream), refusal: &Refusal, form: Form) {
        self.shared.ground.counts.refuse(refusal.reason);
        debug!(error.type = refusal.reason.code(), error = %refusal, "refused a call");
        let Some(conn) = self.conns.touch(near.0) else { return };
        let fields = self.refusals.fields(refusal, form);
        let _ = conn.wire.send_headers(near.1, fields, true, &mut conn.out);
        conn.wire.reset(near.1, Code::NO_ERROR, &mut conn.out);
    }

    /// Tells a caller why there is no answer, or no more of one. The call is to be finished next.
    pub(super) fn tell(&mut self, key: Key, refusal: &Refusal) {
        let Some(call) = self.calls.get(key) else { return };
        let form = if call.answer.has_begun { Form::Trailers } else { Form::Answer };
        self.tell_as(key, refusal, form);
    }

    fn tell_as(&mut self, key: Key, refusal: &Refusal, form: Form) {
        let Some(call) = self.calls.get(key) else { return };
        if let Some(conn) = self.conns.touch(call.near.0) {
            // If the caller has gone, nobody hears it.
            let _ =
                conn.wire.send_headers(call.near.1, self.refusals.fields(refusal, form), true, &mut conn.out);
        }
    }

    /// Refuses a call that no attempt is under way for.
    fn refuse(&mut self, key: Key, refusal: &Refusal) {
        self.shared.ground.counts.refuse(refusal.reason);
        debug!(error.type = refusal.reason.code(), error = %refusal, "refused a call");
        let Some(call) = self.calls.get(key) else { return };
        self.tell_as(key, refusal, call.form());
        let Some(mut call) = self.calls.remove(key) else { return };
        if let Some(tally) = call.tally() {
            tally.status = Some(refusal.reason.status() as u8);
            tally.refused = Some(refusal.reason);
        }
        self.dispose(&mut call);
    }

    /// Refuses a call for which there is nowhere to go any more.
    pub(super) fn give_up(&mut self, key: Key) {
        let Some(call) = self.calls.get_mut(key) else { return };
        let Side::Out(out) = &mut call.side else { return };
        let refusal = out.last.take().unwrap_or_else(|| Reason::NoEndpoint.because("no endpoint was tried"));
        if let Some(endpoint) = out.tried.last() {
            let edge = self.inbox.edges.of(out.caller.id.clone(), target(endpoint));
            let mut counted = edge.enter();
            counted.tally = Tally { retried: out.tried.len() as u64 - 1, ..Tally::default() };
            call.counted = Some(counted);
        }
        self.refuse(key, &refusal);
    }

    /// Takes note that an attempt reached no server, and goes on elsewhere if it can.
    pub(super) fn attempt_failed(&mut self, key: Key, refusal: Refusal, is_unreachable: bool) {
        let now = self.now;
        let Some(call) = self.calls.get_mut(key) else { return };
        if let Some(timer) = call.timer.take() {
            self.wheel.cancel(timer);
        }
        let far = call.far.take();
        call.body.rewind();
        (call.waits_on, call.sent_at) = (None, None);
        let near = call.near.0;
        let next = match &mut call.side {
            Side::Out(out) => {
                if let Some(attempt) = out.attempt.take() {
                    out.tried.push(attempt.endpoint.id.clone());
                    if let Some(pending) = attempt.pending {
                        pending.report(now, Outcome::Unsent);
                    }
                }
                (out.last, out.is_unreachable) = (Some(refusal), is_unreachable);
                if let Some(counted) = &mut call.counted {
                    counted.tally.is_void = true;
                }
                call.counted = None;
                None
            }
            Side::In(it) => {
                it.n_tried += 1;
                Some((it.n_tried < LOCAL_ATTEMPTS_MAX && !is_unreachable, it.guest.blame(refusal)))
            }
            Side::Foreign => return,
        };
        self.leave_stream(far, Code::CANCEL, 0);
        match next {
            None => self.route(key),
            Some((true, refusal)) => match self.backend_of(near) {
                Some(lane) => self.place(key, lane),
                None => self.refuse(key, &refusal),
            },
            Some((false, refusal)) => self.refuse(key, &refusal),
        }
    }

    /// Ends a call whose connection broke.
    pub(super) fn lost(&mut self, key: Key, why: &str) {
        let what = format!("the connection to the endpoint broke: {why}");
        self.tell(key, &Reason::CallLost.because(what));
        self.finish(key, End::Lost);
    }

    /// Ends a call whose caller went away.
    pub(super) fn cancel(&mut self, key: Key) {
        self.finish(key, End::Cancelled);
    }

    /// Ends a call whose time is over, or has it tried elsewhere.
    pub(super) fn call_expired(&mut self, key: Key) {
        let Some(call) = self.calls.get_mut(key) else { return };
        call.timer = None;
        if matches!(call.side, Side::Foreign) {
            return self.answer_foreign(key);
        }
        if call.waits_on.is_none() {
            self.tell(key, &Reason::DeadlineExceeded.because("the call did not end in time"));
            return self.finish(key, End::TimedOut);
        }
        let Side::Out(out) = &mut call.side else { return };
        let Some(attempt) = &mut out.attempt else { return };
        let address = attempt.endpoint.address;
        if self.now.mono < attempt.deadline {
            let refusal = crate::dial::unreachable(address, "no connection in time");
            return self.attempt_failed(key, refusal, true);
        }
        if let Some(pending) = attempt.pending.take() {
            pending.report(self.now, Outcome::TimedOut);
        }
        self.refuse(key, &Reason::DeadlineExceeded.because(format!("no connection to {address} in time")));
    }

    /// Ends all calls on a connection that ends.
    pub(super) fn lose_calls(&mut self, key: Key, why: &Broken) {
        if self.conns.get_mut(key).is_none_or(|conn| conn.wire.n_streams() == 0) {
            return;
        }
        for call in self.calls.keys(|call| call.near.0 == key) {
            self.cancel(call);
        }
        let why = why.to_string();
        for call in self.calls.keys(|call| call.far.is_some_and(|far| far.0 == key)) {
            match self.calls.get_mut(call) {
                // All of its answer is here.
                Some(call) if call.answer.is_over => call.far = None,
                _ => self.lost(call, &why),
            }
        }
    }

    /// Ends a call of which its caller was told all that there is.
    pub(super) fn finish(&mut self, key: Key, end: End) {
        let Some(mut call) = self.calls.remove(key) else { return };
        let outcome = match &call.side {
            Side::Out(_) => self.conclude(end, &mut call),
            Side::In(_) | Side::Foreign => {
                if let Some(tally) = call.tally() {
                    (tally.status, tally.refused) = told(end);
                }
                Outcome::Cancelled
            }
        };
        if let Side::Out(out) = &mut call.side
            && let Some(pending) = out.attempt.as_mut().and_then(|attempt| attempt.pending.take())
        {
            pending.report(self.now, outcome);
        }
        self.dispose(&mut call);
    }

    /// Counts the end of a call, and says what it means to the router if that has not heard of it yet.
    fn conclude(&self, end: End, call: &mut Call) -> Outcome {
        let counts = &self.shared.ground.counts;
        let since = call.sent_at.unwrap_or(call.started);
        let mut ignored = Tally::default();
        let tally = call.tally().unwrap_or(&mut ignored);
        let mut refused = |reason: Reason, status: Option<u8>| {
            counts.refuse(reason);
            (tally.refused, tally.status) = (Some(reason), status);
        };
        match end {
            End::Answered(status) => {
                tally.status = Some(status.unwrap_or(UNKNOWN));
                Outcome::Cancelled
            }
            End::Unsent(reason) => {
                refused(reason, Some(reason.status() as u8));
                Outcome::Unsent
            }
            End::Lost => {
                refused(Reason::CallLost, None);
                Outcome::Lost
            }
            End::Reset(code) => {
                tally.status = Some(meant(code));
                // The server failed, by whatever name: to fail fast is not to be well.
                let latency = self.now.mono.saturating_duration_since(since);
                Outcome::Answered { latency, status: Some(INTERNAL) }
            }
            End::TimedOut => {
                refused(Reason::DeadlineExceeded, Some(DEADLINE_EXCEEDED));
                Outcome::TimedOut
            }
            End::Cancelled => {
                tally.status = Some(CANCELLED);
                Outcome::Cancelled
            }
        }
    }

    /// Gives back all that a call held.
    fn dispose(&mut self, call: &mut Call) {
        if let Some(timer) = call.timer.take() {
            self.wheel.cancel(timer);
        }
        let (request_bytes, response_bytes) = (call.body.n_read(), call.answer.n_read);
        if let Some(tally) = call.tally() {
            (tally.request_bytes, tally.response_bytes) = (request_bytes, response_bytes);
        }
        // It has its answer; what is still to come of the request nobody wants.
        self.leave_stream(Some(call.near), Code::NO_ERROR, call.body.credit_all());
        self.leave_stream(call.far, Code::CANCEL, call.answer.rest().len());
        self.pools.take_back_fields(std::mem::take(&mut call.request));
        for fields in [call.body.trailers.take(), call.answer.trailers.take()].into_iter().flatten() {
            self.pools.take_back_fields(*fields);
        }
        self.pools.take_back(std::mem::take(&mut call.body.bytes));
        self.pools.take_back(std::mem::take(&mut call.answer.bytes));
    }

    /// Gives back what came on a stream, and resets it if it is not over.
    fn leave_stream(&mut self, stream: Option<(Key, Stream)>, code: Code, n_held: usize) {
        let Some((key, stream)) = stream else { return };
        let Some(conn) = self.conns.touch(key) else { return };
        let is_cancelled = conn.wire.reset(stream, code, &mut conn.out);
        if let Some(upstream) = conn.upstream() {
            let n = upstream.n_cancelled;
            upstream.n_cancelled = if is_cancelled { n.saturating_add(1) } else { n.saturating_sub(1) };
        }
        self.conns.release(key, stream, n_held);
    }
}

/// The gRPC status that clients take for a reset with this code (gRPC over HTTP/2, "Errors").
const fn meant(code: Code) -> u8 {
    match code {
        Code::REFUSED_STREAM => Status::Unavailable as u8,
        Code::CANCEL => CANCELLED,
        Code::ENHANCE_YOUR_CALM => Status::ResourceExhausted as u8,
        Code::INADEQUATE_SECURITY => Status::PermissionDenied as u8,
        Code(0..=10) => INTERNAL,
        Code(_) => UNKNOWN,
    }
}

/// What a stock client saw of a call's end.
fn told(end: End) -> (Option<u8>, Option<Reason>) {
    match end {
        End::Answered(status) => (Some(status.unwrap_or(UNKNOWN)), None),
        End::Unsent(reason) => (Some(reason.status() as u8), Some(reason)),
        End::Lost => (None, Some(Reason::CallLost)),
        End::Reset(code) => (Some(meant(code)), None),
        End::TimedOut => (Some(DEADLINE_EXCEEDED), Some(Reason::DeadlineExceeded)),
        End::Cancelled => (Some(CANCELLED), None),
    }
}
