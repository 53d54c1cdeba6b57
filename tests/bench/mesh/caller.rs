//! The caller: an open loop of unary calls at an even rate, a line for each that says what became of it.
//!
//! With several targets it goes round them as gRPC's `round_robin` does, leaving out those whose connection is
//! down: that is the rival without a mesh.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};

use crate::backend::message;

/// How long a call may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(1);
/// Calls that wait for their end. With an open loop and a deadline there are never so many.
const CALLS_MAX: usize = 4096;
/// From one attempt to connect to the next.
const RECONNECT: Duration = Duration::from_millis(100);

/// gRPC's status codes that a caller gives itself.
const OK: &str = "0";
const DEADLINE_EXCEEDED: &str = "4";
const UNAVAILABLE: &str = "14";

/// One call, as a line of the caller's output tells it.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// When it was due, in ns since 1970.
    pub(crate) began_ns: u64,
    /// When it ended.
    pub(crate) ended_ns: u64,
    /// Its gRPC status.
    pub(crate) status: String,
    /// Which instance answered, or why none did.
    pub(crate) by: String,
}

impl Outcome {
    pub(crate) fn is_ok(&self) -> bool {
        self.status == OK
    }

    /// Reads a line.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(4, ' ');
        Some(Self {
            began_ns: words.next()?.parse().ok()?,
            ended_ns: words.next()?.parse().ok()?,
            status: words.next()?.to_owned(),
            by: words.next()?.to_owned(),
        })
    }

    fn line(&self) -> String {
        format!("{} {} {} {}", self.began_ns, self.ended_ns, self.status, self.by)
    }
}

/// Nanoseconds since 1970: one clock for all processes of a machine.
pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or_default()
}

type Slot = Arc<Mutex<Option<SendRequest<Bytes>>>>;

/// Calls `service` at `rate` a second until the process ends.
#[expect(clippy::print_stdout, reason = "its lines are what it is for")]
pub(crate) async fn run(to: &[SocketAddr], service: &str, rate: f64) -> anyhow::Result<()> {
    let slots: Vec<Slot> = to.iter().map(|_| Slot::default()).collect();
    let mut links = JoinSet::new();
    for (address, slot) in to.iter().zip(&slots) {
        links.spawn(keep_connected(*address, Arc::clone(slot)));
    }
    let mut calls = JoinSet::new();
    let mut due = interval(Duration::from_secs_f64(1.0 / rate));
    // An open loop makes up for calls that it was too late for.
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut turn = 0;
    loop {
        tokio::select! {
            at = due.tick() => {
                if calls.len() < CALLS_MAX {
                    turn += 1;
                    calls.spawn(call(pick(&slots, turn), service.to_owned(), at));
                }
            }
            Some(done) = calls.join_next() => {
                println!("{}", done.context("a call panicked")?.line());
            }
        }
    }
}

/// The next target in turn whose connection stands.
fn pick(slots: &[Slot], turn: usize) -> Option<SendRequest<Bytes>> {
    (0..slots.len()).find_map(|n| {
        let slot = &slots[(turn + n) % slots.len()];
        slot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    })
}

async fn keep_connected(address: SocketAddr, slot: Slot) {
    let put = |send| *slot.lock().unwrap_or_else(PoisonError::into_inner) = send;
    loop {
        if let Ok(stream) = TcpStream::connect(address).await {
            let _ = stream.set_nodelay(true);
            if let Ok((send, connection)) = h2::client::handshake(stream).await {
                put(Some(send));
                // However it ends, it ended.
                let _ = connection.await;
                put(None);
            }
        }
        sleep(RECONNECT).await;
    }
}

async fn call(target: Option<SendRequest<Bytes>>, service: String, due: Instant) -> Outcome {
    let late = u64::try_from(due.elapsed().as_nanos()).unwrap_or_default();
    let began_ns = now_ns() - late;
    let fail = |status: &str, why: String| (status.to_owned(), why);
    let (status, by) = match target {
        None => fail(UNAVAILABLE, "not connected".to_owned()),
        Some(target) => match timeout_at(due + DEADLINE, exchange(target, &service)).await {
            Err(_) => fail(DEADLINE_EXCEEDED, "no answer in time".to_owned()),
            Ok(Err(err)) => fail(UNAVAILABLE, err.to_string()),
            Ok(Ok(answer)) => answer,
        },
    };
    Outcome { began_ns, ended_ns: now_ns(), status, by }
}

async fn exchange(target: SendRequest<Bytes>, service: &str) -> anyhow::Result<(String, String)> {
    let mut target = target.ready().await?;
    let request = Request::post(format!("http://{service}/bench.v1.Bench/Call"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", format!("{}m", DEADLINE.as_millis()))
        .body(())?;
    let (response, mut stream) = target.send_request(request, false)?;
    stream.send_data(message(b""), true)?;
    let (head, mut body) = response.await?.into_parts();
    if let Some(status) = text(&head.headers, "grpc-status") {
        return Ok((status, text(&head.headers, "grpc-message").unwrap_or_default()));
    }
    let name = read(&mut body).await?;
    let trailers = body.trailers().await?.context("no trailers")?;
    let status = text(&trailers, "grpc-status").context("no status")?;
    let by = if status == OK { name } else { text(&trailers, "grpc-message").unwrap_or_default() };
    Ok((status, by))
}

async fn read(body: &mut RecvStream) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        bytes.extend_from_slice(&part);
    }
    Ok(String::from_utf8_lossy(bytes.get(5..).unwrap_or_default()).into_owned())
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}
