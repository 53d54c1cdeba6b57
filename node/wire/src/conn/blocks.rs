//! Header blocks that come, in one frame or in many, and what they begin or end.

use crate::code::Code;
use crate::error::Error;
use crate::flood::Flood;
use crate::frame::{Head, flag};
use crate::hpack::{Fit, Name};
use crate::message::{self, Facts, Malformed};
use crate::streams::{Slot, Stream, state};

use super::receive::{Event, Lent, Message};
use super::{Conn, Leaving, Role};

/// A block may have so many times the bytes that its fields may count for; what exceeds that is not even decoded.
const BLOCK_FACTOR: usize = 4;
/// Bytes of a priority in HEADERS.
const PRIORITY_LEN: usize = 5;

/// A header block of which more is to come.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) stream: u32,
    is_end: bool,
    is_own_parent: bool,
    n_continuations: u32,
    bytes: Vec<u8>,
}

impl Partial {
    pub(super) fn memory(&self) -> usize {
        size_of::<Self>() + self.bytes.capacity()
    }
}

/// What HEADERS say besides their block.
#[derive(Clone, Copy)]
struct Start {
    id: u32,
    is_end: bool,
    /// Whether the stream is said to depend on itself.
    is_own_parent: bool,
}

impl Conn {
    pub(super) fn read_headers(
        &mut self,
        head: Head,
        mut payload: &[u8],
        lent: &mut Lent<'_>,
    ) -> Result<Option<Event<'static>>, Error> {
        let mut start = Start { id: head.stream, is_end: head.has(flag::END_STREAM), is_own_parent: false };
        let mut padding = 0;
        if head.has(flag::PADDED) {
            let Some((n, rest)) = payload.split_first() else {
                return Err(Error::frame_size("a padded frame tells its padding"));
            };
            (padding, payload) = (usize::from(*n), rest);
        }
        if head.has(flag::PRIORITY) {
            let Some((priority, rest)) = payload.split_first_chunk::<PRIORITY_LEN>() else {
                return Err(Error::frame_size("HEADERS are shorter than their priority"));
            };
            start.is_own_parent = parent(priority) == head.stream;
            payload = rest;
        }
        let Some(n_bytes) = payload.len().checked_sub(padding) else {
            return Err(Error::protocol("padding is shorter than its frame"));
        };
        let block = &payload[..n_bytes];
        if head.has(flag::END_HEADERS) {
            return self.read_block(start, block, lent);
        }
        self.check_block(block.len())?;
        self.partial = Some(Box::new(Partial {
            stream: head.stream,
            is_end: start.is_end,
            is_own_parent: start.is_own_parent,
            n_continuations: 0,
            bytes: block.to_vec(),
        }));
        Ok(None)
    }

    pub(super) fn read_continuation(
        &mut self,
        head: Head,
        payload: &[u8],
        lent: &mut Lent<'_>,
    ) -> Result<Option<Event<'static>>, Error> {
        let Some(mut partial) = self.partial.take() else {
            return Err(Error::protocol("CONTINUATION continues nothing"));
        };
        partial.n_continuations += 1;
        self.budgets.count(Flood::Continuations);
        if partial.n_continuations > self.config.continuations_max {
            return Err(Error::Flood(Flood::Continuations));
        }
        self.check_block(partial.bytes.len() + payload.len())?;
        partial.bytes.extend_from_slice(payload);
        if !head.has(flag::END_HEADERS) {
            self.partial = Some(partial);
            return Ok(None);
        }
        let start = Start { id: head.stream, is_end: partial.is_end, is_own_parent: partial.is_own_parent };
        self.read_block(start, &partial.bytes, lent)
    }

    fn check_block(&self, len: usize) -> Result<(), Error> {
        match len > BLOCK_FACTOR * self.config.header_list_max as usize {
            true => Err(Error::Flood(Flood::Continuations)),
            false => Ok(()),
        }
    }

    fn read_block(
        &mut self,
        start: Start,
        block: &[u8],
        lent: &mut Lent<'_>,
    ) -> Result<Option<Event<'static>>, Error> {
        // Whatever becomes of the stream: the tables of both ends have to stay alike.
        let fit = self.decoder.decode(block, self.config.header_list_max as usize, lent.fields)?;
        if fit == Fit::TooLong {
            self.spend(Flood::HeaderLists, lent.now)?;
        }
        self.budgets.useful();
        let is_new = self.role == Role::Server && start.id > self.last_peer;
        if is_new && !start.id.is_multiple_of(2) {
            return self.begin_stream(start, fit, lent);
        }
        if self.is_idle(start.id) {
            return Err(Error::protocol("HEADERS came for a stream that is not the peer's to open"));
        }
        match self.streams.find(start.id) {
            Some(stream) => self.go_on(stream, start, fit, lent),
            None if self.streams.was_reset(start.id) => self.spend(Flood::Strays, lent.now).map(|()| None),
            None => Err(Error::Protocol {
                code: Code::STREAM_CLOSED,
                rule: "HEADERS came for a stream that is over",
            }),
        }
    }

    /// A request.
    fn begin_stream(
        &mut self,
        start: Start,
        fit: Fit,
        lent: &mut Lent<'_>,
    ) -> Result<Option<Event<'static>>, Error> {
        let Start { id, is_end, .. } = start;
        self.last_peer = id;
        let is_late = matches!(self.leaving, Leaving::Told(last) if id > last);
        if is_late || self.streams.len() >= self.config.streams_max as usize {
            return self.refuse(id, is_end, Code::REFUSED_STREAM, lent).map(|()| None);
        }
        let facts = match fit {
            Fit::Whole => message::request(lent.fields).and_then(|facts| bounded(facts, is_end)),
            Fit::TooLong => Ok(Facts::default()),
        };
        let facts = match facts {
            Ok(facts) if !start.is_own_parent => facts,
            _ => return self.refuse(id, is_end, Code::PROTOCOL_ERROR, lent).map(|()| None),
        };
        let mut slot = Slot::new(0, self.peer.window.cast_signed(), self.config.stream_window);
        slot.state = state::REMOTE_HEAD | if is_end { state::REMOTE_ENDED } else { 0 };
        if lent.fields.value(Name::Method) == Some(b"HEAD") {
            slot.state |= state::IS_HEAD;
        }
        slot.length_left = facts.content_length;
        let stream = self.streams.insert(id, slot);
        Ok(Some(match fit {
            Fit::Whole => Event::Headers { stream, token: 0, message: Message::Request, is_end },
            Fit::TooLong => Event::TooLarge { stream, is_end },
        }))
    }

    /// An answer, or trailers.
    fn go_on(
        &mut self,
        stream: Stream,
        start: Start,
        fit: Fit,
        lent: &mut Lent<'_>,
    ) -> Result<Option<Event<'static>>, Error> {
        let is_end = start.is_end;
        let Some(slot) = self.streams.get_mut(stream) else { return Ok(None) };
        if slot.is(state::REMOTE_ENDED) {
            return self.reset_own(
                stream,
                Code::STREAM_CLOSED,
                "HEADERS came after the end of a stream",
                lent,
            );
        }
        if fit == Fit::TooLong {
            return self.reset_own(stream, Code::ENHANCE_YOUR_CALM, "a list of fields is too long", lent);
        }
        if start.is_own_parent {
            return self.reset_own(stream, Code::PROTOCOL_ERROR, "a stream depends on itself", lent);
        }
        let message = match slot.is(state::REMOTE_HEAD) {
            true => end_message(slot, lent, is_end),
            false => begin_answer(slot, lent, is_end),
        };
        let message = match message {
            Ok(message) => message,
            Err(Malformed(rule)) => return self.reset_own(stream, Code::PROTOCOL_ERROR, rule, lent),
        };
        let token = slot.token;
        if matches!(message, Message::Interim { .. }) {
            self.spend(Flood::Interim, lent.now)?;
        }
        if is_end {
            self.end(stream, state::REMOTE_ENDED);
        }
        Ok(Some(Event::Headers { stream, token, message, is_end }))
    }
}

/// The stream that a priority says another depends on.
pub(super) fn parent(priority: &[u8; PRIORITY_LEN]) -> u32 {
    let [id_3, id_2, id_1, id_0, _] = *priority;
    u32::from_be_bytes([id_3, id_2, id_1, id_0]) & crate::frame::WINDOW_MAX
}

fn begin_answer(slot: &mut Slot, lent: &Lent<'_>, is_end: bool) -> Result<Message, Malformed> {
    let facts = message::response(lent.fields)?;
    if facts.status < 200 {
        return match is_end {
            true => Err(Malformed("an interim answer ends the stream")),
            false => Ok(Message::Interim { status: facts.status }),
        };
    }
    // These have no body, and may tell how long it would be.
    let is_bare = slot.is(state::IS_HEAD) || facts.status == 304;
    let facts = if is_bare { Facts { content_length: None, ..facts } } else { bounded(facts, is_end)? };
    slot.length_left = facts.content_length;
    slot.state |= state::REMOTE_HEAD;
    Ok(Message::Response { status: facts.status })
}

fn end_message(slot: &Slot, lent: &Lent<'_>, is_end: bool) -> Result<Message, Malformed> {
    if !is_end {
        return Err(Malformed("trailers end the stream"));
    }
    message::trailers(lent.fields)?;
    match slot.length_left {
        None | Some(0) => Ok(Message::Trailers),
        Some(_) => Err(Malformed("a body is not as long as `content-length` says")),
    }
}

/// Checks that a message without a body does not claim one.
fn bounded(facts: Facts, is_end: bool) -> Result<Facts, Malformed> {
    match facts.content_length {
        Some(1..) if is_end => Err(Malformed("a body is not as long as `content-length` says")),
        _ => Ok(facts),
    }
}
