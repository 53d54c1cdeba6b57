//! Two ends joined by a pipe that cuts bytes anywhere, under random operations, against a plain model: what each
//! stream was given, in order. At the end all streams are over and no window has leaked.

use std::collections::BTreeMap;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Role;
use super::testing::{End, fields, request};
use crate::code::Code;
use crate::config::Config;
use crate::frame;
use crate::{Event, Message, Stream};

const SEEDS: u64 = 60;

/// One direction of one stream.
#[derive(Default)]
struct Flow {
    len: usize,
    n_sent: usize,
    /// Whether it ends by trailers, not by its last DATA.
    has_trailers: bool,
    is_ended: bool,
    /// Whether the sender waits to be told of a window.
    is_waiting: bool,
    n_received: usize,
    has_received_end: bool,
}

/// What one stream is to carry.
#[derive(Default)]
struct Call {
    /// Requests and answers, by who receives them: 0 is the client.
    flows: [Flow; 2],
    is_answered: bool,
    is_reset: bool,
}

struct World {
    rng: ChaCha8Rng,
    ends: [End; 2],
    /// Bytes that have come to each end and that it could not use yet.
    inboxes: [Vec<u8>; 2],
    /// Bytes that each end has not released.
    held: [Vec<(Stream, usize)>; 2],
    calls: BTreeMap<u32, Call>,
    streams: [BTreeMap<u32, Stream>; 2],
    is_narrow: [bool; 2],
}

fn byte(id: u32, receiver: usize, at: usize) -> u8 {
    (id as usize * 31 + receiver * 101 + at * 7 + at / 251).to_le_bytes()[0]
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut config = || Config {
            stream_window: rng.random_range(65_535..150_000),
            connection_window: rng.random_range(65_535..300_000),
            streams_max: rng.random_range(3..30),
            encoder_table: rng.random_range(0..6000),
            decoder_table: rng.random_range(0..9000),
            ..Config::default()
        };
        let ends = [End::fresh(Role::Client, config()), End::fresh(Role::Server, config())];
        Self {
            rng,
            ends,
            inboxes: Default::default(),
            held: Default::default(),
            calls: BTreeMap::new(),
            streams: Default::default(),
            is_narrow: [false; 2],
        }
    }

    fn step(&mut self) {
        let side = self.rng.random_range(0..2);
        match self.rng.random_range(0..100) {
            0..8 => self.open(),
            8..40 => self.send(side),
            40..75 => {
                let n = self.rng.random_range(0..20_000);
                self.carry(side, n);
            }
            75..95 => self.release(side, 0.7),
            95..97 => self.reset(side),
            97..99 => self.ends[side].conn.ping(7, &mut self.ends[side].out),
            _ => self.narrow(side, !self.is_narrow[side]),
        }
    }

    fn open(&mut self) {
        if self.calls.len() > 60 || !self.ends[0].conn.has_room() {
            return;
        }
        let mut head = request();
        for n in 0..self.rng.random_range(0..4) {
            let value = "v".repeat(self.rng.random_range(0..9000));
            head.push(format!("x-{n}").as_bytes(), value.as_bytes());
        }
        let flow = |rng: &mut ChaCha8Rng| Flow {
            len: if rng.random_bool(0.2) { 0 } else { rng.random_range(0..200_000) },
            has_trailers: rng.random_bool(0.5),
            ..Flow::default()
        };
        let mut call = Call { flows: [flow(&mut self.rng), flow(&mut self.rng)], ..Call::default() };
        let is_end = call.flows[1].len == 0;
        call.flows[1].is_ended = is_end;
        let end = &mut self.ends[0];
        let stream = end.conn.open(0, &head, is_end, &mut end.out).expect("there is room");
        end.conn.set_token(stream, stream.to_bits());
        self.streams[0].insert(stream.id(), stream);
        self.calls.insert(stream.id(), call);
    }

    /// Sends something on some stream of one end.
    fn send(&mut self, side: usize) {
        let n = self.streams[side].len();
        if n == 0 {
            return;
        }
        let at = self.rng.random_range(0..n);
        let (id, stream) = self.streams[side].iter().nth(at).map(|(id, it)| (*id, *it)).expect("it is there");
        let n_bytes = self.rng.random_range(0..50_000);
        self.send_on(side, id, stream, n_bytes);
    }

    fn send_on(&mut self, side: usize, id: u32, stream: Stream, n_bytes: usize) {
        let call = self.calls.get_mut(&id).expect("it was opened");
        let end = &mut self.ends[side];
        if call.is_reset || !end.conn.is_open(stream) {
            return;
        }
        if side == 1 && !call.is_answered {
            call.is_answered = true;
            let head = fields(&[(":status", "200"), ("content-type", "application/grpc")]);
            end.conn.send_headers(stream, &head, false, &mut end.out).expect("it is open");
        }
        let flow = &mut call.flows[1 - side];
        if flow.is_ended || flow.is_waiting {
            return;
        }
        let to = flow.len.min(flow.n_sent + n_bytes);
        let bytes: Vec<u8> = (flow.n_sent..to).map(|at| byte(id, 1 - side, at)).collect();
        let is_last = to == flow.len && !flow.has_trailers;
        let n = end.conn.send_data(end.now, stream, &bytes, is_last, &mut end.out).expect("it is open");
        flow.n_sent += n;
        flow.is_waiting = n < bytes.len();
        flow.is_ended = is_last && !flow.is_waiting;
        if flow.n_sent == flow.len && flow.has_trailers {
            flow.is_ended = true;
            let trailers = fields(&[("grpc-status", "0")]);
            end.conn.send_headers(stream, &trailers, true, &mut end.out).expect("it is open");
        }
    }

    /// Carries some bytes to one end and has it take them.
    fn carry(&mut self, to: usize, n: usize) {
        let from = &mut self.ends[1 - to].out;
        let n = n.min(from.len());
        self.inboxes[to].extend(from.drain(..n));
        let inbox = std::mem::take(&mut self.inboxes[to]);
        let mut input = inbox.as_slice();
        loop {
            let end = &mut self.ends[to];
            let event = end.conn.receive(end.now, &mut input, &mut end.fields, &mut end.out);
            match event.expect("both ends keep the rules") {
                Some(event) => self.take(to, &event),
                None => break,
            }
        }
        self.inboxes[to] = input.to_vec();
        assert!(input.len() < frame::HEAD_LEN + frame::LEN_MIN as usize);
    }

    fn take(&mut self, side: usize, event: &Event<'_>) {
        match *event {
            Event::Headers { stream, message: Message::Request, is_end, .. } => {
                self.ends[1].conn.set_token(stream, stream.to_bits());
                self.streams[1].insert(stream.id(), stream);
                self.received(side, stream, &[], is_end);
            }
            Event::Headers { stream, is_end, .. } => self.received(side, stream, &[], is_end),
            Event::Data { stream, token, bytes, is_end } => {
                assert_eq!(Stream::from_bits(token), stream);
                self.held[side].push((stream, bytes.len()));
                self.received(side, stream, bytes, is_end);
            }
            Event::Reset { stream, .. } => {
                self.calls.get_mut(&stream.id()).expect("it was opened").is_reset = true;
            }
            Event::WindowOpened { stream, .. } => {
                let call = self.calls.get_mut(&stream.id()).expect("it was opened");
                call.flows[1 - side].is_waiting = false;
                let n_bytes = self.rng.random_range(0..50_000);
                self.send_on(side, stream.id(), stream, n_bytes);
            }
            Event::TooLarge { stream, .. } => {
                self.calls.get_mut(&stream.id()).expect("it was opened").is_reset = true;
                self.ends[side].conn.reset(stream, Code::CANCEL, &mut self.ends[side].out);
            }
            Event::Settings | Event::Pong(7) => {}
            Event::Pong(_) | Event::GoAway { .. } => panic!("{event:?}"),
        }
    }

    fn received(&mut self, side: usize, stream: Stream, bytes: &[u8], is_end: bool) {
        let id = stream.id();
        let flow = &mut self.calls.get_mut(&id).expect("it was opened").flows[side];
        assert!(!flow.has_received_end);
        for got in bytes {
            assert_eq!(*got, byte(id, side, flow.n_received));
            flow.n_received += 1;
        }
        flow.has_received_end = is_end;
    }

    fn release(&mut self, side: usize, share: f64) {
        let end = &mut self.ends[side];
        if self.rng.random_bool(0.2) {
            end.conn.lend(&mut end.out);
        }
        let held = std::mem::take(&mut self.held[side]);
        for (stream, n) in held {
            let end = &mut self.ends[side];
            if self.rng.random_bool(share) {
                end.conn.release(stream, n, &mut end.out);
            } else {
                self.held[side].push((stream, n));
            }
        }
    }

    fn reset(&mut self, side: usize) {
        let n = self.streams[side].len();
        if n == 0 {
            return;
        }
        let at = self.rng.random_range(0..n);
        let stream = *self.streams[side].values().nth(at).expect("it is there");
        let end = &mut self.ends[side];
        if end.conn.is_open(stream) {
            self.calls.get_mut(&stream.id()).expect("it was opened").is_reset = true;
        }
        end.conn.reset(stream, Code::CANCEL, &mut end.out);
    }

    /// Takes all windows of the other end away for a while, which may make them negative.
    fn narrow(&mut self, side: usize, is_narrow: bool) {
        if self.is_narrow[side] != is_narrow {
            self.is_narrow[side] = is_narrow;
            let end = &mut self.ends[side];
            let window = if is_narrow { 0 } else { end.conn.config.stream_window };
            frame::write_settings(&[(4, window)], &mut end.out);
        }
    }

    /// Goes on until nothing happens any more.
    fn finish(&mut self) {
        for side in 0..2 {
            self.narrow(side, false);
        }
        for _ in 0..5000 {
            for side in 0..2 {
                self.carry(side, usize::MAX);
                self.release(side, 1.0);
                let streams: Vec<_> = self.streams[side].iter().map(|(id, it)| (*id, *it)).collect();
                for (id, stream) in streams {
                    self.send_on(side, id, stream, 30_000);
                }
            }
            if self.ends.iter().all(|end| end.out.is_empty() && end.conn.n_streams() == 0) {
                return;
            }
        }
        panic!("streams hang");
    }

    fn check(&self) {
        for (id, call) in &self.calls {
            for flow in &call.flows {
                assert!(flow.n_received <= flow.n_sent && flow.n_sent <= flow.len);
                assert!(
                    call.is_reset || (flow.n_received == flow.len && flow.has_received_end),
                    "stream {id}"
                );
            }
        }
        for (end, other) in [(0, 1), (1, 0)] {
            let (end, other) = (&self.ends[end].conn, &self.ends[other].conn);
            assert_eq!((end.held, end.lent), (0, 0));
            assert_eq!(end.receive_window + end.released, end.config.connection_window);
            assert_eq!(end.receive_window, other.send_window.cast_unsigned());
            assert!(!end.streams.has_line());
        }
    }
}

#[test]
fn whatever_happens_bytes_arrive_streams_end_and_windows_come_back() {
    for seed in 0..SEEDS {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            let n = world.rng.random_range(50..3000);
            for _ in 0..n {
                world.step();
            }
            world.finish();
            world.check();
        });
        assert!(run.is_ok(), "seed {seed}");
    }
}

#[test]
fn any_bytes_are_taken_or_refused_wherever_they_are_cut() {
    for seed in 0..2000 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let role = if rng.random_bool(0.5) { Role::Client } else { Role::Server };
        let mut bytes = super::testing::opening(role);
        for _ in 0..rng.random_range(1..30) {
            let mut payload = vec![0; rng.random_range(0..40)];
            rng.fill_bytes(&mut payload);
            let (kind, flags) = (rng.random_range(0..11), rng.random_range(0..64));
            bytes.extend(super::testing::raw(kind, flags, rng.random_range(0..8), &payload));
            if rng.random_bool(0.5) {
                bytes.extend(super::testing::post(rng.random_range(0..5) * 2 + 1, rng.random_range(0..2)));
            }
        }
        let take = |cut: &mut dyn FnMut(usize) -> usize| {
            let mut end = End::fresh(role, Config::default());
            if role == Role::Client {
                end.open(false);
                end.open(true);
            }
            let (mut told, mut n, mut n_used) = (Vec::new(), 0, 0);
            while n < bytes.len() {
                n = (n + cut(bytes.len())).min(bytes.len());
                let mut input = &bytes[n_used..n];
                loop {
                    let event = end.conn.receive(end.now, &mut input, &mut end.fields, &mut end.out);
                    match event {
                        Ok(Some(event)) => told.push(format!("{event:?}")),
                        Ok(None) => break,
                        Err(err) => return (told, Some(err), end.out),
                    }
                }
                n_used = n - input.len();
            }
            (told, None, end.out)
        };
        let whole = take(&mut |len| len);
        let pieces = take(&mut |_| rng.random_range(1..20));
        assert_eq!((&whole.1, &whole.2), (&pieces.1, &pieces.2), "seed {seed}");
        let but_data = |told: &[String]| -> Vec<String> {
            told.iter().filter(|it| !it.starts_with("Data")).cloned().collect()
        };
        assert_eq!(but_data(&whole.0), but_data(&pieces.0), "seed {seed}");
    }
}
