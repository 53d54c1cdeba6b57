//! The service that is killed: it writes down each call before it answers it, where that survives its end, and sends
//! every message back.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::shape::{EARLY, ID, Shape, next_message, owner};

/// How long calls may take to end when it is told to stop.
const DRAIN: Duration = Duration::from_secs(1);

/// Answers calls until it is told to stop, which ends calls in flight well, or is killed.
pub(crate) async fn run(listen: SocketAddr, journal: &Path) -> anyhow::Result<()> {
    let journal = OpenOptions::new().create(true).append(true).open(journal);
    let journal = Arc::new(journal.context("failed to open the journal")?);
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("failed to listen on {listen}"))?;
    let mut stop = signal(SignalKind::terminate())?;
    let (leave, leaving) = watch::channel(false);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                connections.spawn(connection(stream, Arc::clone(&journal), leaving.clone()));
            }
            Some(_) = connections.join_next() => {}
            _ = stop.recv() => break,
        }
    }
    drop(listener);
    leave.send_replace(true);
    // What takes longer is cut off, as anywhere.
    let _ = timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
    Ok(())
}

/// Serves one connection. How it ends is for the caller to count.
async fn connection(stream: TcpStream, journal: Arc<File>, mut leaving: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut calls = JoinSet::new();
    let mut is_leaving = false;
    loop {
        tokio::select! {
            Some(_) = calls.join_next() => {}
            Ok(()) = leaving.changed(), if !is_leaving => {
                is_leaving = true;
                connection.graceful_shutdown();
            }
            call = connection.accept() => match call {
                Some(Ok((request, respond))) => {
                    calls.spawn(answer(request, respond, Arc::clone(&journal)));
                }
                _ => return,
            },
        }
    }
}

async fn answer(request: Request<RecvStream>, respond: SendResponse<Bytes>, journal: Arc<File>) {
    let id = request.headers().get(ID).and_then(|it| it.to_str().ok()?.parse::<u64>().ok());
    let Some(id) = id else { return };
    // One write: a line that is half there would be of no call.
    if (&*journal).write_all(&id.to_le_bytes()).is_ok() {
        // Whoever asked may have gone.
        let _ = echo(id, request, respond).await;
    }
}

async fn echo(id: u64, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> anyhow::Result<()> {
    let mut head = Response::new(());
    head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut answer = respond.send_response(head, false)?;
    let is_early = request.uri().path() == EARLY;
    let mut body = request.into_body();
    let mut read = BytesMut::new();
    let (mut is_right, mut is_answered) = (true, false);
    while let Some(bytes) = body.data().await {
        let bytes = bytes?;
        body.flow_control().release_capacity(bytes.len())?;
        read.extend_from_slice(&bytes);
        while let Some(message) = next_message(&mut read) {
            is_right &= owner(&message) == Some(id);
            let message = if is_early { Shape::of(id).message(id, 0) } else { message };
            answer.send_data(message, false)?;
            is_answered = true;
        }
        if is_early && is_answered {
            break;
        }
    }
    let mut trailers = HeaderMap::new();
    // DATA_LOSS: a body that is another call's.
    trailers.insert("grpc-status", HeaderValue::from_static(if is_right { "0" } else { "15" }));
    answer.send_trailers(trailers)?;
    Ok(())
}
