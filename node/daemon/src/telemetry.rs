//! What a node tells of itself: logs, `/metrics`, `/healthz`, `/readyz`, and traces.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::Error;
use crate::config::RawTelemetry;
use crate::metrics::Metrics;

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
    let stderr = std::io::stderr;
    let logs = tracing_subscriber::fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal());
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
    let traces =
        provider.as_ref().map(|it| tracing_opentelemetry::layer().with_tracer(it.tracer("sagemesh")));
    tracing_subscriber::registry().with(filter).with(logs).with(traces).init();
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

    /// Answers until `shutdown`.
    ///
    /// # Errors
    /// What the system says.
    pub async fn run(self, shutdown: CancellationToken) -> std::io::Result<()> {
        let routes = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .with_state(self.state);
        axum::serve(self.listener, routes).with_graceful_shutdown(shutdown.cancelled_owned()).await
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
