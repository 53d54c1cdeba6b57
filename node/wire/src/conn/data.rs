//! Bodies that come, and what may come of them.

use crate::code::Code;
use crate::error::Error;
use crate::flood::Flood;
use crate::frame::{self, Head, flag};
use crate::streams::{Stream, state};

use super::receive::{Event, Lent};
use super::{Conn, Role};

/// The DATA frame that is being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Incoming {
    /// Whose it is; of a stream that is over, what comes is dropped.
    stream: Stream,
    left: u32,
    padding: u32,
    is_end: bool,
}

impl Default for Incoming {
    fn default() -> Self {
        Self { stream: Stream::from_bits(0), left: 0, padding: 0, is_end: false }
    }
}

impl Incoming {
    /// Whether some of the frame is still to come.
    pub(super) const fn is_open(&self) -> bool {
        self.left > 0 || self.padding > 0
    }
}

impl Conn {
    /// Gives back to the peer what it sent: `n` bytes of a stream's [`Event::Data`] were forwarded or dropped. Every
    /// byte is released once, also if its stream is over. WINDOW_UPDATE goes out when half of a window can be given
    /// back.
    pub fn release(&mut self, stream: Stream, n: usize, out: &mut Vec<u8>) {
        let n = u32::try_from(n).unwrap_or(u32::MAX).min(self.held);
        self.held -= n;
        // A loan is repaid last: what others sent is given back at once.
        let repaid = self.lent.saturating_sub(self.held);
        self.lent -= repaid;
        self.give_back(n - repaid, out);
        self.give_back_to(stream, n, out);
    }

    /// Gives back to the peer what it sent as far as the connection's window goes, though it is not released: the
    /// streams' windows alone bound it then, and a stream whose bytes nobody takes holds up no other.
    pub fn lend(&mut self, out: &mut Vec<u8>) {
        let n = self.held - std::mem::replace(&mut self.lent, self.held);
        self.give_back(n, out);
    }

    /// Begins a DATA frame. `padding` is the byte that tells how much of it there is.
    pub(super) fn begin_data(
        &mut self,
        head: Head,
        padding: Option<u8>,
        lent: &mut Lent<'_>,
    ) -> Result<Option<Event<'static>>, Error> {
        let is_end = head.has(flag::END_STREAM);
        let (overhead, padding) = match (padding, head.has(flag::PADDED)) {
            (_, true) if head.len == 0 => return Err(Error::frame_size("a padded frame tells its padding")),
            (Some(padding), _) if u32::from(padding) >= head.len => {
                return Err(Error::protocol("padding is shorter than its frame"));
            }
            (Some(padding), _) => (1 + u32::from(padding), u32::from(padding)),
            (None, _) => (0, 0),
        };
        if self.is_idle(head.stream) {
            return Err(Error::protocol("DATA came for a stream that nobody has opened"));
        }
        self.receive_window = match self.receive_window.checked_sub(head.len) {
            Some(left) => left,
            None => return Err(Error::flow_control("more DATA came than the connection's window allows")),
        };
        let left = head.len - overhead;
        self.give_back(overhead, lent.out);
        self.incoming = Incoming { stream: Stream::from_bits(0), left, padding, is_end };
        let Some(stream) = self.streams.find(head.stream) else {
            if self.streams.was_reset(head.stream) {
                self.spend(Flood::Strays, lent.now)?;
            } else {
                self.refuse(head.stream, false, Code::STREAM_CLOSED, lent)?;
            }
            return Ok(None);
        };
        if let Err((code, rule)) = self.admit_data(stream, head.len, left, is_end) {
            return self.reset_own(stream, code, rule, lent);
        }
        self.give_back_to(stream, overhead, lent.out);
        self.incoming.stream = stream;
        if left > 0 {
            self.budgets.useful();
            return Ok(None);
        }
        if is_end {
            let token = self.token(stream).unwrap_or_default();
            self.end(stream, state::REMOTE_ENDED);
            return Ok(Some(Event::Data { stream, token, bytes: &[], is_end }));
        }
        self.spend(Flood::EmptyData, lent.now)?;
        Ok(None)
    }

    /// Counts a DATA frame against what its stream may still send.
    fn admit_data(
        &mut self,
        stream: Stream,
        len: u32,
        n_bytes: u32,
        is_end: bool,
    ) -> Result<(), (Code, &'static str)> {
        let Some(slot) = self.streams.get_mut(stream) else { return Ok(()) };
        if slot.is(state::REMOTE_ENDED) {
            return Err((Code::STREAM_CLOSED, "DATA came after the end of a stream"));
        }
        if self.role == Role::Client && !slot.is(state::REMOTE_HEAD) {
            return Err((Code::PROTOCOL_ERROR, "DATA came before the fields of an answer"));
        }
        let Some(window) = slot.receive_window.checked_sub(len) else {
            return Err((Code::FLOW_CONTROL_ERROR, "more DATA came than the stream's window allows"));
        };
        slot.receive_window = window;
        if let Some(left) = &mut slot.length_left {
            match left.checked_sub(n_bytes.into()) {
                Some(after) if after == 0 || !is_end => *left = after,
                _ => return Err((Code::PROTOCOL_ERROR, "a body is not as long as `content-length` says")),
            }
        }
        Ok(())
    }

    /// Reads on in a DATA frame.
    pub(super) fn read_data<'a>(&mut self, input: &mut &'a [u8], out: &mut Vec<u8>) -> Option<Event<'a>> {
        while self.incoming.left > 0 && !input.is_empty() {
            let n = input.len().min(self.incoming.left as usize);
            let (bytes, rest) = input.split_at(n);
            *input = rest;
            let n = u32::try_from(n).unwrap_or(self.incoming.left);
            self.incoming.left -= n;
            let stream = self.incoming.stream;
            let Some(token) = self.token(stream) else {
                self.give_back(n, out);
                continue;
            };
            self.held += n;
            let is_end = self.incoming.is_end && self.incoming.left == 0;
            if is_end {
                self.end(stream, state::REMOTE_ENDED);
            }
            return Some(Event::Data { stream, token, bytes, is_end });
        }
        if self.incoming.left == 0 {
            let n = input.len().min(self.incoming.padding as usize);
            *input = &input[n..];
            self.incoming.padding -= u32::try_from(n).unwrap_or(self.incoming.padding);
        }
        None
    }

    /// Opens the connection's window by what is not needed any more.
    fn give_back(&mut self, n: u32, out: &mut Vec<u8>) {
        self.released += n;
        if self.released >= self.config.connection_window.div_ceil(2) {
            frame::write_window_update(0, self.released, out);
            self.receive_window += std::mem::take(&mut self.released);
        }
    }

    /// Opens a stream's window, unless nothing more is to come.
    fn give_back_to(&mut self, stream: Stream, n: u32, out: &mut Vec<u8>) {
        let window = self.config.stream_window;
        let Some(slot) = self.streams.get_mut(stream) else { return };
        if slot.is(state::REMOTE_ENDED) {
            return;
        }
        // No more than is missing, whatever the caller says.
        slot.released = (slot.released + n).min(window.saturating_sub(slot.receive_window));
        if slot.released >= window.div_ceil(2) {
            frame::write_window_update(stream.id(), slot.released, out);
            slot.receive_window += std::mem::take(&mut slot.released);
        }
    }
}
