//! One HTTP/2 connection that calls come in by: how it is bounded, driven, and ended.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use h2::server::{Builder, Connection};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::call::Call;
use crate::config::Config;
use crate::connections::Load;
use crate::metrics::{Count, Counts};

/// How long the other end may take to say that it speaks HTTP/2.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// Of what a broken connection has sent, as much is read before it is closed.
const UNREAD_BYTES: usize = 512;
/// Streams that were reset before a call was made of them: more on one connection end it. gRPC clients cancel
/// often, and rapidly reset streams are an attack (CVE-2023-44487).
const EARLY_RESETS_MAX: usize = 100;

/// What ends a connection.
pub(crate) struct Life {
    /// No further calls; those that run may end.
    pub(crate) drain: CancellationToken,
    /// At once.
    pub(crate) cut: CancellationToken,
    /// Counts the calls.
    pub(crate) load: Arc<Load>,
}

/// Serves calls until the connection ends. Each runs in a task of its own, which ends with the connection.
///
/// # Errors
/// What broke the connection.
pub(crate) async fn serve<T, F>(
    mut stream: T,
    config: &Config,
    counts: &Counts,
    life: &Life,
    on_call: impl FnMut(Call) -> F,
) -> Result<(), h2::Error>
where
    T: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = ()> + Send + 'static,
{
    let ended = drive(&mut stream, config, counts, life, on_call).await;
    if ended.is_err() {
        // What lies unread would make the kernel reset the connection in the place of closing it.
        let _ = stream.read(&mut [0; UNREAD_BYTES]).now_or_never();
    }
    ended
}

async fn drive<T, F>(
    stream: T,
    config: &Config,
    counts: &Counts,
    life: &Life,
    mut on_call: impl FnMut(Call) -> F,
) -> Result<(), h2::Error>
where
    T: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = ()> + Send + 'static,
{
    let shaking = timeout(PREFACE_TIMEOUT, builder(config).handshake(stream));
    let mut connection: Connection<T, Bytes> = tokio::select! {
        made = shaking => made.unwrap_or_else(|_| Err(h2::Reason::SETTINGS_TIMEOUT.into()))?,
        () = life.cut.cancelled() => return Ok(()),
        () = life.drain.cancelled() => return Ok(()),
    };
    let mut calls = JoinSet::new();
    let mut is_draining = false;
    loop {
        tokio::select! {
            incoming = connection.accept() => match incoming {
                None => return Ok(()),
                Some(incoming) => {
                    let (request, respond) = incoming?;
                    let call = on_call(Call::new(request, respond));
                    let held = Held(life.load.enter().then(|| Arc::clone(&life.load)));
                    calls.spawn(async move {
                        let _held = held;
                        call.await;
                    });
                }
            },
            Some(ended) = calls.join_next() => {
                if ended.is_err_and(|err| err.is_panic()) {
                    counts.add(Count::ConnectionPanicked);
                    connection.abrupt_shutdown(h2::Reason::INTERNAL_ERROR);
                    return Ok(());
                }
            }
            () = life.drain.cancelled(), if !is_draining => {
                is_draining = true;
                connection.graceful_shutdown();
            }
            () = life.cut.cancelled() => return Ok(()),
        }
    }
}

/// Counts a call as in flight until it is dropped.
struct Held(Option<Arc<Load>>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(load) = &self.0 {
            load.leave();
        }
    }
}

fn builder(config: &Config) -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(config.window_bytes)
        .initial_connection_window_size(config.connection_window())
        .max_concurrent_streams(config.streams_max)
        .max_header_list_size(config.header_bytes_max)
        .max_send_buffer_size(config.window_bytes as usize)
        .data_frame_budget(config.piece_budget())
        .max_concurrent_reset_streams(config.streams_max as usize)
        .max_pending_accept_reset_streams(EARLY_RESETS_MAX);
    builder
}

#[cfg(test)]
mod tests {
    use http::Request;
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn a_call_that_panics_ends_its_connection_and_is_counted() {
        let (here, there) = duplex(64 << 10);
        let (config, counts) = (Config::default(), Counts::default());
        let load: Arc<Load> = Arc::default();
        let life =
            Life { drain: CancellationToken::new(), cut: CancellationToken::new(), load: Arc::clone(&load) };
        let serving = serve(there, &config, &counts, &life, |_| async { panic!("on purpose") });
        let calling = async {
            let (send, connection) = h2::client::handshake(here).await.expect("a connection");
            let mut calls = JoinSet::new();
            calls.spawn(connection);
            let mut send = send.ready().await.expect("room");
            let (response, _) = send.send_request(Request::new(()), true).expect("a stream");
            response.await.expect_err("no answer");
        };
        let (served, ()) = tokio::join!(serving, calling);
        served.expect("nothing else broke");
        assert_eq!((counts.of(Count::ConnectionPanicked), load.n()), (1, 0));
    }
}
