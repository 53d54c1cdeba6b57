//! Load: closed loops (each stream calls again once it was answered) or an open one (calls begin when they are
//! due, whatever became of those before). Prints one line of JSON.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use hdrhistogram::Histogram;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::call::{Caller, Connection, Target};

/// The longest latency that is told from longer ones, in µs.
const LATENCY_US_MAX: u64 = 60_000_000;
/// How long a stream waits after a call that failed.
const PAUSE: Duration = Duration::from_millis(1);
/// Calls of the open loop that may be due and not begun.
const DUE_MAX: usize = 1 << 16;
/// How much later than asked a thread may wake up, in ns.
const TIMER_SLACK_NS: u64 = 1000;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    #[arg(long, default_value_t = 10)]
    conns: usize,
    /// Calls at once on each connection, in closed loops
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// How long to call
    #[arg(long, default_value_t = 1.0)]
    secs: f64,
    /// How long to call before that, uncounted
    #[arg(long, default_value_t = 0.0)]
    warm: f64,
    /// Calls a second of the open loop; absent: closed loops
    #[arg(long)]
    rate: Option<u32>,
    /// Stop after so many calls (closed loops)
    #[arg(long)]
    calls: Option<u64>,
    /// Run by the shell right before the measured time, and right after it
    #[arg(long)]
    around: Vec<String>,
}

/// What was seen of calls.
struct Seen {
    latency_us: Histogram<u64>,
    n_errors: u64,
    last_error: String,
}

impl Seen {
    fn new() -> Self {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("these bounds are valid");
        Self { latency_us, n_errors: 0, last_error: String::new() }
    }

    fn note(&mut self, since: Instant, called: anyhow::Result<()>) {
        match called {
            Ok(()) => {
                let us = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.latency_us.saturating_record(us.max(1));
            }
            Err(error) => {
                self.n_errors += 1;
                self.last_error = format!("{error:#}");
            }
        }
    }

    fn add(&mut self, other: Self) {
        self.latency_us.add(&other.latency_us).expect("their bounds are the same");
        self.n_errors += other.n_errors;
        if !other.last_error.is_empty() {
            self.last_error = other.last_error;
        }
    }
}

/// Loads and prints what was seen.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    ensure!(args.around.len() <= 2, "two commands at most: one before the measured time, one after it");
    let caller = Caller::new(args.target.clone());
    let mut driven = JoinSet::new();
    let connections = caller.connect_all(args.conns, &mut driven).await?;
    if args.warm > 0.0 {
        closed(&caller, &connections, args.streams, Duration::from_secs_f64(args.warm), None).await?;
    }
    shell(args.around.first()).await?;
    let (cpu_before, began) = (cpu_s()?, Instant::now());
    let time = Duration::from_secs_f64(args.secs);
    let seen = match args.rate {
        Some(rate) => open(&caller, &connections, rate, time).await?,
        None => closed(&caller, &connections, args.streams, time, args.calls).await?,
    };
    let (secs, cpu) = (began.elapsed().as_secs_f64(), cpu_s()? - cpu_before);
    shell(args.around.get(1)).await?;
    let n = seen.latency_us.len();
    let us = |q: f64| seen.latency_us.value_at_quantile(q);
    println!(
        "{{\"done\": {n}, \"errors\": {}, \"secs\": {secs:.3}, \"rps\": {:.0}, \"p50_us\": {}, \"p90_us\": {}, \
         \"p99_us\": {}, \"max_us\": {}, \"client_cpu\": {cpu:.3}, \"last_error\": {:?}}}",
        seen.n_errors,
        n as f64 / secs,
        us(0.5),
        us(0.9),
        us(0.99),
        seen.latency_us.max(),
        seen.last_error
    );
    Ok(())
}

/// Each stream of each connection calls until the time is over, or the calls are.
async fn closed(
    caller: &Arc<Caller>,
    connections: &[Connection],
    streams: usize,
    time: Duration,
    calls: Option<u64>,
) -> anyhow::Result<Seen> {
    let n_loops = connections.len() * streams;
    let end = Instant::now() + time;
    let mut loops = JoinSet::new();
    for idx in 0..n_loops {
        let (caller, mut connection) = (Arc::clone(caller), connections[idx % connections.len()].clone());
        // The first ones take what is left when the calls are shared out.
        let share =
            calls.map(|calls| calls / n_loops as u64 + u64::from((idx as u64) < calls % n_loops as u64));
        loops.spawn(async move {
            let (mut seen, mut n_called) = (Seen::new(), 0);
            loop {
                let begun = Instant::now();
                let is_over = share.map_or(begun >= end, |share| n_called >= share);
                if is_over {
                    return seen;
                }
                let n_errors = seen.n_errors;
                seen.note(begun, caller.call(&mut connection).await);
                n_called += 1;
                if seen.n_errors > n_errors {
                    sleep(PAUSE).await;
                }
            }
        });
    }
    let mut seen = Seen::new();
    while let Some(one) = loops.join_next().await {
        seen.add(one?);
    }
    Ok(seen)
}

/// Calls begin when they are due, over the connections by turns. Latency counts from when they were due.
async fn open(
    caller: &Arc<Caller>,
    connections: &[Connection],
    rate: u32,
    time: Duration,
) -> anyhow::Result<Seen> {
    let (due, mut coming) = mpsc::channel(DUE_MAX);
    let interval = Duration::from_secs(1) / rate;
    let clock = std::thread::spawn(move || {
        // Without it the timer runs late by more than a call takes.
        let is_set = nix::sys::prctl::set_timerslack(TIMER_SLACK_NS);
        let began = Instant::now();
        let mut at = began;
        while at < began + time {
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            if due.blocking_send(at).is_err() {
                break;
            }
            at += interval;
        }
        is_set
    });
    let mut seen = Seen::new();
    let mut calls: JoinSet<(Instant, Instant, anyhow::Result<()>)> = JoinSet::new();
    let mut turn = connections.iter().cycle();
    while let Some(at) = coming.recv().await {
        let Some(mut connection) = turn.next().cloned() else { break };
        let caller = Arc::clone(caller);
        calls.spawn(async move {
            let called = caller.call(&mut connection).await;
            (at, Instant::now(), called)
        });
        while let Some(ended) = calls.try_join_next() {
            note_ended(&mut seen, ended?);
        }
    }
    while let Some(ended) = calls.join_next().await {
        note_ended(&mut seen, ended?);
    }
    clock.join().expect("the clock does not panic")?;
    Ok(seen)
}

/// Notes a call that ended some time ago.
fn note_ended(seen: &mut Seen, (due, ended, called): (Instant, Instant, anyhow::Result<()>)) {
    // Since then it took as long as it took then.
    seen.note(due + ended.elapsed(), called);
}

/// CPU seconds of this process so far.
fn cpu_s() -> anyhow::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let us = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(us as f64 / 1e6)
}

async fn shell(command: Option<&String>) -> anyhow::Result<()> {
    let Some(command) = command else { return Ok(()) };
    let status = Command::new("sh").arg("-c").arg(command).stdin(Stdio::null()).status().await?;
    ensure!(status.success(), "`{command}` failed");
    Ok(())
}
