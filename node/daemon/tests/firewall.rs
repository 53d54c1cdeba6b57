//! A node behind a firewall that lets nothing in, as real processes: it is called over the link that it made. As root.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Endpoint};

use daemon::config::RawService;
use daemon::demo::fleet::{Config, Fleet, Network, Output, Plan};
use proto::mesh::v1::mesh_service_client::MeshServiceClient;
use proto::mesh::v1::{GetStatusRequest, ListPeersRequest, Liveness, Peer};
use proto::service::v1::service_service_client::ServiceServiceClient;
use proto::service::v1::{ExplainServiceRequest, Outcome};
use proto::shop::v1::ListRequest;
use proto::shop::v1::catalog_service_client::CatalogServiceClient;

/// How long a state may take to come: the direct way is tried every 30 s.
const PATIENCE: Duration = Duration::from_secs(90);
const BY_MESH: &str = "sagemesh_proxy_connections_by_mesh{} ";
/// Only what belongs to connections from inside comes in.
const SHUT: &str = "add table inet wall
    add chain inet wall input { type filter hook input priority 0; policy drop; }
    add rule inet wall input iifname lo accept
    add rule inet wall input ct state established,related accept";
const OPEN: &str = "delete table inet wall";

/// Two nodes: this process is `web` on the first, and the catalog is on the second, behind the wall.
struct Place {
    fleet: Fleet,
    catalog: CatalogServiceClient<Channel>,
    /// The catalog's process.
    _service: Child,
    _dir: tempfile::TempDir,
}

impl Place {
    async fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = PathBuf::from(env!("CARGO_BIN_EXE_sagemesh"));
        let web = RawService {
            name: "web".to_owned(),
            selectors: vec![format!("exe:{}", std::env::current_exe().unwrap().display())],
            ..RawService::default()
        };
        let catalog = RawService {
            name: "catalog".to_owned(),
            listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            selectors: vec![format!("exe:{}", program.display())],
            allow: vec!["svc/web".to_owned()],
            ..RawService::default()
        };
        let config = Config {
            program: program.clone(),
            nodes: vec![
                Plan { services: vec![web], scope: Vec::new() },
                Plan { services: vec![catalog], scope: vec!["svc/catalog".to_owned()] },
            ],
            prefix: format!("smdemo-{name}"),
            dir: dir.path().join("fleet"),
            network: Network::Namespaces,
            mesh: "wall.mesh".parse().unwrap(),
            links: Vec::new(),
        };
        let mut fleet = Fleet::start(config).await.unwrap();
        fleet.kill(1).await.unwrap();
        nft(&fleet, SHUT);
        fleet.up(1).await.unwrap();
        let listen = fleet.node(1).services[0].listen.unwrap().to_string();
        let service = fleet
            .spawn_in(1, "catalog", &program, &["shop", "catalog", "--listen", &listen], Output::Log)
            .unwrap();
        let socket = fleet.node(0).outbound_socket.clone();
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://catalog").connect_with_connector_lazy(connect);
        Self { fleet, catalog: CatalogServiceClient::new(channel), _service: service, _dir: dir }
    }

    /// Calls until it is answered. How long that call took.
    async fn answers(&mut self) -> Duration {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let begun = Instant::now();
            match self.catalog.list(ListRequest::default()).await {
                Ok(_) => return begun.elapsed(),
                Err(status) => assert!(Instant::now() < deadline, "{status}: {}", self.log(0)),
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// How many connections of a node go over the mesh.
    fn n_by_mesh(&self, idx: usize) -> f64 {
        let ask = "exec 3<>/dev/tcp/127.0.0.1/7470; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
        let namespace = self.fleet.node(idx).namespace.as_deref().unwrap();
        let asked = Command::new("ip").args(["netns", "exec", namespace, "bash", "-c", ask]).output();
        let text = String::from_utf8(asked.unwrap().stdout).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(BY_MESH));
        value.expect("the figure").trim().parse().unwrap()
    }

    async fn warnings(&self) -> String {
        let mut client = MeshServiceClient::new(self.fleet.node(0).channel().unwrap());
        let status = client.get_status(GetStatusRequest {}).await.unwrap().into_inner();
        status.warnings.join("\n")
    }

    /// What `sagemesh why catalog` sees of the last step.
    async fn connection(&self) -> (Outcome, String) {
        let mut client = ServiceServiceClient::new(self.fleet.node(0).channel().unwrap());
        let request = ExplainServiceRequest { name: "catalog".to_owned() };
        let layers = client.explain_service(request).await.unwrap().into_inner().layers;
        let last = layers.last().unwrap();
        (last.outcome(), last.seen.clone())
    }

    async fn is_linked(&self) {
        let mut client = MeshServiceClient::new(self.fleet.node(0).channel().unwrap());
        let deadline = Instant::now() + PATIENCE;
        let is_up = |peer: &Peer| peer.liveness() == Liveness::Alive && peer.linked;
        while !client.list_peers(ListPeersRequest {}).await.unwrap().into_inner().peers.iter().all(is_up) {
            assert!(Instant::now() < deadline, "{}", self.log(0));
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn log(&self, idx: usize) -> String {
        fs::read_to_string(&self.fleet.node(idx).log).unwrap()
    }
}

#[track_caller]
fn nft(fleet: &Fleet, rules: &str) {
    let namespace = fleet.node(1).namespace.as_deref().unwrap();
    for rule in rules.lines() {
        let done =
            Command::new("ip").args(["netns", "exec", namespace, "nft", rule.trim()]).output().unwrap();
        assert!(done.status.success(), "{rule}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

fn is_skipped() -> bool {
    if Network::best() == Network::Loopback {
        eprintln!("skipped: network namespaces need root");
        return true;
    }
    let has_nft = Command::new("nft").arg("--version").output().is_ok();
    if !has_nft {
        eprintln!("skipped: there is no `nft`");
    }
    !has_nft
}

#[tokio::test]
async fn a_node_behind_a_wall_is_called_over_the_link_that_it_made_until_the_wall_is_gone() {
    if is_skipped() {
        return;
    }
    let mut place = Place::new("wall").await;
    place.is_linked().await;
    place.answers().await;
    assert_eq!((place.n_by_mesh(0) > 0.0, place.n_by_mesh(1) > 0.0), (true, true), "{}", place.log(0));
    assert!(place.log(0).contains("reaching a node over the mesh"), "{}", place.log(0));
    let told = place.warnings().await;
    assert!(told.contains("calls to `node-2` go over the mesh") && told.contains("10.78.0.2:7450"), "{told}");
    let (outcome, seen) = place.connection().await;
    assert_eq!(outcome, Outcome::Ok, "{seen}");
    assert!(seen.contains("node-2 at 10.78.0.2:7450 does not answer"), "{seen}");
    assert!(seen.ends_with("is reached over the mesh"), "{seen}");
    // The connection is kept: no call waits for the port again.
    let mut took = Vec::new();
    for _ in 0..20 {
        took.push(place.answers().await);
    }
    took.sort_unstable();
    assert!(took[10] < Duration::from_millis(200), "{took:?}");

    nft(&place.fleet, OPEN);
    let deadline = Instant::now() + PATIENCE;
    while place.n_by_mesh(0) > 0.0 {
        place.answers().await;
        assert!(Instant::now() < deadline, "{}", place.log(0));
        sleep(Duration::from_millis(200)).await;
    }
    let told = place.warnings().await;
    assert!(!told.contains("go over the mesh"), "{told}");
    assert_eq!(place.connection().await.0, Outcome::Ok);
}

#[tokio::test]
async fn a_node_that_says_that_nobody_can_dial_it_is_not_dialled() {
    if is_skipped() {
        return;
    }
    let mut place = Place::new("shy").await;
    place.fleet.kill(1).await.unwrap();
    let path: &Path = &place.fleet.node(1).config;
    let before = fs::read_to_string(path).unwrap();
    let after = before.replace("[proxy]\n", "[proxy]\ndirect = false\n");
    assert_ne!(before, after);
    fs::write(path, after).unwrap();
    place.fleet.up(1).await.unwrap();
    place.is_linked().await;
    place.answers().await;
    assert!(place.n_by_mesh(0) > 0.0, "{}", place.log(0));
    let told = place.warnings().await;
    assert!(!told.contains("go over the mesh"), "it is as its operator wants it: {told}");
    let (outcome, seen) = place.connection().await;
    assert_eq!((outcome, &*seen), (Outcome::Ok, "node-2 names no port, and is reached over the mesh"));
}
