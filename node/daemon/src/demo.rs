//! `sagemesh demo`: a mesh on this machine, with a shop on it, of which one node is killed while people buy.
//!
//! Nothing in it is made up: real nodes join by real invitations, and every call crosses the mesh.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::shop::Role;

pub mod fleet;
mod picture;
mod place;
mod story;
mod verdict;
mod watch;

use fleet::{Fleet, Network, Output};
use picture::Screen;
use story::{Seen, Story};
use verdict::Verdict;
use watch::Said;

/// How often the customers print, and the picture is drawn.
const LINE_EVERY: Duration = Duration::from_millis(250);
/// How long until all nodes are linked and all services well.
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// How long the customers may take to end.
const END_MAX: Duration = Duration::from_secs(15);
/// When a node is killed and when it is started again, as shares of the time.
const KILL_AT: f64 = 0.4;
const RESTART_AT: f64 = 0.7;
/// What was said and not looked at yet.
const SAID_MAX: usize = 256;

/// What the demo does.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Nodes [3 to 20]
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(3..=20))]
    pub nodes: u16,
    /// How long customers buy, such as `60s` or `2m` [8s to 60m]
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = time)]
    pub time: Duration,
    /// Calls a second by all customers; behind each are eight more [1 to 400]
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=400))]
    pub rate: u16,
    /// Prints line by line, as where standard output is no terminal
    #[arg(long)]
    pub plain: bool,
    /// Puts all nodes on 127.0.0.1, as for users other than root
    #[arg(long)]
    pub loopback: bool,
    /// Becomes the command instead, and ends with the process of this id
    #[arg(long, hide = true, value_name = "PID", requires = "command")]
    tie: Option<u32>,
    /// The command
    #[arg(last = true, hide = true, requires = "tie")]
    command: Vec<OsString>,
}

fn time(text: &str) -> Result<Duration, String> {
    let n = |digits: &str| digits.parse::<u64>().ok();
    let secs = match (text.strip_suffix('s'), text.strip_suffix('m')) {
        (Some(digits), _) => n(digits),
        (_, Some(digits)) => n(digits).map(|n| n.saturating_mul(60)),
        _ => None,
    };
    let secs = secs.ok_or_else(|| "write it as `60s` or `2m`".to_owned())?;
    if (8..=3600).contains(&secs) {
        Ok(Duration::from_secs(secs))
    } else {
        Err("choose 8s to 60m".to_owned())
    }
}

/// Runs the demo, and leaves nothing behind however it ends.
///
/// # Errors
/// What could not be started, or was not good enough.
pub async fn run(args: Args) -> anyhow::Result<()> {
    if let Some(parent) = args.tie {
        return fleet::exec_tied(parent, &args.command);
    }
    let listen = |kind| signal(kind).context("failed to listen for signals");
    let (mut stop, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let mut hangup = listen(SignalKind::hangup())?;
    // Whichever ends first, the other is dropped, and with it all that was made.
    tokio::select! {
        done = perform(&args) => done,
        _ = stop.recv() => bail!("stopped: nothing is left"),
        _ = interrupt.recv() => bail!("interrupted: nothing is left"),
        _ = hangup.recv() => bail!("the terminal is gone: nothing is left"),
    }
}

async fn perform(args: &Args) -> anyhow::Result<()> {
    let start = Instant::now();
    let n_nodes = usize::from(args.nodes);
    let network = if args.loopback { Network::Loopback } else { Network::best() };
    say(&format!("starting {n_nodes} nodes"))?;
    let mut fleet = start_fleet(n_nodes, network).await?;
    let programs = fleet.programs();
    let mut services = Vec::new();
    for role in place::SERVING {
        for idx in place::nodes_of(role, n_nodes) {
            let arguments = place::arguments(role, fleet.node(idx));
            let program = place::program(role, &programs);
            services.push(fleet.spawn_in(idx, role.name(), &program, &arguments, Output::Log)?);
        }
    }
    let n_services = services.len();

    let (out, mut said) = mpsc::channel(SAID_MAX);
    let mut watches = JoinSet::new();
    let seen = |node: &fleet::Node| Seen {
        name: node.name.clone(),
        address: node.mesh.to_string(),
        peers: Vec::new(),
    };
    let mut story = Story::new(fleet.nodes().iter().map(seen).collect());
    for (idx, node) in fleet.nodes().iter().enumerate() {
        watches.spawn(watch::peers(idx, node.channel()?, out.clone()));
    }
    watches.spawn(watch::services(fleet.node(place::CUSTOMERS).channel()?, out.clone()));
    settle(&mut story, &mut said, n_services).await?;
    let start_s = start.elapsed().as_secs_f64();
    for node in &story.nodes {
        say(&format!("{} at {} is linked with {} others", node.name, node.address, node.peers.len()))?;
    }
    say(&format!("all joined and {n_services} services are up after {start_s:.1} s"))?;

    let mut customers = start_customers(&mut fleet, args.rate)?;
    let printed = customers.stdout.take().context("the customers' output is not there")?;
    let mut reading = JoinSet::new();
    reading.spawn(watch::calls(printed, out));
    play(args, &mut fleet, &mut story, &mut said, &customers).await?;
    while let Some(read) = reading.join_next().await {
        read.context("reading what customers print failed: this is a bug, report it")??;
    }
    watches.shutdown().await;
    let verdict = Verdict::of(&story, n_services, start_s);
    let stopped = fleet.stop().await;
    finish(&verdict, args.plain)?;
    stopped
}

/// Starts the nodes, each with the services that it is to have.
async fn start_fleet(n_nodes: usize, network: Network) -> anyhow::Result<Fleet> {
    let program = std::env::current_exe().context("failed to find this program's own file")?;
    let dir = work_folder()?;
    let roles = place::SERVING.into_iter().chain([Role::Load]);
    let config = fleet::Config {
        program,
        nodes: place::plans(n_nodes, &fleet::programs(&dir)),
        prefix: fleet::PREFIX.to_owned(),
        links: roles.map(|role| role.name().to_owned()).collect(),
        dir,
        network,
        mesh: "demo.mesh".parse().context("no name of a mesh")?,
    };
    Fleet::start(config).await
}

/// One for each user, always the same: so that the next run finds what a crash left.
fn work_folder() -> anyhow::Result<PathBuf> {
    let place = std::env::temp_dir();
    // Services are known by their files, whose names are those without links.
    let place = place.canonicalize().with_context(|| format!("failed to find {}", place.display()))?;
    Ok(place.join(format!("sagemesh-demo-{}", rustix::process::geteuid().as_raw())))
}

fn start_customers(fleet: &mut Fleet, rate: u16) -> anyhow::Result<Child> {
    let mut arguments = place::arguments(Role::Load, fleet.node(place::CUSTOMERS));
    // Enough for all calls that can wait for an answer, which they do for two seconds at most.
    let callers = (u32::from(rate) * 5 / 2).to_string();
    let (rate, every) = (rate.to_string(), LINE_EVERY.as_millis().to_string());
    let load = ["--rate", &rate, "--callers", &callers, "--every-ms", &every];
    arguments.extend(load.map(str::to_owned));
    let program = place::program(Role::Load, &fleet.programs());
    fleet.spawn_in(place::CUSTOMERS, Role::Load.name(), &program, &arguments, Output::Pipe)
}

/// Waits until all nodes are linked and all services well.
async fn settle(story: &mut Story, said: &mut mpsc::Receiver<Said>, n_services: usize) -> anyhow::Result<()> {
    let wait = async {
        while !story.missing(n_services).is_empty() {
            let Some(said) = said.recv().await else { return };
            story.hear(said);
        }
    };
    if timeout(SETTLE_MAX, wait).await.is_err() {
        bail!("not all was up after {SETTLE_MAX:?}: {}", story.missing(n_services));
    }
    Ok(())
}

/// Lets people buy, kills a node, starts it again, and has the customers end.
async fn play(
    args: &Args,
    fleet: &mut Fleet,
    story: &mut Story,
    said: &mut mpsc::Receiver<Said>,
    customers: &Child,
) -> anyhow::Result<()> {
    let victim = place::victim(fleet.len());
    let is_live = !args.plain && std::io::stdout().is_terminal();
    let screen = is_live.then(Screen::open).transpose().context("failed to draw")?;
    let mut shown = Shown { screen, n_remarks: 0, at_s: 0 };
    let mut tick = interval(LINE_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut is_restarted, mut ending) = (false, None);
    story.begin();
    while !story.has_ended {
        tokio::select! {
            Some(said) = said.recv() => story.hear(said),
            _ = tick.tick() => {
                let elapsed = story.elapsed();
                if story.loss.is_none() && elapsed >= args.time.mul_f64(KILL_AT) {
                    story.lose(victim);
                    fleet.kill(victim).await?;
                } else if !is_restarted && elapsed >= args.time.mul_f64(RESTART_AT) {
                    story.restart();
                    fleet.begin(victim)?;
                    is_restarted = true;
                } else if ending.is_none() && elapsed >= args.time {
                    ending = Some(Instant::now());
                    let pid = customers.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
                    let pid = pid.context("the customers ended before they were told to")?;
                    rustix::process::kill_process(pid, Signal::TERM).context("failed to stop the customers")?;
                }
                if ending.is_some_and(|since| since.elapsed() > END_MAX) {
                    bail!("the customers did not end within {END_MAX:?}");
                }
                shown.show(story, args.time)?;
            }
        }
    }
    if ending.is_none() {
        let log = fleet.node(place::CUSTOMERS).dir.join("load.log");
        bail!("the customers ended before they were told to{}", fleet::tail(&log));
    }
    Ok(())
}

/// What was shown.
struct Shown {
    screen: Option<Screen>,
    n_remarks: usize,
    at_s: u64,
}

impl Shown {
    fn show(&mut self, story: &Story, whole: Duration) -> anyhow::Result<()> {
        if let Some(screen) = &self.screen {
            return screen.draw(&picture::lines(story, whole)).context("failed to draw");
        }
        let n_new = story.n_remarks - self.n_remarks;
        for (at, text) in story.remarks.iter().skip(story.remarks.len().saturating_sub(n_new)) {
            say(&picture::remark(*at, text))?;
        }
        self.n_remarks = story.n_remarks;
        let elapsed = story.elapsed();
        if elapsed.as_secs() > self.at_s {
            self.at_s = elapsed.as_secs();
            say(&picture::remark(elapsed, &picture::calls(story)))?;
        }
        Ok(())
    }
}

/// Tells how it went.
fn finish(verdict: &Verdict, is_plain: bool) -> anyhow::Result<()> {
    let is_live = !is_plain && std::io::stdout().is_terminal();
    // Line by line the remarks were told already.
    let skip = if is_live { 0 } else { verdict.lines.iter().position(String::is_empty).unwrap_or(0) };
    for line in &verdict.lines[skip..] {
        say(line)?;
    }
    say(&format!("RESULT {}", verdict.result))?;
    if !verdict.faults.is_empty() {
        bail!("the demo went wrong: {}", verdict.faults.join("; "));
    }
    Ok(())
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("failed to print")
}
