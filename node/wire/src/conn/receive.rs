//! What comes: one event at a time out of the caller's bytes.

use std::time::Instant;

use crate::code::Code;
use crate::error::Error;
use crate::flood::Flood;
use crate::frame::{self, HEAD_LEN, Head, PREFACE, flag, kind};
use crate::hpack::Fields;
use crate::streams::{Stream, state};

use super::{Conn, Leaving, Opening, Role};

/// What happened. `token` is what the caller attached to the stream, 0 if nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The peer's SETTINGS came, the first or others; [`Conn::has_room`] may have changed.
    Settings,
    /// The fields of a message came; they are in the caller's `fields`.
    Headers {
        /// Its stream; a new one if it is a request.
        stream: Stream,
        /// What was attached to it.
        token: u64,
        /// What it is.
        message: Message,
        /// Whether the peer has ended the stream.
        is_end: bool,
    },
    /// A request came with more fields than are taken. `fields` are of no use. The caller answers it or resets it.
    TooLarge {
        /// Its stream, a new one.
        stream: Stream,
        /// Whether the peer has ended the stream.
        is_end: bool,
    },
    /// A piece of a body came. The caller releases each byte once (see [`Conn::release`]), also if the stream is over
    /// by then.
    Data {
        /// Its stream.
        stream: Stream,
        /// What was attached to it.
        token: u64,
        /// The piece; empty only with the end.
        bytes: &'a [u8],
        /// Whether the peer has ended the stream.
        is_end: bool,
    },
    /// A stream is over before its end.
    Reset {
        /// Which one; it is not open any more.
        stream: Stream,
        /// What was attached to it.
        token: u64,
        /// What was said about it.
        code: Code,
        /// Who said it.
        cause: Cause,
    },
    /// More can be sent on a stream for which [`Conn::send_data`] did not take all.
    WindowOpened {
        /// Which one.
        stream: Stream,
        /// What was attached to it.
        token: u64,
    },
    /// The peer answered a PING of the caller's.
    Pong(u64),
    /// The peer takes no new streams, and answers none above `last`. Those come as [`Event::Reset`] next.
    GoAway {
        /// The highest stream that it still answers.
        last: u32,
        /// Why.
        code: Code,
        /// What it adds for people.
        debug: &'a [u8],
    },
}

/// What the fields belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A request.
    Request,
    /// An interim answer; the answer is still to come.
    Interim {
        /// Its status, from 100 to 199.
        status: u16,
    },
    /// An answer.
    Response {
        /// Its status, from 200 on.
        status: u16,
    },
    /// What ends a message.
    Trailers,
}

/// Why a stream is over before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The peer reset it.
    Peer,
    /// This end reset it, since the peer broke this rule.
    Rule(&'static str),
    /// The peer said GOAWAY and has not looked at it: it can be tried elsewhere.
    GoAway,
}

/// What is lent to every step: the time, the scratch and the output.
pub(super) struct Lent<'l> {
    pub(super) now: Instant,
    pub(super) fields: &'l mut Fields,
    pub(super) out: &'l mut Vec<u8>,
}

impl Conn {
    /// Takes the next event out of `input`, which is moved on behind what was used. `None` says that more bytes are
    /// needed: the caller keeps what is left of the input, and puts new bytes behind it. That is never more than
    /// [`crate::frame::HEAD_LEN`] and [`crate::Config::frame_max`] bytes. Answers that need no decision are written to
    /// `out`.
    ///
    /// # Errors
    /// If the connection is over. GOAWAY was written; the error comes again if it is asked again.
    pub fn receive<'a>(
        &mut self,
        now: Instant,
        input: &mut &'a [u8],
        fields: &mut Fields,
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, Error> {
        if let Some(err) = self.failed {
            return Err(err);
        }
        let event = self.step(input, &mut Lent { now, fields, out });
        if let Err(err) = event {
            self.fail(err, out);
        }
        event
    }

    fn step<'a>(&mut self, input: &mut &'a [u8], lent: &mut Lent<'_>) -> Result<Option<Event<'a>>, Error> {
        loop {
            if let Some(event) = self.due() {
                return Ok(Some(event));
            }
            if self.incoming.is_open() {
                let event = self.read_data(input, lent.out);
                if event.is_some() || self.incoming.is_open() {
                    return Ok(event);
                }
            }
            if let Opening::Preface(n) = self.opening {
                self.read_preface(n, input)?;
                if self.opening != Opening::Settings {
                    return Ok(None);
                }
            }
            let Some(head) = Head::read(input) else { return Ok(None) };
            self.check(head)?;
            if head.kind == kind::DATA {
                let is_whole = !head.has(flag::PADDED) || input.len() > HEAD_LEN || head.len == 0;
                if !is_whole {
                    return Ok(None);
                }
                let padding = input.get(HEAD_LEN).copied().filter(|_| head.has(flag::PADDED));
                *input = &input[HEAD_LEN + usize::from(padding.is_some() && head.len > 0)..];
                if let Some(event) = self.begin_data(head, padding, lent)? {
                    return Ok(Some(event));
                }
                continue;
            }
            let Some((payload, rest)) = input[HEAD_LEN..].split_at_checked(head.len as usize) else {
                return Ok(None);
            };
            *input = rest;
            if let Some(event) = self.read_frame(head, payload, lent)? {
                return Ok(Some(event));
            }
        }
    }

    /// What is to be told before more is read.
    fn due(&mut self) -> Option<Event<'static>> {
        while self.send_window > 0 && self.streams.has_line() {
            let stream = self.streams.next_in_line()?;
            if let Some(slot) = self.streams.get(stream).filter(|slot| slot.send_window > 0) {
                return Some(Event::WindowOpened { stream, token: slot.token });
            }
        }
        let (from, last) = (self.sweep?, self.peer_last?);
        let found = self.streams.search(from, |_, id| id > last);
        self.sweep = found.map(|(_, after)| after);
        let (stream, _) = found?;
        let token = self.streams.remove(stream)?.token;
        Some(Event::Reset { stream, token, code: Code::REFUSED_STREAM, cause: Cause::GoAway })
    }

    fn read_preface(&mut self, n: u8, input: &mut &[u8]) -> Result<(), Error> {
        let expected = PREFACE.get(usize::from(n)..).unwrap_or_default();
        let n_bytes = expected.len().min(input.len());
        let (came, rest) = input.split_at(n_bytes);
        if came != &expected[..n_bytes] {
            return Err(Error::protocol("a client begins with the preface of HTTP/2"));
        }
        *input = rest;
        self.opening = match n_bytes == expected.len() {
            true => Opening::Settings,
            false => Opening::Preface(n + u8::try_from(n_bytes).unwrap_or(0)),
        };
        Ok(())
    }

    /// Checks what holds for frames of all types.
    fn check(&self, head: Head) -> Result<(), Error> {
        if head.len > self.config.frame_max {
            return Err(Error::frame_size("a frame is longer than this end takes"));
        }
        if self.opening != Opening::Done && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            return Err(Error::protocol("SETTINGS come first"));
        }
        if let Some(partial) = &self.partial
            && (head.kind != kind::CONTINUATION || head.stream != partial.stream)
        {
            return Err(Error::protocol("nothing comes between the pieces of a header block"));
        }
        let is_right = match head.kind {
            kind::DATA | kind::HEADERS | kind::PRIORITY | kind::RST_STREAM | kind::CONTINUATION => {
                head.stream != 0
            }
            kind::SETTINGS | kind::PING | kind::GOAWAY => head.stream == 0,
            _ => true,
        };
        match is_right {
            true => Ok(()),
            false => Err(Error::protocol("a frame is for the connection or for a stream, as its type says")),
        }
    }

    fn read_frame<'a>(
        &mut self,
        head: Head,
        payload: &'a [u8],
        lent: &mut Lent<'_>,
    ) -> Result<Option<Event<'a>>, Error> {
        match head.kind {
            kind::HEADERS => self.read_headers(head, payload, lent),
            kind::CONTINUATION => self.read_continuation(head, payload, lent),
            kind::WINDOW_UPDATE => self.read_window_update(head, payload, lent),
            kind::RST_STREAM => self.read_reset(head, payload, lent),
            kind::SETTINGS => self.read_settings(head, payload, lent),
            kind::PING => self.read_ping(head, payload, lent),
            kind::GOAWAY => self.read_goaway(payload).map(Some),
            kind::PRIORITY => self.read_priority(head, payload, lent),
            kind::PUSH_PROMISE => Err(Error::protocol("nobody is allowed to push")),
            _ => self.spend(Flood::Unknown, lent.now).map(|()| None),
        }
    }

    /// Resets a stream whose rules the peer broke.
    pub(super) fn reset_own(
        &mut self,
        stream: Stream,
        code: Code,
        rule: &'static str,
        lent: &mut Lent<'_>,
    ) -> Result<Option<Event<'static>>, Error> {
        let Some(slot) = self.streams.get(stream) else { return Ok(None) };
        let (is_ended, token) = (slot.is(state::REMOTE_ENDED), slot.token);
        // If that is one too many the stream stays: the caller is not told of it but by what remains.
        self.refuse(stream.id(), is_ended, code, lent)?;
        self.streams.remove(stream);
        Ok(Some(Event::Reset { stream, token, code, cause: Cause::Rule(rule) }))
    }

    /// Resets a stream that is not among the open ones.
    pub(super) fn refuse(
        &mut self,
        id: u32,
        is_ended: bool,
        code: Code,
        lent: &mut Lent<'_>,
    ) -> Result<(), Error> {
        frame::write_reset(id, code, lent.out);
        if !is_ended {
            self.streams.remember_reset(id);
        }
        self.spend(Flood::Resets, lent.now)
    }

    /// Says that the connection is over.
    fn fail(&mut self, err: Error, out: &mut Vec<u8>) {
        let why = match err {
            Error::Protocol { rule, .. } => rule,
            Error::Compression(_) => "a header block cannot be decoded",
            Error::Flood(flood) => flood.name(),
        };
        frame::write_goaway(self.last_answered(), err.code(), why.as_bytes(), out);
        self.failed = Some(err);
    }

    /// The highest stream that this end answers.
    pub(super) const fn last_answered(&self) -> u32 {
        match (self.leaving, self.role) {
            (Leaving::Told(last), _) => last,
            (_, Role::Server) => self.last_peer,
            (_, Role::Client) => 0,
        }
    }
}
