//! From the wire to domain types and back. What comes from the wire is checked here, once.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use identity::{Member, Members, Operator, Role, Scope};
use proto::identity::v1 as identity_wire;
use proto::mesh::v1 as mesh_wire;
use proto::service::v1 as service_wire;
use types::{NodeName, Reason, Refusal, ServiceName};

use crate::node::{
    Declaration, Health, HealthCheck, Layer, Liveness, Outcome, Peer, Protocol, Registration, Service,
    Source, Status,
};

/// Most selectors, or lines of `allow`, of one declaration.
const ITEMS_MAX: usize = 64;
/// Most bytes of one of them.
const ITEM_LEN_MAX: usize = 1024;
/// Most bytes of a tombstone's note.
const NOTE_LEN_MAX: usize = 200;

fn invalid(detail: impl Into<String>) -> Refusal {
    Reason::ArgumentInvalid.because(detail)
}

/// Reads a field that is text on the wire.
pub(crate) fn parse<T: FromStr<Err: Display>>(field: &str, text: &str) -> Result<T, Refusal> {
    text.parse().map_err(|err| invalid(format!("`{field}`: {err}")))
}

pub(crate) fn scope(field: &str, items: &[String]) -> Result<Scope, Refusal> {
    Scope::read(items.iter().map(String::as_str)).map_err(|err| invalid(format!("`{field}`: {err}")))
}

pub(crate) fn note(text: String) -> Result<String, Refusal> {
    if text.len() > NOTE_LEN_MAX || text.contains(char::is_control) {
        return Err(invalid(format!("`note` is one line of up to {NOTE_LEN_MAX} bytes")));
    }
    Ok(text)
}

/// A time to live in seconds; 0 is `default`.
pub(crate) fn ttl(
    secs: u64,
    default: u64,
    bounds: std::ops::RangeInclusive<u64>,
) -> Result<Duration, Refusal> {
    let secs = if secs == 0 { default } else { secs };
    if bounds.contains(&secs) {
        return Ok(Duration::from_secs(secs));
    }
    Err(invalid(format!("`ttl_s` goes from {} to {}", bounds.start(), bounds.end())))
}

pub(crate) fn role(number: i32) -> Result<Option<Role>, Refusal> {
    match identity_wire::Role::try_from(number) {
        Ok(identity_wire::Role::Unspecified) => Ok(None),
        Ok(identity_wire::Role::View) => Ok(Some(Role::View)),
        Ok(identity_wire::Role::Operate) => Ok(Some(Role::Operate)),
        Ok(identity_wire::Role::Admin) => Ok(Some(Role::Admin)),
        Err(_) => Err(invalid(format!("`role`: no role has the number {number}"))),
    }
}

fn role_wire(role: Option<Role>) -> identity_wire::Role {
    match role {
        None => identity_wire::Role::Unspecified,
        Some(Role::View) => identity_wire::Role::View,
        Some(Role::Operate) => identity_wire::Role::Operate,
        Some(Role::Admin) => identity_wire::Role::Admin,
    }
}

pub(crate) fn declaration(wire: Option<service_wire::Declaration>) -> Result<Declaration, Refusal> {
    let wire = wire.ok_or_else(|| invalid("`service` is missing"))?;
    for (field, items) in [("selectors", &wire.selectors), ("allow", &wire.allow)] {
        if items.len() > ITEMS_MAX || items.iter().any(|item| item.len() > ITEM_LEN_MAX) {
            return Err(invalid(format!("`{field}`: up to {ITEMS_MAX} items of {ITEM_LEN_MAX} bytes")));
        }
    }
    let protocol = protocol(wire.protocol)?.unwrap_or(Protocol::Grpc);
    Ok(Declaration {
        name: parse("name", &wire.name)?,
        listen: listen(&wire.listen)?,
        protocol,
        health: health(wire.health)?.unwrap_or(match protocol {
            Protocol::Grpc => HealthCheck::Grpc,
            Protocol::Tcp => HealthCheck::Tcp,
        }),
        selectors: wire.selectors,
        allow: wire.allow,
    })
}

pub(crate) fn registration(wire: Option<service_wire::Declaration>) -> Result<Registration, Refusal> {
    let wire = wire.ok_or_else(|| invalid("`service` is missing"))?;
    if !wire.selectors.is_empty() || !wire.allow.is_empty() {
        let detail = "who a service is and who may call it is the operator's to say: leave `selectors` and \
                      `allow` empty";
        return Err(invalid(detail));
    }
    Ok(Registration {
        name: parse("name", &wire.name)?,
        listen: listen(&wire.listen)?,
        protocol: protocol(wire.protocol)?,
        health: health(wire.health)?,
    })
}

fn listen(text: &str) -> Result<Option<SocketAddr>, Refusal> {
    Some(text).filter(|text| !text.is_empty()).map(|text| parse("listen", text)).transpose()
}

fn protocol(number: i32) -> Result<Option<Protocol>, Refusal> {
    match service_wire::Protocol::try_from(number) {
        Ok(service_wire::Protocol::Unspecified) => Ok(None),
        Ok(service_wire::Protocol::Grpc) => Ok(Some(Protocol::Grpc)),
        Ok(service_wire::Protocol::Tcp) => Ok(Some(Protocol::Tcp)),
        Err(_) => Err(invalid(format!("`protocol`: none has the number {number}"))),
    }
}

fn health(number: i32) -> Result<Option<HealthCheck>, Refusal> {
    match service_wire::HealthCheck::try_from(number) {
        Ok(service_wire::HealthCheck::Unspecified) => Ok(None),
        Ok(service_wire::HealthCheck::Grpc) => Ok(Some(HealthCheck::Grpc)),
        Ok(service_wire::HealthCheck::Tcp) => Ok(Some(HealthCheck::Tcp)),
        Ok(service_wire::HealthCheck::None) => Ok(Some(HealthCheck::None)),
        Err(_) => Err(invalid(format!("`health`: none has the number {number}"))),
    }
}

fn protocol_wire(protocol: Protocol) -> service_wire::Protocol {
    match protocol {
        Protocol::Grpc => service_wire::Protocol::Grpc,
        Protocol::Tcp => service_wire::Protocol::Tcp,
    }
}

fn text(of: Option<impl ToString>) -> String {
    of.map(|it| it.to_string()).unwrap_or_default()
}

/// A status, less what the API itself knows.
pub(crate) fn status(status: Status) -> mesh_wire::GetStatusResponse {
    mesh_wire::GetStatusResponse {
        mesh: status.mesh.to_string(),
        root: status.root.to_string(),
        root_generation: status.root_generation,
        node: status.node.to_string(),
        peer: status.peer.to_string(),
        scope: status.scope.items(),
        record_until_s: status.record_until.as_secs(),
        signers: status.signers.iter().map(NodeName::to_string).collect(),
        n_members: u32::try_from(status.n_members).unwrap_or(u32::MAX),
        warnings: status.warnings,
        ready: status.is_ready,
        inbound_address: text(status.inbound),
        version: status.version,
        ..Default::default()
    }
}

pub(crate) fn peer(peer: &Peer) -> mesh_wire::Peer {
    let liveness = match peer.liveness {
        Liveness::Unknown => mesh_wire::Liveness::Unknown,
        Liveness::Alive => mesh_wire::Liveness::Alive,
        Liveness::Suspect => mesh_wire::Liveness::Suspect,
        Liveness::Dead => mesh_wire::Liveness::Dead,
        Liveness::Left => mesh_wire::Liveness::Left,
    };
    mesh_wire::Peer {
        node: peer.node.to_string(),
        id: peer.id.to_string(),
        liveness: liveness.into(),
        linked: peer.is_admitted,
        address: text(peer.address),
        tls_group: text(peer.group.as_ref()),
        tls_signature: text(peer.signature.as_ref()),
        since_s: peer.since.map_or(0, |at| at.as_secs()),
        services: peer.services.iter().map(ServiceName::to_string).collect(),
    }
}

pub(crate) fn service(service: &Service) -> service_wire::Service {
    let (health, refusal) = match &service.health {
        Health::Unknown => (service_wire::Health::Unknown, None),
        Health::Healthy => (service_wire::Health::Healthy, None),
        Health::Unhealthy(refusal) => (service_wire::Health::Unhealthy, Some(refusal)),
    };
    let source = match service.source {
        None => service_wire::Source::Unspecified,
        Some(Source::Config) => service_wire::Source::Config,
        Some(Source::Added) => service_wire::Source::Added,
        Some(Source::Leased) => service_wire::Source::Leased,
    };
    service_wire::Service {
        name: service.name.to_string(),
        node: service.node.to_string(),
        address: text(service.address),
        protocol: protocol_wire(service.protocol).into(),
        health: health.into(),
        reason: text(refusal.map(|it| it.reason)),
        detail: text(refusal.map(|it| &it.detail)),
        source: source.into(),
    }
}

pub(crate) fn layer(layer: Layer) -> service_wire::Layer {
    let (outcome, reason) = match layer.outcome {
        Outcome::Ok => (service_wire::Outcome::Ok, None),
        Outcome::Failed(reason) => (service_wire::Outcome::Failed, Some(reason)),
        Outcome::Skipped => (service_wire::Outcome::Skipped, None),
    };
    service_wire::Layer {
        name: layer.name,
        outcome: outcome.into(),
        seen: layer.seen,
        reason: text(reason),
        advice: layer.advice.or_else(|| reason.map(|it| it.advice().to_owned())).unwrap_or_default(),
    }
}

/// Every member, in the order of their names.
pub(crate) fn members(members: &Members) -> Vec<identity_wire::Member> {
    let in_force = members.signers().values().filter(|standing| !standing.is_cut_off());
    let signers: BTreeSet<_> = in_force.map(|standing| standing.grant().node.clone()).collect();
    members.iter().map(|it| member(it, signers.contains(it.node()))).collect()
}

fn member(member: &Member, is_signer: bool) -> identity_wire::Member {
    identity_wire::Member {
        node: member.node().to_string(),
        trust_domain: member.domain.to_string(),
        peer: member.peer.to_string(),
        scope: member.scope.items(),
        bound_at_s: member.bound_at.as_secs(),
        issued_at_s: member.issued_at.as_secs(),
        not_after_s: member.not_after.as_secs(),
        signer: is_signer,
    }
}

pub(crate) fn operator(operator: &Operator) -> identity_wire::Operator {
    identity_wire::Operator {
        name: operator.name.to_string(),
        role: role_wire(operator.role).into(),
        key: operator.key.digest().to_string(),
        issued_at_s: operator.issued_at.as_secs(),
        not_after_s: operator.not_after.as_secs(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_has_its_documented_meaning() {
        let wire = service_wire::Declaration { name: "api".to_owned(), ..Default::default() };
        let read = declaration(Some(wire.clone())).expect("a declaration");
        assert_eq!((read.protocol, read.health, read.listen), (Protocol::Grpc, HealthCheck::Grpc, None));
        let tcp = service_wire::Declaration { protocol: service_wire::Protocol::Tcp.into(), ..wire.clone() };
        assert_eq!(declaration(Some(tcp)).expect("a declaration").health, HealthCheck::Tcp);
        let read = registration(Some(wire)).expect("a registration");
        assert_eq!((read.protocol, read.health, read.listen), (None, None, None));
        assert_eq!(ttl(0, 30, 5..=3600), Ok(Duration::from_secs(30)));
    }

    #[test]
    fn a_wrong_argument_is_named() {
        #[track_caller]
        fn check(result: Result<impl Sized, Refusal>, field: &str) {
            let Err(refusal) = result else { panic!("{field} was taken") };
            assert_eq!(refusal.reason, Reason::ArgumentInvalid);
            assert!(refusal.detail.contains(field), "{refusal}");
        }
        let wire = || service_wire::Declaration { name: "api".to_owned(), ..Default::default() };
        check(declaration(None), "service");
        check(declaration(Some(service_wire::Declaration { name: "A".to_owned(), ..wire() })), "name");
        check(declaration(Some(service_wire::Declaration { listen: "80".to_owned(), ..wire() })), "listen");
        check(declaration(Some(service_wire::Declaration { protocol: 9, ..wire() })), "protocol");
        check(declaration(Some(service_wire::Declaration { health: 9, ..wire() })), "health");
        let many = vec!["uid:1".to_owned(); ITEMS_MAX + 1];
        check(declaration(Some(service_wire::Declaration { selectors: many, ..wire() })), "selectors");
        let greedy = service_wire::Declaration { allow: vec!["*".to_owned()], ..wire() };
        check(registration(Some(greedy)), "allow");
        check(scope("scope", &["api".to_owned()]), "scope");
        check(note("a\nb".to_owned()), "note");
        check(ttl(4, 30, 5..=3600), "ttl_s");
        check(role(9), "role");
    }

    #[test]
    fn a_layer_that_fails_has_advice_in_any_case() {
        let failed = |advice: Option<&str>| {
            layer(Layer {
                name: "membership".to_owned(),
                outcome: Outcome::Failed(Reason::ServiceUnknown),
                seen: "no node offers it".to_owned(),
                advice: advice.map(str::to_owned),
            })
        };
        assert_eq!(failed(None).advice, Reason::ServiceUnknown.advice());
        assert_eq!(
            (failed(Some("wait")).advice.as_str(), failed(None).reason.as_str()),
            ("wait", "SERVICE_UNKNOWN")
        );
    }
}
