//! Requests on their way: sent to where they are to go, piece by piece as there is room.
//!
//! Credit is given back to the sender as the receiver takes what was sent, so no more than a window of each stream is
//! ever held. The first few bytes of a request are kept until it is answered: if it turns out that no server has seen
//! them, they can be sent elsewhere.

use wire::Stream;
use wire::hpack::{Fields, Name};

use crate::headers;

use super::call::Side;
use super::slab::Key;
use super::worker::{Due, Worker};

impl Worker {
    /// Sends a call over a connection. False if that takes none now.
    pub(super) fn send_on(&mut self, key: Key, link: Key) -> bool {
        let Some(call) = self.calls.get_mut(key) else { return true };
        let Some(conn) = self.conns.touch(link) else { return false };
        if let Some(deadline) = call.limits.deadline {
            let left = deadline.saturating_duration_since(self.now.mono);
            headers::set_timeout(&mut call.request, left);
        }
        let is_end = call.body.is_empty();
        let Ok(stream) = conn.wire.open(key.to_bits(), &call.request, is_end, &mut conn.out) else {
            return false;
        };
        call.far = Some((link, stream));
        call.started = self.now.mono;
        call.waits_on = None;
        if let Some(timer) = call.timer.take() {
            self.wheel.cancel(timer);
        }
        if let Some(deadline) = call.limits.deadline {
            call.timer = Some(self.wheel.insert(deadline, Due::Call(key)));
        }
        if let Some(upstream) = conn.upstream() {
            if let (Side::Out(out), Some(far)) = (&call.side, &upstream.far) {
                let mut counted = far.edge.enter();
                counted.tally.retried = out.tried.len() as u64;
                call.counted = Some(counted);
            }
            let lane = upstream.lane;
            self.link_used(lane);
        }
        self.watch_busy(link);
        match is_end {
            true => self.uploaded(key),
            false => self.upload_on(key),
        }
        true
    }

    /// Takes a piece of a request.
    pub(super) fn on_upload(&mut self, near: Key, stream: Stream, token: u64, bytes: &[u8], is_end: bool) {
        let key = Key::from_bits(token);
        let Some(call) = self.calls.get_mut(key).filter(|call| call.near == (near, stream)) else {
            self.conns.release(near, stream, bytes.len());
            return;
        };
        let is_foreign = matches!(call.side, Side::Foreign);
        let body = &mut call.body;
        body.is_over = is_end;
        if is_foreign {
            self.conns.release(near, stream, bytes.len());
            if is_end {
                self.answer_foreign(key);
            }
            return;
        }
        let far = call.far.filter(|_| body.rest().is_empty());
        let mut n_sent = 0;
        if let Some((far, far_stream)) = far
            && let Some(conn) = self.conns.touch(far)
        {
            // Of what nobody takes any more nothing is kept: the answer says why.
            let sent = conn.send(self.now.mono, far_stream, bytes, is_end);
            n_sent = sent.unwrap_or(bytes.len());
            if conn.is_choked() && n_sent < bytes.len() {
                conn.waiting.push(key);
            }
        }
        if body.bytes.capacity() == 0 && (body.is_kept || n_sent < bytes.len()) {
            body.bytes = self.pools.buffer();
        }
        body.take(bytes, n_sent);
        let (credit, is_done) = (body.credit(), far.is_some() && is_end && body.rest().is_empty());
        self.conns.release(near, stream, credit);
        if is_done {
            self.uploaded(key);
        }
    }

    /// Takes the trailers of a request.
    pub(super) fn on_request_trailers(&mut self, token: u64, fields: &mut Fields) {
        let key = Key::from_bits(token);
        let Some(call) = self.calls.get_mut(key) else { return };
        if matches!(call.side, Side::Foreign) {
            return self.answer_foreign(key);
        }
        headers::strip(fields);
        // Who called is said by this end alone, and before the body.
        fields.retain(|field| field.known != Name::XForwardedClientCert);
        call.body.is_over = true;
        call.body.trailers = Some(Box::new(std::mem::replace(fields, self.pools.fields())));
        self.upload_on(key);
    }

    /// Sends as much of what waits of a request as there is room for.
    pub(super) fn upload_on(&mut self, key: Key) {
        let Some(call) = self.calls.get_mut(key) else { return };
        let Some((far, stream)) = call.far else { return };
        let body = &mut call.body;
        if call.sent_at.is_some() || (body.rest().is_empty() && !body.is_over) {
            return;
        }
        let Some(conn) = self.conns.touch(far) else { return };
        let is_last = body.is_over && body.trailers.is_none();
        if !body.rest().is_empty() || is_last {
            let sent = conn.send(self.now.mono, stream, body.rest(), is_last);
            body.advance(sent.unwrap_or(body.rest().len()));
            if conn.is_choked() && !body.rest().is_empty() {
                conn.waiting.push(key);
            }
        }
        let is_whole = body.rest().is_empty() && body.is_over;
        if is_whole && let Some(trailers) = &body.trailers {
            // If the stream is over the answer says why.
            let _ = conn.wire.send_headers(stream, trailers, true, &mut conn.out);
        }
        let (credit, near) = (body.credit(), call.near);
        self.conns.release(near.0, near.1, credit);
        if is_whole {
            self.uploaded(key);
        }
    }

    /// Takes note that the whole request was sent.
    fn uploaded(&mut self, key: Key) {
        let Some(call) = self.calls.get_mut(key) else { return };
        if call.sent_at.replace(self.now.mono).is_some() || call.answer.has_begun {
            return;
        }
        if let (None, Some(within)) = (call.limits.deadline, call.limits.answer_within) {
            let timer = self.wheel.insert(self.now.mono + within, Due::Call(key));
            if let Some(before) = call.timer.replace(timer) {
                self.wheel.cancel(before);
            }
        }
    }
}
