//! One end of an HTTP/2 connection whose peer says anything, in pieces cut anywhere, while the caller does anything.
#![no_main]

use std::sync::Arc;
use std::time::{Duration, Instant};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

use wire::frame::{self, HEAD_LEN, flag};
use wire::hpack::{Fields, Name};
use wire::{Code, Config, Conn, Event, Message, Role, Stream};

const MEMORY_MAX: usize = 1 << 20;

/// What the peer sends, or what the caller does.
#[derive(Arbitrary, Debug)]
enum Step {
    Frame { kind: u8, flags: u8, stream: u8, payload: Vec<u8> },
    Raw(Vec<u8>),
    Settings { id: u8, value: u32 },
    WindowUpdate { stream: u8, by: u32 },
    Request { stream: u8, is_end: bool, more: Vec<u8> },
    Cut(u8),
    Open { is_end: bool },
    Answer { at: u8, is_end: bool },
    Send { at: u8, n: u16, is_end: bool },
    Release { at: u8, n: u16 },
    Lend,
    Reset { at: u8 },
    Leave { is_now: bool },
    Wait(u16),
    Shrink,
}

#[derive(Arbitrary, Debug)]
struct Case {
    is_server: bool,
    is_greeted: bool,
    steps: Vec<Step>,
}

/// One end, what came and is not used yet, and the streams that it was told of.
struct End {
    conn: Conn,
    now: Instant,
    input: Vec<u8>,
    fields: Fields,
    out: Vec<u8>,
    streams: Vec<Stream>,
    is_over: bool,
}

fuzz_target!(|case: Case| {
    let mut out = Vec::new();
    let role = if case.is_server { Role::Server } else { Role::Client };
    let now = Instant::now();
    let config =
        Config { streams_max: 5, connection_window: 100_000, stream_window: 65_535, ..Config::default() };
    let conn = Conn::new(role, Arc::new(config), now, &mut out);
    let (input, fields, streams) = (Vec::new(), Fields::new(), Vec::new());
    let mut end = End { conn, now, input, fields, out, streams, is_over: false };
    if case.is_greeted {
        if case.is_server {
            end.input.extend_from_slice(frame::PREFACE);
        }
        frame::write_settings(&[], &mut end.input);
        end.take(usize::MAX);
    }
    for step in case.steps {
        end.step(step);
        assert!(end.conn.memory() < MEMORY_MAX);
        if end.is_over {
            assert!(end.conn.receive(now, &mut &[][..], &mut end.fields, &mut end.out).is_err());
            return;
        }
    }
    end.take(usize::MAX);
});

impl End {
    fn step(&mut self, step: Step) {
        let Self { conn, now, input, out, .. } = self;
        match step {
            Step::Frame { kind, flags, stream, payload } => {
                let len = u32::try_from(payload.len()).unwrap_or(0);
                frame::Head { len, kind: kind % 11, flags, stream: stream.into() }.write(input);
                input.extend(payload);
            }
            Step::Raw(bytes) => input.extend(bytes),
            Step::Settings { id, value } => frame::write_settings(&[(id.into(), value)], input),
            Step::WindowUpdate { stream, by } => frame::write_window_update(stream.into(), by, input),
            Step::Request { stream, is_end, more } => {
                let encode = |out: &mut Vec<u8>| {
                    out.extend([0x83, 0x84, 0x86]);
                    out.extend(more);
                };
                frame::write_headers(stream.into(), is_end, frame::LEN_MIN, input, encode);
            }
            Step::Cut(n) => self.take(n.into()),
            Step::Open { is_end } => {
                let mut request = Fields::new();
                request.push_known(Name::Method, b"GET");
                request.push_known(Name::Scheme, b"http");
                request.push_known(Name::Path, b"/");
                if let Ok(stream) = conn.open(1, &request, is_end, out) {
                    self.streams.push(stream);
                }
            }
            Step::Answer { at, is_end } => {
                let mut answer = Fields::new();
                answer.push_known(Name::Status, b"200");
                let _ = conn.send_headers(pick(&self.streams, at), &answer, is_end, out);
            }
            Step::Send { at, n, is_end } => {
                let body = vec![0; n.into()];
                let _ = conn.send_data(*now, pick(&self.streams, at), &body, is_end, out);
            }
            Step::Release { at, n } => conn.release(pick(&self.streams, at), n.into(), out),
            Step::Lend => conn.lend(out),
            Step::Reset { at } => {
                conn.reset(pick(&self.streams, at), Code::CANCEL, out);
            }
            Step::Leave { is_now: true } => conn.leave_now(Code::NO_ERROR, out),
            Step::Leave { is_now: false } => conn.leave(out),
            Step::Wait(millis) => self.now += Duration::from_millis(millis.into()),
            Step::Shrink => conn.shrink(),
        }
        self.check_out();
    }

    /// Gives it the next `n` bytes.
    fn take(&mut self, n: usize) {
        let n = n.min(self.input.len());
        let mut input = &self.input[..n];
        loop {
            match self.conn.receive(self.now, &mut input, &mut self.fields, &mut self.out) {
                Ok(None) => break,
                Ok(Some(Event::Headers { stream, message: Message::Request, .. })) => {
                    self.conn.set_token(stream, stream.to_bits());
                    self.streams.push(stream);
                }
                Ok(Some(Event::Reset { stream, .. })) => assert!(!self.conn.is_open(stream)),
                Ok(Some(_)) => {}
                Err(_) => {
                    self.is_over = true;
                    break;
                }
            }
        }
        assert!(self.is_over || input.len() < HEAD_LEN + frame::LEN_MIN as usize);
        let n_used = n - input.len();
        self.input.drain(..n_used);
        let stalled = self.conn.stalled(self.now, Duration::ZERO).count();
        assert!(stalled <= self.conn.n_streams());
    }

    /// What it writes is whole frames that keep the bounds.
    fn check_out(&mut self) {
        let mut out = self.out.strip_prefix(&frame::PREFACE[..]).unwrap_or(&self.out);
        while let Some(head) = frame::Head::read(out) {
            assert!(
                head.len <= frame::LEN_MIN
                    && (head.kind != frame::kind::HEADERS || head.has(flag::END_HEADERS))
            );
            out = &out[HEAD_LEN + head.len as usize..];
        }
        assert!(out.is_empty());
        self.out.clear();
    }
}

fn pick(streams: &[Stream], at: u8) -> Stream {
    let none = Stream::from_bits(at.into());
    streams.get(usize::from(at) % streams.len().max(1)).copied().unwrap_or(none)
}
