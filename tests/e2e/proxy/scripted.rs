//! One end of HTTP/2 by hand, which carries out plans: every frame is its own to cut, to pad and to delay, by a seed.
//! It keeps the rules, and asserts that the other end does. Only HPACK's decoding is the node's own.

mod encoder;
mod reading;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use wire::Code;
use wire::frame::{self, Head, flag, kind};
use wire::hpack::Decoder;

use self::encoder::Encoder;

/// What the table of fields may hold, at either end.
const TABLE_SIZE: usize = 4096;
/// Calls that a server knows of.
const PLANS_MAX: usize = 500;
/// How often one end takes all windows away.
const NARROWINGS_MAX: usize = 10;
/// The field by which a server knows which call it is.
pub const CALL: &[u8] = b"x-call";

/// A field, and whether no table may hold it.
#[derive(Clone, PartialEq, Eq)]
pub struct Field {
    pub name: Vec<u8>,
    pub value: Vec<u8>,
    pub is_secret: bool,
}

/// What one end does on a stream.
#[derive(Clone, Debug)]
pub enum Act {
    Fields { list: Vec<Field>, is_end: bool },
    Data { len: usize, padding: Option<u8>, is_end: bool },
    Reset(Code),
}

/// How far a stream has come that an end reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    pub n_lists: usize,
    pub n_bytes: usize,
    pub is_over: bool,
}

/// What one end does, and what it waits for before.
#[derive(Clone, Debug)]
pub struct Step {
    pub after: Progress,
    pub act: Act,
}

/// One call: what the client does and what the server does.
#[derive(Clone, Debug)]
pub struct Plan {
    pub id: u64,
    pub steps: [Vec<Step>; 2],
}

/// What one end has seen of a call.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Lists of fields, and behind how many bytes of the body they came.
    pub lists: Vec<(usize, Vec<Field>)>,
    pub body: Vec<u8>,
    pub is_over: bool,
    pub reset: Option<Code>,
}

/// What servers know of calls.
#[derive(Default)]
pub struct Ledger {
    pub plans: BTreeMap<u64, Arc<Plan>>,
    pub begun: BTreeSet<u64>,
    pub served: BTreeMap<u64, Seen>,
}

/// A server that carries out what its ledger plans.
pub struct Backend {
    pub address: std::net::SocketAddr,
    pub ledger: Arc<Mutex<Ledger>>,
    _tasks: JoinSet<()>,
}

/// One byte of what an end sends: each place of each call has its own.
pub fn byte(call: u64, is_client: bool, at: usize) -> u8 {
    let mixed = (at as u64 ^ call << 32 ^ u64::from(is_client) << 63).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_be_bytes()[0]
}

struct Stream {
    plan: Arc<Plan>,
    n_steps: usize,
    /// Bytes of the act that is under way, and of all.
    n_of_act: usize,
    n_sent: usize,
    send_window: i64,
    receive_window: i64,
    seen: Seen,
    /// Whether this end has reset it.
    is_left: bool,
}

/// One end of one connection.
pub struct End {
    is_client: bool,
    rng: ChaCha8Rng,
    ledger: Arc<Mutex<Ledger>>,
    out: Vec<u8>,
    input: Vec<u8>,
    decoder: Decoder,
    encoder: Encoder,
    /// A block of which more is to come.
    partial: Option<(u32, bool, Vec<u8>)>,
    send_window: i64,
    receive_window: i64,
    /// The windows with which streams begin: what the other end says, and what this end said.
    peer_initial: i64,
    initial: i64,
    /// By how much windows shrink once the other end has taken note of SETTINGS.
    shrinking: VecDeque<i64>,
    n_narrowings: usize,
    /// By how much windows are to be opened again.
    narrowed: i64,
    peer_streams: usize,
    has_preface: bool,
    next_id: u32,
    waiting: VecDeque<Arc<Plan>>,
    streams: BTreeMap<u32, Stream>,
    unreleased: Vec<(u32, usize)>,
    /// What was seen of calls that are over.
    pub done: BTreeMap<u64, Seen>,
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = if self.is_secret { " (secret)" } else { "" };
        write!(f, "{}: {}{secret}", self.name.escape_ascii(), self.value.escape_ascii())
    }
}

impl Seen {
    fn has(&self, after: Progress) -> bool {
        self.lists.len() >= after.n_lists
            && self.body.len() >= after.n_bytes
            && (self.is_over || !after.is_over)
    }
}

impl Ledger {
    /// Plans calls, and forgets those that were planned long ago: what a client gave up may come late.
    pub fn plan(&mut self, plans: &[Arc<Plan>]) {
        self.plans.extend(plans.iter().map(|plan| (plan.id, Arc::clone(plan))));
        while self.plans.len() > PLANS_MAX {
            self.plans.pop_first();
        }
    }
}

impl Backend {
    pub async fn start(seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ledger: Arc<Mutex<Ledger>> = Arc::default();
        let mut tasks = JoinSet::new();
        let known = Arc::clone(&ledger);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            for n in 0.. {
                let (socket, _) = listener.accept().await.unwrap();
                let mut end = End::new(false, seed + n, Arc::clone(&known), Vec::new());
                // Clients may close as they like.
                connections.spawn(async move { drop(end.drive(&socket).await) });
                while let Some(ended) = connections.try_join_next() {
                    ended.unwrap();
                }
            }
        });
        Self { address, ledger, _tasks: tasks }
    }
}

impl End {
    /// A client carries out `plans`; a server those of its ledger that it is asked for.
    pub fn new(is_client: bool, seed: u64, ledger: Arc<Mutex<Ledger>>, plans: Vec<Arc<Plan>>) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut out = Vec::new();
        if is_client {
            out.extend_from_slice(frame::PREFACE);
        }
        let initial = *[3000, 20_000, 65_535, 300_000, 1 << 20].choose(&mut rng).unwrap();
        let mut settings = vec![(4, initial)];
        if !is_client {
            settings.push((3, rng.random_range(2..50)));
        }
        frame::write_settings(&settings, &mut out);
        let wider = if rng.random_bool(0.5) { rng.random_range(1..2_000_000) } else { 0 };
        if wider > 0 {
            frame::write_window_update(0, wider, &mut out);
        }
        Self {
            is_client,
            rng,
            ledger,
            out,
            input: Vec::new(),
            decoder: Decoder::new(TABLE_SIZE),
            encoder: Encoder::default(),
            partial: None,
            send_window: 65_535,
            receive_window: 65_535 + i64::from(wider),
            peer_initial: 65_535,
            // A server's client may not have read them when it opens a stream.
            initial: i64::from(initial).max(65_535),
            shrinking: VecDeque::from([(i64::from(initial) - 65_535).min(0)]),
            n_narrowings: 0,
            narrowed: 0,
            peer_streams: usize::MAX,
            has_preface: is_client,
            next_id: 1,
            waiting: plans.into(),
            streams: BTreeMap::new(),
            unreleased: Vec::new(),
            done: BTreeMap::new(),
        }
    }

    /// Goes on until the other end closes, or, at a client, until all calls are over.
    ///
    /// # Errors
    /// If the connection breaks, or ends at a client.
    pub async fn drive(&mut self, socket: &TcpStream) -> std::io::Result<()> {
        socket.set_nodelay(true).unwrap();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let mut has_moved = self.act();
            if !self.out.is_empty() {
                let n = self.rng.random_range(1..=self.out.len());
                if let Ok(n) = socket.try_write(&self.out[..n]) {
                    self.out.drain(..n);
                    has_moved = true;
                }
            }
            let n_max = self.rng.random_range(1..buffer.len());
            match socket.try_read(&mut buffer[..n_max]) {
                Ok(0) if self.is_client => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(0) => return Ok(()),
                Ok(n) => {
                    self.take(&buffer[..n]);
                    has_moved = true;
                }
                Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(err) => return Err(err),
            }
            let is_idle = self.waiting.is_empty() && self.streams.is_empty() && self.out.is_empty();
            if self.is_client && is_idle {
                return Ok(());
            }
            if has_moved || self.relax() {
                tokio::task::yield_now().await;
            } else if self.out.is_empty() {
                socket.ready(Interest::READABLE).await.unwrap();
            } else {
                socket.ready(Interest::READABLE | Interest::WRITABLE).await.unwrap();
            }
        }
    }

    /// What it waits for, for people.
    pub fn hanging(&self) -> String {
        let one = |(id, it): (&u32, &Stream)| {
            let (body, lists) = (it.seen.body.len(), it.seen.lists.len());
            let windows = (it.send_window, it.receive_window);
            let call = it.plan.id;
            format!("{id}: call {call} at step {}, saw {body} bytes, {lists} lists; {windows:?}", it.n_steps)
        };
        let streams: Vec<String> = self.streams.iter().map(one).collect();
        format!("{streams:#?}; {} to write; {:?}", self.out.len(), (self.send_window, self.receive_window))
    }

    /// Does some of what can be done now. Whether there was anything.
    fn act(&mut self) -> bool {
        if self.narrowed == 0 && self.n_narrowings < NARROWINGS_MAX && self.rng.random_bool(0.01) {
            self.narrow();
        }
        for (id, n) in std::mem::take(&mut self.unreleased) {
            match self.rng.random_bool(0.3) {
                true => self.release(id, n),
                false => self.unreleased.push((id, n)),
            }
        }
        let some = self.rng.random_range(0.2..1.0);
        // What was left out by chance alone is not to be waited for.
        self.act_on_some(some) || self.act_on_some(1.0)
    }

    fn act_on_some(&mut self, share: f64) -> bool {
        let mut has_moved = false;
        while self.streams.len() < self.peer_streams
            && !self.waiting.is_empty()
            && self.rng.random_bool(share)
        {
            let plan = self.waiting.pop_front().expect("it is not empty");
            let id = self.next_id;
            self.next_id += 2;
            self.begin(id, plan);
            self.act_on(id);
            has_moved = true;
        }
        let mut ids: Vec<u32> = self.streams.keys().copied().collect();
        ids.shuffle(&mut self.rng);
        for id in ids {
            while self.rng.random_bool(share) && self.act_on(id) {
                has_moved = true;
            }
            self.end_if_done(id);
        }
        has_moved
    }

    fn begin(&mut self, id: u32, plan: Arc<Plan>) {
        let stream = Stream {
            plan,
            n_steps: 0,
            n_of_act: 0,
            n_sent: 0,
            send_window: self.peer_initial,
            receive_window: self.initial,
            seen: Seen::default(),
            is_left: false,
        };
        self.streams.insert(id, stream);
    }

    /// Takes the next step on a stream, or some of it, if it can be taken.
    fn act_on(&mut self, id: u32) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        let plan = Arc::clone(&stream.plan);
        let Some(step) = plan.steps[usize::from(!self.is_client)].get(stream.n_steps) else { return false };
        if stream.is_left || stream.seen.reset.is_some() || !stream.seen.has(step.after) {
            return false;
        }
        match &step.act {
            Act::Fields { list, is_end } => {
                stream.n_steps += 1;
                let block = self.encoder.encode(list, &mut self.rng);
                self.write_block(id, &block, *is_end);
            }
            Act::Data { len, padding, is_end } => return self.send(id, *len, *padding, *is_end),
            Act::Reset(code) => {
                stream.is_left = true;
                frame::write_reset(id, *code, &mut self.out);
            }
        }
        true
    }

    fn send(&mut self, id: u32, len: usize, padding: Option<u8>, is_end: bool) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        let left = len - stream.n_of_act;
        let room = usize::try_from(stream.send_window.min(self.send_window)).unwrap_or(0);
        let room = room.min(self.rng.random_range(300..=frame::LEN_MIN as usize));
        let padding = padding.filter(|padding| room > usize::from(*padding) + 1);
        let overhead = padding.map_or(0, |padding| usize::from(padding) + 1);
        let n = left.min(room - overhead);
        if n == 0 && left > 0 {
            return false;
        }
        let from = stream.n_sent;
        (stream.n_of_act, stream.n_sent) = (stream.n_of_act + n, from + n);
        let is_whole = n == left;
        if is_whole {
            (stream.n_of_act, stream.n_steps) = (0, stream.n_steps + 1);
        }
        let total = i64::try_from(n + overhead).unwrap();
        stream.send_window -= total;
        self.send_window -= total;
        let end = u8::from(is_end && is_whole);
        let flags = end | if padding.is_some() { flag::PADDED } else { 0 };
        Head { len: u32::try_from(total).unwrap(), kind: kind::DATA, flags, stream: id }.write(&mut self.out);
        self.out.extend(padding);
        let call = stream.plan.id;
        self.out.extend((from..from + n).map(|at| byte(call, self.is_client, at)));
        self.out.resize(self.out.len() + usize::from(padding.unwrap_or(0)), 0);
        true
    }

    fn write_block(&mut self, id: u32, block: &[u8], is_end: bool) {
        let mut rest = block;
        let n_first = if rest.len() > 10_000 || self.rng.random_bool(0.2) {
            self.rng.random_range(0..=rest.len().min(10_000))
        } else {
            rest.len()
        };
        let (first, after) = rest.split_at(n_first);
        rest = after;
        let (is_padded, has_priority) = (self.rng.random_bool(0.2), self.rng.random_bool(0.2));
        let padding = self.rng.random_range(0..=255_u8);
        let mut payload = Vec::new();
        payload.extend(is_padded.then_some(padding));
        if has_priority {
            payload.extend([0, 0, 0, 0, 16]);
        }
        payload.extend_from_slice(first);
        payload.resize(payload.len() + if is_padded { usize::from(padding) } else { 0 }, 0);
        let flags = if is_end { flag::END_STREAM } else { 0 }
            | if rest.is_empty() { flag::END_HEADERS } else { 0 }
            | if is_padded { flag::PADDED } else { 0 }
            | if has_priority { flag::PRIORITY } else { 0 };
        let len = u32::try_from(payload.len()).unwrap();
        Head { len, kind: kind::HEADERS, flags, stream: id }.write(&mut self.out);
        self.out.extend(payload);
        while !rest.is_empty() {
            let n = self.rng.random_range(rest.len().div_ceil(3)..=rest.len()).min(frame::LEN_MIN as usize);
            let (piece, after) = rest.split_at(n);
            rest = after;
            let flags = if rest.is_empty() { flag::END_HEADERS } else { 0 };
            let len = u32::try_from(n).unwrap();
            Head { len, kind: kind::CONTINUATION, flags, stream: id }.write(&mut self.out);
            self.out.extend_from_slice(piece);
        }
    }

    /// Takes note that a call is over, if it is.
    fn end_if_done(&mut self, id: u32) {
        let Some(stream) = self.streams.get(&id) else { return };
        let n_steps = stream.plan.steps[usize::from(!self.is_client)].len();
        let is_whole = stream.n_steps == n_steps && stream.seen.is_over;
        if !stream.is_left && stream.seen.reset.is_none() && !is_whole {
            return;
        }
        let stream = self.streams.remove(&id).expect("it is there");
        if !self.is_client {
            self.ledger.lock().unwrap().served.insert(stream.plan.id, stream.seen.clone());
        }
        self.done.insert(stream.plan.id, stream.seen);
    }

    /// Takes the windows of all streams away.
    fn narrow(&mut self) {
        self.n_narrowings += 1;
        // `initial` is what it was while the last change is not acknowledged.
        let now = self.initial + self.shrinking.iter().sum::<i64>();
        let to = *[0, 1000].choose(&mut self.rng).unwrap();
        let by = now - i64::from(to);
        frame::write_settings(&[(4, to)], &mut self.out);
        self.shrinking.push_back(-by);
        self.narrowed = by;
    }

    /// Does what may be late but must not fail to come. Whether there was anything.
    fn relax(&mut self) -> bool {
        if self.narrowed > 0 {
            let by = std::mem::take(&mut self.narrowed);
            let to = self.initial + self.shrinking.iter().sum::<i64>() + by;
            frame::write_settings(&[(4, u32::try_from(to).unwrap())], &mut self.out);
            self.shrinking.push_back(0);
            self.initial += by;
            self.streams.values_mut().for_each(|stream| stream.receive_window += by);
            return true;
        }
        let unreleased = std::mem::take(&mut self.unreleased);
        unreleased.iter().for_each(|(id, n)| self.release(*id, *n));
        !unreleased.is_empty()
    }

    fn release(&mut self, id: u32, n: usize) {
        let by = u32::try_from(n).unwrap();
        frame::write_window_update(0, by, &mut self.out);
        self.receive_window += i64::from(by);
        if let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.seen.is_over) {
            frame::write_window_update(id, by, &mut self.out);
            stream.receive_window += i64::from(by);
        }
    }
}
