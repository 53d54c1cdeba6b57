//! A service that speaks gRPC by hand, so that a test sees every frame.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How many pieces of four bytes `Drip` answers.
pub const DRIPS: u32 = 75_000;

/// How much `Early` answers before the request has ended.
pub const EARLY_BYTES: usize = 200 << 10;

/// The name of a service that fails every call, whatever is said of its health.
pub const LIAR: &str = "liar";

/// What a backend has seen.
#[derive(Default)]
pub struct Seen {
    pub heads: Mutex<Vec<Parts>>,
    /// Told when a call begins.
    pub begun: Notify,
    /// Told when a call that hangs was reset, with its code.
    pub reset: Mutex<Option<h2::Reason>>,
    pub was_reset: Notify,
    /// Bytes that `Pour` could send.
    pub n_poured: AtomicUsize,
    pub n_connections: AtomicUsize,
}

impl Seen {
    pub fn last(&self) -> Parts {
        let heads = self.heads.lock().unwrap();
        heads.last().expect("no call came").clone()
    }

    pub fn n(&self) -> usize {
        self.heads.lock().unwrap().len()
    }
}

/// A running service.
pub struct Service {
    pub address: SocketAddr,
    pub seen: Arc<Seen>,
    pub stop: CancellationToken,
    /// Has it take no more connections; those that it has go on.
    pub shut: CancellationToken,
    _tasks: JoinSet<()>,
}

impl Service {
    pub async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, stop, shut) =
            (Arc::new(Seen::default()), CancellationToken::new(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, name, Arc::clone(&seen), [stop.clone(), shut.clone()]));
        Self { address, seen, stop, shut, _tasks: tasks }
    }
}

async fn accept(
    listener: TcpListener,
    name: &'static str,
    seen: Arc<Seen>,
    [stop, shut]: [CancellationToken; 2],
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = shut.cancelled() => break,
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap();
                seen.n_connections.fetch_add(1, Ordering::Relaxed);
                connections.spawn(connection(stream, name, Arc::clone(&seen)));
            }
        }
    }
    drop(listener);
    stop.cancelled().await;
}

async fn connection(stream: TcpStream, name: &'static str, seen: Arc<Seen>) {
    stream.set_nodelay(true).unwrap();
    let mut builder = h2::server::Builder::new();
    // It bears what the proxy lets by.
    let builder = builder
        .initial_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_pending_accept_reset_streams(1 << 20);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    let mut calls = JoinSet::new();
    let die = CancellationToken::new();
    loop {
        tokio::select! {
            () = die.cancelled() => return,
            _ = calls.join_next(), if !calls.is_empty() => {}
            call = connection.accept() => {
                let Some(Ok((request, respond))) = call else { return };
                calls.spawn(serve(request, respond, name, Arc::clone(&seen), die.clone()));
            }
        }
    }
}

fn head(name: &'static str) -> Response<()> {
    Response::builder()
        .header("content-type", "application/grpc")
        .header("served-by", name)
        .header("sagemesh-refused", "NOT_SERVING")
        .header("sagemesh-server-us", "0")
        .header("reply-bin", "AAEC")
        .body(())
        .unwrap()
}

fn trailers(status: &'static str) -> HeaderMap {
    HeaderMap::from_iter([
        ("grpc-status".parse().unwrap(), HeaderValue::from_static(status)),
        ("trailing-bin".parse().unwrap(), HeaderValue::from_static("//8")),
    ])
}

async fn serve(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    name: &'static str,
    seen: Arc<Seen>,
    die: CancellationToken,
) {
    let (parts, mut body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let encoding = parts.headers.get("grpc-encoding").cloned();
    seen.heads.lock().unwrap().push(parts);
    seen.begun.notify_one();
    match &*path {
        _ if name == LIAR => {
            let mut response = head(name);
            response.headers_mut().insert("grpc-status", HeaderValue::from_static("14"));
            let _ = respond.send_response(response, true);
        }
        "/t.T/Echo" => {
            let mut response = head(name);
            if let Some(encoding) = encoding {
                response.headers_mut().insert("grpc-encoding", encoding);
            }
            let mut sink = respond.send_response(response, false).unwrap();
            while let Some(Ok(piece)) = body.data().await {
                body.flow_control().release_capacity(piece.len()).unwrap();
                if send(&mut sink, piece).await.is_none() {
                    return;
                }
            }
            let _ = sink.send_trailers(trailers("0"));
        }
        "/t.T/Collect" => {
            let mut all = BytesMut::new();
            while let Some(Ok(piece)) = body.data().await {
                body.flow_control().release_capacity(piece.len()).unwrap();
                all.extend_from_slice(&piece);
            }
            let mut sink = respond.send_response(head(name), false).unwrap();
            send(&mut sink, Bytes::from(all.len().to_string())).await.unwrap();
            sink.send_trailers(trailers("0")).unwrap();
        }
        "/t.T/Fail" => {
            // Answers once all of the request is there: an answer that begins before has no time of the server.
            while let Some(Ok(_)) = body.data().await {}
            let mut response = head(name);
            response.headers_mut().insert("grpc-status", HeaderValue::from_static("5"));
            response.headers_mut().insert("grpc-message", HeaderValue::from_static("no%20such"));
            respond.send_response(response, true).unwrap();
        }
        "/t.T/Slow" => {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let mut sink = respond.send_response(head(name), false).unwrap();
            sink.send_trailers(trailers("0")).unwrap();
        }
        "/t.T/Hang" => {
            let reason = poll_fn(|cx| respond.poll_reset(cx)).await;
            *seen.reset.lock().unwrap() = reason.ok();
            seen.was_reset.notify_one();
        }
        "/t.T/Begin" => {
            let mut sink = respond.send_response(head(name), false).unwrap();
            send(&mut sink, Bytes::from_static(b"begun")).await.unwrap();
            let reason = poll_fn(|cx| sink.poll_reset(cx)).await;
            *seen.reset.lock().unwrap() = reason.ok();
            seen.was_reset.notify_one();
        }
        "/t.T/Drip" => {
            let mut sink = respond.send_response(head(name), false).unwrap();
            for n in 0..DRIPS {
                if send(&mut sink, Bytes::copy_from_slice(&n.to_be_bytes())).await.is_none() {
                    return;
                }
            }
            sink.send_trailers(trailers("0")).unwrap();
        }
        "/t.T/Pour" => {
            let mut sink = respond.send_response(head(name), false).unwrap();
            let piece = Bytes::from_static(&[7; 4096]);
            while send(&mut sink, piece.clone()).await.is_some() {
                seen.n_poured.fetch_add(piece.len(), Ordering::Relaxed);
            }
            seen.was_reset.notify_one();
        }
        "/t.T/Early" => {
            let _first = body.data().await;
            let mut sink = respond.send_response(head(name), false).unwrap();
            if send(&mut sink, Bytes::from(vec![7; EARLY_BYTES])).await.is_some() {
                let _ = sink.send_trailers(trailers("0"));
            }
        }
        "/t.T/Reset" => respond.send_reset(h2::Reason::ENHANCE_YOUR_CALM),
        "/t.T/Die" => {
            let mut sink = respond.send_response(head(name), false).unwrap();
            send(&mut sink, Bytes::from_static(b"begun")).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            die.cancel();
            // The stream ends with its connection, not before.
            std::future::pending::<()>().await;
        }
        other => panic!("nobody serves {other}"),
    }
}

/// Sends as the window allows.
pub async fn send(sink: &mut SendStream<Bytes>, mut bytes: Bytes) -> Option<()> {
    while !bytes.is_empty() {
        sink.reserve_capacity(bytes.len());
        while sink.capacity() == 0 {
            poll_fn(|cx| sink.poll_capacity(cx)).await?.ok()?;
        }
        let n = sink.capacity().min(bytes.len());
        sink.send_data(bytes.split_to(n), false).ok()?;
    }
    Some(())
}
