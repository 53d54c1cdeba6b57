//! Who takes part: a caller's node, nodes that serve, and a service beside each of these.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};
use tokio::process::Child;
use tokio::time::sleep;

use daemon::demo::fleet::{Fleet, Output, tail};
use proto::service::v1::service_service_client::ServiceServiceClient;
use proto::service::v1::{Health, ListServicesRequest};

use crate::machines::{self, CALLER, LOCAL};
use crate::usage;

/// How many nodes there are. The caller's is never struck; the others serve.
pub(crate) const N_NODES: usize = 4;
/// The one of these that is not killed. Its service and its connections are.
pub(crate) const SURVIVOR: usize = N_NODES - 1;
/// Where nodes take calls of other nodes.
const INBOUND_PORT: u16 = 7450;
/// How long all may take to be well again.
const WELL_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// All of them.
pub(crate) struct Town {
    pub(crate) fleet: Fleet,
    own: PathBuf,
    services: Vec<Option<Child>>,
    /// CPU seconds of nodes that were killed.
    cpu_gone_s: f64,
}

impl Town {
    /// Starts all, and waits until all endpoints are well.
    pub(crate) async fn start(binary: &Path) -> anyhow::Result<Self> {
        let own = std::env::current_exe()?;
        let fleet =
            machines::start(binary, "chaos-dataplane", N_NODES, machines::caller_and_services(&own)).await?;
        let mut town = Self { fleet, own, services: Vec::new(), cpu_gone_s: 0.0 };
        town.services.resize_with(N_NODES, || None);
        for idx in CALLER + 1..N_NODES {
            town.serve(idx)?;
        }
        town.well().await?;
        Ok(town)
    }

    /// Starts a caller beside its node; its output is to be read.
    pub(crate) fn call(&mut self, args: &[&str]) -> anyhow::Result<Child> {
        self.fleet.spawn_in(CALLER, "caller", &self.own, args, Output::Pipe)
    }

    /// Where the services of one node write down what they execute.
    pub(crate) fn journal(&self, idx: usize) -> PathBuf {
        self.fleet.node(idx).dir.join("journal")
    }

    /// Starts the service of a node.
    pub(crate) fn serve(&mut self, idx: usize) -> anyhow::Result<()> {
        let journal = self.journal(idx);
        let journal = journal.to_str().context("the work folder's name is not UTF-8")?;
        let listen = LOCAL.to_string();
        let args = ["serve", "--listen", &listen, "--journal", journal];
        self.services[idx] = Some(self.fleet.spawn_in(idx, "service", &self.own, &args, Output::Log)?);
        Ok(())
    }

    /// Sends a signal to the service of a node.
    pub(crate) fn signal(&self, idx: usize, signal: Signal) -> anyhow::Result<()> {
        let id = self.services[idx].as_ref().and_then(Child::id).context("a service does not run")?;
        let pid = Pid::from_raw(i32::try_from(id)?).context("no process")?;
        rustix::process::kill_process(pid, signal).context("failed to signal a service")
    }

    /// Waits until the service of a node has ended.
    pub(crate) async fn ended(&mut self, idx: usize) -> anyhow::Result<()> {
        if let Some(mut service) = self.services[idx].take() {
            service.wait().await.context("failed to wait for a service")?;
        }
        Ok(())
    }

    /// Ends a node without warning.
    pub(crate) async fn kill_node(&mut self, idx: usize) -> anyhow::Result<()> {
        self.cpu_gone_s += self.usage(idx)?.cpu_s;
        self.fleet.kill(idx).await
    }

    /// Breaks the caller's node's connections to a node, or a node's to its service: both ends see a reset. Answers
    /// how many there were.
    pub(crate) async fn cut(&mut self, idx: usize, is_local: bool) -> anyhow::Result<usize> {
        let host = self.fleet.node(idx).mesh.ip().to_string();
        let (at, host, port) =
            if is_local { (idx, LOCAL.ip().to_string(), LOCAL.port()) } else { (CALLER, host, INBOUND_PORT) };
        let filter = format!("dst {host} and dport = :{port}");
        let args = ["-HtnK", "state", "established", &filter];
        let killer = self.fleet.spawn_in(at, "ss", Path::new("ss"), &args, Output::Pipe)?;
        let told = killer.wait_with_output().await.context("failed to run `ss`")?;
        if !told.status.success() {
            bail!("`ss -K` failed: it takes a kernel with CONFIG_INET_DIAG_DESTROY, see ss.log of the node");
        }
        Ok(String::from_utf8_lossy(&told.stdout).lines().count())
    }

    /// Waits until the caller's node has every endpoint for well.
    pub(crate) async fn well(&mut self) -> anyhow::Result<()> {
        let mut node = ServiceServiceClient::new(self.fleet.node(CALLER).channel()?);
        let began = Instant::now();
        loop {
            let services = node.list_services(ListServicesRequest {}).await?.into_inner().services;
            let n_well = services.iter().filter(|it| it.health() == Health::Healthy).count();
            if n_well == N_NODES - 1 {
                return Ok(());
            }
            if began.elapsed() > WELL_WITHIN {
                let log = tail(&self.fleet.node(CALLER).log);
                bail!("not all endpoints became well: {services:?}{log}");
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Resident memory of the nodes that are never killed, in MB.
    pub(crate) fn rss_mb(&self) -> anyhow::Result<f64> {
        [CALLER, SURVIVOR].iter().map(|idx| Ok(self.usage(*idx)?.rss_mb)).sum()
    }

    /// CPU seconds of all nodes since their start, those included that were killed.
    pub(crate) fn cpu_s(&self) -> anyhow::Result<f64> {
        let running: f64 = (0..N_NODES).map(|idx| Ok(self.usage(idx)?.cpu_s)).sum::<anyhow::Result<f64>>()?;
        Ok(running + self.cpu_gone_s)
    }

    fn usage(&self, idx: usize) -> anyhow::Result<usage::Usage> {
        usage::of(self.fleet.node(idx).pid().context("a node does not run")?)
    }

    /// A gauge of the nodes that are never killed, summed up.
    pub(crate) async fn gauge(&mut self, name: &str) -> anyhow::Result<f64> {
        let mut sum = 0.0;
        for idx in [CALLER, SURVIVOR] {
            let at = self.fleet.node(idx).metrics.to_string();
            let asked = self.fleet.spawn_in(idx, "ask", &self.own, &["ask", "--at", &at], Output::Pipe)?;
            let told = asked.wait_with_output().await.context("failed to read metrics")?;
            let told = String::from_utf8_lossy(&told.stdout).into_owned();
            let value = told
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix("{}")?.trim().parse::<f64>().ok());
            sum += value.with_context(|| format!("a node has no metric {name}"))?;
        }
        Ok(sum)
    }
}
