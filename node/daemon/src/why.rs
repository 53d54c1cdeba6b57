//! `sagemesh why SERVICE`: looks at each layer that a call from this node passes through, in order, and names the
//! first that fails.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use api::node::{Health, Layer, Outcome, Service};
use identity::Members;
use membership::Liveness;
use mesh::gossip::Known;
use proxy::{Links, Table};
use route::{Endpoint, State, View};
use types::{Now, PeerId, Reason, ServiceName, TrustDomain};

use crate::services;
use crate::tunnels::Tunnels;

/// How long an endpoint may take to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Most endpoints that are named or tried.
const TRIED_MAX: usize = 8;

/// What all rooms know at one moment.
pub struct Seen<'a> {
    /// This node.
    pub own: &'a TrustDomain,
    /// The member map.
    pub members: Arc<Members>,
    /// Links.
    pub links: mesh::Snapshot,
    /// What is reached over them.
    pub tunnels: Tunnels,
    /// Who is there, and what each says.
    pub gossip: Arc<BTreeMap<PeerId, Known>>,
    /// Services for people.
    pub services: Arc<Vec<Service>>,
    /// Services for calls.
    pub table: Arc<Table>,
    /// Endpoints as the router sees them; none if this node carries no calls.
    pub views: Option<Vec<View>>,
}

/// Looks at the layers. After the first that fails the rest is skipped.
pub async fn layers(seen: &Seen<'_>, service: &ServiceName, now: Now) -> Vec<Layer> {
    let mut layers = vec![
        membership(seen, now),
        links(seen, service),
        offered(seen, service),
        scope(seen, service),
        health(seen, service),
        router(seen),
    ];
    let first = layers.iter().position(|layer| layer.outcome != Outcome::Ok);
    match first {
        None => layers.push(connection(seen, service).await),
        Some(first) => {
            for layer in &mut layers[first + 1..] {
                *layer = Layer { outcome: Outcome::Skipped, seen: String::new(), ..layer.clone() };
            }
            layers.push(skipped("connection"));
        }
    }
    layers
}

fn ok(name: &str, seen: String) -> Layer {
    Layer { name: name.to_owned(), outcome: Outcome::Ok, seen, advice: None }
}

fn failed(name: &str, reason: Reason, seen: String) -> Layer {
    Layer { name: name.to_owned(), outcome: Outcome::Failed(reason), seen, advice: None }
}

fn skipped(name: &str) -> Layer {
    Layer { name: name.to_owned(), outcome: Outcome::Skipped, seen: String::new(), advice: None }
}

fn membership(seen: &Seen<'_>, now: Now) -> Layer {
    const NAME: &str = "membership";
    match seen.members.get(seen.own) {
        None => {
            let refusal = seen.members.why_not(seen.own);
            failed(NAME, refusal.reason, refusal.detail)
        }
        Some(member) if member.not_after <= now.wall => {
            failed(NAME, Reason::MemberExpired, format!("this node's record ended at {}", member.not_after))
        }
        Some(member) => ok(NAME, format!("`{}` until {}", member.domain, member.not_after)),
    }
}

fn links(seen: &Seen<'_>, service: &ServiceName) -> Layer {
    let n_alive = seen.gossip.values().filter(|known| known.liveness == Liveness::Alive).count();
    linked(seen.links.len(), n_alive, seen.gossip.len(), is_here(seen, service))
}

/// Without links only what is served on this node can be called.
fn linked(n_linked: usize, n_alive: usize, n_others: usize, is_here: bool) -> Layer {
    const NAME: &str = "links";
    let text = format!("{n_linked} linked and {n_alive} alive of {n_others} other nodes");
    if n_others > 0 && n_linked == 0 {
        if is_here {
            return ok(NAME, format!("{text}; this node offers the service itself"));
        }
        let mut layer = failed(NAME, Reason::EndpointUnreachable, text);
        layer.advice =
            Some("see that this node can reach port 7400 of the others, or set mesh.seeds".to_owned());
        return layer;
    }
    ok(NAME, text)
}

/// Whether this node serves it.
fn is_here(seen: &Seen<'_>, service: &ServiceName) -> bool {
    seen.table.local.get(service).is_some_and(|local| local.backend.is_some())
}

fn offered(seen: &Seen<'_>, service: &ServiceName) -> Layer {
    const NAME: &str = "service";
    let here = is_here(seen, service).then(|| seen.own.node());
    let others = seen.gossip.iter().filter(|(_, known)| services::offered(known).contains(service));
    let others = others.filter_map(|(peer, _)| seen.members.by_peer(peer).map(|it| it.node()));
    let nodes: Vec<_> = here.into_iter().chain(others).map(ToString::to_string).collect();
    if nodes.is_empty() {
        return failed(NAME, Reason::ServiceUnknown, format!("no node offers `{service}`"));
    }
    ok(NAME, format!("offered by {}", list(&nodes)))
}

fn scope(seen: &Seen<'_>, service: &ServiceName) -> Layer {
    const NAME: &str = "scope";
    let may = |domain| seen.members.get(domain).is_some_and(|member| member.scope.holds(service));
    let peers = seen.gossip.iter().filter(|(_, known)| services::offered(known).contains(service));
    let mut nodes: Vec<_> = peers.filter_map(|(peer, _)| Some(&seen.members.by_peer(peer)?.domain)).collect();
    nodes.extend(seen.table.local.contains_key(service).then_some(seen.own));
    let (within, beyond): (Vec<_>, Vec<_>) = nodes.into_iter().partition(|domain| may(domain));
    let names = |domains: &[&TrustDomain]| {
        list(&domains.iter().map(|domain| domain.node().to_string()).collect::<Vec<_>>())
    };
    match (within.is_empty(), beyond.first()) {
        (true, Some(first)) => {
            let text = format!("{} may not speak for `{service}`", names(&beyond));
            let mut layer = failed(NAME, Reason::SvidOutOfScope, text);
            layer.advice = Some(format!("run `sagemesh scope {} +svc/{service}` on a signer", first.node()));
            layer
        }
        (_, None) => ok(NAME, format!("{} may speak for it", names(&within))),
        (false, Some(_)) => {
            ok(NAME, format!("{} may speak for it, {} may not", names(&within), names(&beyond)))
        }
    }
}

fn health(seen: &Seen<'_>, service: &ServiceName) -> Layer {
    const NAME: &str = "health";
    let of_it: Vec<_> = seen.services.iter().filter(|it| it.name == *service).collect();
    let healthy: Vec<_> = of_it.iter().filter(|it| it.health == Health::Healthy).collect();
    let ill = of_it.iter().filter_map(|it| match &it.health {
        Health::Unhealthy(refusal) => Some((refusal.reason, format!("{}: {}", it.node, refusal.detail))),
        Health::Healthy | Health::Unknown => None,
    });
    let ill: Vec<_> = ill.collect();
    let text: Vec<_> = ill.iter().map(|(_, text)| text.clone()).collect();
    if healthy.is_empty() {
        let reason = ill.first().map_or(Reason::NoEndpoint, |(reason, _)| *reason);
        return failed(NAME, reason, list(&text));
    }
    let healthy: Vec<_> = healthy.iter().map(|it| it.node.to_string()).collect();
    let but = if text.is_empty() { String::new() } else { format!("; not well: {}", list(&text)) };
    ok(NAME, format!("well on {}{but}", list(&healthy)))
}

fn router(seen: &Seen<'_>) -> Layer {
    const NAME: &str = "routing";
    let Some(views) = &seen.views else {
        let mut layer = failed(NAME, Reason::NotServing, "this node carries no calls".to_owned());
        layer.advice =
            Some("ask a node that does, or set proxy.enabled = true and restart this one".to_owned());
        return layer;
    };
    let said: Vec<_> = views
        .iter()
        .map(|view| {
            let node = view.endpoint.id.node.node();
            let latency = view.latency.map_or_else(
                || "no call yet".to_owned(),
                |latency| format!("{:.1} ms", latency.as_secs_f64() * 1000.0),
            );
            let state = match view.state {
                State::Ready => String::new(),
                State::Unhealthy => ", unhealthy".to_owned(),
                State::Ejected { why, .. } => format!(", ejected: {why:?}"),
                State::Stalled => ", stalled".to_owned(),
            };
            format!("{node} ({latency}, {} in flight{state})", view.in_flight)
        })
        .collect();
    if !views.is_empty() && !views.iter().any(|view| view.state == State::Ready) {
        return failed(NAME, Reason::NoEndpoint, list(&said));
    }
    ok(NAME, if said.is_empty() { "no calls yet".to_owned() } else { list(&said) })
}

/// Connects to the endpoints that could take a call.
async fn connection(seen: &Seen<'_>, service: &ServiceName) -> Layer {
    const NAME: &str = "connection";
    let endpoints = seen.table.endpoints.get(service).map(Vec::as_slice).unwrap_or_default();
    let mut told = Vec::new();
    let mut is_reached = false;
    for endpoint in endpoints.iter().filter(|it| it.is_healthy).take(TRIED_MAX) {
        let (is_open, found) = reached(&seen.tunnels, endpoint).await;
        is_reached |= is_open;
        told.push(format!("{} {found}", endpoint.id.node.node()));
    }
    if is_reached {
        return ok(NAME, list(&told));
    }
    failed(NAME, Reason::EndpointUnreachable, list(&told))
}

/// Whether an endpoint is reached by its port or over the mesh, and what was seen of that.
async fn reached(tunnels: &Tunnels, endpoint: &Endpoint) -> (bool, String) {
    let address = endpoint.address;
    let failed = match address.port() {
        0 => "names no port".to_owned(),
        _ => match connect(address).await {
            Ok(()) => return (true, format!("at {address} connects")),
            Err(failed) => format!("at {address} {failed}"),
        },
    };
    match timeout(CONNECT_TIMEOUT, tunnels.open(endpoint.id.node.clone())).await {
        Ok(Ok(_)) => (true, format!("{failed}, and is reached over the mesh")),
        Ok(Err(refusal)) => (false, format!("{failed}; {}", refusal.detail)),
        Err(_) => (false, format!("{failed}; it opens no stream over the mesh in time")),
    }
}

async fn connect(address: SocketAddr) -> Result<(), String> {
    match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(err)) => Err(format!("fails: {err}")),
        Err(_) => Err(format!("does not answer within {} s", CONNECT_TIMEOUT.as_secs())),
    }
}

/// Names some of them and says how many more there are.
fn list(items: &[String]) -> String {
    let shown = items.iter().take(TRIED_MAX).cloned().collect::<Vec<_>>().join(", ");
    match items.len().checked_sub(TRIED_MAX + 1) {
        Some(more) => format!("{shown} and {} more", more + 1),
        None => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_links_can_call_what_it_serves_itself() {
        #[track_caller]
        fn check(n_linked: usize, n_others: usize, is_here: bool, expected: Outcome) {
            assert_eq!(linked(n_linked, 0, n_others, is_here).outcome, expected);
        }
        check(0, 0, false, Outcome::Ok);
        check(1, 2, false, Outcome::Ok);
        check(0, 2, false, Outcome::Failed(Reason::EndpointUnreachable));
        check(0, 2, true, Outcome::Ok);
    }
}
