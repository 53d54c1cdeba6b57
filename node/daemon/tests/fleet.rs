//! The nodes of a fleet as real processes: they join, lose one, and leave nothing behind.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use daemon::demo::fleet::{Config, Fleet, Network, Plan};
use proto::mesh::v1::mesh_service_client::MeshServiceClient;
use proto::mesh::v1::{ListPeersRequest, Liveness, Peer};

/// How long a state may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

fn config(network: Network, name: &str, dir: &Path) -> Config {
    Config {
        program: PathBuf::from(env!("CARGO_BIN_EXE_sagemesh")),
        nodes: vec![Plan::default(); 3],
        prefix: format!("smdemo-{name}"),
        dir: dir.to_owned(),
        network,
        mesh: "test.mesh".parse().unwrap(),
        links: Vec::new(),
    }
}

async fn peers(fleet: &Fleet, idx: usize) -> Vec<Peer> {
    let mut client = MeshServiceClient::new(fleet.node(idx).channel().unwrap());
    client.list_peers(ListPeersRequest {}).await.unwrap().into_inner().peers
}

/// Waits until one node sees all others, or those but `without`, alive and linked.
async fn sees(fleet: &Fleet, idx: usize, without: Option<&str>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let peers = peers(fleet, idx).await;
        let is_up = |peer: &Peer| peer.liveness() == Liveness::Alive && peer.linked;
        let is_right = |peer: &Peer| match without {
            Some(name) if name == peer.node => peer.liveness() == Liveness::Dead && !peer.linked,
            _ => is_up(peer),
        };
        if peers.len() == fleet.len() - 1 && peers.iter().all(is_right) {
            return;
        }
        assert!(Instant::now() < deadline, "{} sees {peers:?}", fleet.node(idx).name);
        sleep(Duration::from_millis(50)).await;
    }
}

async fn all_see_all(fleet: &Fleet) {
    for idx in 0..fleet.len() {
        sees(fleet, idx, None).await;
    }
}

#[tokio::test]
async fn nodes_join_die_and_come_back_on_the_loopback() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("fleet");
    let mut fleet = Fleet::start(config(Network::Loopback, "lo", &dir)).await.unwrap();
    all_see_all(&fleet).await;
    fleet.kill(2).await.unwrap();
    sees(&fleet, 0, Some("node-3")).await;
    fleet.up(2).await.unwrap();
    let added = fleet.add(Plan::default()).await.unwrap();
    assert_eq!(fleet.node(added).name, "node-4");
    all_see_all(&fleet).await;
    fleet.cut(1).await.expect_err("the loopback cannot be cut");
    let pids: Vec<_> = fleet.nodes().iter().map(|node| node.pid().unwrap()).collect();
    fleet.stop().await.unwrap();
    assert!(!dir.exists());
    assert!(pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
}

#[tokio::test]
async fn a_node_that_is_cut_off_is_found_dead_and_heals() {
    if Network::best() == Network::Loopback {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("fleet");
    let fleet = Fleet::start(config(Network::Namespaces, "cut", &dir)).await.unwrap();
    all_see_all(&fleet).await;
    fleet.cut(2).await.unwrap();
    sees(&fleet, 0, Some("node-3")).await;
    fleet.heal(2).await.unwrap();
    all_see_all(&fleet).await;
    // Without a word, as after a panic.
    drop(fleet);
    let left = fs::read_dir("/run/netns").unwrap().filter_map(Result::ok);
    let left: Vec<_> = left.map(|it| it.file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.starts_with("smdemo-cut-")), "{left:?}");
    assert!(!dir.exists());
}
