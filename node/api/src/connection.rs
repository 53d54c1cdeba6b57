//! One connection: its calls, and what ends it.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use identity::Members;
use types::{Now, Refusal};

use crate::config::{Config, FIRST_CALL_WITHIN, HEADERS_LEN_MAX};
use crate::gate::Gate;
use crate::metrics::Count;
use crate::origin::Origin;

/// How often a caller is looked at though the map did not change: records end.
const RECHECK_EVERY: Duration = Duration::from_secs(60);
/// Bytes that a caller may send unread, on one call.
const STREAM_WINDOW: u32 = 64 << 10;
/// Bytes that a caller may send unread, on the whole connection.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Bytes that wait to be sent on one call.
const SEND_BUFFER: usize = 256 << 10;

/// Runs the calls of one connection in tasks that end with it.
#[derive(Clone)]
struct Calls {
    tasks: Arc<Mutex<JoinSet<()>>>,
    panicked: CancellationToken,
}

impl<F> Executor<F> for Calls
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, call: F) {
        let alarm = Alarm(self.panicked.clone());
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let _alarm = alarm;
            call.await;
        });
    }
}

/// Tells the connection when the task that holds it panics.
struct Alarm(CancellationToken);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.cancel();
        }
    }
}

/// Serves the calls of `origin` until it goes, no longer holds, makes none, or `stop`; calls that go on then are finished.
pub(crate) async fn serve<S>(stream: S, origin: Origin, gate: Gate, config: &Config, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let counts = Arc::clone(&gate.counts);
    counts.add(Count::Connected);
    let mut members = gate.members.clone();
    let origin = Arc::new(origin);
    let called = CancellationToken::new();
    let calls = Calls { tasks: Arc::default(), panicked: CancellationToken::new() };
    let panicked = calls.panicked.clone();
    let service = {
        let (origin, called) = (Arc::clone(&origin), called.clone());
        service_fn(move |request: Request<Incoming>| {
            called.cancel();
            let (gate, origin) = (gate.clone(), Arc::clone(&origin));
            async move { Ok::<_, Infallible>(gate.call(&origin, request).await) }
        })
    };
    let mut connection = pin!(builder(config, calls).serve_connection(TokioIo::new(stream), service));
    let mut first_call = pin!(sleep(FIRST_CALL_WITHIN));
    let mut is_ending = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(err) = ended {
                    debug!(caller = %origin, error = %err, "a connection broke");
                }
                return;
            }
            () = stop.cancelled(), if !is_ending => {
                is_ending = true;
                connection.as_mut().graceful_shutdown();
            }
            () = first_call.as_mut(), if !called.is_cancelled() => {
                // A call may have come since this began to wait.
                if !called.is_cancelled() {
                    debug!(caller = %origin, "closing a connection without a call");
                    return;
                }
            }
            () = panicked.cancelled() => {
                counts.add(Count::ConnectionPanicked);
                warn!(caller = %origin, "a call panicked: closing its connection");
                return;
            }
            refusal = no_longer_holds(&origin, &mut members) => {
                counts.add(Count::ConnectionCut);
                info!(caller = %origin, reason = %refusal.reason, "closing a connection whose caller no longer holds");
                return;
            }
        }
    }
}

fn builder(config: &Config, calls: Calls) -> http2::Builder<Calls> {
    let mut builder = http2::Builder::new(calls);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.streams_max)
        .max_header_list_size(HEADERS_LEN_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(config.keepalive)
        .keep_alive_timeout(config.keepalive / 2);
    builder
}

/// Waits until the caller would not be let in any more, and says why. Loses nothing when it is dropped.
async fn no_longer_holds(origin: &Origin, members: &mut watch::Receiver<Arc<Members>>) -> Refusal {
    let mut every = interval(RECHECK_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let map = Arc::clone(&members.borrow_and_update());
        if let Err(refusal) = origin.recheck(Now::read(), &map) {
            return refusal;
        }
        drop(map);
        tokio::select! {
            changed = members.changed() => {
                // Whoever owned the map is gone: the node stops.
                if changed.is_err() {
                    return std::future::pending().await;
                }
            }
            _ = every.tick() => {}
        }
    }
}
