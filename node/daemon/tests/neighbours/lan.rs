//! One network with the nodes of two meshes on it, which have all moved since their nodes ran last.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

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

    /// Ends a node and gives its machine the address `10.78.0.HOST`, as a router that was replaced would.
    pub(crate) async fn moves(&mut self, idx: usize, host: u8) {
        self.0.kill(idx).await.unwrap();
        let (old, new) = (self.0.node(idx).mesh.ip().to_string(), format!("10.78.0.{host}"));
        // The old one first: others of its network go with it.
        for (act, host) in [("delete", &old), ("add", &new)] {
            ip(&["-n", self.namespace(idx), "address", act, &format!("{host}/24"), "dev", "eth0"]);
        }
        self.configures(idx, |text| text.replace(&format!("{old}:"), &format!("{new}:")));
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

    /// Has a machine without a node of this mesh tell lies to its neighbours, and waits until it has.
    pub(crate) async fn lies(&mut self, idx: usize, host: u8, victim: &str) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/neighbours/liar.py");
        let own = format!("10.78.0.{host}");
        let args = ["python3", script.to_str().unwrap(), &own, victim];
        let liar = self.0.spawn_in(idx, "liar", Path::new("/usr/bin/env"), &args, Output::Log);
        assert!(liar.unwrap().wait().await.unwrap().success());
    }
}

#[track_caller]
fn ip(args: &[&str]) {
    let done = Command::new("ip").args(args).output().unwrap();
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
}
