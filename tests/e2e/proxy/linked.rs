//! Calls to a node whose port cannot be reached: they go over the mesh link that it made.

mod refusals;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use daemon::tunnels::Tunnels;
use mesh::Mesh;
use proxy::{Count, Way};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use types::{PeerId, Reason};

use super::backend::{DRIPS, Service, send};
use super::street::{self, House, Path, Street, grpc, message, receive, request};
use crate::town::{self, within};
use crate::world::Node;

/// How many streams a link of these tests may have.
const STREAMS_MAX: u16 = 16;

/// A node's links.
struct Linked {
    handle: mesh::Handle,
    peer: PeerId,
    address: SocketAddr,
}

impl Linked {
    async fn start(street: &mut Street, node: &Node, seed: Option<SocketAddr>) -> Self {
        let seeds = seed.iter().map(ToString::to_string).collect();
        let config = mesh::Config { seeds, peer_streams_max: STREAMS_MAX, mdns: false, ..town::config() };
        let svids = street.net.svids(node, &node.id());
        let (mesh, mut events) = Mesh::bind(config, svids, street.net.map.subscribe()).await.unwrap();
        let peer = street.net.mesh.record(node).member().peer;
        let linked = Self { handle: mesh.handle(), peer, address: mesh.local_addr() };
        street.tasks.spawn(mesh.run(CancellationToken::new()));
        street.tasks.spawn(async move { while events.recv().await.is_some() {} });
        linked
    }

    fn lend(&self, street: &Street) -> proxy::Lent {
        Tunnels::new(self.handle.clone(), street.net.map.subscribe()).lend(STREAMS_MAX).unwrap()
    }

    async fn links_to(&self, other: &Self) {
        let mut peers = self.handle.peers();
        within("a link", peers.wait_for(|links| links.contains_key(&other.peer))).await.unwrap();
    }

    async fn loses(&self, other: &Self) {
        let mut peers = self.handle.peers();
        within("the end of a link", peers.wait_for(|links| !links.contains_key(&other.peer))).await.unwrap();
    }
}

/// `nas`, where `echo` is served, has linked up with `pi`, where this process is `web` and calls it. Its port is
/// where the endpoint says it is only if a test says so.
struct World {
    street: Street,
    pi: House,
    nas: House,
    service: Service,
    /// Links of `pi` and of `nas`.
    links: [Linked; 2],
    /// Between the links' ends.
    path: Path,
}

fn config() -> proxy::Config {
    proxy::Config { direct_retry: Duration::from_millis(100), ..street::config() }
}

/// A port that refuses.
async fn shut_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Has a port lead to another from now on.
async fn opens(port: SocketAddr, to: SocketAddr) -> JoinSet<()> {
    let opened = TcpListener::bind(port).await.unwrap();
    let mut paths = JoinSet::new();
    paths.spawn(async move {
        let mut streams = JoinSet::new();
        loop {
            let (mut near, _) = opened.accept().await.unwrap();
            let mut far = TcpStream::connect(to).await.unwrap();
            streams.spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    paths
}

impl World {
    async fn new(port: SocketAddr) -> Self {
        let service = Service::start("nas").await;
        Self::with(port, grpc(service.address), config(), service).await
    }

    async fn with(
        port: SocketAddr,
        backend: Option<proxy::Backend>,
        near: proxy::Config,
        service: Service,
    ) -> Self {
        let mut street = Street::new();
        let (pi, nas) = (street.net.admit("pi", "svc/*"), street.net.admit("nas", "svc/*"));
        let pi_links = Linked::start(&mut street, &pi, None).await;
        let path = Path::to(pi_links.address).await;
        let nas_links = Linked::start(&mut street, &nas, Some(path.address)).await;
        let (lent, lent_there) = (pi_links.lend(&street), nas_links.lend(&street));
        let echo = if near.tunnels.is_empty() { "echo" } else { "db" };
        let nas = street.house_of(nas, (echo, backend, "svc/web"), config(), Some(lent_there)).await;
        street.offer(&nas, echo, port);
        let pi = street.house_of(pi, ("web", None, ""), near, Some(lent)).await;
        pi_links.links_to(&nas_links).await;
        nas_links.links_to(&pi_links).await;
        Self { street, pi, nas, service, links: [pi_links, nas_links], path }
    }

    #[track_caller]
    fn goes(&self, way: Way) {
        let (made, taken) = (self.pi.handle.connections(), self.nas.handle.connections());
        assert!(!made.is_empty() && made.iter().all(|it| it.way == way), "{made:?}");
        assert!(taken.iter().all(|it| it.way == way), "{taken:?}");
    }
}

#[tokio::test]
async fn a_node_whose_port_is_shut_is_called_over_the_link_that_it_made() {
    let port = shut_port().await;
    let world = World::new(port).await;
    let World { pi, nas, service, links, .. } = &world;
    let mut client = pi.client().await;
    for _ in 0..3 {
        let answer = client.echo(b"hello").await;
        answer.is_ok();
        assert_eq!(answer.body, message(0, b"hello"));
    }
    world.goes(Way::Mesh);
    let (made, taken) = (pi.handle.connections(), nas.handle.connections());
    assert_eq!((made.len(), taken.len()), (1, 1), "one connection carries all");
    assert_eq!((&made[0].caller, &made[0].target), (&pi.node.service("web"), &nas.node.service("echo")));
    assert_eq!((made[0].group, made[0].signature), ("X25519MLKEM768", "ML_DSA_65"));
    // Each end names where its link leads, and neither the port that was not reached.
    let link = |at: usize, to: usize| links[at].handle.link(&links[to].peer).unwrap().address;
    assert_eq!((made[0].address, taken[0].address), (link(0, 1), link(1, 0)));
    let cert = format!("By={};URI={}", nas.node.service("echo"), pi.node.service("web"));
    assert_eq!(service.seen.last().headers["x-forwarded-client-cert"], cert);
    assert_eq!((pi.handle.count(Count::UpstreamByMesh), nas.handle.count(Count::InboundByMesh)), (1, 1));
    assert_eq!(pi.handle.detours(), [(nas.node.domain.clone(), port)]);
    let [(_, stats)] = &pi.handle.stats()[..] else { panic!("one edge") };
    assert_eq!((stats.by_status[0], stats.lost), (3, 0));
    let view = &pi.handle.explain(&"echo".parse().unwrap())[0];
    assert_eq!(view.state, route::State::Ready);
    pi.settles().await;
}

#[tokio::test]
async fn a_call_waits_for_a_port_that_swallows_all_once_and_briefly() {
    // A queue of one that is full.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let hole = socket.listen(1).unwrap();
    let port = hole.local_addr().unwrap();
    let mut fillers = Vec::new();
    while let Ok(filler) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(port)).await {
        fillers.push(filler.unwrap());
    }
    let world = World::new(port).await;
    let begun = Instant::now();
    world.pi.client().await.echo(b"").await.is_ok();
    let first = begun.elapsed();
    assert!(first >= Duration::from_millis(200) && first < config().connect_timeout, "{first:?}");
    // New certificates, and so a new connection, which goes over the link at once.
    let (pi, street) = (&world.pi, &world.street);
    pi.change(|table| {
        let web = table.local.values_mut().next().unwrap();
        web.svids = Ok(street.net.svids(&pi.node, &pi.node.service("web")));
    });
    let begun = Instant::now();
    pi.client().await.echo(b"").await.is_ok();
    assert_eq!(pi.handle.count(Count::UpstreamByMesh), 2);
    assert!(begun.elapsed() < first, "{:?} after {first:?}", begun.elapsed());
    drop(fillers);
}

#[tokio::test]
async fn a_stranger_at_the_port_is_no_obstacle() {
    // Behind NAT the address that a node names is often somebody else's here.
    let stranger = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut world = World::new(stranger.local_addr().unwrap()).await;
    world.street.tasks.spawn(async move {
        loop {
            let (mut stream, _) = stranger.accept().await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    world.pi.client().await.echo(b"").await.is_ok();
    world.goes(Way::Mesh);
}

#[tokio::test]
async fn a_node_that_names_no_port_is_called_over_its_link_at_once() {
    let world = World::new("127.0.0.1:0".parse().unwrap()).await;
    world.pi.client().await.echo(b"").await.is_ok();
    world.goes(Way::Mesh);
    assert_eq!(world.pi.handle.detours(), [], "there is no port to go back to");
    // Without the link there is no way.
    world.path.breaks();
    drop(world.path);
    world.links[0].loses(&world.links[1]).await;
    let answer = world.pi.client().await.echo(b"").await;
    answer.is_refused(Reason::EndpointUnreachable);
    assert!(answer.message().contains("no mesh link to `nas`: see `sagemesh peers`"), "{answer:?}");
}

#[tokio::test]
async fn bodies_of_any_size_pass_over_a_link_both_ways_and_side_by_side() {
    let world = World::new(shut_port().await).await;
    let (mut one, mut two) = (world.pi.client().await, world.pi.client().await);
    let big = message(0, &(0..4_u32 << 20).flat_map(u32::to_be_bytes).collect::<Vec<_>>());
    let small = async {
        for _ in 0..20 {
            two.echo(b"small").await.is_ok();
        }
    };
    let (answer, ()) = tokio::join!(one.ask(request("echo", "Echo"), big.clone()), small);
    answer.is_ok();
    assert!(answer.body == big);
    let dripped = two.ask(request("echo", "Drip"), Bytes::new()).await;
    dripped.is_ok();
    assert_eq!(dripped.body.len(), DRIPS as usize * 4);
    world.goes(Way::Mesh);
    world.pi.settles().await;
    world.nas.settles().await;
}

#[tokio::test]
async fn a_slow_reader_over_a_link_holds_no_more_than_its_window() {
    let world = World::new(shut_port().await).await;
    world.pi.is_not_held_up_by_a_slow_reader().await;
}

#[tokio::test]
async fn a_link_that_breaks_loses_its_calls_and_the_next_one_carries_more() {
    let world = World::new(shut_port().await).await;
    let World { pi, nas, service, links, path, .. } = &world;
    let mut client = pi.client().await;
    client.echo(b"").await.is_ok();
    let (response, mut sink) = client.begin(request("echo", "Begin"));
    send(&mut sink, message(0, b"")).await.unwrap();
    let (head, mut body) = within("headers", response).await.unwrap().into_parts();
    let begun = within("the beginning", body.data()).await.unwrap().unwrap();
    body.flow_control().release_capacity(begun.len()).unwrap();
    path.breaks();
    within("an end", receive(head, body)).await.unwrap().is_refused(Reason::CallLost);
    within("a reset", service.seen.was_reset.notified()).await;
    links[0].links_to(&links[1]).await;
    let answered = async {
        // Until the link is there again nothing leads to the node.
        while client.echo(b"again").await.status() != Some(0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("an answer", answered).await;
    world.goes(Way::Mesh);
    pi.settles().await;
    nas.settles().await;
}

#[tokio::test]
async fn a_link_that_falls_silent_loses_its_calls_soon() {
    let world = World::new(shut_port().await).await;
    let mut client = world.pi.client().await;
    client.echo(b"").await.is_ok();
    let (response, mut sink) = client.begin(request("echo", "Begin"));
    send(&mut sink, message(0, b"")).await.unwrap();
    let (head, body) = within("headers", response).await.unwrap().into_parts();
    world.path.falls_silent();
    let begun = Instant::now();
    within("an end", receive(head, body)).await.unwrap().is_refused(Reason::CallLost);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(world.pi.handle.count(Count::UpstreamSilent), 1);
}

#[tokio::test]
async fn calls_go_to_an_endpoint_that_is_reached_when_the_link_to_another_is_gone() {
    let mut world = World::new(shut_port().await).await;
    let other = Service::start("tv").await;
    let tv = world.street.house("tv", "echo", grpc(other.address), "svc/web").await;
    let endpoints = world.street.endpoints();
    world.pi.change(|table| table.endpoints = endpoints);
    let mut client = world.pi.client().await;
    within("calls at both", async {
        while world.service.seen.n() == 0 || other.seen.n() == 0 {
            client.echo(b"").await.is_ok();
        }
    })
    .await;
    world.path.breaks();
    drop(world.path);
    world.links[0].loses(&world.links[1]).await;
    for _ in 0..20 {
        let answer = client.echo(b"").await;
        answer.is_ok();
        assert_eq!(answer.headers["served-by"], "tv");
    }
    drop(tv);
}

#[tokio::test]
async fn the_direct_way_is_taken_again_once_it_is_open() {
    let port = shut_port().await;
    let world = World::new(port).await;
    let World { pi, nas, .. } = &world;
    let mut client = pi.client().await;
    client.echo(b"").await.is_ok();
    world.goes(Way::Mesh);
    // One that was begun before goes on where it is.
    let (response, mut sink) = client.begin(request("echo", "Echo"));
    send(&mut sink, message(0, b"old")).await.unwrap();
    let (head, body) = within("headers", response).await.unwrap().into_parts();
    let _opened = opens(port, nas.inbound).await;
    within("the direct way", async {
        while !pi.handle.detours().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    client.echo(b"new").await.is_ok();
    let ways: Vec<_> = pi.handle.connections().iter().map(|it| it.way).collect();
    assert!(ways.contains(&Way::Direct) && ways.contains(&Way::Mesh), "{ways:?}");
    sink.send_data(message(0, b"still"), true).unwrap();
    within("an end", receive(head, body)).await.unwrap().is_ok();
    within("the end of the old connection", async {
        while pi.handle.connections().iter().any(|it| it.way == Way::Mesh) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_port_is_dialled_again_when_the_link_is_gone() {
    let port = shut_port().await;
    let service = Service::start("nas").await;
    // Nobody looks whether the port is open but who needs it.
    let near = proxy::Config { direct_retry: Duration::from_secs(3600), ..config() };
    let world = World::with(port, grpc(service.address), near, service).await;
    let mut client = world.pi.client().await;
    client.echo(b"").await.is_ok();
    world.goes(Way::Mesh);
    let _opened = opens(port, world.nas.inbound).await;
    world.path.breaks();
    drop(world.path);
    world.links[0].loses(&world.links[1]).await;
    let answered = async {
        while client.echo(b"again").await.status() != Some(0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("an answer", answered).await;
    assert!(world.pi.handle.connections().iter().all(|it| it.way == Way::Direct));
    assert_eq!(world.pi.handle.detours(), []);
}

#[tokio::test]
async fn a_service_of_bytes_is_reached_over_a_link_half_closed_ends_included() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let backend = proxy::Backend { address, protocol: proxy::Protocol::Tcp, health: Ok(()) };
    let tunnel = proxy::Tunnel { listen: "127.0.0.1:0".parse().unwrap(), service: "db".parse().unwrap() };
    let near = proxy::Config { tunnels: vec![tunnel], ..config() };
    let mut world = World::with(shut_port().await, Some(backend), near, Service::start("nobody").await).await;
    world.street.tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        all.reverse();
        stream.write_all(&all).await.unwrap();
    });
    let mut stream = TcpStream::connect(world.pi.tunnels[0]).await.unwrap();
    let big: Vec<u8> = (0..1_u32 << 20).flat_map(u32::to_be_bytes).collect();
    let mut back = Vec::new();
    let spoken = async {
        stream.write_all(&big).await.unwrap();
        stream.shutdown().await.unwrap();
        stream.read_to_end(&mut back).await.unwrap();
    };
    within("an answer", spoken).await;
    assert!(back.iter().rev().eq(&big), "{} bytes came back", back.len());
    assert_eq!(world.nas.handle.count(Count::InboundByMesh), 1);
}
