//! What tests of connections share: one end under test, and frames by hand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::code::Code;
use crate::config::Config;
use crate::error::Error;
use crate::frame::{self, HEAD_LEN, Head, PREFACE, flag, kind};
use crate::hpack::{Encoder, Fields};
use crate::{Cause, Conn, Event, Message, Role, Stream};

/// One end, what it has written, and a clock.
pub(super) struct End {
    pub(super) conn: Conn,
    pub(super) out: Vec<u8>,
    pub(super) fields: Fields,
    pub(super) now: Instant,
}

/// An event without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Settings,
    Headers(u32, Message, bool),
    TooLarge(u32, bool),
    Data(u32, Vec<u8>, bool),
    Reset(u32, Code, Cause),
    WindowOpened(u32),
    Pong(u64),
    GoAway(u32, Code),
}

impl Told {
    pub(super) fn of(event: &Event<'_>) -> Self {
        match *event {
            Event::Settings => Self::Settings,
            Event::Headers { stream, message, is_end, .. } => Self::Headers(stream.id(), message, is_end),
            Event::TooLarge { stream, is_end } => Self::TooLarge(stream.id(), is_end),
            Event::Data { stream, bytes, is_end, .. } => Self::Data(stream.id(), bytes.to_vec(), is_end),
            Event::Reset { stream, code, cause, .. } => Self::Reset(stream.id(), code, cause),
            Event::WindowOpened { stream, .. } => Self::WindowOpened(stream.id()),
            Event::Pong(payload) => Self::Pong(payload),
            Event::GoAway { last, code, .. } => Self::GoAway(last, code),
        }
    }
}

impl End {
    /// A fresh end, which has said what it says first.
    pub(super) fn fresh(role: Role, config: Config) -> Self {
        let (now, mut out) = (Instant::now(), Vec::new());
        let conn = Conn::new(role, Arc::new(config), now, &mut out);
        Self { conn, out, fields: Fields::new(), now }
    }

    /// An end whose peer has said what it says first.
    pub(super) fn ready(role: Role, config: Config) -> Self {
        let mut end = Self::fresh(role, config);
        let opening = opening(role);
        assert_eq!(end.feed(&opening), Ok(vec![Told::Settings]));
        end.out.clear();
        end
    }

    /// Feeds it all of `input`; nothing may be left but a part of a frame.
    pub(super) fn feed(&mut self, input: &[u8]) -> Result<Vec<Told>, Error> {
        let (mut rest, mut told) = (input, Vec::new());
        while let Some(event) = self.conn.receive(self.now, &mut rest, &mut self.fields, &mut self.out)? {
            told.push(Told::of(&event));
        }
        Ok(told)
    }

    pub(super) fn stream(&self, id: u32) -> Stream {
        self.conn.streams.find(id).expect("it is open")
    }

    /// Opens a stream as a client.
    pub(super) fn open(&mut self, is_end: bool) -> Stream {
        self.conn.open(9, &request(), is_end, &mut self.out).expect("there is room")
    }

    pub(super) fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    /// The frames that it has written since it was asked last.
    pub(super) fn written(&mut self) -> Vec<(Head, Vec<u8>)> {
        frames(&std::mem::take(&mut self.out))
    }

    /// The codes with which it reset streams, or gave up, since it was asked last.
    pub(super) fn codes(&mut self) -> Vec<(u8, u32, Code)> {
        let code = |bytes: &[u8]| Code(u32::from_be_bytes(bytes[..4].try_into().expect("four bytes")));
        let written = self.written();
        written
            .iter()
            .filter_map(|(head, payload)| match head.kind {
                kind::RST_STREAM => Some((head.kind, head.stream, code(payload))),
                kind::GOAWAY => Some((head.kind, 0, code(&payload[4..]))),
                _ => None,
            })
            .collect()
    }
}

/// What the peer of `role` says first.
pub(super) fn opening(role: Role) -> Vec<u8> {
    let mut opening = match role {
        Role::Server => PREFACE.to_vec(),
        Role::Client => Vec::new(),
    };
    frame::write_settings(&[], &mut opening);
    opening
}

pub(super) fn frames(mut bytes: &[u8]) -> Vec<(Head, Vec<u8>)> {
    bytes = bytes.strip_prefix(&PREFACE[..]).unwrap_or(bytes);
    let mut frames = Vec::new();
    while let Some(head) = Head::read(bytes) {
        let (payload, rest) = bytes[HEAD_LEN..].split_at(head.len as usize);
        frames.push((head, payload.to_vec()));
        bytes = rest;
    }
    assert!(bytes.is_empty());
    frames
}

/// A frame with any content.
pub(super) fn raw(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let len = u32::try_from(payload.len()).expect("short");
    Head { len, kind, flags, stream }.write(&mut out);
    out.extend_from_slice(payload);
    out
}

/// A block without the dynamic table.
pub(super) fn block(list: &[(&str, &str)]) -> Vec<u8> {
    let (mut fields, mut out) = (Fields::new(), Vec::new());
    for (name, value) in list {
        fields.push(name.as_bytes(), value.as_bytes());
    }
    Encoder::new(0).encode(&fields, &mut out);
    // The announcement of a table of no bytes.
    out.split_off(1)
}

pub(super) fn headers(stream: u32, flags: u8, list: &[(&str, &str)]) -> Vec<u8> {
    raw(kind::HEADERS, flags | flag::END_HEADERS, stream, &block(list))
}

pub(super) const POST: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")];

/// A request by hand; `flags` may say that it ends the stream.
pub(super) fn post(stream: u32, flags: u8) -> Vec<u8> {
    headers(stream, flags, &POST)
}

pub(super) fn data(stream: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    raw(kind::DATA, flags, stream, bytes)
}

pub(super) fn fields(list: &[(&str, &str)]) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in list {
        fields.push(name.as_bytes(), value.as_bytes());
    }
    fields
}

pub(super) fn request() -> Fields {
    fields(&POST)
}
