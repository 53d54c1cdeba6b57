//! What callers lose when one of two serving nodes is killed, or falls silent.
//!
//! `failed` are the calls without status OK that ended after the event and were due within 20 s of it: later
//! calls that the router risks to see whether the victim is back are among them. `shift_s` is from the event until
//! the last of those was due, or the last call that the victim answered if that is later.
//! `shift_first_quiet_s` is the first moment after which no call that was due within a second failed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::task::JoinSet;
use tokio::time::sleep;

use daemon::demo::fleet::{Fleet, Output, tail};

use crate::caller::{DEADLINE, Outcome, now_ns};
use crate::machines::{self, CALLER, LOCAL};
use crate::report::{Report, percentile};

/// Calls a second.
const RATE: f64 = 200.0;
/// How long each event is watched.
const WATCHED: Duration = Duration::from_secs(20);
/// How long the victim may take to serve again.
const BACK_WITHIN: Duration = Duration::from_secs(120);
/// The nodes that serve.
const SERVING: [usize; 2] = [1, 2];
/// In how many runs the rival calls as well.
const RIVAL_RUNS: usize = 4;
/// Where instances listen for callers without a mesh.
const DIRECT_PORT: u16 = 9001;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Event {
    Sigkill,
    Cut,
}

/// What one run showed.
struct Seen {
    failed: f64,
    shift_s: f64,
    quiet_s: f64,
    /// When the calls that failed were due.
    by_reason: BTreeMap<String, Vec<f64>>,
}

/// Calls through one way to both instances, and what became of them.
struct Calls {
    _process: Child,
    seen: Arc<Mutex<Vec<Outcome>>>,
    _reader: JoinSet<()>,
}

/// Twenty runs of each event, the victims in turn.
pub(crate) async fn run(binary: &Path, is_quick: bool, report: &mut Report) -> anyhow::Result<()> {
    let n_runs = if is_quick { 4 } else { 20 };
    let own = std::env::current_exe()?;
    let mut fleet =
        machines::start(binary, "bench-mesh", 1 + SERVING.len(), machines::caller_and_services(&own)).await?;
    let mut backends = Vec::new();
    for idx in SERVING {
        let node = fleet.node(idx);
        let direct = SocketAddr::from((node.mesh.ip(), DIRECT_PORT)).to_string();
        let local = LOCAL.to_string();
        let args = ["serve", "--name", &node.name.clone(), "--listen", &local, "--listen", &direct];
        backends.push(fleet.spawn_in(idx, "api", &own, &args, Output::Log)?);
    }
    let through_mesh = Calls::start(&mut fleet, &own, &["127.0.0.1:7480".to_owned()])?;
    settle(&fleet, &through_mesh).await?;
    for event in [Event::Sigkill, Event::Cut] {
        let (mut all, mut rivals, mut backs) = (Vec::new(), Vec::new(), Vec::new());
        for n in 0..n_runs {
            let victim = SERVING[n % SERVING.len()];
            let rival = match event {
                Event::Cut if n < RIVAL_RUNS => Some(rival(&mut fleet, &own).await?),
                _ => None,
            };
            let seen = strike(&mut fleet, event, victim, &through_mesh, rival.as_ref()).await?;
            let took = settle(&fleet, &through_mesh).await?;
            let (seen, beside) = seen;
            let note = format!(
                "{} of {}: shift {:.3} s, quiet after {:.3} s, back after {took:.1} s, {:?}",
                event.name(),
                fleet.node(victim).name,
                seen.shift_s,
                seen.quiet_s,
                seen.by_reason
            );
            crate::line("failed", seen.failed, &note);
            all.push(seen);
            rivals.extend(beside);
            backs.push(took);
        }
        tell(event, &all, &rivals, backs, report);
    }
    drop((through_mesh, backends));
    fleet.stop().await
}

impl Event {
    const fn name(self) -> &'static str {
        match self {
            Self::Sigkill => "sigkill",
            Self::Cut => "cut",
        }
    }
}

/// One event: strikes, watches, mends. What the mesh's callers saw, and the rival's.
async fn strike(
    fleet: &mut Fleet,
    event: Event,
    victim: usize,
    calls: &Calls,
    rival: Option<&Calls>,
) -> anyhow::Result<(Seen, Option<Seen>)> {
    let name = fleet.node(victim).name.clone();
    let at_ns = now_ns();
    match event {
        Event::Sigkill => fleet.kill(victim).await?,
        Event::Cut => fleet.cut(victim).await?,
    }
    // Calls that were due at the very end have their deadline still.
    sleep(WATCHED + DEADLINE * 3 / 2).await;
    let seen = judge(&calls.since(at_ns), at_ns, &name);
    let beside = rival.map(|rival| judge(&rival.since(at_ns), at_ns, &name));
    match event {
        Event::Sigkill => fleet.up(victim).await?,
        Event::Cut => fleet.heal(victim).await?,
    }
    Ok((seen, beside))
}

fn judge(outcomes: &[Outcome], at_ns: u64, victim: &str) -> Seen {
    let since_s = |ns: u64| Duration::from_nanos(ns.saturating_sub(at_ns)).as_secs_f64();
    let watched = outcomes.iter().filter(|it| since_s(it.began_ns) <= WATCHED.as_secs_f64());
    let (mut failed, mut last) = (Vec::new(), 0_f64);
    let mut by_reason = BTreeMap::<String, Vec<f64>>::new();
    for outcome in watched {
        let due_s = since_s(outcome.began_ns);
        if !outcome.is_ok() {
            failed.push(due_s);
            let why: String = outcome.by.chars().take(48).collect();
            let due_s = (due_s * 1000.0).round() / 1000.0;
            by_reason.entry(format!("{} {why}", outcome.status)).or_default().push(due_s);
        }
        if !outcome.is_ok() || outcome.by == victim {
            last = last.max(due_s);
        }
    }
    failed.sort_unstable_by(f64::total_cmp);
    let quiet_s = failed.iter().fold(0.0, |quiet, due| if due - quiet > 1.0 { quiet } else { *due });
    Seen { failed: failed.len() as f64, shift_s: last, quiet_s, by_reason }
}

fn tell(event: Event, all: &[Seen], rivals: &[Seen], backs: Vec<f64>, report: &mut Report) {
    let key = |name: &str| format!("kill.{}.{name}", event.name());
    let sorted = |of: fn(&Seen) -> f64, all: &[Seen]| {
        let mut values: Vec<_> = all.iter().map(of).collect();
        values.sort_unstable_by(f64::total_cmp);
        values
    };
    let (failed_goal, shift_goal) = if event == Event::Sigkill { (5, 0.2) } else { (20, 2.0) };
    let failed = sorted(|seen| seen.failed, all);
    report.figure(&key("runs"), all.len() as f64, "two serving nodes, 200 calls/s, 1 s deadline");
    report.figure(&key("failed_min"), percentile(&failed, 0.0), "calls that failed within 20 s");
    report.figure(&key("failed_p50"), percentile(&failed, 0.5), "");
    report.figure(&key("failed_mean"), failed.iter().sum::<f64>() / failed.len().max(1) as f64, "");
    report.figure(&key("failed_max"), percentile(&failed, 1.0), &format!("goal {failed_goal}"));
    let shift = sorted(|seen| seen.shift_s, all);
    report.figure(&key("shift_p50_s"), percentile(&shift, 0.5), "until the last failed call was due");
    report.figure(
        &key("shift_max_s"),
        percentile(&shift, 1.0),
        &format!("later trial calls count; goal {shift_goal}"),
    );
    let quiet = sorted(|seen| seen.quiet_s, all);
    report.figure(
        &key("shift_first_quiet_p50_s"),
        percentile(&quiet, 0.5),
        "until a second without a failed call",
    );
    report.figure(&key("shift_first_quiet_s"), percentile(&quiet, 1.0), "the longest");
    let back = backs.into_iter().fold(0.0, f64::max);
    report.figure(&key("back_max_s"), back, "from mending until the victim served its share for a second");
    if !rivals.is_empty() {
        let failed = sorted(|seen| seen.failed, rivals);
        report.figure(
            &key("rival_runs"),
            failed.len() as f64,
            "round robin over both without a mesh, no keepalive",
        );
        report.figure(&key("rival_failed_max"), percentile(&failed, 1.0), "");
    }
}

/// Waits until both instances answer and no call fails; how long that took, in seconds.
async fn settle(fleet: &Fleet, calls: &Calls) -> anyhow::Result<f64> {
    let began = Instant::now();
    let names: Vec<_> = SERVING.iter().map(|idx| fleet.node(*idx).name.clone()).collect();
    loop {
        sleep(Duration::from_millis(100)).await;
        let recent = calls.since(now_ns().saturating_sub(1_000_000_000));
        let n_by = |name: &String| recent.iter().filter(|it| it.is_ok() && it.by == *name).count();
        // A fifth each: the better of two is preferred, and both are in use.
        let is_used = names.iter().all(|name| n_by(name) as f64 >= RATE / 5.0);
        if is_used && recent.iter().all(Outcome::is_ok) {
            return Ok(began.elapsed().as_secs_f64());
        }
        if began.elapsed() > BACK_WITHIN {
            let last: Vec<_> = recent.iter().rev().take(3).collect();
            bail!("not both instances answer: {last:?}{}", tail(&fleet.node(CALLER).log));
        }
    }
}

async fn rival(fleet: &mut Fleet, own: &Path) -> anyhow::Result<Calls> {
    let direct = SERVING.map(|idx| SocketAddr::from((fleet.node(idx).mesh.ip(), DIRECT_PORT)).to_string());
    let calls = Calls::start(fleet, own, &direct)?;
    sleep(Duration::from_secs(1)).await;
    Ok(calls)
}

impl Calls {
    fn start(fleet: &mut Fleet, own: &Path, to: &[String]) -> anyhow::Result<Self> {
        let rate = RATE.to_string();
        let mut args = vec!["call", "--service", "api", "--rate", &rate];
        for address in to {
            args.extend(["--to", address]);
        }
        let mut process = fleet.spawn_in(CALLER, "caller", own, &args, Output::Pipe)?;
        let mut lines = BufReader::new(process.stdout.take().context("it is piped")?).lines();
        let seen = Arc::<Mutex<Vec<Outcome>>>::default();
        let (mut reader, shared) = (JoinSet::new(), Arc::clone(&seen));
        reader.spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                shared.lock().unwrap_or_else(PoisonError::into_inner).extend(Outcome::parse(&line));
            }
        });
        Ok(Self { _process: process, seen, _reader: reader })
    }

    /// The calls that ended since; those before are forgotten.
    fn since(&self, at_ns: u64) -> Vec<Outcome> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|outcome| outcome.ended_ns >= at_ns);
        seen.clone()
    }
}
