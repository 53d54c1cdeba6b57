//! Real listeners of this process, and what is found of them.

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use proto::Message;
use proto::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};

use super::*;

const SOON: Duration = Duration::from_secs(10);

fn own_uid() -> u32 {
    std::fs::metadata("/proc/self").expect("/proc").uid()
}

/// A checker at work.
struct Watch {
    seen: watch::Receiver<Result<(), Refusal>>,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

impl Watch {
    fn start(kind: Kind, backend: SocketAddr) -> Self {
        Self::of(kind, backend, vec![Selector::Uid(own_uid())])
    }

    fn of(kind: Kind, backend: SocketAddr, selectors: Vec<Selector>) -> Self {
        let (interval, timeout) = (Duration::from_millis(100), Duration::from_millis(300));
        let config = Config { kind, interval, timeout, ..Config::default() };
        config.check().expect("within bounds");
        let attestor = Arc::new(Attestor::new().expect("a kernel with tcp_diag"));
        let service = "orders".parse().expect("a name");
        let (checker, seen) = Checker::new(config, backend, selectors, attestor, service);
        assert_eq!(
            seen.borrow().as_ref().expect_err("nothing is known").detail,
            "`orders` is not checked yet"
        );
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(checker.run(shutdown.clone()));
        Self { seen, shutdown, tasks }
    }

    async fn is_well(&mut self) {
        let well = self.seen.wait_for(Result::is_ok);
        timeout(SOON, well).await.expect("in time").expect("it runs");
    }

    /// Waits until the health is refused with words that contain `detail`.
    async fn is_refused(&mut self, reason: Reason, detail: &str) {
        let is_meant = |seen: &Result<(), Refusal>| {
            seen.as_ref().is_err_and(|refusal| refusal.reason == reason && refusal.detail.contains(detail))
        };
        let found = timeout(SOON, self.seen.wait_for(is_meant)).await.map(|found| found.map(drop));
        assert!(matches!(found, Ok(Ok(()))), "{:?} and not {reason}: {detail}", *self.seen.borrow());
    }

    async fn ends(mut self) {
        self.shutdown.cancel();
        let ended = timeout(SOON, self.tasks.join_next()).await.expect("in time");
        ended.expect("a task").expect("no panic");
    }
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

/// How a server answers a health check.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// With a status of grpc.health.v1.
    Says(i32),
    /// With a gRPC status and no message.
    Refuses(&'static str),
    /// With `NOT_FOUND`, but for the service's own name.
    KnowsByName,
    /// With an HTTP status.
    Http(u16),
    /// With a body of this length.
    Babbles(usize),
    /// With a message, and no status after it.
    Stops,
    /// That it serves, and then ends the connection.
    Leaves,
}

/// A server that answers as the way of that moment says.
struct Server {
    address: SocketAddr,
    way: watch::Sender<Way>,
    asked: Arc<AtomicU32>,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn start(way: Way) -> Self {
        let (listener, address) = listener().await;
        let (way, ways) = watch::channel(way);
        let asked = Arc::new(AtomicU32::new(0));
        let mut tasks = JoinSet::new();
        let counter = Arc::clone(&asked);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                connections.spawn(serve(stream, ways.clone(), Arc::clone(&counter)));
            }
        });
        Self { address, way, asked, _tasks: tasks }
    }
}

async fn serve(stream: TcpStream, ways: watch::Receiver<Way>, asked: Arc<AtomicU32>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        asked.fetch_add(1, Ordering::Relaxed);
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        assert_eq!(
            (&request.headers()["te"], &request.headers()["content-type"]),
            (&"trailers".parse().expect("a value"), &"application/grpc".parse().expect("a value"))
        );
        let way = *ways.borrow();
        let answer = answer(request, respond, way);
        // The body of the request comes by way of the connection.
        tokio::select! {
            () = answer => {}
            _ = std::future::poll_fn(|cx| connection.poll_closed(cx)) => return,
        }
        if matches!(way, Way::Leaves) {
            connection.graceful_shutdown();
        }
    }
}

async fn answer(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    way: Way,
) {
    let mut body = request.into_body();
    let data = body.data().await.expect("a message").expect("bytes");
    let asked = HealthCheckRequest::decode(&data[5..]).expect("a request");
    let reply = |code: u16| {
        let response = http::Response::builder().status(code).header("content-type", "application/grpc");
        response.body(()).expect("a response")
    };
    let framed = |status: i32| {
        let message = HealthCheckResponse { status }.encode_to_vec();
        let len = u8::try_from(message.len()).expect("short");
        Bytes::from([&[0, 0, 0, 0, len][..], &message].concat())
    };
    let only_status = |status: &str| {
        let mut reply = reply(200);
        reply.headers_mut().insert("grpc-status", status.parse().expect("a value"));
        reply.headers_mut().insert("grpc-message", "so it is".parse().expect("a value"));
        reply
    };
    let (data, trailers) = match way {
        Way::Refuses(status) => return drop(respond.send_response(only_status(status), true)),
        Way::KnowsByName if asked.service != "orders" => {
            return drop(respond.send_response(only_status("5"), true));
        }
        Way::Http(code) => return drop(respond.send_response(reply(code), true)),
        Way::KnowsByName | Way::Leaves => (framed(1), true),
        Way::Says(status) => (framed(status), true),
        Way::Babbles(len) => (Bytes::from(vec![0; len]), true),
        Way::Stops => (framed(1), false),
    };
    let Ok(mut stream) = respond.send_response(reply(200), false) else { return };
    drop(stream.send_data(data, !trailers));
    if trailers {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().expect("a value"));
        drop(stream.send_trailers(trailers));
    }
}

#[tokio::test]
async fn a_server_that_serves_is_well_and_follows_its_word() {
    let server = Server::start(Way::Says(1)).await;
    let mut watch = Watch::start(Kind::Grpc, server.address);
    watch.is_well().await;
    server.way.send_replace(Way::Says(2));
    watch.is_refused(Reason::ServiceUnhealthy, "its health check says NOT_SERVING").await;
    server.way.send_replace(Way::Says(1));
    watch.is_well().await;
    watch.ends().await;
}

#[tokio::test]
async fn a_server_that_cannot_say_is_well_if_it_answers() {
    for way in [Way::Refuses("12"), Way::Refuses("5"), Way::Http(404), Way::Says(3), Way::KnowsByName] {
        let server = Server::start(way).await;
        let mut watch = Watch::start(Kind::Grpc, server.address);
        watch.is_well().await;
        assert!(server.asked.load(Ordering::Relaxed) >= 2, "{way:?}: for the whole, then by name");
    }
}

#[tokio::test]
async fn what_is_no_answer_is_refused_with_what_was_seen() {
    let cases = [
        (Way::Says(0), "says UNKNOWN"),
        (Way::Says(77), "says UNKNOWN"),
        (Way::Refuses("14"), "gRPC status 14: so it is"),
        (Way::Http(503), "HTTP status 503"),
        (Way::Babbles(3), "no message of grpc.health.v1"),
        (Way::Babbles(1000), "no message of grpc.health.v1"),
        (Way::Babbles(1 << 20), "more than 1024 bytes"),
        (Way::Stops, "without a gRPC status"),
    ];
    for (way, detail) in cases {
        let server = Server::start(way).await;
        Watch::start(Kind::Grpc, server.address).is_refused(Reason::ServiceUnhealthy, detail).await;
    }
}

#[tokio::test]
async fn an_answer_counts_though_the_connection_ends_with_it() {
    let server = Server::start(Way::Leaves).await;
    let mut watch = Watch::start(Kind::Grpc, server.address);
    watch.is_well().await;
    while server.asked.load(Ordering::Relaxed) < 5 {
        tokio::task::yield_now().await;
    }
    assert_eq!(*watch.seen.borrow_and_update(), Ok(()));
}

#[tokio::test]
async fn nobody_who_listens_is_not_well_and_comes_back() {
    let (socket, address) = listener().await;
    drop(socket);
    for kind in [Kind::Grpc, Kind::Tcp, Kind::None] {
        let mut watch = Watch::start(kind, address);
        watch.is_refused(Reason::ServiceUnhealthy, "nobody listens on 127.0.0.1:").await;
    }
    let mut watch = Watch::start(Kind::Tcp, address);
    let socket = TcpListener::bind(address).await.expect("the port again");
    watch.is_well().await;
    drop(socket);
    watch.is_refused(Reason::ServiceUnhealthy, "nobody listens").await;
}

#[tokio::test]
async fn a_server_that_hangs_is_well_to_tcp_only() {
    let (_socket, address) = listener().await;
    Watch::start(Kind::None, address).is_well().await;
    Watch::start(Kind::Tcp, address).is_well().await;
    let mut watch = Watch::start(Kind::Grpc, address);
    watch.is_refused(Reason::ServiceUnhealthy, "did not answer within 300ms").await;
}

#[tokio::test]
async fn a_server_of_another_protocol_is_not_well() {
    let (socket, address) = listener().await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = socket.accept().await.expect("a connection");
            drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await);
        }
    });
    let mut watch = Watch::start(Kind::Grpc, address);
    watch.is_refused(Reason::ServiceUnhealthy, "which is gRPC over HTTP/2 without TLS").await;
}

#[tokio::test]
async fn a_foreign_listener_is_named_with_the_selector_that_would_match() {
    let server = Server::start(Way::Says(1)).await;
    for selectors in [vec![Selector::Uid(own_uid() + 1)], Vec::new()] {
        let mut watch = Watch::of(Kind::Grpc, server.address, selectors);
        let who = format!("belongs to user {}, process {}", own_uid(), std::process::id());
        watch.is_refused(Reason::ListenerForeign, &who).await;
        watch.is_refused(Reason::ListenerForeign, "` would").await;
    }
    assert_eq!(server.asked.load(Ordering::Relaxed), 0, "a foreign process is asked nothing");
}

#[test]
fn rounds_count_and_an_impostor_at_once() {
    let config = Config { rise: 2, fall: 3, ..Config::default() };
    let (bad, foreign) =
        (Err(Reason::ServiceUnhealthy.because("")), Err(Reason::ListenerForeign.because("")));
    let mut streak = Streak::default();
    assert!(streak.holds(&bad, false, &config), "what is unwell may change its words");
    assert!(!streak.holds(&Ok(()), false, &config));
    assert!(streak.holds(&Ok(()), false, &config));
    for _ in 0..3 {
        assert!(!streak.holds(&bad, true, &config));
        assert!(!streak.holds(&bad, true, &config));
        assert!(!streak.holds(&Ok(()), true, &config));
    }
    assert!(streak.holds(&foreign, true, &config));
}

#[test]
fn every_bound_is_kept_and_named() {
    #[track_caller]
    fn check(set: fn(&mut Config), expected: Option<&str>) {
        let mut config = Config::default();
        set(&mut config);
        let found = config.check().err().map(|Error::Bounds { field, .. }| field);
        assert_eq!(found, expected);
    }
    check(|_| {}, None);
    check(|config| config.interval = Duration::ZERO, Some("health.interval"));
    check(|config| config.timeout = Duration::from_secs(31), Some("health.timeout"));
    check(|config| config.rise = 0, Some("health.rise"));
    check(|config| config.fall = 11, Some("health.fall"));
}
