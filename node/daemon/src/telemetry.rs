//! What a node tells of itself: logs, `/metrics`, `/healthz`, `/readyz`, and traces.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::Error;
use crate::config::RawTelemetry;
use crate::metrics::Metrics;

/// Most connections at a time: anybody on the machine may connect.
const CONNECTIONS_MAX: usize = 32;
/// How long a request may take to come.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection may take in all; each carries one request.
const CONNECTION_WITHIN: Duration = Duration::from_secs(15);
/// How long answers may take once the node stops.
const STOP_WITHIN: Duration = Duration::from_secs(1);
/// How long nothing is accepted after that failed: it fails again until files are closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What can be set.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where `/metrics`, `/healthz` and `/readyz` are.
    pub listen: SocketAddr,
    /// What is logged.
    pub log: String,
    /// Where traces go.
    pub otlp: Option<String>,
}

impl Config {
    /// Checks what is written; the environment wins.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn new(raw: &RawTelemetry) -> Result<Self, Error> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let log = variable("SAGEMESH_LOG").or_else(|| raw.log.clone()).unwrap_or_else(|| "info".to_owned());
        EnvFilter::try_new(&log).map_err(|err| Error::Invalid {
            field: "telemetry.log".to_owned(),
            detail: format!("{err}; write for example `info` or `info,mesh=debug`"),
        })?;
        Ok(Self {
            listen: raw.listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 7470))),
            log,
            otlp: variable("OTEL_EXPORTER_OTLP_ENDPOINT").or_else(|| raw.otlp.clone()),
        })
    }
}

/// What must be told to stop so that nothing is lost.
#[derive(Debug, Default)]
pub struct Telemetry(Option<SdkTracerProvider>);

/// Starts logs on standard error and, if there is an endpoint for them, traces.
///
/// # Errors
/// If the endpoint is no address.
pub fn start(config: &Config, node: &str) -> anyhow::Result<Telemetry> {
    let filter = EnvFilter::try_new(&config.log).context("failed to understand telemetry.log")?;
    // Spans of calls are for traces: no line of the log stands in one, and to write down their fields costs each call.
    let filter =
        filter.add_directive("proxy::trace=off".parse().context("failed to keep spans out of logs")?);
    let stderr = std::io::stderr;
    let logs = tracing_subscriber::fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal());
    let logs = logs.with_filter(filter);
    let provider = match &config.otlp {
        Some(endpoint) => {
            let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint);
            let exporter = exporter.build().context("failed to set up traces: see telemetry.otlp")?;
            let resource = Resource::builder().with_service_name("sagemesh");
            let resource =
                resource.with_attribute(opentelemetry::KeyValue::new("host.name", node.to_owned()));
            let provider = SdkTracerProvider::builder().with_batch_exporter(exporter);
            Some(provider.with_resource(resource.build()).build())
        }
        None => None,
    };
    let subscriber = tracing_subscriber::registry().with(logs);
    match &provider {
        Some(provider) => {
            // Traces are of calls alone, whatever is logged.
            let calls = Targets::new().with_target("proxy", LevelFilter::INFO);
            let traces = tracing_opentelemetry::layer().with_tracer(provider.tracer("sagemesh"));
            subscriber.with(traces.with_filter(calls)).init();
        }
        // Not a layer that is absent: that one would have all spans made.
        None => subscriber.init(),
    }
    Ok(Telemetry(provider))
}

impl Telemetry {
    /// Sends what waits.
    pub fn stop(self) {
        if let Some(Err(err)) = self.0.map(|provider| provider.shutdown()) {
            tracing::warn!(error = %err, "failed to send the last traces");
        }
    }
}

/// The listener for machines that watch the node, not yet running.
pub struct Server {
    listener: TcpListener,
    state: Shown,
}

#[derive(Clone)]
struct Shown {
    pending: watch::Receiver<BTreeSet<&'static str>>,
    metrics: Metrics,
}

impl Server {
    /// Holds the port.
    ///
    /// # Errors
    /// If it cannot be had.
    pub async fn bind(
        listen: SocketAddr,
        pending: watch::Receiver<BTreeSet<&'static str>>,
        metrics: Metrics,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(listen).await.with_context(|| {
            format!("failed to listen on {listen}: see that no other program does, or set telemetry.listen")
        })?;
        Ok(Self { listener, state: Shown { pending, metrics } })
    }

    /// Its address.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `shutdown`, and then those who asked already.
    ///
    /// # Errors
    /// None: what cannot be accepted is logged.
    pub async fn run(self, shutdown: CancellationToken) -> std::io::Result<()> {
        let routes = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .with_state(self.state);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    // Beyond the bound it is closed at once.
                    Ok((stream, _)) if connections.len() < CONNECTIONS_MAX => {
                        connections.spawn(serve(stream, routes.clone()));
                    }
                    Ok((_, from)) => tracing::debug!(source.address = %from, "shed a connection: too many are open"),
                    Err(err) => {
                        tracing::warn!(error = %err, "failed to accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(self.listener);
        let _ = timeout(STOP_WITHIN, async { while connections.join_next().await.is_some() {} }).await;
        Ok(())
    }
}

/// Answers one request.
async fn serve(stream: TcpStream, routes: Router) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(REQUEST_WITHIN).keep_alive(false);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    match timeout(CONNECTION_WITHIN, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(err)) => tracing::debug!(error = %err, "a connection broke"),
        Err(_) => tracing::debug!("closed a connection that took too long"),
    }
}

async fn ready(State(shown): State<Shown>) -> impl IntoResponse {
    let pending = shown.pending.borrow().clone();
    if pending.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    let rooms: Vec<_> = pending.into_iter().collect();
    (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", rooms.join(", ")))
}

async fn metrics(State(shown): State<Shown>) -> impl IntoResponse {
    match shown.metrics.to_text() {
        Ok(text) => (
            StatusCode::OK,
            [(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
            text,
        ),
        Err(err) => (StatusCode::INTERNAL_SERVER_ERROR, [(CONTENT_TYPE, "text/plain")], err.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn who_connects_and_asks_nothing_keeps_nobody_out_for_long() {
        let (_pending, seen) = watch::channel(BTreeSet::new());
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = Server::bind(any, seen, Metrics::new(Vec::new())).await.expect("a port");
        let address = server.local_addr().expect("an address");
        let (shutdown, mut tasks) = (CancellationToken::new(), JoinSet::new());
        tasks.spawn(server.run(shutdown.clone()));
        let ask = async || {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: here\r\n\r\n").await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.map(|_| answer)
        };
        assert!(ask().await.expect("an answer").ends_with("ready\n"), "and then it is closed");
        let mut held = Vec::new();
        for _ in 0..=CONNECTIONS_MAX {
            held.push(TcpStream::connect(address).await.expect("a connection"));
        }
        let beyond = held.last_mut().expect("one").read(&mut [0]).await;
        assert!(beyond.is_ok_and(|n| n == 0), "closed at once");
        assert!(!ask().await.is_ok_and(|answer| answer.ends_with("ready\n")));
        tokio::time::pause();
        for mut silent in held {
            let _ = silent.read_to_end(&mut Vec::new()).await;
        }
        tokio::time::resume();
        assert!(ask().await.expect("an answer").ends_with("ready\n"));
        shutdown.cancel();
        assert!(tasks.join_next().await.is_some_and(|ended| ended.is_ok()));
    }
}
