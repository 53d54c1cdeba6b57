//! One network with the nodes of two meshes on it, which have all moved since their nodes ran last.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::process::Child;
use tokio::time::{Instant, sleep};

use daemon::demo::fleet::{Config, Fleet, Network, Output, Plan};
use proto::mesh::v1::mesh_service_client::MeshServiceClient;
use proto::mesh::v1::{ListPeersRequest, Liveness, Peer};

/// How long a state may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a node takes part in mDNS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mdns {
    On,
    Off,
}

/// Nodes of one mesh, each with a namespace on a bridge.
pub(crate) struct Lan(pub(crate) Fleet);

impl Lan {
    /// A mesh of `n_nodes` that have all seen each other.
    pub(crate) async fn found(name: &str, mesh: &str, n_nodes: usize, dir: &Path) -> Self {
        let config = Config {
            program: PathBuf::from(env!("CARGO_BIN_EXE_sagemesh")),
            nodes: vec![Plan::default(); n_nodes],
            prefix: format!("smdemo-{name}"),
            dir: dir.join(name),
            network: Network::Namespaces,
            mesh: mesh.parse().unwrap(),
            links: Vec::new(),
        };
        let lan = Self(Fleet::start(config).await.unwrap());
        for idx in 0..n_nodes {
            lan.sees_others(idx, n_nodes - 1).await;
        }
        lan
    }

    pub(crate) fn namespace(&self, idx: usize) -> &str {
        self.0.node(idx).namespace.as_deref().unwrap()
    }

    fn hub(&self) -> String {
        self.namespace(0).replace("-1", "-hub")
    }

    /// Puts the bridges of two meshes on one network.
    pub(crate) fn meets(&self, other: &Self) {
        let (here, there) = (self.hub(), other.hub());
        ip(&["-n", &here, "link", "add", "other", "type", "veth", "peer", "name", "other", "netns", &there]);
        for hub in [&here, &there] {
            ip(&["-n", hub, "link", "set", "other", "master", "bridge", "up"]);
        }
    }

    /// Ends a node and gives its machine another address in place of the one it has, as a new router would.
    pub(crate) async fn moves(&mut self, idx: usize, address: &str) {
        let new: IpAddr = address.parse().unwrap();
        self.0.kill(idx).await.unwrap();
        let old = self.0.node(idx).mesh.ip();
        let net = if new.is_ipv4() { 24 } else { 64 };
        let own = self.namespace(idx);
        ip(&["-n", own, "address", "delete", &format!("{old}/24"), "dev", "eth0"]);
        ip(&["-n", own, "address", "add", &format!("{new}/{net}"), "dev", "eth0", "nodad"]);
        let (old, new) = (SocketAddr::new(old, 0).to_string(), SocketAddr::new(new, 0).to_string());
        self.configures(idx, |text| text.replace(old.trim_end_matches('0'), new.trim_end_matches('0')));
    }

    pub(crate) fn sets(&self, idx: usize, mdns: Mdns) {
        self.configures(idx, |text| match mdns {
            Mdns::Off => text.replace("[mesh]\n", "[mesh]\nmdns = false\n"),
            Mdns::On => text.replace("mdns = false\n", ""),
        });
    }

    fn configures(&self, idx: usize, change: impl Fn(&str) -> String) {
        let path = &self.0.node(idx).config;
        let before = fs::read_to_string(path).unwrap();
        let after = change(&before);
        assert_ne!(before, after);
        fs::write(path, after).unwrap();
    }

    pub(crate) fn log(&self, idx: usize) -> String {
        fs::read_to_string(&self.0.node(idx).log).unwrap()
    }

    /// How many others a node sees alive and linked; none before it answers.
    pub(crate) async fn n_linked(&self, idx: usize) -> usize {
        let mut client = MeshServiceClient::new(self.0.node(idx).channel().unwrap());
        let Ok(answer) = client.list_peers(ListPeersRequest {}).await else { return 0 };
        let peers = answer.into_inner().peers;
        peers.iter().filter(|peer: &&Peer| peer.liveness() == Liveness::Alive && peer.linked).count()
    }

    /// Waits until a node sees so many others alive and linked.
    pub(crate) async fn sees_others(&self, idx: usize, n_others: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.n_linked(idx).await != n_others {
            assert!(Instant::now() < deadline, "node {idx} does not see {n_others}: {}", self.log(idx));
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// One figure of a node, 0 if it is not shown or not yet.
    pub(crate) fn figure(&self, idx: usize, name: &str) -> f64 {
        let ask = "exec 3<>/dev/tcp/127.0.0.1/7470; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
        let asked =
            Command::new("ip").args(["netns", "exec", self.namespace(idx), "bash", "-c", ask]).output();
        let text = String::from_utf8(asked.unwrap().stdout).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    /// Waits until a figure of a node is so high.
    pub(crate) async fn counts(&self, idx: usize, name: &str, least: f64) {
        let deadline = Instant::now() + PATIENCE;
        while self.figure(idx, name) < least {
            assert!(Instant::now() < deadline, "{name} stays low: {}", self.log(idx));
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Runs a Python program on a node's machine.
    pub(crate) fn runs(&mut self, idx: usize, name: &str, args: &[&str]) -> Child {
        let args = [&["python3"][..], args].concat();
        self.0.spawn_in(idx, name, Path::new("/usr/bin/env"), &args, Output::Log).unwrap()
    }

    /// Waits until somebody holds the port of mDNS on a node's machine.
    pub(crate) async fn holds_port(&self, idx: usize) {
        let deadline = Instant::now() + PATIENCE;
        let look = || {
            Command::new("ip").args(["netns", "exec", self.namespace(idx), "cat", "/proc/net/udp"]).output()
        };
        // 5353.
        while !String::from_utf8(look().unwrap().stdout).unwrap().contains(":14E9 ") {
            assert!(Instant::now() < deadline, "nobody holds the port");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Has a machine tell lies to its neighbours, and waits until it has.
    pub(crate) async fn lies(&mut self, idx: usize, address: &str, victim: &str) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/neighbours/liar.py");
        let mut liar = self.runs(idx, "liar", &[script.to_str().unwrap(), address, victim]);
        assert!(liar.wait().await.unwrap().success());
    }
}

/// Fails the test if a namespace of these meshes is left.
pub(crate) fn nothing_is_left_of(names: &[&str]) {
    let left = fs::read_dir("/run/netns").unwrap().filter_map(Result::ok);
    let left: Vec<_> = left.map(|it| it.file_name().into_string().unwrap()).collect();
    let is_ours = |it: &String| names.iter().any(|name| it.starts_with(&format!("smdemo-{name}-")));
    assert!(!left.iter().any(is_ours), "{left:?}");
}

#[track_caller]
fn ip(args: &[&str]) {
    let done = Command::new("ip").args(args).output().unwrap();
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
}
