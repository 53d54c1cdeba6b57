//! Real nodes, each in a network namespace of its own, on one bridge.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::sleep;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use proto::identity::v1::CreateInvitationRequest;
use proto::identity::v1::identity_service_client::IdentityServiceClient;
use proto::mesh::v1::mesh_service_client::MeshServiceClient;
use proto::mesh::v1::{ListPeersRequest, Liveness, Peer};

/// Begins the names of all namespaces, so that what a killed run left is found.
const PREFIX: &str = "smbench-";
/// The namespace of the bridge: nothing of it shows on the host.
const HUB: &str = "smbench-hub";
/// How long nodes may take to be up, and to see each other.
const UP_WITHIN: Duration = Duration::from_secs(60);
/// How often a state is asked for that is waited for.
pub(crate) const ASK_EVERY: Duration = Duration::from_millis(10);

/// One machine: a namespace with an address, and a node's files.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    namespace: String,
    dir: PathBuf,
    binary: PathBuf,
    node: Option<Child>,
    peers: Option<MeshServiceClient<Channel>>,
}

/// All machines.
pub(crate) struct Fleet {
    pub(crate) hosts: Vec<Host>,
    dir: tempfile::TempDir,
    binary: PathBuf,
}

impl Fleet {
    /// Machines with nodes that all know each other; each takes `services` (TOML) into its configuration.
    pub(crate) async fn start(
        binary: &Path,
        n: usize,
        services: impl Fn(usize) -> String,
    ) -> anyhow::Result<Self> {
        sweep().await?;
        ip(&["netns", "add", HUB]).await?;
        in_hub(&["link", "set", "lo", "up"]).await?;
        in_hub(&["link", "add", "br0", "type", "bridge"]).await?;
        in_hub(&["link", "set", "br0", "up"]).await?;
        let dir = tempfile::tempdir()?;
        let mut fleet = Self { hosts: Vec::new(), dir, binary: binary.to_owned() };
        for idx in 0..n {
            let host = fleet.host(&format!("n{idx}"), idx, &services(idx)).await?;
            fleet.hosts.push(host);
        }
        fleet.hosts[0].run(&["init", "home.mesh", "--name", "n0"]).await?;
        fleet.hosts[0].up().await?;
        for idx in 1..n {
            let token = fleet.invite(&format!("n{idx}")).await?;
            fleet.hosts[idx].run(&["join", &token]).await?;
            fleet.hosts[idx].up().await?;
        }
        let began = Instant::now();
        while !fleet.is_whole().await {
            if began.elapsed() > UP_WITHIN {
                bail!(
                    "the nodes did not all see each other: see the logs in {}",
                    fleet.keep_logs().display()
                );
            }
            sleep(ASK_EVERY).await;
        }
        Ok(fleet)
    }

    /// A machine on the bridge, without a running node.
    pub(crate) async fn host(&self, name: &str, idx: usize, services: &str) -> anyhow::Result<Host> {
        let (namespace, inner) = (format!("{PREFIX}{name}"), format!("v{name}"));
        let address = Ipv4Addr::new(10, 77, 0, u8::try_from(idx + 1)?);
        ip(&["netns", "add", &namespace]).await?;
        in_hub(&["link", "add", &inner, "type", "veth", "peer", "name", "eth0", "netns", &namespace]).await?;
        in_hub(&["link", "set", &inner, "master", "br0", "up"]).await?;
        for args in [
            ["link", "set", "lo", "up"].as_slice(),
            &["addr", "add", &format!("{address}/24"), "dev", "eth0"],
            &["link", "set", "eth0", "up"],
        ] {
            ip(&[["-n", &namespace].as_slice(), args].concat()).await?;
        }
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir)?;
        let (state, run) = (dir.join("state"), dir.join("run"));
        let config = format!("state = \"{}\"\nrun = \"{}\"\n{services}", state.display(), run.display());
        std::fs::write(dir.join("config.toml"), config)?;
        let (name, binary) = (name.to_owned(), self.binary.clone());
        Ok(Host { name, address, namespace, dir, binary, node: None, peers: None })
    }

    /// A token for a new name, made by the first node. The newcomer may speak for any service.
    pub(crate) async fn invite(&self, name: &str) -> anyhow::Result<String> {
        let mut client = IdentityServiceClient::new(self.hosts[0].channel()?);
        let request =
            CreateInvitationRequest { node: name.to_owned(), scope: vec!["svc/*".to_owned()], ttl_s: 600 };
        Ok(client.create_invitation(request).await?.into_inner().token)
    }

    /// Whether every node is linked to every other and takes it for alive.
    async fn is_whole(&mut self) -> bool {
        let n_others = self.hosts.len() - 1;
        for host in &mut self.hosts {
            let peers = host.peers().await.unwrap_or_default();
            if peers.iter().filter(|peer| is_there(peer)).count() != n_others {
                return false;
            }
        }
        true
    }

    /// Where the logs lie, which are not removed now.
    pub(crate) fn keep_logs(&mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.dir.path().to_owned()
    }

    /// Ends all nodes and removes their namespaces.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        for host in &mut self.hosts {
            host.kill().await?;
        }
        sweep().await
    }
}

/// Whether a peer is linked and alive.
pub(crate) fn is_there(peer: &Peer) -> bool {
    peer.linked && peer.liveness() == Liveness::Alive
}

impl Host {
    /// A command of the node's program, run to its end.
    pub(crate) async fn run(&self, args: &[&str]) -> anyhow::Result<()> {
        let output = self.node_command(args).output().await?;
        if !output.status.success() {
            bail!("`sagemesh {}` failed: {}", args[0], String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Starts the node. It is not waited for.
    pub(crate) fn launch(&mut self) -> anyhow::Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join("log"))?;
        self.node = Some(self.node_command(&["up"]).stderr(log).stdout(Stdio::null()).spawn()?);
        Ok(())
    }

    /// Starts the node and waits until it answers.
    pub(crate) async fn up(&mut self) -> anyhow::Result<()> {
        self.launch()?;
        let began = Instant::now();
        while self.peers().await.is_err() {
            if began.elapsed() > UP_WITHIN {
                bail!("node {} does not come up: {}", self.name, self.log_tail());
            }
            sleep(ASK_EVERY).await;
        }
        Ok(())
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut node) = self.node.take() {
            node.kill().await?;
        }
        self.peers = None;
        Ok(())
    }

    /// Tells the mesh that it leaves, and waits until it ended.
    pub(crate) async fn leave(&mut self) -> anyhow::Result<()> {
        if let Some(mut node) = self.node.take() {
            let mut client = MeshServiceClient::new(self.channel()?);
            client.leave(proto::mesh::v1::LeaveRequest {}).await?;
            tokio::time::timeout(UP_WITHIN, node.wait()).await.context("a node does not end")??;
        }
        self.peers = None;
        Ok(())
    }

    /// Takes its cable out: nothing passes either way, and nobody is told.
    pub(crate) async fn cut(&self) -> anyhow::Result<()> {
        in_hub(&["link", "set", &format!("v{}", self.name), "nomaster"]).await
    }

    /// Puts it back.
    pub(crate) async fn heal(&self) -> anyhow::Result<()> {
        in_hub(&["link", "set", &format!("v{}", self.name), "master", "br0"]).await
    }

    /// Removes it and all it kept.
    pub(crate) async fn discard(mut self) -> anyhow::Result<()> {
        self.kill().await?;
        ip(&["netns", "del", &self.namespace]).await?;
        Ok(std::fs::remove_dir_all(&self.dir)?)
    }

    /// What it says of its peers.
    pub(crate) async fn peers(&mut self) -> anyhow::Result<Vec<Peer>> {
        if self.peers.is_none() {
            self.peers = Some(MeshServiceClient::new(self.channel()?));
        }
        let client = self.peers.as_mut().context("it was made above")?;
        Ok(client.list_peers(ListPeersRequest {}).await?.into_inner().peers)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        self.node.as_ref().and_then(Child::id).with_context(|| format!("node {} does not run", self.name))
    }

    /// Any program on this machine. It ends with this process.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace)).arg(program);
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// The end of its log.
    pub(crate) fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn node_command(&self, args: &[&str]) -> Command {
        let mut command = self.command(&self.binary);
        command.arg("--config").arg(self.dir.join("config.toml")).args(args);
        command
    }

    fn channel(&self) -> anyhow::Result<Channel> {
        let socket = self.dir.join("run/api.sock");
        let connect = move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        };
        Ok(Endpoint::from_static("http://localhost").connect_with_connector_lazy(service_fn(connect)))
    }
}

/// Removes all namespaces of this benchmark, those of a run that was killed included.
async fn sweep() -> anyhow::Result<()> {
    for name in ip(&["netns", "list"]).await?.lines().filter_map(|line| line.split(' ').next()) {
        if name.starts_with(PREFIX) {
            ip(&["netns", "del", name]).await?;
        }
    }
    Ok(())
}

async fn in_hub(args: &[&str]) -> anyhow::Result<()> {
    ip(&[["-n", HUB].as_slice(), args].concat()).await.map(drop)
}

async fn ip(args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("ip").args(args).output().await.context("failed to run ip (iproute2)")?;
    if !output.status.success() {
        bail!("`ip {}` failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
