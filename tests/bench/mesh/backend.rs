//! The service that is called: each answer takes the same time and names the instance that gave it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use bytes::{BufMut, Bytes, BytesMut};
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How long an answer takes.
const SERVICE_TIME: Duration = Duration::from_millis(5);

/// Answers calls on `listen` as the instance `name`, until the process ends.
pub(crate) async fn run(listen: &[SocketAddr], name: &str) -> anyhow::Result<()> {
    let mut doors = JoinSet::new();
    for address in listen {
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("failed to listen on {address}"))?;
        doors.spawn(accept(listener, name.to_owned()));
    }
    doors.join_next().await.context("a service listens somewhere")?.context("a listener ended")
}

async fn accept(listener: TcpListener, name: String) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                connections.spawn(connection(stream, name.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves one connection. How it ends is for the caller to count.
async fn connection(stream: TcpStream, name: String) {
    let _ = stream.set_nodelay(true);
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = calls.join_next() => {}
            call = connection.accept() => match call {
                Some(Ok((request, respond))) => {
                    calls.spawn(answer(request, respond, name.clone()));
                }
                _ => return,
            },
        }
    }
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, name: String) {
    let mut body = request.into_body();
    while let Some(Ok(bytes)) = body.data().await {
        let _ = body.flow_control().release_capacity(bytes.len());
    }
    sleep(SERVICE_TIME).await;
    let mut head = Response::new(());
    head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    // Whoever asked may have gone.
    if let Ok(mut stream) = respond.send_response(head, false) {
        let _ = stream.send_data(message(name.as_bytes()), false);
        let _ = stream.send_trailers(trailers);
    }
}

/// A gRPC message: a flag, its length, its bytes (grpc/doc/PROTOCOL-HTTP2.md).
pub(crate) fn message(bytes: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(5 + bytes.len());
    message.put_u8(0);
    message.put_u32(u32::try_from(bytes.len()).unwrap_or_default());
    message.put_slice(bytes);
    message.freeze()
}
