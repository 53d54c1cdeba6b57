//! Proxies of several nodes in one process, and callers beside them.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use attest::Selector;
use bytes::{Bytes, BytesMut};
use data_encoding::BASE64_NOPAD;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, StatusCode};
use proto::Message;
use proto::google::rpc::{ErrorInfo, Status};
use proxy::{Backend, Config, Handle, Local, Protocol, Proxy, Table};
use tls::news::Brought;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use types::{Reason, SpiffeId};

use super::backend::{Service, send};
use crate::tls::Net;
use crate::town::within;
use crate::world::Node;

/// All nodes.
pub struct Street {
    pub net: Net,
    pub tasks: JoinSet<()>,
    endpoints: BTreeMap<types::ServiceName, Vec<route::Endpoint>>,
}

/// One node with its proxy.
pub struct House {
    pub node: Node,
    pub handle: Handle,
    pub outbound: SocketAddr,
    pub inbound: SocketAddr,
    pub tunnels: Vec<SocketAddr>,
    /// What its peers brought along.
    pub brought: mpsc::Receiver<Brought>,
    pub table: watch::Sender<Arc<Table>>,
    pub stop: CancellationToken,
    pub stopped: CancellationToken,
}

pub fn config() -> Config {
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    Config {
        outbound: local,
        inbound: local,
        connect_timeout: Duration::from_secs(2),
        ping_interval: Duration::from_millis(200),
        ping_timeout: Duration::from_millis(800),
        drain_timeout: Duration::from_secs(5),
        ..Config::default()
    }
}

/// What selects this process.
pub fn me() -> Vec<Selector> {
    vec![
        Selector::Uid(std::fs::metadata("/proc/self").unwrap().uid()),
        Selector::Exe(std::env::current_exe().unwrap()),
    ]
}

pub fn grpc(address: SocketAddr) -> Option<Backend> {
    Some(Backend { address, protocol: Protocol::Grpc, health: Ok(()) })
}

impl Street {
    pub fn new() -> Self {
        Self { net: Net::new(), tasks: JoinSet::new(), endpoints: BTreeMap::new() }
    }

    /// Starts a node with one service; `allow` says who may call it.
    pub async fn house(&mut self, name: &str, service: &str, backend: Option<Backend>, allow: &str) -> House {
        self.house_with(name, service, backend, allow, config()).await
    }

    pub async fn house_with(
        &mut self,
        name: &str,
        service: &str,
        backend: Option<Backend>,
        allow: &str,
        config: Config,
    ) -> House {
        let node = self.net.admit(name, "svc/*");
        self.house_of(node, (service, backend, allow), config, None).await
    }

    /// Starts a node that is a member, with one service, perhaps over links.
    pub async fn house_of(
        &mut self,
        node: Node,
        (service, backend, allow): (&str, Option<Backend>, &str),
        config: Config,
        links: Option<proxy::Lent>,
    ) -> House {
        let allow = allow.split_whitespace().map(|rule| rule.parse().unwrap()).collect();
        let selectors = if backend.is_none() { me() } else { Vec::new() };
        let local = Local {
            selectors,
            backend,
            policy: route::Policy { allow },
            svids: Ok(self.net.svids(&node, &node.service(service))),
        };
        let table = Table {
            mesh: node.domain.mesh().clone(),
            node: node.domain.clone(),
            local: BTreeMap::from([(service.parse().unwrap(), local)]),
            endpoints: self.endpoints.clone(),
        };
        let table = watch::Sender::new(Arc::new(table));
        let (news, brought) = tls::news();
        let proxy =
            Proxy::bind(config, table.subscribe(), self.net.map.subscribe(), news, links).await.unwrap();
        let (stop, stopped) = (CancellationToken::new(), CancellationToken::new());
        let house = House {
            handle: proxy.handle(),
            outbound: proxy.outbound_addr(),
            inbound: proxy.inbound_addr(),
            tunnels: proxy.tunnel_addrs().to_vec(),
            brought,
            node,
            table,
            stop: stop.clone(),
            stopped: stopped.clone(),
        };
        self.tasks.spawn(async move {
            proxy.run(stop).await;
            stopped.cancel();
        });
        if house.table.borrow().local.values().any(|local| local.backend.is_some()) {
            self.offer(&house, service, house.inbound);
        }
        house
    }

    /// Says that a node offers a service at an address; houses that start later, or are told, know it.
    pub fn offer(&mut self, house: &House, service: &str, address: SocketAddr) {
        let id = route::EndpointId { node: house.node.domain.clone(), service: service.parse().unwrap() };
        let list = self.endpoints.entry(id.service.clone()).or_default();
        list.retain(|known| known.id != id);
        list.push(route::Endpoint { id, address, is_healthy: true });
    }

    pub fn endpoints(&self) -> BTreeMap<types::ServiceName, Vec<route::Endpoint>> {
        self.endpoints.clone()
    }

    /// Two nodes: `pi`, where this process is `web`, and `nas`, where `echo` is served and `web` may call it.
    pub async fn pair() -> (Self, House, House, Service) {
        let mut street = Self::new();
        let service = Service::start("nas").await;
        let nas = street.house("nas", "echo", grpc(service.address), "svc/web").await;
        let pi = street.house("pi", "web", None, "").await;
        (street, pi, nas, service)
    }
}

impl House {
    pub fn change(&self, change: impl FnOnce(&mut Table)) {
        let mut table = Table::clone(&self.table.borrow());
        change(&mut table);
        self.table.send_replace(Arc::new(table));
    }

    pub async fn client(&self) -> Client {
        Client::over(TcpStream::connect(self.outbound).await.unwrap()).await
    }

    /// A connection to another node's inbound port as a service of this node, past its own proxy.
    pub async fn direct(
        &self,
        net: &Net,
        own: &str,
        to: &SpiffeId,
        at: SocketAddr,
    ) -> Result<Client, tls::Error> {
        let svids = net.svids(&self.node, &self.node.service(own));
        let client = tls::Client::new(tls::Pq::Require, vec![b"h2".to_vec()], svids, net.map.subscribe());
        let stream = TcpStream::connect(at).await.unwrap();
        let (stream, _) = client.connect(stream, tls::Expect::Id(to.clone())).await?;
        Ok(Client::over(stream).await)
    }

    /// Echoes much to a caller that reads nothing: it is sent no more than all windows on the way hold, and others are
    /// answered meanwhile.
    pub async fn is_not_held_up_by_a_slow_reader(&self) {
        let mut client = self.client().await;
        let (response, mut sink) = client.begin(request("echo", "Echo"));
        let piece = Bytes::from(vec![7; 64 << 10]);
        let mut sent = 0;
        while tokio::time::timeout(Duration::from_millis(500), send(&mut sink, piece.clone())).await.is_ok() {
            sent += piece.len();
            assert!(sent < 64 << 20, "somebody buffers without bound");
        }
        client.echo(b"meanwhile").await.is_ok();
        let (_, mut body) = within("headers", response).await.unwrap().into_parts();
        let first = within("the echo", body.data()).await.unwrap().unwrap();
        assert!(first.iter().all(|byte| *byte == 7));
    }

    /// Waits until nothing is in flight any more, by any count: each call was reported, whatever became of it.
    pub async fn settles(&self) {
        let service = "echo".parse().unwrap();
        let settled = async {
            loop {
                let n_routed: u32 = self.handle.explain(&service).iter().map(|view| view.in_flight).sum();
                let n_carried: u32 = self.handle.connections().iter().map(|it| it.in_flight).sum();
                let n_counted: u64 = self.handle.stats().iter().map(|(_, stats)| stats.in_flight).sum();
                if n_routed == 0 && n_carried == 0 && n_counted == 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within("an end of all calls", settled).await;
    }

    pub async fn refuses(&self, reason: Reason, least: u64) {
        let refused = async {
            while self.handle.refused(reason) < least {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within(reason.code(), refused).await;
    }
}

/// A gRPC client, by hand.
pub struct Client {
    send: SendRequest<Bytes>,
    _tasks: JoinSet<()>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub http: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
}

impl Answer {
    fn field(&self, name: &str) -> Option<&str> {
        let found = self.trailers.get(name).or_else(|| self.headers.get(name));
        found.map(|value| value.to_str().unwrap())
    }

    pub fn status(&self) -> Option<u8> {
        self.field("grpc-status").map(|text| text.parse().unwrap())
    }

    pub fn message(&self) -> &str {
        self.field("grpc-message").unwrap_or_default()
    }

    /// The mesh's reason, if it refused.
    pub fn reason(&self) -> Option<Reason> {
        let details = BASE64_NOPAD.decode(self.field("grpc-status-details-bin")?.as_bytes()).unwrap();
        let status = Status::decode(&details[..]).unwrap();
        assert_eq!(i32::from(self.status().unwrap()), status.code);
        let info = ErrorInfo::decode(&status.details[0].value[..]).unwrap();
        assert_eq!(info.domain, "sagemesh");
        Reason::from_code(&info.reason)
    }

    #[track_caller]
    pub fn is_ok(&self) {
        let brief = (&self.headers, &self.trailers);
        assert_eq!((self.http, self.status()), (StatusCode::OK, Some(0)), "{brief:?}");
    }

    #[track_caller]
    pub fn is_refused(&self, reason: Reason) {
        assert_eq!((self.http, self.reason()), (StatusCode::OK, Some(reason)), "{self:?}");
        assert_eq!(self.status(), Some(reason.status() as u8));
    }
}

/// A request as a gRPC client makes it.
pub fn request(authority: &str, method: &str) -> Request<()> {
    Request::post(format!("http://{authority}/t.T/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

/// A message with its prefix; `flag` is 1 if it is compressed.
pub fn message(flag: u8, bytes: &[u8]) -> Bytes {
    let mut message = BytesMut::from(&[flag][..]);
    message.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
    message.extend_from_slice(bytes);
    message.freeze()
}

impl Client {
    pub async fn over<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: T) -> Self {
        let mut builder = h2::client::Builder::new();
        // Patient with small frames, as it may not read them.
        let builder = builder
            .initial_window_size(64 << 10)
            .initial_connection_window_size(4 << 20)
            .data_frame_budget(1 << 30);
        let (send, connection) = builder.handshake(stream).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async {
            let _ = connection.await;
        });
        Self { send, _tasks: tasks }
    }

    pub fn begin(&mut self, request: Request<()>) -> (ResponseFuture, SendStream<Bytes>) {
        self.send.send_request(request, false).unwrap()
    }

    pub fn try_begin(&mut self, request: Request<()>) -> Option<(ResponseFuture, SendStream<Bytes>)> {
        self.send.send_request(request, false).ok()
    }

    /// Sends a request whole, and waits for the whole answer.
    pub async fn ask(&mut self, request: Request<()>, body: Bytes) -> Answer {
        self.try_ask(request, body).await.unwrap()
    }

    pub async fn try_ask(&mut self, request: Request<()>, body: Bytes) -> Result<Answer, h2::Error> {
        let (response, mut sink) = self.begin(request);
        let sending = async {
            if send(&mut sink, body).await.is_some() {
                let _ = sink.send_data(Bytes::new(), true);
            }
        };
        let receiving = async {
            let (head, body) = response.await?.into_parts();
            receive(head, body).await
        };
        within("an answer", async { tokio::join!(sending, receiving) }).await.1
    }

    /// A call of `echo` that echoes.
    pub async fn echo(&mut self, body: &[u8]) -> Answer {
        self.ask(request("echo", "Echo"), message(0, body)).await
    }
}

pub async fn receive(head: http::response::Parts, mut body: RecvStream) -> Result<Answer, h2::Error> {
    let mut all = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        all.extend_from_slice(&piece);
    }
    let trailers = poll_fn(|cx| body.poll_trailers(cx)).await?.unwrap_or_default();
    Ok(Answer { http: head.status, headers: head.headers, body: all.freeze(), trailers })
}

/// A path to a port that can fall silent without closing.
pub struct Path {
    pub address: SocketAddr,
    silent: watch::Sender<bool>,
    cuts: watch::Sender<()>,
    _tasks: JoinSet<()>,
}

impl Path {
    pub async fn to(port: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let silent = watch::Sender::new(false);
        let told = silent.subscribe();
        let cuts = watch::Sender::new(());
        let cut = cuts.subscribe();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut streams = JoinSet::new();
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let mut far = TcpStream::connect(port).await.unwrap();
                let (mut told, mut cut) = (told.clone(), cut.clone());
                cut.mark_unchanged();
                streams.spawn(async move {
                    let is_silent = async {
                        let _ = told.wait_for(|silent| *silent).await;
                    };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        () = is_silent => std::future::pending().await,
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { address, silent, cuts, _tasks: tasks }
    }

    /// Ends what goes over it now.
    pub fn breaks(&self) {
        self.cuts.send_replace(());
    }

    pub fn falls_silent(&self) {
        self.silent.send_replace(true);
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let refused = Reason::ALL.iter().map(|reason| (reason.code(), self.handle.refused(*reason)));
            eprintln!(
                "{} refused {:?}",
                self.node.domain,
                refused.filter(|(_, n)| *n > 0).collect::<Vec<_>>()
            );
            let counted = proxy::Count::ALL.iter().map(|count| (count, self.handle.count(*count)));
            eprintln!("  and counted {:?}", counted.filter(|(_, n)| *n > 0).collect::<Vec<_>>());
        }
    }
}
