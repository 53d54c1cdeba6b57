//! Ends of HTTP/2 that the relay talks to: they say what they like, and hold the relay to the rules.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use libfuzzer_sys::arbitrary::{self, Arbitrary};

use wire::Code;
use wire::frame::{self, HEAD_LEN, Head, flag, kind};
use wire::hpack::{Decoder, Encoder, Fields};

/// What an end does, or what happens. `end` and `stream` count modulo those that there are.
#[derive(Arbitrary, Debug)]
pub enum Step {
    Connect {
        who: u8,
        is_mute: bool,
    },
    Dial {
        nth: u8,
        is_refused: bool,
        is_mute: bool,
    },
    Request {
        end: u8,
        shape: u16,
        is_end: bool,
    },
    Answer {
        end: u8,
        stream: u8,
        shape: u16,
        is_end: bool,
    },
    Trailers {
        end: u8,
        stream: u8,
        shape: u16,
    },
    Data {
        end: u8,
        stream: u8,
        n: u16,
        padding: Option<u8>,
        is_end: bool,
    },
    Reset {
        end: u8,
        stream: u8,
        code: u8,
    },
    Window {
        end: u8,
        stream: Option<u8>,
        by: u32,
    },
    Settings {
        end: u8,
        id: u8,
        value: u32,
    },
    Ping {
        end: u8,
        is_ack: bool,
    },
    GoAway {
        end: u8,
        last: u8,
    },
    Frame {
        end: u8,
        kind: u8,
        flags: u8,
        stream: u8,
        payload: Vec<u8>,
    },
    Raw {
        end: u8,
        bytes: Vec<u8>,
    },
    /// From now on an end writes and reads so many bytes at a time.
    Hold {
        end: u8,
        write_max: u16,
        read_max: u16,
    },
    Close {
        end: u8,
    },
    Wait {
        ms: u16,
    },
    Change(u8),
    Drain,
}

/// One end that the relay talks to.
pub struct End {
    /// None once either side has closed it.
    pub socket: Option<UnixStream>,
    pub is_near: bool,
    /// Whether it answers neither SETTINGS nor PING, and opens no window.
    is_mute: bool,
    /// Whether it sent bytes of which nobody knows what they mean.
    is_hostile: bool,
    was_left: bool,
    pub out: Vec<u8>,
    input: Vec<u8>,
    pub write_max: usize,
    pub read_max: usize,
    encoder: Encoder,
    decoder: Decoder,
    /// Bytes of DATA that the relay may send.
    window: i64,
    next_id: u32,
    streams: BTreeMap<u32, Told>,
    /// A block of which more is to come.
    partial: Option<(u32, bool, Vec<u8>)>,
}

/// What the relay said of one stream.
#[derive(Debug, Default)]
struct Told {
    has_head: bool,
    is_ended: bool,
    is_reset: bool,
    /// Whether this end gave it up.
    is_left: bool,
}

impl End {
    /// An end that has said its part of the opening.
    pub fn new(socket: UnixStream, is_near: bool, is_mute: bool) -> Self {
        let mut out = Vec::new();
        if is_near {
            out.extend_from_slice(frame::PREFACE);
        }
        frame::write_settings(&[], &mut out);
        Self {
            socket: Some(socket),
            is_near,
            is_mute,
            is_hostile: false,
            was_left: false,
            out,
            input: Vec::new(),
            write_max: usize::MAX,
            read_max: usize::MAX,
            encoder: Encoder::new(4096),
            decoder: Decoder::new(4096),
            window: 65_535,
            next_id: 1,
            streams: BTreeMap::new(),
            partial: None,
        }
    }

    /// The stream at a place among those that there are.
    fn stream(&self, at: u8) -> u32 {
        let n = self.streams.len().max(1);
        self.streams.keys().nth(usize::from(at) % n).copied().unwrap_or(u32::from(at))
    }

    /// Does what a step says.
    pub fn step(&mut self, step: Step) {
        match step {
            Step::Request { shape, is_end, .. } => {
                let id = self.next_id;
                self.next_id += 2;
                self.streams.insert(id, Told::default());
                self.headers(id, &request(shape), is_end);
            }
            Step::Answer { stream, shape, is_end, .. } => {
                self.headers(self.stream(stream), &answer(shape), is_end);
            }
            Step::Trailers { stream, shape, .. } => self.headers(self.stream(stream), &trailers(shape), true),
            Step::Data { stream, n, padding, is_end, .. } => {
                self.data(self.stream(stream), n, padding, is_end)
            }
            Step::Reset { stream, code, .. } => {
                let id = self.stream(stream);
                if let Some(told) = self.streams.get_mut(&id) {
                    told.is_left = true;
                }
                frame::write_reset(id, Code(code.into()), &mut self.out);
            }
            Step::Window { stream, by, .. } => {
                let id = stream.map_or(0, |at| self.stream(at));
                self.open_window(id, by);
            }
            Step::Settings { id, value, .. } => {
                frame::write_settings(&[((id % 8).into(), value)], &mut self.out);
            }
            Step::Ping { is_ack, .. } => {
                frame::write_ping(u64::from_be_bytes(*b"sm-leave"), is_ack, &mut self.out);
            }
            Step::GoAway { last, .. } => {
                self.was_left |= self.is_near;
                frame::write_goaway(last.into(), Code::NO_ERROR, &[], &mut self.out);
            }
            Step::Frame { kind, flags, stream, payload, .. } => {
                self.is_hostile = true;
                let len = u32::try_from(payload.len()).unwrap_or(0);
                Head { len, kind: kind % 11, flags, stream: stream.into() }.write(&mut self.out);
                self.out.extend(payload);
            }
            Step::Raw { bytes, .. } => {
                self.is_hostile = true;
                self.out.extend(bytes);
            }
            Step::Hold { write_max, read_max, .. } => {
                (self.write_max, self.read_max) = (write_max.into(), read_max.into());
            }
            Step::Close { .. } => self.socket = None,
            Step::Connect { .. } | Step::Dial { .. } | Step::Wait { .. } | Step::Change(_) | Step::Drain => {}
        }
    }

    fn headers(&mut self, id: u32, fields: &Fields, is_end: bool) {
        let encode = |out: &mut Vec<u8>| self.encoder.encode(fields, out);
        frame::write_headers(id, is_end, frame::LEN_MIN, &mut self.out, encode);
    }

    fn data(&mut self, id: u32, n: u16, padding: Option<u8>, is_end: bool) {
        let n = usize::from(n).min(frame::LEN_MIN as usize - 256);
        let Some(padding) = padding else {
            return frame::write_data(id, &[1; 1 << 14][..n], is_end, &mut self.out);
        };
        let len = u32::try_from(n + 1).unwrap_or(0) + u32::from(padding);
        let flags = flag::PADDED | u8::from(is_end);
        Head { len, kind: kind::DATA, flags, stream: id }.write(&mut self.out);
        self.out.push(padding);
        self.out.resize(self.out.len() + n + usize::from(padding), 0);
    }

    fn open_window(&mut self, id: u32, by: u32) {
        frame::write_window_update(id, by, &mut self.out);
        if id == 0 {
            self.window += i64::from(by & frame::WINDOW_MAX);
        }
    }

    /// Writes what may be written now.
    pub fn write(&mut self) {
        let Some(socket) = &mut self.socket else { return };
        let n = self.out.len().min(self.write_max);
        match socket.write(&self.out[..n]) {
            Ok(n) => drop(self.out.drain(..n)),
            Err(err) if err.kind() == ErrorKind::WouldBlock => {}
            // What it said before it closed is to be read still.
            Err(_) => self.out.clear(),
        }
    }

    /// Reads what may be read now.
    ///
    /// # Panics
    /// If the relay breaks a rule.
    pub fn read(&mut self) {
        let mut buffer = [0; 1 << 14];
        let mut left = self.read_max;
        while left > 0 {
            let Some(socket) = &mut self.socket else { return };
            let n_max = buffer.len().min(left);
            match socket.read(&mut buffer[..n_max]) {
                Ok(0) => self.socket = None,
                Ok(n) => {
                    left -= n;
                    self.input.extend_from_slice(&buffer[..n]);
                }
                Err(err) if err.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.socket = None,
            }
        }
        self.take();
    }

    /// Takes the frames that came.
    fn take(&mut self) {
        let mut input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        if !self.is_near && self.next_id == 1 {
            let Some(after) = rest.strip_prefix(frame::PREFACE) else {
                assert!(frame::PREFACE.starts_with(rest), "it begins with the preface");
                self.input = input;
                return;
            };
            (rest, self.next_id) = (after, 2);
        }
        while let Some(head) = Head::read(rest) {
            assert!(head.len <= frame::LEN_MIN, "no frame is longer than both ends agreed");
            let Some(payload) = rest.get(HEAD_LEN..HEAD_LEN + head.len as usize) else { break };
            rest = &rest[HEAD_LEN + payload.len()..];
            self.on_frame(head, payload);
        }
        let n = input.len() - rest.len();
        input.drain(..n);
        self.input = input;
    }

    fn on_frame(&mut self, head: Head, payload: &[u8]) {
        let is_end = head.has(flag::END_STREAM);
        assert!(
            self.partial.is_none() || head.kind == kind::CONTINUATION,
            "nothing comes between a block's pieces"
        );
        match head.kind {
            kind::DATA => {
                self.window -= i64::from(head.len);
                assert!(self.is_hostile || self.window >= 0, "it keeps within the window");
                let told = self.streams.get_mut(&head.stream).expect("a stream that there is");
                assert!(
                    told.has_head && !told.is_ended && !told.is_reset,
                    "DATA where none can be: {told:?}"
                );
                told.is_ended = is_end;
                if !self.is_mute && head.len > 0 {
                    self.open_window(0, head.len);
                    if !is_end {
                        self.open_window(head.stream, head.len);
                    }
                }
            }
            kind::HEADERS | kind::CONTINUATION => {
                let (id, is_end, mut block) =
                    self.partial.take().unwrap_or((head.stream, is_end, Vec::new()));
                assert_eq!(id, head.stream);
                block.extend_from_slice(payload);
                match head.has(flag::END_HEADERS) {
                    true => self.on_block(id, is_end, &block),
                    false => self.partial = Some((id, is_end, block)),
                }
            }
            kind::RST_STREAM => {
                self.streams.entry(head.stream).or_default().is_reset = true;
            }
            kind::SETTINGS if !head.has(flag::ACK) && !self.is_mute => {
                frame::write_settings_ack(&mut self.out)
            }
            kind::PING if !head.has(flag::ACK) && !self.is_mute => {
                let payload = payload.try_into().expect("eight bytes");
                frame::write_ping(u64::from_be_bytes(payload), true, &mut self.out);
            }
            kind::GOAWAY => self.was_left = true,
            kind::SETTINGS | kind::PING | kind::WINDOW_UPDATE => {}
            other => panic!("it sends no frames of type {other}"),
        }
    }

    fn on_block(&mut self, id: u32, is_end: bool, block: &[u8]) {
        let mut fields = Fields::new();
        self.decoder.decode(block, usize::MAX, &mut fields).expect("it can be decoded");
        let told = match self.is_near {
            true => self.streams.get_mut(&id).expect("a stream that there is"),
            false => self.streams.entry(id).or_default(),
        };
        assert!(!told.is_ended && !told.is_reset, "fields after the end");
        told.is_ended = is_end;
        let status = fields.get(0).filter(|field| field.name == b":status").map(|field| field.value.to_vec());
        match status {
            Some(status) if status.starts_with(b"1") => assert!(!told.has_head && !is_end),
            Some(_) => assert!(self.is_near && !std::mem::replace(&mut told.has_head, true), "one answer"),
            None if self.is_near => assert!(told.has_head && is_end, "trailers end an answer"),
            None => assert!(!std::mem::replace(&mut told.has_head, true) || is_end, "one request"),
        }
    }

    /// All that it asked was answered or reset, if its connection is as it should be.
    ///
    /// # Panics
    /// If something was not.
    pub fn check_ended(&self) {
        if self.socket.is_none() || self.was_left || self.is_hostile {
            return;
        }
        for (id, told) in &self.streams {
            assert!(told.is_ended || told.is_reset || told.is_left, "stream {id} hangs: {told:?}");
        }
    }
}

/// Pushes what a shape has.
fn fields(shape: u16, list: &[(u16, &str, &str)]) -> Fields {
    let mut fields = Fields::new();
    for (_, name, value) in list.iter().filter(|(bits, ..)| shape & bits == *bits) {
        fields.push(name.as_bytes(), value.as_bytes());
    }
    fields
}

fn request(shape: u16) -> Fields {
    let long = "x".repeat(if shape & 0x400 == 0 { 3000 } else { 20_000 });
    let method = ["POST", "HEAD", "GET"][usize::from(shape >> 14).min(2)];
    let shape = !shape;
    fields(
        shape,
        &[
            (0, ":method", method),
            (0, ":scheme", "http"),
            (0, ":path", "/a/b"),
            (1, ":authority", if shape & 2 == 0 { "nobody" } else { "api:80" }),
            (4, "te", "trailers"),
            (8, "content-type", "application/grpc"),
            (
                0,
                if shape & 0x10 == 0 { "grpc-timeout" } else { "x-a" },
                if shape & 0x20 == 0 { "1S" } else { "90m" },
            ),
            (0, if shape & 0x40 == 0 { "sagemesh-timing" } else { "x-b" }, "1"),
            (0, if shape & 0x80 == 0 { "content-length" } else { "x-c" }, "5"),
            (0, if shape & 0x100 == 0 { "host" } else { "x-d" }, "api:80"),
            (
                0,
                if shape & 0x200 == 0 { "x-long" } else { "x-e" },
                if shape & 0x200 == 0 { &long } else { "" },
            ),
        ],
    )
}

fn answer(shape: u16) -> Fields {
    let status = ["200", "103", "404", "204"][usize::from(shape >> 14)];
    let long = "y".repeat(20_000);
    fields(
        shape,
        &[
            (0, ":status", status),
            (0, "content-type", "application/grpc"),
            (1, "grpc-status", "0"),
            (2, "sagemesh-refused", "NOT_SERVING"),
            (4, "sagemesh-server-us", "12"),
            (8, "content-length", "5"),
            (0x10, "x-long", &long),
            (0x20, "x-one", "1"),
            (0x40, "set-cookie", "a"),
        ],
    )
}

fn trailers(shape: u16) -> Fields {
    fields(
        shape,
        &[
            (1, "grpc-status", "0"),
            (2, "sagemesh-refused", "NOT_SERVING"),
            (4, "grpc-message", "no "),
            (8, ":status", "200"),
        ],
    )
}
