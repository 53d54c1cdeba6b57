//! What relaying one unary call costs, in instructions. Not run by default:
//!
//! ```sh
//! cargo test --release -p sagemesh-wire --lib --no-run
//! valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect='*relay_calls*' \
//!     target/release/deps/wire-HASH --ignored --exact conn::cost_tests::NAME
//! ```
//!
//! prints the instructions of 10,000 calls.

use std::collections::VecDeque;
use std::time::Instant;

use super::Role;
use super::testing::{End, data, raw};
use crate::config::Config;
use crate::frame::flag;
use crate::frame::kind;
use crate::hpack::{Fields, Name, huffman_encode};
use crate::{Conn, Event, Stream};

const N_CALLS: u32 = 10_000;
/// Calls before those that are measured.
const N_WARM: u32 = 100;

/// An encoder as that of the h2 crate: everything but tokens gets into the table, strings are Huffman's.
#[derive(Default)]
struct Eager {
    table: VecDeque<(String, String)>,
}

impl Eager {
    fn encode(&mut self, list: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, value) in list {
            let fixed = match (*name, *value) {
                (":method", "POST") => 0x83,
                (":scheme", "http") => 0x86,
                (":status", "200") => 0x88,
                _ => 0,
            };
            let found = self.table.iter().position(|it| it.0 == *name && it.1 == *value);
            if fixed != 0 {
                out.push(fixed);
            } else if *name == "authorization" {
                out.extend([0x0f, 8]);
                Self::string(value, &mut out);
            } else if let Some(at) = found {
                out.push(0x80 | u8::try_from(62 + at).expect("a small table"));
            } else {
                let idx = usize::from(Name::of(name.as_bytes()).static_idx());
                let named = self.table.iter().position(|it| it.0 == *name);
                match (idx, named) {
                    (0, Some(at)) if at < 1 => out.push(0x40 | u8::try_from(62 + at).expect("below 63")),
                    (0, Some(at)) => out.extend([0x7f, u8::try_from(at - 1).expect("small")]),
                    (0, None) => {
                        out.push(0x40);
                        Self::string(name, &mut out);
                    }
                    (idx, _) => out.push(0x40 | u8::try_from(idx).expect("below 62")),
                }
                Self::string(value, &mut out);
                self.table.push_front(((*name).to_owned(), (*value).to_owned()));
                let size = |it: &(String, String)| it.0.len() + it.1.len() + 32;
                while self.table.iter().map(size).sum::<usize>() > 4096 {
                    self.table.pop_back();
                }
            }
        }
        out
    }

    fn string(string: &str, out: &mut Vec<u8>) {
        let mut encoded = Vec::new();
        huffman_encode(string.as_bytes(), &mut encoded);
        match u8::try_from(encoded.len()) {
            Ok(len @ ..0x7f) => out.push(0x80 | len),
            _ => out.extend({
                let rest = encoded.len() - 0x7f;
                [
                    0xff,
                    u8::try_from(rest % 128).expect("small") | 0x80,
                    u8::try_from(rest / 128).expect("small"),
                ]
            }),
        }
        out.extend(encoded);
    }
}

/// Bytes of a request and of its answer.
type Exchange = (Vec<u8>, Vec<u8>);

fn exchanges(is_per_call: bool) -> Vec<Exchange> {
    let (mut requests, mut answers) = (Eager::default(), Eager::default());
    let token = format!("Bearer {}", "tOkEn1234-".repeat(29));
    (0..N_CALLS + N_WARM)
        .map(|n| {
            let id = 2 * n + 1;
            // Ids of traces are random.
            let trace = u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let trace = format!("00-{trace:016x}{:016x}-{:016x}-01", trace.rotate_left(17), !trace);
            let timeout = format!("{}u", 999_000 + n % 1000);
            let mut list = vec![
                (":method", "POST"),
                (":scheme", "http"),
                (":path", "/bench.v1.EchoService/Echo"),
                (":authority", "echo.svc.home.mesh"),
                ("content-type", "application/grpc"),
                ("user-agent", "grpc-go/1.76.0"),
                ("te", "trailers"),
                ("grpc-accept-encoding", "identity,deflate,gzip"),
            ];
            if is_per_call {
                list.extend([
                    ("grpc-timeout", &timeout[..]),
                    ("traceparent", &trace[..]),
                    ("authorization", &token[..]),
                ]);
            }
            let request = [
                raw(kind::HEADERS, flag::END_HEADERS, id, &requests.encode(&list)),
                data(id, flag::END_STREAM, &[7; 133]),
            ];
            let head = answers.encode(&[(":status", "200"), ("content-type", "application/grpc")]);
            let trailers = answers.encode(&[("grpc-status", "0"), ("grpc-message", "")]);
            let answer = [
                raw(kind::HEADERS, flag::END_HEADERS, id, &head),
                data(id, 0, &[8; 133]),
                raw(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, id, &trailers),
            ];
            (request.concat(), answer.concat())
        })
        .collect()
}

/// Relays what one end of the relay got to the other.
fn relay(from: &mut End, to: &mut Conn, out: &mut Vec<u8>, mut input: &[u8], now: Instant) {
    while let Some(event) =
        from.conn.receive(now, &mut input, &mut from.fields, &mut from.out).expect("it is right")
    {
        match event {
            Event::Headers { stream, token: 0, is_end, .. } => {
                let other = to.open(stream.to_bits(), &from.fields, is_end, out).expect("there is room");
                from.conn.set_token(stream, other.to_bits());
            }
            Event::Headers { token, is_end, .. } => {
                to.send_headers(Stream::from_bits(token), &from.fields, is_end, out).expect("it is open");
            }
            Event::Data { stream, token, bytes, is_end } => {
                let other = Stream::from_bits(token);
                let n = to.send_data(now, other, bytes, is_end, out).expect("it is open");
                from.conn.release(stream, n, &mut from.out);
            }
            _ => {}
        }
    }
}

#[inline(never)]
fn relay_calls(down: &mut End, up: &mut End, exchanges: &[Exchange]) {
    let now = down.now;
    for (request, answer) in exchanges {
        relay(down, &mut up.conn, &mut up.out, request, now);
        relay(up, &mut down.conn, &mut down.out, answer, now);
        up.out.clear();
        down.out.clear();
        // What both peers let this end send.
        up.conn.send_window = 1 << 30;
        down.conn.send_window = 1 << 30;
    }
}

fn measure(is_per_call: bool) {
    let exchanges = exchanges(is_per_call);
    let (mut down, mut up) =
        (End::ready(Role::Server, Config::default()), End::ready(Role::Client, Config::default()));
    let (warm, rest) = exchanges.split_at(N_WARM as usize);
    for exchange in warm {
        relay_warm(&mut down, &mut up, exchange);
    }
    let memory = down.conn.memory() + up.conn.memory();
    relay_calls(&mut down, &mut up, rest);
    assert_eq!(down.conn.n_streams() + up.conn.n_streams(), 0);
    assert!(down.conn.memory() + up.conn.memory() <= memory + 1024);
    let _: &Fields = &down.fields;
}

#[inline(never)]
fn relay_warm(down: &mut End, up: &mut End, exchange: &Exchange) {
    let now = down.now;
    relay(down, &mut up.conn, &mut up.out, &exchange.0, now);
    relay(up, &mut down.conn, &mut down.out, &exchange.1, now);
    up.out.clear();
    down.out.clear();
}

#[test]
#[ignore = "to be counted by callgrind"]
fn the_same_call_again() {
    measure(false);
}

#[test]
#[ignore = "to be counted by callgrind"]
fn each_call_with_its_own_trace() {
    measure(true);
}
