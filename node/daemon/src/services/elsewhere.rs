//! What other nodes offer, and where each is called.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use api::node::{Health, Service};
use identity::Scope;
use membership::{Liveness, Record};
use mesh::gossip::Known;
use proto::service::v1;
use types::{PeerId, Reason, ServiceName, TrustDomain};

use super::{Services, read_offer};

impl Services {
    /// What other nodes offer, as far as their scopes allow it.
    pub(super) fn add_remote(
        &self,
        endpoints: &mut BTreeMap<ServiceName, Vec<route::Endpoint>>,
        shown: &mut Vec<Service>,
    ) {
        let members = Arc::clone(&self.node.members.borrow());
        let peers = self.node.gossip.peers().borrow().clone();
        for (peer, known) in peers.iter() {
            let (Some(member), Some(record)) = (members.by_peer(peer), &known.record) else { continue };
            let Some(address) = self.address(peer, known) else { continue };
            for (name, offer) in offers(record, &member.scope) {
                let is_there = matches!(known.liveness, Liveness::Alive | Liveness::Suspect);
                let is_healthy = is_there && offer.unhealthy.is_empty();
                let found = endpoint(&member.domain, &name, address, is_healthy);
                endpoints.entry(name.clone()).or_default().push(found);
                let reason = if is_there {
                    Reason::from_code(&offer.unhealthy).unwrap_or(Reason::ServiceUnhealthy)
                } else {
                    Reason::EndpointUnreachable
                };
                shown.push(Service {
                    name,
                    node: member.node().clone(),
                    address: Some(address),
                    protocol: match offer.protocol() {
                        v1::OfferedProtocol::Tcp => api::node::Protocol::Tcp,
                        _ => api::node::Protocol::Grpc,
                    },
                    health: match is_healthy {
                        true => Health::Healthy,
                        false => Health::Unhealthy(reason.because(match is_there {
                            true => format!("`{}` says so", member.node()),
                            false => format!("`{}` is not there", member.node()),
                        })),
                    },
                    source: None,
                });
            }
        }
    }

    /// Where a node's services are called: at the address where this node has reached it, else at one that it
    /// names, best the one from which it has reached this node.
    fn address(&self, peer: &PeerId, known: &Known) -> Option<SocketAddr> {
        let reach = known.reach().filter(|reach| reach.inbound != 0)?;
        let link = self.node.links.link(peer);
        let linked = link.map(|link| (link.address.ip().to_canonical(), link.direction));
        let proven = linked.filter(|(host, direction)| {
            *direction == mesh::Direction::Outbound || reach.hosts.contains(host)
        });
        let host = proven.map(|(host, _)| host).or_else(|| reach.hosts.first().copied())?;
        Some(SocketAddr::new(host, reach.inbound))
    }
}

/// What a member offers of what it may speak for. All else that it says counts for nothing.
fn offers<'a>(record: &'a Record, scope: &'a Scope) -> impl Iterator<Item = (ServiceName, v1::Offer)> + 'a {
    let read = record.entries().iter().filter_map(|entry| read_offer(&entry.key, &entry.value));
    read.filter(|(name, _)| scope.holds(name))
}

/// One node that offers one service.
pub(super) fn endpoint(
    node: &TrustDomain,
    service: &ServiceName,
    address: SocketAddr,
    is_healthy: bool,
) -> route::Endpoint {
    let id = route::EndpointId { node: node.clone(), service: service.clone() };
    route::Endpoint { id, address, is_healthy }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use identity::SoftKeys;
    use membership::{Config, Input, Membership, Outbox};
    use rand::SeedableRng;
    use types::{KeySlot, Now};

    use super::*;

    /// What a node says that was told to say it.
    fn record(keys: &[&str]) -> Record {
        let secret = tls::random::secret(KeySlot::Node);
        let own = SoftKeys::new([(KeySlot::Node, &secret)]).expect("a key");
        let (now, rng) = (Now::read(), rand_chacha::ChaCha8Rng::seed_from_u64(1));
        let mut core = Membership::new(now, Config::default(), Arc::new(own), rng).expect("a key");
        for key in keys {
            core.put(now, key, b"").expect("a short entry");
        }
        core.handle(now.after(Duration::from_secs(60)), Input::Tick, &mut Outbox::default());
        core.own_record().clone()
    }

    #[test]
    fn an_endpoint_outside_its_nodes_scope_is_no_endpoint() {
        #[track_caller]
        fn check(scope: &str, expected: &[&str]) {
            let said = record(&["service/api", "service/db", "mesh/reach"]);
            let scope = scope.parse().expect("a scope");
            let names: Vec<_> = offers(&said, &scope).map(|(name, _)| name.to_string()).collect();
            assert_eq!(names, expected, "{scope}");
        }
        check("", &[]);
        check("svc/api", &["api"]);
        check("svc/web", &[]);
        check("svc/*", &["api", "db"]);
    }
}
