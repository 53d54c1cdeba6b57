//! Commands about services: what is offered, by whom, and why it fails.

use std::net::SocketAddr;

use anyhow::bail;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use proto::service::v1::{
    AddServiceRequest, Declaration, ExplainServiceRequest, Health, HealthCheck as WireHealthCheck, Layer,
    ListServicesRequest, Outcome, Protocol as WireProtocol, RemoveServiceRequest, Service, Source,
};
use types::ServiceName;

use super::client::{Node, failure};
use super::output::{Output, table, text_json};

/// What a service speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// gRPC
    Grpc,
    /// Bytes that nobody looks into
    Tcp,
}

/// How a service's health is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HealthCheck {
    /// By grpc.health.v1
    Grpc,
    /// By connecting
    Tcp,
    /// Not at all
    None,
}

/// A service of this node.
#[derive(Args, Debug)]
pub(crate) struct Added {
    /// The service's name
    name: ServiceName,
    /// Where it listens on this node; without, it only calls others
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// What it speaks
    #[arg(long, value_enum, default_value_t = Protocol::Grpc)]
    protocol: Protocol,
    /// How its health is told [default: as it speaks]
    #[arg(long, value_enum)]
    health: Option<HealthCheck>,
    /// Which processes are the service, such as `uid:1000`; may be given again
    #[arg(long = "selector", value_name = "SELECTOR")]
    selectors: Vec<String>,
    /// Who may call it, such as `svc/web`; may be given again
    #[arg(long, value_name = "CALLER")]
    allow: Vec<String>,
}

/// `service add`
pub(super) async fn add(node: &Node, added: &Added, output: Output) -> anyhow::Result<()> {
    let protocol = match added.protocol {
        Protocol::Grpc => WireProtocol::Grpc,
        Protocol::Tcp => WireProtocol::Tcp,
    };
    let health = match added.health {
        None => WireHealthCheck::Unspecified,
        Some(HealthCheck::Grpc) => WireHealthCheck::Grpc,
        Some(HealthCheck::Tcp) => WireHealthCheck::Tcp,
        Some(HealthCheck::None) => WireHealthCheck::None,
    };
    let service = Declaration {
        name: added.name.to_string(),
        listen: added.listen.map(|at| at.to_string()).unwrap_or_default(),
        protocol: protocol.into(),
        health: health.into(),
        selectors: added.selectors.clone(),
        allow: added.allow.clone(),
    };
    node.service().add_service(AddServiceRequest { service: Some(service) }).await.map_err(failure)?;
    let name = &added.name;
    output.print(
        &format!("{name} is added; `sagemesh why {name}` says how it stands"),
        &json!({ "added": name }),
    )
}

/// `service remove`
pub(super) async fn remove(node: &Node, name: &ServiceName, output: Output) -> anyhow::Result<()> {
    let request = RemoveServiceRequest { name: name.to_string() };
    node.service().remove_service(request).await.map_err(failure)?;
    output.print(&format!("{name} is removed"), &json!({ "removed": name }))
}

/// Whose services are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// Those of the whole mesh.
    All,
    /// Those of this node.
    Own,
}

/// `services` and `service list`
pub(super) async fn list(node: &Node, whose: Whose, output: Output) -> anyhow::Result<()> {
    let told = node.service().list_services(ListServicesRequest {}).await.map_err(failure)?.into_inner();
    let mut services = told.services;
    if whose == Whose::Own {
        services.retain(|it| it.source() != Source::Unspecified);
    }
    let row = |it: &Service| {
        let health = match it.health() {
            Health::Unhealthy => it.reason.clone(),
            _ => health(it).to_owned(),
        };
        [
            it.name.clone(),
            it.node.clone(),
            protocol(it).to_owned(),
            it.address.clone(),
            source(it).unwrap_or_default().to_owned(),
            health,
        ]
    };
    let rows: Vec<_> = services.iter().map(row).collect();
    let json = |it: &Service| {
        json!({
            "name": it.name,
            "node": it.node,
            "address": text_json(&it.address),
            "protocol": protocol(it),
            "health": health(it),
            "reason": text_json(&it.reason),
            "detail": text_json(&it.detail),
            "source": source(it),
        })
    };
    let value: Value = services.iter().map(json).collect();
    let text = match rows.is_empty() {
        true => {
            "no services yet: declare one in the configuration, or with `sagemesh service add`".to_owned()
        }
        false => table(["SERVICE", "NODE", "SPEAKS", "ADDRESS", "FROM", "HEALTH"], &rows),
    };
    output.print(&text, &value)
}

fn protocol(service: &Service) -> &'static str {
    match service.protocol() {
        WireProtocol::Unspecified | WireProtocol::Grpc => "grpc",
        WireProtocol::Tcp => "tcp",
    }
}

fn health(service: &Service) -> &'static str {
    match service.health() {
        Health::Unspecified | Health::Unknown => "unknown",
        Health::Healthy => "healthy",
        Health::Unhealthy => "unhealthy",
    }
}

fn source(service: &Service) -> Option<&'static str> {
    match service.source() {
        Source::Unspecified => None,
        Source::Config => Some("config"),
        Source::Added => Some("added"),
        Source::Leased => Some("leased"),
    }
}

/// `why`: every layer, and failure if one fails.
pub(super) async fn why(node: &Node, name: &ServiceName, output: Output) -> anyhow::Result<()> {
    let request = ExplainServiceRequest { name: name.to_string() };
    let layers = node.service().explain_service(request).await.map_err(failure)?.into_inner().layers;
    let json = |it: &Layer| {
        json!({
            "layer": it.name,
            "outcome": outcome(it),
            "seen": it.seen,
            "reason": text_json(&it.reason),
            "advice": text_json(&it.advice),
        })
    };
    let failed = layers.iter().find(|it| it.outcome() == Outcome::Failed);
    let value = json!({
        "service": name,
        "ok": failed.is_none(),
        "layers": layers.iter().map(json).collect::<Vec<_>>(),
    });
    let lines: Vec<_> = layers.iter().flat_map(|it| lines(it, width(&layers))).collect();
    output.print(&lines.join("\n"), &value)?;
    match failed {
        Some(it) => bail!("calls to `{name}` fail at `{}`: {}", it.name, plain(&it.advice)),
        None => Ok(()),
    }
}

fn outcome(layer: &Layer) -> &'static str {
    match layer.outcome() {
        Outcome::Ok => "ok",
        Outcome::Failed => "failed",
        Outcome::Unspecified | Outcome::Skipped => "skipped",
    }
}

fn width(layers: &[Layer]) -> usize {
    layers.iter().map(|it| it.name.chars().count()).max().unwrap_or_default()
}

fn lines(layer: &Layer, width: usize) -> Vec<String> {
    let mut lines =
        vec![format!("{:7}  {:width$}  {}", outcome(layer), plain(&layer.name), plain(&layer.seen))];
    if layer.outcome() == Outcome::Failed {
        lines.push(format!("{:7}  {:width$}  {}: {}", "", "", layer.reason, plain(&layer.advice)));
    }
    lines.into_iter().map(|line| line.trim_end().to_owned()).collect()
}

/// Text that steers no terminal.
fn plain(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_that_fails_says_what_to_do() {
        let mut layer = Layer { name: "health".to_owned(), seen: "\u{7}".to_owned(), ..Default::default() };
        layer.set_outcome(Outcome::Failed);
        (layer.reason, layer.advice) = ("SERVICE_UNHEALTHY".to_owned(), "look at it".to_owned());
        assert_eq!(
            lines(&layer, 6),
            ["failed   health  \u{fffd}", "                 SERVICE_UNHEALTHY: look at it"]
        );
        layer.set_outcome(Outcome::Skipped);
        assert_eq!(lines(&layer, 6).len(), 1);
    }
}
