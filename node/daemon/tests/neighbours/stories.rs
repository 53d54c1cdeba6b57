//! What neighbours find out, and what they cannot make a node do.

use std::fs;

use daemon::demo::fleet::Network;
use proto::mesh::v1::mesh_service_client::MeshServiceClient;
use proto::mesh::v1::{ListPeersRequest, Peer};

use crate::lan::{Lan, Mdns};

const FOUND: &str = "sagemesh_mesh_mdns_total{}";
const FOREIGN: &str = "sagemesh_mesh_mdns_total{error_type=\"foreign\"}";
const SHED: &str = "sagemesh_mesh_mdns_total{error_type=\"shed\"}";
const REFUSED: &str = "sagemesh_mesh_links_total{error_type=\"refused\"}";
const FAILED: &str = "sagemesh_mesh_links_total{error_type=\"failed\"}";
const PEERS: &str = "sagemesh_mesh_peers{}";
const INTERFACES: &str = "sagemesh_mesh_mdns_interfaces{}";

async fn peer_id(lan: &Lan, of: &str) -> String {
    let mut client = MeshServiceClient::new(lan.0.node(0).channel().unwrap());
    let peers = client.list_peers(ListPeersRequest {}).await.unwrap().into_inner().peers;
    let found: Option<Peer> = peers.into_iter().find(|peer| peer.node == of);
    found.unwrap().id
}

#[tokio::test]
async fn nodes_that_have_all_moved_find_each_other_and_nobody_else() {
    if Network::best() == Network::Loopback {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut home = Lan::found("home", "home.mesh", 3, dir.path()).await;
    let mut other = Lan::found("other", "other.mesh", 1, dir.path()).await;
    for (idx, host) in [(0, 101), (1, 102), (2, 103)] {
        home.moves(idx, host).await;
    }
    home.sets(2, Mdns::Off);
    other.moves(0, 201).await;
    home.meets(&other);
    other.0.up(0).await.unwrap();
    for idx in 0..3 {
        home.0.begin(idx).unwrap();
    }
    for idx in 0..2 {
        home.sees_others(idx, 1).await;
    }
    // The other mesh was heard and left alone, and the node without mDNS is found by nobody.
    other.0.kill(0).await.unwrap();
    other.0.up(0).await.unwrap();
    home.counts(0, FOREIGN, 1.0).await;
    home.counts(2, PEERS, 2.0).await;
    assert_eq!((other.figure(0, REFUSED), other.figure(0, FAILED)), (0.0, 0.0), "{}", other.log(0));
    assert_eq!((home.n_linked(0).await, home.n_linked(2).await), (1, 0));
    assert_eq!((home.figure(0, INTERFACES), home.figure(2, INTERFACES)), (1.0, 0.0));
    // That was all that it lacked.
    home.0.kill(2).await.unwrap();
    home.sets(2, Mdns::On);
    home.0.up(2).await.unwrap();
    for idx in 0..3 {
        home.sees_others(idx, 2).await;
    }

    let victim = peer_id(&home, "node-3").await;
    home.0.kill(2).await.unwrap();
    let before = home.figure(0, FOUND);
    other.lies(0, 201, &victim).await;
    home.counts(0, SHED, 100.0).await;
    let taken = home.figure(0, FOUND) - before;
    // Four addresses of the one that is away, and one each of eight strangers; twice if the window has passed.
    assert!(taken <= 2.0 * (4.0 + 8.0), "{taken} addresses were taken\n{}", home.log(0));
    assert_eq!(home.n_linked(0).await, 1, "{}", home.log(0));

    home.0.stop().await.unwrap();
    drop(other);
    let left = fs::read_dir("/run/netns").unwrap().filter_map(Result::ok);
    let left: Vec<_> = left.map(|it| it.file_name().into_string().unwrap()).collect();
    let is_ours = |name: &String| name.starts_with("smdemo-home-") || name.starts_with("smdemo-other-");
    assert!(!left.iter().any(is_ours), "{left:?}");
}
