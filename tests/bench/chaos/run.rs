//! The run: the town, a warm-up without strikes, the load with them, and the accounts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::{Instant, sleep, sleep_until};

use daemon::demo::fleet::tail;

use crate::accounts::{self, Accounts};
use crate::machines::CALLER;
use crate::report::Report;
use crate::strikes::Strikes;
use crate::town::{N_NODES, Town};

/// Nodes say every 5 s what is open.
const LOOK: Duration = Duration::from_millis(5500);
/// That often they give memory back, too.
const REST: Duration = Duration::from_secs(11);
const REST_QUICK: Duration = Duration::from_millis(500);
/// Memory after the load, to that after a warm-up, in which no connection ends. 1.5 to 1.6 was seen, after 70 strikes and
/// after 220: this finds what grows with each of them, and not why it is more than 1.
const MEMORY_RATIO_MAX: f64 = 1.8;

/// How much is done.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Plan {
    /// Calls that are made
    #[arg(long, default_value_t = 1_000_000)]
    requests: u64,
    /// Strikes come that often on average, in ms
    #[arg(long, default_value_t = 500)]
    strike_ms: u64,
    /// What chance is drawn from [default: another each time]
    #[arg(long)]
    seed: Option<u64>,
    /// Few calls and many strikes, to see that it works
    #[arg(long)]
    quick: bool,
    /// The node's program [default: `sagemesh` beside this one]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// How the caller calls.
struct Pace {
    conns: u32,
    streams: u32,
    /// How long each waits after a call.
    think_ms: u32,
    rest: Duration,
}

/// What came of one load.
#[derive(Default)]
struct Done {
    accounts: Accounts,
    wrong: f64,
    last_failed: f64,
    open_calls: f64,
    open_streams: f64,
    took_s: f64,
    cpu_s: f64,
}

/// Runs it.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "network namespaces need root: run it as root");
    let beside = || Some(std::env::current_exe().ok()?.with_file_name("sagemesh"));
    let binary = plan.binary.clone().or_else(beside).context("this program has no path")?;
    ensure!(binary.exists(), "{} is not there: build it with `make chaos-dataplane`", binary.display());
    let (requests, strike_ms, pace) = match plan.quick {
        true => (4000, 250, Pace { conns: 4, streams: 4, think_ms: 15, rest: REST_QUICK }),
        false => (plan.requests, plan.strike_ms, Pace { conns: 16, streams: 8, think_ms: 0, rest: REST }),
    };
    let seed = plan.seed.unwrap_or_else(|| rand::random::<u32>().into());
    let mut report = Report::new();
    // The same seed strikes alike, as far as the machine is as fast.
    report.figure("chaos.seed", seed as f64, "--seed");
    let mut town = Town::start(&binary).await?;
    let n_warm_up = (requests / 10).max(1);
    let warm_up = load(&mut town, &pace, 0, n_warm_up, None).await?;
    sleep(pace.rest).await;
    let rss_before = town.rss_mb()?;
    let mut strikes = Strikes::new(seed, Duration::from_millis(strike_ms));
    let done = load(&mut town, &pace, n_warm_up, requests, Some(&mut strikes)).await?;
    sleep(pace.rest).await;
    let memory_ratio = town.rss_mb()? / rss_before;
    town.fleet.stop().await?;
    tell(&mut report, &done, &strikes, memory_ratio, rss_before);
    report.finish();
    ensure!(
        warm_up.accounts.answered == n_warm_up,
        "calls failed though nothing was struck: {:?}",
        warm_up.accounts
    );
    ensure!(
        plan.quick || memory_ratio <= MEMORY_RATIO_MAX,
        "memory grew to {memory_ratio:.2} times what it was"
    );
    judge(&done)
}

/// What must not be.
fn judge(done: &Done) -> anyhow::Result<()> {
    let Accounts { twice, executed_twice, unexecuted, without_status, .. } = done.accounts;
    ensure!(twice == 0, "{twice} calls were answered twice");
    ensure!(executed_twice == 0, "{executed_twice} calls were executed twice");
    ensure!(unexecuted == 0, "{unexecuted} calls were answered by nobody: the journals are wrong");
    ensure!(without_status == 0, "{without_status} calls ended without a status");
    ensure!(done.wrong == 0.0, "{} answers were another call's, or not whole", done.wrong);
    ensure!(done.last_failed == 0.0, "{} large bodies did not come back at the end", done.last_failed);
    let n_open = done.open_calls + done.open_streams;
    ensure!(n_open == 0.0, "{n_open} calls and streams are open though all have ended");
    Ok(())
}

fn tell(report: &mut Report, done: &Done, strikes: &Strikes, memory_ratio: f64, rss_mb: f64) {
    let mut figure = |key: &str, value: f64, note: &str| report.figure(&format!("chaos.{key}"), value, note);
    let accounts = &done.accounts;
    figure("requests", accounts.requests as f64, "nothing is retried by the caller");
    figure("answered", accounts.answered as f64, "with OK, and what was asked for");
    figure("failed", accounts.failed.values().sum::<u64>() as f64, "with another gRPC status");
    for (status, n) in &accounts.failed {
        figure(&format!("failed.{status}"), *n as f64, "");
    }
    figure("without_status", accounts.without_status as f64, "must be 0");
    figure("twice", accounts.twice as f64, "calls answered twice; must be 0");
    figure("executed_twice", accounts.executed_twice as f64, "by services; must be 0");
    figure("unexecuted", accounts.unexecuted as f64, "OK and in no journal; must be 0");
    figure("wrong", done.wrong, "answers of other calls, or not whole; must be 0");
    figure("kills.service", strikes.n_service as f64, "SIGKILL, SIGTERM, and pauses");
    figure("kills.node", strikes.n_node as f64, "SIGKILL");
    figure("kills.connection", strikes.n_connection as f64, "between nodes, or to services: reset");
    figure("leaked_calls", done.open_calls, "open on nodes that lived through it; must be 0");
    figure("leaked_streams", done.open_streams, "the same of streams");
    figure("last_failed", done.last_failed, "of bodies of 1 MiB both ways on all connections; must be 0");
    figure("memory_ratio", memory_ratio, &format!("to {rss_mb:.0} MB after a warm-up"));
    figure("seconds", done.took_s, "of the load");
    figure("cpu_s", done.cpu_s, "of all nodes meanwhile");
}

/// Has calls made, from `first` on, while `strikes` fall.
async fn load(
    town: &mut Town,
    pace: &Pace,
    first: u64,
    requests: u64,
    mut strikes: Option<&mut Strikes>,
) -> anyhow::Result<Done> {
    let path = |name: &str| {
        let path = town.fleet.dir().join(format!("{name}-{first}"));
        path.into_os_string().into_string().ok().context("the work folder's name is not UTF-8")
    };
    let (go, outcomes) = (path("go")?, path("outcomes")?);
    let to = town.fleet.node(CALLER).outbound.to_string();
    let numbers = [first.to_string(), requests.to_string()];
    let pace_of = [pace.conns, pace.streams, pace.think_ms].map(|it| it.to_string());
    let mut args = vec!["call", "--to", &to, "--first", &numbers[0], "--requests", &numbers[1]];
    args.extend(["--conns", &pace_of[0], "--streams", &pace_of[1], "--think-ms", &pace_of[2]]);
    args.extend(["--go", &go, "--outcomes", &outcomes]);
    let (began, cpu_before) = (Instant::now(), town.cpu_s()?);
    let mut caller = town.call(&args)?;
    let mut lines = BufReader::new(caller.stdout.take().context("it is piped")?).lines();
    let mut n_told = 0;
    loop {
        let due = strikes.as_ref().map(|it| it.next_deadline());
        tokio::select! {
            line = lines.next_line() => {
                let Some(line) = line? else {
                    bail!("the caller ended{}", tail(&town.fleet.node(CALLER).dir.join("caller.log")))
                };
                let n: u64 = line.strip_prefix("ended ").context("no progress")?.parse()?;
                if n == requests {
                    break;
                }
                if n * 10 / requests > n_told {
                    n_told = n * 10 / requests;
                    crate::line("calls", n as f64, &format!("after {:.0} s", began.elapsed().as_secs_f64()));
                }
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                if let Some(strikes) = &mut strikes {
                    strikes.act(town).await?;
                }
            }
        }
    }
    let mut done = Done { took_s: began.elapsed().as_secs_f64(), ..Done::default() };
    let is_struck = strikes.is_some();
    if let Some(strikes) = strikes {
        strikes.mend(town, None).await?;
    }
    town.well().await?;
    done.cpu_s = town.cpu_s()? - cpu_before;
    if is_struck {
        look(town, &mut done).await?;
    }
    std::fs::write(&go, "").context("failed to tell the caller to go on")?;
    while let Some(line) = lines.next_line().await? {
        match line.split_once(' ') {
            Some(("wrong", n)) => done.wrong = n.parse()?,
            Some(("last_failed", n)) => done.last_failed = n.parse()?,
            Some(("why", why)) => println!("  {why}"),
            _ => {}
        }
    }
    ensure!(caller.wait().await?.success(), "the caller failed");
    done.accounts = settle(town, first, outcomes.as_ref())?;
    Ok(done)
}

/// Sees what is open though nothing should, while the caller's connections are: their end would hide what leaked.
async fn look(town: &mut Town, done: &mut Done) -> anyhow::Result<()> {
    sleep(LOOK).await;
    done.open_calls = town.gauge("sagemesh_proxy_calls_open").await?;
    done.open_streams = town.gauge("sagemesh_proxy_streams_open").await?;
    Ok(())
}

/// What the caller saw, against what all services wrote down.
fn settle(town: &Town, first: u64, outcomes: &Path) -> anyhow::Result<Accounts> {
    let mut executed = Vec::new();
    for idx in CALLER + 1..N_NODES {
        executed.extend(accounts::journal(&town.journal(idx))?);
    }
    Ok(accounts::settle(first, &accounts::read(outcomes)?, executed.into_iter()))
}
