//! Real nodes on one machine, each a process with state of its own: for the demo, for tests, for measuring.
//!
//! As root each node has a network namespace, joined by a bridge in one more, so that a node can be cut off
//! without a trace; otherwise all listen on 127.0.0.1. Everything made is noted in the work folder as it is
//! made, so that the next run ends what a crash left. Nothing else on the machine is touched.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::Signal;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use proto::identity::v1::CreateInvitationRequest;
use proto::identity::v1::identity_service_client::IdentityServiceClient;
use proto::mesh::v1::mesh_service_client::MeshServiceClient;
use proto::mesh::v1::{GetStatusRequest, LeaveRequest};
use types::MeshName;

use crate::config::RawService;

mod ledger;
mod network;
mod node;
mod tie;

use ledger::Ledger;
use network::Wires;

pub use network::Network;
pub use node::Node;
pub(super) use tie::exec as exec_tied;

/// Most nodes of one fleet.
pub const NODES_MAX: usize = 200;
/// How long `init` and `join` may take, and a node until it is ready.
const STEP_MAX: Duration = Duration::from_secs(60);
/// How long nodes may take to end of their own accord.
const STOP_MAX: Duration = Duration::from_secs(30);
/// How often a state is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Lines of a log that an error shows.
const LOG_LINES: usize = 8;
/// What every name begins with that a fleet gives to the system.
pub const PREFIX: &str = "smdemo";

/// What a fleet is.
#[derive(Clone, Debug)]
pub struct Config {
    /// The `sagemesh` program.
    pub program: PathBuf,
    /// Its nodes, the founder first.
    pub nodes: Vec<Plan>,
    /// Begins the names of namespaces: `smdemo`, or `smdemo-` and more for a second fleet beside the first.
    pub prefix: String,
    /// The work folder: made if it is not there, emptied of what an earlier fleet left, removed at the end.
    pub dir: PathBuf,
    /// How nodes reach each other.
    pub network: Network,
    /// The mesh's name.
    pub mesh: MeshName,
    /// Names under which the program lies in the folder [`programs`], each a file of its own, so that `exe:`
    /// tells services apart that are one program.
    pub links: Vec<String>,
}

/// What one node is given.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Its services. Where `listen` names port 0, a free one is chosen; [`Node::services`] says which.
    pub services: Vec<RawService>,
    /// What its invitation lets it speak for, as `svc/NAME`. The founder may speak for all.
    pub scope: Vec<String>,
}

/// Where a process's standard output goes. Standard error goes to its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// To its log.
    Log,
    /// To whoever started it.
    Pipe,
}

/// Running nodes. Dropping it ends them and removes all that was made.
pub struct Fleet {
    config: Config,
    wires: Wires,
    nodes: Vec<Node>,
    // Dropped last: it ends what the others began.
    ledger: Ledger,
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").field("dir", &self.config.dir).field("nodes", &self.nodes).finish()
    }
}

impl Fleet {
    /// Founds a mesh, has the other nodes join by invitation, and waits until each is ready.
    ///
    /// # Errors
    /// Which step failed on which node, with the last lines of its log. Nothing runs then.
    pub async fn start(mut config: Config) -> anyhow::Result<Self> {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let rest = config.prefix.strip_prefix(PREFIX);
        if !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-') && rest.chars().all(is_plain)) {
            bail!("the prefix `{}` is none: write `{PREFIX}` or `{PREFIX}-NAME`", config.prefix);
        }
        let plans = std::mem::take(&mut config.nodes);
        let Some((first, others)) = plans.split_first() else { bail!("a fleet has one node at least") };
        let ledger = Ledger::open(&config.dir)?;
        link(&config.program, &config.links, &programs(&config.dir))?;
        let wires = Wires::new(config.network, &config.prefix);
        let mut fleet = Self { config, wires, nodes: Vec::new(), ledger };
        fleet.wires.lay(&mut fleet.ledger).await?;
        fleet.prepare(first.clone()).await?;
        let name = fleet.nodes[0].name.clone();
        let mesh = fleet.config.mesh.to_string();
        fleet.finish_step(0, &["init".as_ref(), mesh.as_ref(), "--name".as_ref(), name.as_ref()]).await?;
        fleet.up(0).await?;
        fleet.join_all(others.to_vec()).await?;
        Ok(fleet)
    }

    /// Has one more node join. Answers its index.
    ///
    /// # Errors
    /// As [`Fleet::start`]; the other nodes run on.
    pub async fn add(&mut self, plan: Plan) -> anyhow::Result<usize> {
        self.join_all(vec![plan]).await?;
        Ok(self.nodes.len() - 1)
    }

    /// Makes the folder, the network and the configuration of one more node, which neither joins nor runs. Answers
    /// its index.
    ///
    /// # Errors
    /// There are enough, or the system refuses.
    pub async fn prepare(&mut self, plan: Plan) -> anyhow::Result<usize> {
        let idx = self.nodes.len();
        if idx >= NODES_MAX {
            bail!("a fleet has at most {NODES_MAX} nodes");
        }
        let place = self.wires.connect(idx, &mut self.ledger).await?;
        let node = Node::make(&self.config.dir, idx, place, plan, &mut self.wires)?;
        self.nodes.push(node);
        Ok(idx)
    }

    /// How many nodes there are, those included that do not run.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is none, which is never so.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// One node.
    ///
    /// # Panics
    /// There is no such node.
    pub fn node(&self, idx: usize) -> &Node {
        &self.nodes[idx]
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The folder of the program's other names.
    pub fn programs(&self) -> PathBuf {
        programs(&self.config.dir)
    }

    /// The work folder.
    pub fn dir(&self) -> &Path {
        &self.config.dir
    }

    /// Runs a program beside a node, in its network. It ends with the fleet; its log is `NAME.log` in the
    /// node's folder.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn_in<S: AsRef<OsStr>>(
        &mut self,
        idx: usize,
        name: &str,
        program: &Path,
        args: &[S],
        output: Output,
    ) -> anyhow::Result<Child> {
        let node = &self.nodes[idx];
        let log = node.open_log(name)?;
        let mut command = tie::command(&self.config.program, node.namespace.as_deref(), program);
        command.args(args).stdin(Stdio::null()).kill_on_drop(true).process_group(0);
        // What is set for a node of this machine is not meant for these.
        command.env_remove("SAGEMESH_STATE").env_remove("SAGEMESH_RUN");
        match output {
            Output::Log => command.stdout(log.try_clone().context("failed to open a log twice")?),
            Output::Pipe => command.stdout(Stdio::piped()),
        };
        command.stderr(log);
        spawn(&mut self.ledger, &mut command, name, &node.name)
    }

    /// Starts a node that does not run, and waits until it is ready.
    ///
    /// # Errors
    /// It ended or was not ready in time, with the last lines of its log.
    pub async fn up(&mut self, idx: usize) -> anyhow::Result<()> {
        self.begin(idx)?;
        self.ready(idx).await
    }

    /// Ends a node without warning (SIGKILL). The services beside it live on.
    ///
    /// # Errors
    /// It does not run.
    pub async fn kill(&mut self, idx: usize) -> anyhow::Result<()> {
        let node = &mut self.nodes[idx];
        let Some(mut child) = node.child.take() else { bail!("{} does not run", node.name) };
        child.kill().await.with_context(|| format!("failed to kill {}", node.name))
    }

    /// Drops all traffic of a node, in silence: nothing of it gets out, not even a closing packet.
    ///
    /// # Errors
    /// The nodes have no network of their own, or the system refuses.
    pub async fn cut(&self, idx: usize) -> anyhow::Result<()> {
        self.wires.cut(idx).await
    }

    /// Ends what [`Fleet::cut`] began.
    ///
    /// # Errors
    /// As [`Fleet::cut`].
    pub async fn heal(&self, idx: usize) -> anyhow::Result<()> {
        self.wires.heal(idx).await
    }

    /// Has everything end of its own accord, then removes all that was made.
    ///
    /// # Errors
    /// What had to be killed.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.ledger.signal_all(Signal::TERM);
        let deadline = Instant::now() + STOP_MAX;
        while self.ledger.is_any_running() {
            if Instant::now() > deadline {
                bail!("these did not end in {STOP_MAX:?} and were killed: {}", self.ledger.running());
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Has nodes join, all at a time.
    async fn join_all(&mut self, plans: Vec<Plan>) -> anyhow::Result<()> {
        let first = self.nodes.len();
        let mut joining = Vec::new();
        for plan in plans {
            let scope = plan.scope.clone();
            let idx = self.prepare(plan).await?;
            let token = self.invite(idx, scope).await?;
            joining.push(self.step(idx, &["join".as_ref(), token.as_ref()])?);
        }
        for (idx, child) in (first..).zip(joining) {
            self.step_done(idx, "join", child).await?;
        }
        for idx in first..self.nodes.len() {
            self.begin(idx)?;
        }
        for idx in first..self.nodes.len() {
            self.ready(idx).await?;
        }
        Ok(())
    }

    /// An invitation by the first node, for one that was prepared.
    ///
    /// # Errors
    /// The first node does not answer, or refuses.
    pub async fn invite(&self, idx: usize, scope: Vec<String>) -> anyhow::Result<String> {
        let mut founder = IdentityServiceClient::new(self.nodes[0].channel()?);
        let request = CreateInvitationRequest { node: self.nodes[idx].name.clone(), scope, ttl_s: 0 };
        let answer = timeout(STEP_MAX, founder.create_invitation(request)).await;
        let answer = answer.map_err(Into::into).and_then(|it| it.map_err(anyhow::Error::from));
        let name = &self.nodes[idx].name;
        Ok(answer.with_context(|| format!("failed to invite {name}"))?.into_inner().token)
    }

    /// Has a node that was prepared join by a token. It does not run then.
    ///
    /// # Errors
    /// It was refused, with the last lines of its log.
    pub async fn join(&mut self, idx: usize, token: &str) -> anyhow::Result<()> {
        self.finish_step(idx, &["join".as_ref(), token.as_ref()]).await
    }

    /// Has a node tell the mesh that it leaves, and waits until it ended.
    ///
    /// # Errors
    /// It does not run, or does not end.
    pub async fn leave(&mut self, idx: usize) -> anyhow::Result<()> {
        let node = &mut self.nodes[idx];
        let Some(mut child) = node.child.take() else { bail!("{} does not run", node.name) };
        let mut client = MeshServiceClient::new(node.channel()?);
        client.leave(LeaveRequest {}).await.with_context(|| format!("{} does not leave", node.name))?;
        let ended = timeout(STOP_MAX, child.wait()).await;
        ended.with_context(|| format!("{} left and did not end", node.name))?.map(drop).map_err(Into::into)
    }

    async fn finish_step(&mut self, idx: usize, args: &[&OsStr]) -> anyhow::Result<()> {
        let child = self.step(idx, args)?;
        self.step_done(idx, &args[0].to_string_lossy(), child).await
    }

    /// Runs a command of `sagemesh` that ends.
    fn step(&mut self, idx: usize, args: &[&OsStr]) -> anyhow::Result<Child> {
        let mut whole = vec![OsString::from("--config"), self.nodes[idx].config.clone().into()];
        whole.extend(args.iter().map(OsString::from));
        let program = self.config.program.clone();
        self.spawn_in(idx, node::LOG, &program, &whole, Output::Log)
    }

    async fn step_done(&self, idx: usize, what: &str, mut child: Child) -> anyhow::Result<()> {
        let node = &self.nodes[idx];
        match timeout(STEP_MAX, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => {
                bail!("`sagemesh {what}` failed on {} ({status}){}", node.name, tail(&node.log))
            }
            Ok(Err(err)) => Err(err).context("failed to wait for a process"),
            Err(_) => bail!("`sagemesh {what}` took too long on {}{}", node.name, tail(&node.log)),
        }
    }

    /// Starts a node that does not run, and does not wait.
    ///
    /// # Errors
    /// It cannot be started, or runs.
    pub fn begin(&mut self, idx: usize) -> anyhow::Result<()> {
        if self.nodes[idx].child.is_some() {
            bail!("{} runs already", self.nodes[idx].name);
        }
        let child = self.step(idx, &["up".as_ref()])?;
        self.nodes[idx].child = Some(child);
        Ok(())
    }

    /// Waits until a node says that it is ready.
    async fn ready(&mut self, idx: usize) -> anyhow::Result<()> {
        let node = &mut self.nodes[idx];
        let deadline = Instant::now() + STEP_MAX;
        loop {
            let child = node.child.as_mut().with_context(|| format!("{} does not run", node.name))?;
            if let Some(status) = child.try_wait().context("failed to look after a process")? {
                node.child = None;
                bail!("{} ended as it started ({status}){}", node.name, tail(&node.log));
            }
            let mut client = MeshServiceClient::new(node.channel()?);
            let asked = timeout(Duration::from_secs(1), client.get_status(GetStatusRequest {})).await;
            if let Ok(Ok(status)) = asked
                && status.get_ref().ready
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} was not ready in {STEP_MAX:?}{}", node.name, tail(&node.log));
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// Starts a process and notes it.
fn spawn(ledger: &mut Ledger, command: &mut Command, name: &str, node: &str) -> anyhow::Result<Child> {
    let child = command.spawn().with_context(|| format!("failed to start {name} on {node}"))?;
    if let Some(pid) = child.id() {
        ledger.process(pid, &format!("{name}@{node}"))?;
    }
    Ok(child)
}

/// The folder of the program's other names in the work folder of a fleet.
pub fn programs(dir: &Path) -> PathBuf {
    dir.join("bin")
}

/// Gives the program other names: by links, or by links to one copy on another file system.
fn link(program: &Path, names: &[String], dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir(dir).with_context(|| format!("failed to make {}", dir.display()))?;
    let mut from = program.to_owned();
    for name in names {
        let to = dir.join(name);
        if std::fs::hard_link(&from, &to).is_err() {
            std::fs::copy(&from, &to)
                .with_context(|| format!("failed to copy {} to {}", from.display(), to.display()))?;
            from = to;
        }
    }
    Ok(())
}

/// The end of a log, for an error.
pub fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
    if last.is_empty() { ", and wrote no log".to_owned() } else { format!(":\n  {}", last.join("\n  ")) }
}
