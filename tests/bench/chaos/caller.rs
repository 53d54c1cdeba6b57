//! The caller: a closed loop of calls on connections that stay open from start to end, each call made once.
//!
//! It prints how many calls have ended, waits for a file when all have, shows that its connections still carry large
//! bodies, and writes down what it saw.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

use crate::accounts::{self, NONE, OK, Outcome};
use crate::shape::{ID, Shape, next_message, owner};

/// How long a call may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// A call that has no end so long after its deadline has none.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one of the large bodies at the end may take.
const LAST_DEADLINE: Duration = Duration::from_secs(30);
/// Large bodies at a time on each connection: four times its window.
const N_LAST: u64 = 16;
/// Who fails waits a little, lest all calls be made while nobody serves.
const PAUSE: Duration = Duration::from_millis(20);
/// How long who is answered early leaves its answer unread.
const SLOW: Duration = Duration::from_millis(20);
/// Kinds of failures that are told.
const TOLD_MAX: usize = 20;
/// How often is told how many calls have ended.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// Which calls are made, and how.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Load {
    /// Where the node takes calls.
    #[arg(long)]
    to: SocketAddr,
    /// The first call.
    #[arg(long)]
    first: u64,
    /// How many.
    #[arg(long)]
    requests: u64,
    #[arg(long)]
    conns: usize,
    /// Calls at a time on each connection.
    #[arg(long)]
    streams: usize,
    /// How long to wait after each call.
    #[arg(long)]
    think_ms: u64,
    /// What it waits for when all have ended.
    #[arg(long)]
    go: PathBuf,
    /// Where it writes down what it saw.
    #[arg(long)]
    outcomes: PathBuf,
}

/// What is seen of all calls.
struct Seen {
    load: Load,
    next: AtomicU64,
    n_ended: AtomicU64,
    /// Messages that are not what the call was to get, and answers that are not whole.
    n_wrong: AtomicU64,
    status: Vec<AtomicU8>,
    n_answers: Vec<AtomicU8>,
    why: Mutex<BTreeMap<String, u64>>,
}

/// Makes all calls.
#[expect(clippy::print_stdout, reason = "its lines are what it is for")]
pub(crate) async fn run(load: Load) -> anyhow::Result<()> {
    let n = usize::try_from(load.requests).context("too many calls")?;
    let seen = Arc::new(Seen {
        next: AtomicU64::new(0),
        n_ended: AtomicU64::new(0),
        n_wrong: AtomicU64::new(0),
        status: (0..n).map(|_| AtomicU8::new(NONE)).collect(),
        n_answers: (0..n).map(|_| AtomicU8::new(0)).collect(),
        why: Mutex::default(),
        load,
    });
    let (mut links, mut callers) = (JoinSet::new(), JoinSet::new());
    let mut targets = Vec::new();
    for _ in 0..seen.load.conns {
        let stream = TcpStream::connect(seen.load.to).await.context("failed to connect to the node")?;
        stream.set_nodelay(true)?;
        let (target, connection) = h2::client::handshake(stream).await?;
        links.spawn(connection);
        targets.push(target);
    }
    for target in targets.iter().flat_map(|target| std::iter::repeat_n(target, seen.load.streams)) {
        callers.spawn(caller(target.clone(), Arc::clone(&seen)));
    }
    let mut tell = interval(TELL_EVERY);
    loop {
        tokio::select! {
            _ = tell.tick() => println!("ended {}", seen.n_ended.load(Ordering::Relaxed)),
            ended = callers.join_next() => match ended {
                Some(ended) => ended.context("a caller panicked")?,
                None => break,
            },
        }
    }
    println!("ended {}", seen.n_ended.load(Ordering::Relaxed));
    while !seen.load.go.exists() {
        sleep(TELL_EVERY).await;
    }
    let n_last = last(&targets).await?;
    println!("wrong {}", seen.n_wrong.load(Ordering::Relaxed));
    println!("last_failed {n_last}");
    for (why, n) in seen.why.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        println!("why {n} {why}");
    }
    write(&seen, &seen.load.outcomes)
}

fn write(seen: &Seen, path: &Path) -> anyhow::Result<()> {
    let outcomes = seen.status.iter().zip(&seen.n_answers).map(|(status, n_answers)| Outcome {
        status: status.load(Ordering::Relaxed),
        n_answers: n_answers.load(Ordering::Relaxed),
    });
    accounts::write(path, outcomes)
}

async fn caller(target: SendRequest<Bytes>, seen: Arc<Seen>) {
    loop {
        let n = seen.next.fetch_add(1, Ordering::Relaxed);
        if n >= seen.load.requests {
            return;
        }
        let id = seen.load.first + n;
        let took =
            timeout(DEADLINE + PATIENCE, call(&target, id, Shape::of(id), DEADLINE, Some(&seen))).await;
        let (status, why) = match took {
            Ok(Ok(ended)) => ended,
            Ok(Err(err)) => (NONE, format!("no status: {err:#}")),
            Err(_) => (NONE, "no end".to_owned()),
        };
        seen.note(n, status, &why);
        let think = Duration::from_millis(seen.load.think_ms);
        let pause = if status == OK { think } else { think.max(PAUSE) };
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }
}

impl Seen {
    fn note(&self, n: u64, status: u8, why: &str) {
        self.n_ended.fetch_add(1, Ordering::Relaxed);
        if let Some(slot) = usize::try_from(n).ok().and_then(|n| self.status.get(n)) {
            slot.store(status, Ordering::Relaxed);
        }
        if status != OK {
            // What differs from call to call is in numbers.
            let why: String = why.chars().filter(|c| !c.is_ascii_digit()).take(90).collect();
            self.tell(format!("{status}: {why}"));
        }
    }

    /// Takes note of the first message of an answer.
    fn answered(&self, id: u64) {
        let idx = id.checked_sub(self.load.first).and_then(|n| usize::try_from(n).ok());
        if let Some(n_answers) = idx.and_then(|idx| self.n_answers.get(idx)) {
            n_answers.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn wrong(&self, shape: Shape) {
        self.n_wrong.fetch_add(1, Ordering::Relaxed);
        self.tell(format!("wrong: {shape:?}"));
    }

    fn tell(&self, why: String) {
        let mut told = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < TOLD_MAX || told.contains_key(&why) {
            *told.entry(why).or_default() += 1;
        }
    }
}

/// How many large bodies did not come back, on connections that have carried all the rest.
async fn last(targets: &[SendRequest<Bytes>]) -> anyhow::Result<u64> {
    let mut n_failed = 0;
    for target in targets {
        let mut calls = JoinSet::new();
        for n in 0..N_LAST {
            let target = target.clone();
            calls.spawn(async move {
                let id = u64::MAX - n;
                let ended = call(&target, id, Shape::last(), LAST_DEADLINE, None);
                matches!(timeout(LAST_DEADLINE, ended).await, Ok(Ok((OK, _))))
            });
        }
        while let Some(is_well) = calls.join_next().await {
            n_failed += u64::from(!is_well.context("a caller panicked")?);
        }
    }
    Ok(n_failed)
}

/// One call: its gRPC status and message.
async fn call(
    target: &SendRequest<Bytes>,
    id: u64,
    shape: Shape,
    deadline: Duration,
    seen: Option<&Seen>,
) -> anyhow::Result<(u8, String)> {
    let mut target = target.clone().ready().await?;
    let request = Request::post(format!("http://api{}", shape.path))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", format!("{}m", deadline.as_millis()))
        .header(ID, id)
        .body(())?;
    let (response, mut stream) = target.send_request(request, false)?;
    for place in 0..shape.n_messages {
        let is_end = !shape.is_early() && place + 1 == shape.n_messages;
        stream.send_data(shape.asked(id, place), is_end)?;
    }
    let (head, mut body) = response.await?.into_parts();
    if let Some(ended) = status(&head.headers) {
        return Ok(ended);
    }
    if shape.is_early() {
        sleep(SLOW).await;
    }
    let is_whole = read(&mut body, id, shape, seen).await?;
    let trailers = body.trailers().await?.context("no trailers")?;
    let (status, why) = status(&trailers).context("trailers without a status")?;
    if status == OK && !is_whole {
        match seen {
            Some(seen) => seen.wrong(shape),
            None => bail!("an answer that is not whole"),
        }
    }
    Ok((status, why))
}

/// Reads an answer, and says whether it is what was asked for.
async fn read(body: &mut RecvStream, id: u64, shape: Shape, seen: Option<&Seen>) -> anyhow::Result<bool> {
    let (mut bytes, mut place, mut is_right) = (BytesMut::new(), 0, true);
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        bytes.extend_from_slice(&part);
        while let Some(message) = next_message(&mut bytes) {
            let is_of_it = message == shape.message(id, place);
            // An answer begins with its first message; one more than there are begins another.
            if let (Some(seen), Some(owner)) = (seen, owner(&message))
                && (place % shape.n_messages == 0 || !is_of_it)
            {
                seen.answered(owner);
            }
            is_right &= is_of_it;
            place += 1;
        }
    }
    Ok(is_right && place == shape.n_messages && bytes.is_empty())
}

fn status(fields: &HeaderMap) -> Option<(u8, String)> {
    let text = |name: &str| fields.get(name)?.to_str().ok().map(str::to_owned);
    Some((text("grpc-status")?.parse().ok()?, text("grpc-message").unwrap_or_default()))
}
