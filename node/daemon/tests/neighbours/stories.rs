//! What neighbours find out, and what they cannot make a node do.

use daemon::demo::fleet::Network;
use proto::mesh::v1::mesh_service_client::MeshServiceClient;
use proto::mesh::v1::{ListPeersRequest, Peer};

use crate::lan::{Lan, Mdns, nothing_is_left_of};

const FOUND: &str = "sagemesh_mesh_mdns_total{}";
const FOREIGN: &str = "sagemesh_mesh_mdns_total{error_type=\"foreign\"}";
const SHED: &str = "sagemesh_mesh_mdns_total{error_type=\"shed\"}";
const REFUSED: &str = "sagemesh_mesh_links_total{error_type=\"refused\"}";
const FAILED: &str = "sagemesh_mesh_links_total{error_type=\"failed\"}";
const LIAR: &str = "10.78.0.201";
const PEERS: &str = "sagemesh_mesh_peers{}";
const INTERFACES: &str = "sagemesh_mesh_mdns_interfaces{}";

fn is_skipped() -> bool {
    let is_skipped = Network::best() == Network::Loopback;
    if is_skipped {
        eprintln!("skipped: network namespaces need root");
    }
    is_skipped
}

async fn peer_id(lan: &Lan, of: &str) -> String {
    let mut client = MeshServiceClient::new(lan.0.node(0).channel().unwrap());
    let peers = client.list_peers(ListPeersRequest {}).await.unwrap().into_inner().peers;
    let found: Option<Peer> = peers.into_iter().find(|peer| peer.node == of);
    found.unwrap().id
}

#[tokio::test]
async fn nodes_that_have_all_moved_find_each_other_and_nobody_else() {
    if is_skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut home = Lan::found("home", "home.mesh", 3, dir.path()).await;
    let mut other = Lan::found("other", "other.mesh", 1, dir.path()).await;
    for (idx, address) in ["10.78.0.101", "10.78.0.102", "10.78.0.103"].into_iter().enumerate() {
        home.moves(idx, address).await;
    }
    home.sets(2, Mdns::Off);
    other.moves(0, LIAR).await;
    home.meets(&other);
    other.0.up(0).await.unwrap();
    for idx in 0..3 {
        home.0.begin(idx).unwrap();
    }
    for idx in 0..2 {
        home.sees_others(idx, 1).await;
    }
    // The other mesh was heard and left alone, and the node without mDNS is found by nobody.
    home.counts(0, FOREIGN, 1.0).await;
    home.counts(2, PEERS, 2.0).await;
    assert_eq!((other.figure(0, REFUSED), other.figure(0, FAILED)), (0.0, 0.0), "{}", other.log(0));
    assert!(!home.log(0).contains(LIAR), "{}", home.log(0));
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
    other.lies(0, LIAR, &victim).await;
    home.counts(0, SHED, 100.0).await;
    let taken = home.figure(0, FOUND) - before;
    // Four addresses of the one that is away, and one each of eight strangers; twice if the window has passed.
    assert!(taken <= 2.0 * (4.0 + 8.0), "{taken} addresses were taken\n{}", home.log(0));
    assert_eq!(home.n_linked(0).await, 1, "{}", home.log(0));

    home.0.stop().await.unwrap();
    drop(other);
    nothing_is_left_of(&["home", "other"]);
}

#[tokio::test]
async fn a_network_without_ipv4_will_do() {
    if is_skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut lan = Lan::found("v6", "six.mesh", 2, dir.path()).await;
    for (idx, address) in ["fd78::101", "fd78::102"].into_iter().enumerate() {
        lan.moves(idx, address).await;
    }
    for idx in 0..2 {
        lan.0.begin(idx).unwrap();
    }
    for idx in 0..2 {
        lan.sees_others(idx, 1).await;
    }
    lan.0.stop().await.unwrap();
    nothing_is_left_of(&["v6"]);
}

#[tokio::test]
async fn a_node_whose_port_is_taken_says_so_and_runs_without() {
    if is_skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut lan = Lan::found("taken", "taken.mesh", 1, dir.path()).await;
    lan.0.kill(0).await.unwrap();
    let holds = "import socket, time; it = socket.socket(type=socket.SOCK_DGRAM); it.bind(('', 5353)); time.sleep(99)";
    let mut holder = lan.runs(0, "holder", &["-c", holds]);
    lan.holds_port(0).await;
    lan.0.up(0).await.unwrap();
    assert_eq!(lan.figure(0, INTERFACES), 0.0, "{}", lan.log(0));
    let told = "another program keeps UDP port 5353 for itself: stop it, or set mesh.mdns = false";
    assert_eq!(lan.log(0).matches(told).count(), 1, "{}", lan.log(0));
    // It is tried again.
    holder.kill().await.unwrap();
    lan.counts(0, INTERFACES, 1.0).await;
    lan.0.stop().await.unwrap();
    nothing_is_left_of(&["taken"]);
}
