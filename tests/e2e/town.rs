//! Nodes of one mesh with real links on loopback, each with a member map of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use identity::Members;
use mesh::{ALPN, Config, Count, Event, Events, Handle, Limits, Link, Mesh, Protocol, Stream};
use tls::{Client, Expect, Pq};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use types::PeerId;

use crate::tls::Net;
use crate::world::Node;

/// A protocol that the tests speak.
pub const ECHO: Protocol = Protocol::new("/sagemesh/echo/1");
/// Far more than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub const LIMITS: Limits = Limits { per_peer: 8, total: 16, waiting: 16, wait_max: Duration::from_secs(60) };

/// Waits for a state; fails loudly if it does not come.
pub async fn within<F: Future>(what: &'static str, future: F) -> F::Output {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// All nodes.
pub struct Town {
    pub net: Net,
    maps: Vec<watch::Sender<Arc<Members>>>,
    tasks: JoinSet<()>,
}

/// One running node.
pub struct Running {
    pub node: Arc<Node>,
    pub peer: PeerId,
    pub handle: Handle,
    pub address: SocketAddr,
    pub events: Events,
    pub map: watch::Sender<Arc<Members>>,
    pub stop: CancellationToken,
    /// Cancelled once the node has stopped.
    pub stopped: CancellationToken,
}

pub fn config() -> Config {
    Config {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        retry_min: Duration::from_millis(20),
        retry_max: Duration::from_millis(200),
        ..Config::default()
    }
}

pub fn seeded(other: &Running) -> Config {
    Config { seeds: vec![other.address.to_string()], ..config() }
}

impl Town {
    pub fn new() -> Self {
        Self { net: Net::new(), maps: Vec::new(), tasks: JoinSet::new() }
    }

    pub fn of(net: Net) -> Self {
        Self { net, maps: Vec::new(), tasks: JoinSet::new() }
    }

    /// Makes a member; all that run know of it.
    pub fn admit(&mut self, name: &str) -> Arc<Node> {
        let node = Arc::new(self.net.admit(name, ""));
        self.publish();
        node
    }

    pub fn publish(&self) {
        self.net.publish();
        for map in &self.maps {
            map.send_replace(Arc::new(self.net.mesh.members.clone()));
        }
    }

    pub async fn start(&mut self, name: &str, config: Config) -> Running {
        let node = self.admit(name);
        self.start_node(&node, config).await
    }

    pub async fn start_node(&mut self, node: &Arc<Node>, config: Config) -> Running {
        let map = watch::Sender::new(Arc::new(self.net.mesh.members.clone()));
        let svids = self.net.svids(node, &node.id());
        let (mesh, events) = Mesh::bind(config, svids, map.subscribe()).await.unwrap();
        let (stop, stopped) = (CancellationToken::new(), CancellationToken::new());
        let running = Running {
            node: Arc::clone(node),
            peer: self.net.mesh.record(node).member().peer,
            handle: mesh.handle(),
            address: mesh.local_addr(),
            events,
            map: map.clone(),
            stop: stop.clone(),
            stopped: stopped.clone(),
        };
        self.maps.push(map);
        self.tasks.spawn(async move {
            mesh.run(stop).await;
            stopped.cancel();
        });
        running
    }

    /// A connection of `node` that this test drives by hand, after it was let in.
    pub async fn intrude(&self, node: &Node, at: &Running) -> tokio_rustls::client::TlsStream<TcpStream> {
        let svids = self.net.svids(node, &node.id());
        let client = Client::new(Pq::Require, vec![ALPN.to_vec()], svids, self.net.map.subscribe());
        let stream = TcpStream::connect(at.address).await.unwrap();
        let (mut stream, _) = client.connect(stream, Expect::Peer(at.peer)).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 1, "admitted");
        stream
    }

    /// Has a node answer every stream with what comes in.
    pub fn echoes(&mut self, at: &Running) {
        self.echoes_within(at, LIMITS);
    }

    pub fn echoes_within(&mut self, at: &Running, limits: Limits) {
        let mut incoming = at.handle.accept(ECHO, limits).unwrap();
        self.tasks.spawn(async move {
            let mut streams = JoinSet::new();
            while let Some(stream) = incoming.next().await {
                streams.spawn(async move {
                    let (mut reader, mut writer) = tokio::io::split(stream);
                    let _ = tokio::io::copy(&mut reader, &mut writer).await;
                    let _ = writer.shutdown().await;
                });
            }
        });
    }
}

impl Running {
    pub async fn links_to(&self, other: &Running) -> Arc<Link> {
        self.links_to_peer(other.peer).await
    }

    pub async fn links_to_peer(&self, peer: PeerId) -> Arc<Link> {
        let mut peers = self.handle.peers();
        let found = within("a link", peers.wait_for(|links| links.contains_key(&peer))).await;
        Arc::clone(&found.unwrap()[&peer])
    }

    pub async fn loses(&self, other: &Running) {
        let mut peers = self.handle.peers();
        within("the end of a link", peers.wait_for(|links| !links.contains_key(&other.peer))).await.unwrap();
    }

    /// Waits until something was counted so often.
    pub async fn counts(&self, count: Count, least: u64) {
        let counted = async {
            let mut every = tokio::time::interval(Duration::from_millis(5));
            while self.handle.count(count) < least {
                every.tick().await;
            }
        };
        within(count.metric().1, counted).await;
    }

    /// Waits for an event that `pick` takes.
    pub async fn hears<T>(&mut self, pick: impl Fn(Event) -> Option<T>) -> T {
        let heard = async {
            loop {
                let event = self.events.recv().await.unwrap();
                if let Some(found) = pick(event) {
                    return found;
                }
            }
        };
        within("an event", heard).await
    }

    pub async fn opens(&self, other: &Running) -> Stream {
        within("a stream", self.handle.open(other.peer, ECHO)).await.unwrap()
    }

    pub async fn stops(&self) {
        self.stop.cancel();
        within("a stop", self.stopped.cancelled()).await;
    }
}

/// Sends `bytes` and waits for them to come back.
pub async fn echo(stream: Stream, bytes: &[u8]) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let send = async {
        writer.write_all(bytes).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut back = Vec::new();
    let (_, received) = within("an echo", async { tokio::join!(send, reader.read_to_end(&mut back)) }).await;
    received.unwrap();
    assert!(back == bytes, "{} of {} bytes came back, or others", back.len(), bytes.len());
}
