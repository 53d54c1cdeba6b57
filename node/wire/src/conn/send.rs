//! What goes: into the caller's output, as far as the peer's windows allow.

use std::time::Instant;

use crate::code::Code;
use crate::error::SendError;
use crate::frame;
use crate::hpack::{Fields, Name};
use crate::streams::{Slot, Stream, state};

use super::{Conn, Leaving, Role};

/// What the PING says that this end takes leave with.
pub(super) const LEAVE: u64 = u64::from_be_bytes(*b"sm-leave");

impl Conn {
    /// Opens a stream with a request. `token` comes with its events.
    ///
    /// # Errors
    /// [`SendError::Full`] or [`SendError::Closed`]; nothing was written.
    pub fn open(
        &mut self,
        token: u64,
        request: &Fields,
        is_end: bool,
        out: &mut Vec<u8>,
    ) -> Result<Stream, SendError> {
        self.check_room()?;
        let id = self.next_id;
        self.next_id += 2;
        let mut slot = Slot::new(token, self.peer.window.cast_signed(), self.config.stream_window);
        if request.value(Name::Method) == Some(b"HEAD") {
            slot.state |= state::IS_HEAD;
        }
        let stream = self.streams.insert(id, slot);
        self.write_headers(stream, request, is_end, out);
        Ok(stream)
    }

    /// Sends an answer, an interim one, or trailers (which have `is_end`). What the stream's body still lacks is to
    /// be sent before trailers.
    ///
    /// # Errors
    /// [`SendError::Gone`] or [`SendError::Ended`]; nothing was written.
    pub fn send_headers(
        &mut self,
        stream: Stream,
        fields: &Fields,
        is_end: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), SendError> {
        self.check_open(stream)?;
        self.write_headers(stream, fields, is_end, out);
        Ok(())
    }

    /// Sends as much of a body as the windows allow, and says how much that is. If it is less than all, the rest is
    /// the caller's to keep: [`super::Event::WindowOpened`] says when to try again. The stream is ended with the last
    /// byte only.
    ///
    /// # Errors
    /// [`SendError::Gone`] or [`SendError::Ended`]; nothing was written.
    pub fn send_data(
        &mut self,
        now: Instant,
        stream: Stream,
        bytes: &[u8],
        is_end: bool,
        out: &mut Vec<u8>,
    ) -> Result<usize, SendError> {
        self.check_open(stream)?;
        let frame_max = self.frame_max() as usize;
        let Some(slot) = self.streams.get_mut(stream) else { return Err(SendError::Gone) };
        let room = usize::try_from(slot.send_window.min(self.send_window)).unwrap_or(0);
        let n = bytes.len().min(room);
        // INVARIANT: n is no more than either window, and windows fit.
        let by = i32::try_from(n).unwrap_or(i32::MAX);
        slot.send_window -= by;
        self.send_window -= by;
        let mut rest = &bytes[..n];
        let is_all = n == bytes.len();
        while rest.len() > frame_max {
            let (piece, after) = rest.split_at(frame_max);
            frame::write_data(stream.id(), piece, false, out);
            rest = after;
        }
        if !rest.is_empty() || (is_all && is_end) {
            frame::write_data(stream.id(), rest, is_all && is_end, out);
        }
        if n > 0 {
            self.budgets.useful();
        }
        if !is_all {
            self.block(now, stream, n > 0);
        } else if slot.is(state::BLOCKED) {
            slot.state &= !state::BLOCKED;
            self.streams.leave_line(stream);
        }
        if is_all && is_end {
            self.end(stream, state::LOCAL_ENDED);
        }
        Ok(n)
    }

    /// Ends a stream before its end. False, and nothing is done, if it is over.
    pub fn reset(&mut self, stream: Stream, code: Code, out: &mut Vec<u8>) -> bool {
        let Some(slot) = self.streams.remove(stream) else { return false };
        frame::write_reset(stream.id(), code, out);
        if !slot.is(state::REMOTE_ENDED) {
            self.streams.remember_reset(stream.id());
        }
        true
    }

    /// Asks for a sign of life; [`super::Event::Pong`] brings `payload` back.
    pub fn ping(&self, payload: u64, out: &mut Vec<u8>) {
        frame::write_ping(payload, false, out);
    }

    /// Takes leave: the peer is to open no more streams. Those that it has opened go on; [`Conn::is_drained`] says
    /// when they are over. A server first warns, and names its last stream when it is sure that the peer was warned, so
    /// that no stream is lost; who waits no longer for that says [`Conn::leave_now`]. Does nothing when said again.
    pub fn leave(&mut self, out: &mut Vec<u8>) {
        if self.leaving != Leaving::No || self.failed.is_some() {
            return;
        }
        if self.role == Role::Client {
            return self.tell_leave(Code::NO_ERROR, out);
        }
        frame::write_goaway(frame::WINDOW_MAX, Code::NO_ERROR, &[], out);
        frame::write_ping(LEAVE, false, out);
        self.leaving = Leaving::Asked;
    }

    /// Takes leave at once: streams that the peer opens from now on, or has on their way, are refused.
    pub fn leave_now(&mut self, code: Code, out: &mut Vec<u8>) {
        if self.failed.is_none() {
            self.tell_leave(code, out);
        }
    }

    pub(super) fn check_room(&self) -> Result<(), SendError> {
        let is_used_up = self.next_id > frame::WINDOW_MAX;
        if self.role == Role::Server || self.is_closing() || is_used_up {
            return Err(SendError::Closed);
        }
        match self.streams.len() < self.peer.streams_max as usize {
            true => Ok(()),
            false => Err(SendError::Full),
        }
    }

    fn check_open(&self, stream: Stream) -> Result<(), SendError> {
        match self.streams.get(stream) {
            _ if self.failed.is_some() => Err(SendError::Gone),
            None => Err(SendError::Gone),
            Some(slot) if slot.is(state::LOCAL_ENDED) => Err(SendError::Ended),
            Some(_) => Ok(()),
        }
    }

    fn write_headers(&mut self, stream: Stream, fields: &Fields, is_end: bool, out: &mut Vec<u8>) {
        let frame_max = self.frame_max();
        frame::write_headers(stream.id(), is_end, frame_max, out, |out| self.encoder.encode(fields, out));
        self.budgets.useful();
        if is_end {
            self.end(stream, state::LOCAL_ENDED);
        }
    }

    /// Notes that a stream waits for a window, and which one.
    fn block(&mut self, now: Instant, stream: Stream, has_moved: bool) {
        let now_ms = self.millis(now);
        let Some(slot) = self.streams.get_mut(stream) else { return };
        if has_moved || !slot.is(state::BLOCKED) {
            slot.blocked_ms = now_ms;
        }
        slot.state |= state::BLOCKED;
        if slot.send_window > 0 {
            self.streams.line_up(stream);
        }
    }
}
