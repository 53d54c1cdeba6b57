//! Answers on their way back, and what they tell of who gave them.

use route::Outcome;
use wire::hpack::Fields;
use wire::{Cause, Code, Stream};

use types::Reason;

use crate::headers;
use crate::refusal;

use super::call::{End, Side};
use super::slab::Key;
use super::worker::Worker;

impl Worker {
    /// Takes the headers of an answer.
    pub(super) fn on_head(&mut self, token: u64, is_end: bool, fields: &mut Fields) {
        let key = Key::from_bits(token);
        let now = self.now;
        let Some(call) = self.calls.get_mut(key) else { return };
        let is_turned_away = is_end && matches!(call.side, Side::Out(_));
        if is_turned_away && let Some(reason) = headers::unsent_by_peer(fields) {
            return self.turned_away(key, fields, reason);
        }
        // Since the whole request was sent, if it was.
        let own = call.sent_at.map(|at| now.mono.saturating_duration_since(at));
        let latency = own.unwrap_or_else(|| now.mono.saturating_duration_since(call.started));
        let status = if is_end { headers::status(fields) } else { None };
        match &mut call.side {
            Side::Out(out) => {
                if let Some(pending) = out.attempt.as_mut().and_then(|attempt| attempt.pending.take()) {
                    pending.report(now, Outcome::Answered { latency, status });
                }
                let refused = headers::refused(fields);
                let server = headers::server_time(fields);
                if let Some(tally) = call.tally() {
                    tally.latency = Some(latency);
                    tally.gap = own.zip(server).map(|(own, server)| own.saturating_sub(server));
                    tally.refused = refused;
                }
                headers::strip(fields);
            }
            Side::In(it) => {
                headers::strip(fields);
                if let Some(own) = own.filter(|_| it.is_proxy) {
                    headers::push_server_time(fields, own);
                }
            }
            Side::Foreign => {}
        }
        call.body.forget();
        call.answer.has_begun = true;
        if call.limits.deadline.is_none()
            && let Some(timer) = call.timer.take()
        {
            self.wheel.cancel(timer);
        }
        call.status = headers::status(fields);
        call.answer.is_over = is_end;
        let (near, status) = (call.near, call.status);
        let request = std::mem::take(&mut call.request);
        self.pools.take_back_fields(request);
        let Some(conn) = self.conns.touch(near.0) else { return };
        if conn.wire.send_headers(near.1, fields, is_end, &mut conn.out).is_err() {
            return self.finish(key, End::Cancelled);
        }
        if is_end {
            self.finish(key, End::Answered(status));
        }
    }

    /// Takes the headers of an interim answer.
    pub(super) fn on_interim(&mut self, token: u64, fields: &mut Fields) {
        let Some(call) = self.calls.get(Key::from_bits(token)) else { return };
        headers::strip(fields);
        if let Some(conn) = self.conns.touch(call.near.0) {
            // If the caller has gone, that is told otherwise.
            let _ = conn.wire.send_headers(call.near.1, fields, false, &mut conn.out);
        }
    }

    /// Takes a piece of an answer.
    pub(super) fn on_download(&mut self, far: Key, stream: Stream, token: u64, bytes: &[u8], is_end: bool) {
        let key = Key::from_bits(token);
        let mut n_sent = bytes.len();
        let mut is_done = false;
        if let Some(call) = self.calls.get_mut(key).filter(|call| call.far == Some((far, stream))) {
            let answer = &mut call.answer;
            answer.n_read += bytes.len() as u64;
            answer.is_over = is_end;
            n_sent = 0;
            if answer.rest().is_empty()
                && let Some(conn) = self.conns.touch(call.near.0)
            {
                let sent = conn.send(self.now.mono, call.near.1, bytes, is_end);
                n_sent = sent.unwrap_or(bytes.len());
                if conn.is_choked() && n_sent < bytes.len() {
                    conn.waiting.push(key);
                }
            }
            if n_sent < bytes.len() {
                if answer.bytes.capacity() == 0 {
                    answer.bytes = self.pools.buffer();
                }
                answer.bytes.extend_from_slice(&bytes[n_sent..]);
            }
            is_done = is_end && answer.rest().is_empty();
        }
        self.conns.release(far, stream, n_sent);
        if is_done {
            self.answered(key);
        }
    }

    /// Takes the trailers of an answer.
    pub(super) fn on_trailers(&mut self, token: u64, fields: &mut Fields) {
        let key = Key::from_bits(token);
        let Some(call) = self.calls.get_mut(key) else { return };
        headers::strip(fields);
        call.status = headers::status(fields).or(call.status);
        call.answer.is_over = true;
        if !call.answer.rest().is_empty() {
            call.answer.trailers = Some(Box::new(std::mem::replace(fields, self.pools.fields())));
            return;
        }
        if let Some(conn) = self.conns.touch(call.near.0) {
            // If the caller has gone, that is told otherwise.
            let _ = conn.wire.send_headers(call.near.1, fields, true, &mut conn.out);
        }
        self.answered(key);
    }

    /// Sends as much of what waits of an answer as there is room for.
    pub(super) fn download_on(&mut self, key: Key) {
        let Some(call) = self.calls.get_mut(key) else { return };
        let answer = &mut call.answer;
        if answer.rest().is_empty() {
            return;
        }
        let Some(conn) = self.conns.touch(call.near.0) else { return };
        let is_last = answer.is_over && answer.trailers.is_none();
        let n_sent = conn.send(self.now.mono, call.near.1, answer.rest(), is_last);
        let n_sent = n_sent.unwrap_or(answer.rest().len());
        answer.advance(n_sent);
        if conn.is_choked() && !answer.rest().is_empty() {
            conn.waiting.push(key);
        }
        let is_done = answer.is_over && answer.rest().is_empty();
        if is_done && let Some(trailers) = &answer.trailers {
            // If the caller has gone, that is told otherwise.
            let _ = conn.wire.send_headers(call.near.1, trailers, true, &mut conn.out);
        }
        if let Some((far, stream)) = call.far {
            self.conns.release(far, stream, n_sent);
        }
        if is_done {
            self.answered(key);
        }
    }

    fn answered(&mut self, key: Key) {
        let status = self.calls.get(key).and_then(|call| call.status);
        self.finish(key, End::Answered(status));
    }

    /// Takes note that another proxy says that a call reached no server.
    fn turned_away(&mut self, key: Key, fields: &mut Fields, reason: Reason) {
        let Some(call) = self.calls.get_mut(key) else { return };
        if call.body.is_kept {
            return self.attempt_failed(key, refusal::turned_away(fields, reason), false);
        }
        headers::strip(fields);
        let near = call.near;
        if let Some(conn) = self.conns.touch(near.0) {
            // If the caller has gone, nobody hears it.
            let _ = conn.wire.send_headers(near.1, fields, true, &mut conn.out);
        }
        self.finish(key, End::Unsent(reason));
    }

    /// Takes note that a call's stream is over before its end.
    pub(super) fn on_reset(&mut self, token: u64, code: Code, cause: Cause) {
        let key = Key::from_bits(token);
        let Some(call) = self.calls.get(key) else { return };
        if call.answer.is_over {
            // All of it is here. What waits of it is given back to that connection still.
            return;
        }
        // No server has looked at the call (RFC 9113, section 8.7).
        let is_unsent = cause == Cause::GoAway || (cause == Cause::Peer && code == Code::REFUSED_STREAM);
        if is_unsent && !call.answer.has_begun {
            let why = if cause == Cause::GoAway { "it is going away" } else { "it refused the stream" };
            let refusal = Reason::EndpointUnreachable.because(format!("the other end took no call: {why}"));
            if call.body.is_kept {
                return self.attempt_failed(key, refusal, false);
            }
            self.tell(key, &refusal);
            return self.finish(key, End::Unsent(refusal.reason));
        }
        match cause {
            Cause::Peer => {
                let near = call.near;
                if let Some(conn) = self.conns.touch(near.0) {
                    conn.wire.reset(near.1, code, &mut conn.out);
                }
                self.finish(key, End::Reset(code));
            }
            Cause::Rule(rule) => self.lost(key, rule),
            Cause::GoAway => self.lost(key, "it is going away"),
        }
    }
}
