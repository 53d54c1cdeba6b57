//! How the nodes of a fleet reach each other: by namespaces on a bridge, or all on the loopback.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::Command;
use tokio::time::timeout;

use super::ledger::Ledger;

/// Ports are sought from here on, below those that the system gives to clients (ip_local_port_range, 32768).
const PORTS_FROM: u16 = 15_000;
/// Where the search ends.
const PORTS_TO: u16 = 32_000;
/// How long `ip` may take.
const IP_MAX: Duration = Duration::from_secs(20);
/// The bridge.
const BRIDGE: &str = "bridge";
/// A node's own end of its wire.
const OWN_END: &str = "eth0";

/// How nodes reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Each has a network namespace, `PREFIX-1` and on, with the address 10.78.0.1 and on. Needs root.
    Namespaces,
    /// All are on 127.0.0.1, each with ports of its own.
    Loopback,
}

impl Network {
    /// What this user can have.
    pub fn best() -> Self {
        if rustix::process::geteuid().is_root() { Self::Namespaces } else { Self::Loopback }
    }
}

/// Where one node is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) namespace: Option<String>,
    pub(super) host: Ipv4Addr,
}

/// The network of one fleet.
#[derive(Debug)]
pub(super) struct Wires {
    network: Network,
    prefix: String,
    next_port: u16,
}

impl Wires {
    pub(super) fn new(network: Network, prefix: &str) -> Self {
        // Fleets that start at once look at different ports first.
        let ahead = (std::process::id() % 1000) * 15;
        let next_port = PORTS_FROM + u16::try_from(ahead).unwrap_or_default();
        Self { network, prefix: prefix.to_owned(), next_port }
    }

    /// Makes what all nodes share.
    pub(super) async fn lay(&self, ledger: &mut Ledger) -> anyhow::Result<()> {
        if self.network == Network::Loopback {
            return Ok(());
        }
        let hub = self.hub();
        self.make(&hub, ledger).await?;
        ip(&["-n", &hub, "link", "add", BRIDGE, "type", "bridge"]).await?;
        ip(&["-n", &hub, "link", "set", BRIDGE, "up"]).await
    }

    /// Makes what one node needs.
    pub(super) async fn connect(&self, idx: usize, ledger: &mut Ledger) -> anyhow::Result<Place> {
        if self.network == Network::Loopback {
            return Ok(Place { namespace: None, host: Ipv4Addr::LOCALHOST });
        }
        let (hub, own, wire) = (self.hub(), self.namespace(idx), wire(idx));
        let host = Ipv4Addr::new(10, 78, 0, u8::try_from(idx + 1).context("too many nodes")?);
        self.make(&own, ledger).await?;
        ip(&["-n", &hub, "link", "add", &wire, "type", "veth", "peer", "name", OWN_END, "netns", &own])
            .await?;
        ip(&["-n", &hub, "link", "set", &wire, "master", BRIDGE, "up"]).await?;
        ip(&["-n", &own, "address", "add", &format!("{host}/24"), "dev", OWN_END]).await?;
        ip(&["-n", &own, "link", "set", "lo", "up"]).await?;
        ip(&["-n", &own, "link", "set", OWN_END, "up"]).await?;
        Ok(Place { namespace: Some(own), host })
    }

    /// Takes a node's wire off the bridge. Its own end stays up, so that nothing notices but by silence.
    pub(super) async fn cut(&self, idx: usize) -> anyhow::Result<()> {
        self.need_namespaces()?;
        ip(&["-n", &self.hub(), "link", "set", &wire(idx), "nomaster"]).await
    }

    /// Puts it back.
    pub(super) async fn heal(&self, idx: usize) -> anyhow::Result<()> {
        self.need_namespaces()?;
        ip(&["-n", &self.hub(), "link", "set", &wire(idx), "master", BRIDGE]).await
    }

    /// A port on the loopback that nobody listens on. Never the same twice.
    pub(super) fn free_port(&mut self) -> anyhow::Result<u16> {
        while self.next_port < PORTS_TO {
            let port = self.next_port;
            self.next_port += 1;
            // In a new namespace every port is free.
            let is_alone = self.network == Network::Namespaces;
            if is_alone || TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).is_ok() {
                return Ok(port);
            }
        }
        bail!("no port from {PORTS_FROM} to {PORTS_TO} is free")
    }

    fn need_namespaces(&self) -> anyhow::Result<()> {
        match self.network {
            Network::Namespaces => Ok(()),
            Network::Loopback => bail!("a node on the loopback cannot be cut off: run as root"),
        }
    }

    async fn make(&self, name: &str, ledger: &mut Ledger) -> anyhow::Result<()> {
        if std::path::Path::new("/run/netns").join(name).exists() {
            bail!("the network namespace {name} is there and not this fleet's: `ip netns delete {name}`");
        }
        ledger.namespace(name)?;
        ip(&["netns", "add", name]).await
    }

    /// Where the bridge is: not among the nodes, and not among the machine's own interfaces.
    fn hub(&self) -> String {
        format!("{}-hub", self.prefix)
    }

    fn namespace(&self, idx: usize) -> String {
        format!("{}-{}", self.prefix, idx + 1)
    }
}

/// The bridge's end of a node's wire.
fn wire(idx: usize) -> String {
    format!("node{}", idx + 1)
}

/// Runs `ip`, of iproute2.
async fn ip(args: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let done = timeout(IP_MAX, command.output()).await;
    let done = done.with_context(|| format!("`ip {}` took too long", args.join(" ")))?;
    let done = done.context("failed to run `ip`: install iproute2")?;
    if !done.status.success() {
        let told = String::from_utf8_lossy(&done.stderr);
        bail!("`ip {}` failed: {}", args.join(" "), told.trim());
    }
    Ok(())
}
