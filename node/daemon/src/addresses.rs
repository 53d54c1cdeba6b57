//! Where nodes are: what this one says of itself, and what it remembers of others for its next start.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use mesh::reach::{HOSTS_MAX, KEY};
use mesh::{Gossiping, Reach};
use store::{Change, Durability, Room};
use types::PeerId;

/// What the database keeps of where nodes are.
pub const ROOM: Room = Room { name: "mesh", migrations: &[] };
const REACH: &[u8] = b"reach/";
const SEED: &[u8] = b"seed/";
/// How often the machine's addresses are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What was remembered when the node ran last.
#[derive(Debug, Default)]
pub struct Remembered {
    /// Where peers were.
    pub peers: BTreeMap<PeerId, Reach>,
    /// Where the inviter was, as `HOST:PORT`.
    pub seeds: Vec<String>,
}

/// Keeps where the inviter links up with nodes.
pub fn put_seed(seed: &str) -> Change {
    Change::Put { room: ROOM.name, key: [SEED, seed.as_bytes()].concat(), value: Vec::new() }
}

/// Reads what was remembered. What is damaged is left out: it was a hint.
///
/// # Errors
/// If the database cannot be read.
pub async fn remembered(store: &store::Handle) -> Result<Remembered, store::Error> {
    let mut found = Remembered::default();
    for (key, value) in store.scan(ROOM.name, REACH).await? {
        let peer = <[u8; 32]>::try_from(&key[REACH.len()..]).ok().map(PeerId);
        found.peers.extend(peer.zip(Reach::from_bytes(&value)));
    }
    for (key, _) in store.scan(ROOM.name, SEED).await? {
        found.seeds.extend(String::from_utf8(key[SEED.len()..].to_vec()));
    }
    Ok(found)
}

/// Ports and addresses that this node has bound.
#[derive(Clone, Debug)]
pub struct Bound {
    /// Where links are accepted.
    pub mesh: SocketAddr,
    /// Where services are called; none if this node carries no calls.
    pub inbound: Option<SocketAddr>,
    /// Whether others can dial that, as far as the operator knows.
    pub is_inbound_direct: bool,
    /// Where the API is.
    pub api: SocketAddr,
    /// What is to be said in place of the machine's own addresses; empty to find them.
    pub advertise: Vec<IpAddr>,
}

impl Bound {
    /// Where this node can be reached, as far as it can tell.
    pub fn reach(&self) -> Reach {
        let mut hosts = self.advertise.clone();
        if hosts.is_empty() {
            hosts = hosts_of(self.mesh.ip());
        }
        hosts.truncate(HOSTS_MAX);
        let inbound = self.inbound.filter(|_| self.is_inbound_direct).map_or(0, |inbound| inbound.port());
        Reach { hosts, mesh: self.mesh.port(), inbound, api: self.api.port() }
    }
}

/// Where this machine reaches a listener of its own: one that is bound to a single address is nowhere else.
pub const fn local(listener: SocketAddr) -> SocketAddr {
    match listener.ip() {
        host if host.is_unspecified() => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), listener.port()),
        _ => listener,
    }
}

/// The addresses at which a listener on `listen` can be reached from elsewhere, IPv4 first. On a machine
/// without a network, the loopback.
fn hosts_of(listen: IpAddr) -> Vec<IpAddr> {
    if !listen.is_unspecified() {
        return vec![listen];
    }
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|err| {
        warn!(error = %err, "failed to list the machine's addresses: set mesh.advertise");
        Vec::new()
    });
    let mut hosts: Vec<_> = interfaces.iter().filter(|it| !it.is_link_local()).map(|it| it.ip()).collect();
    hosts.retain(|host| listen.is_ipv6() || host.is_ipv4());
    if hosts.iter().any(|host| !host.is_loopback()) {
        hosts.retain(|host| !host.is_loopback());
    }
    hosts.sort_by_key(|host| (host.is_ipv6(), *host));
    hosts.dedup();
    hosts
}

/// Says where this node is and remembers where peers are, until `shutdown`.
pub async fn run(
    bound: Bound,
    gossip: Gossiping,
    mut kept: BTreeMap<PeerId, Reach>,
    store: store::Handle,
    shutdown: CancellationToken,
) {
    let mut peers = gossip.peers();
    let mut said = None;
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = look.tick() => {
                let reach = bound.reach();
                if said.as_ref() != Some(&reach) {
                    match gossip.put([(KEY.to_owned(), Some(reach.to_bytes()))].into()).await {
                        Ok(()) => said = Some(reach),
                        Err(refusal) => warn!(error = %refusal, "failed to say where this node is"),
                    }
                }
            }
            Ok(()) = peers.changed() => {
                let snapshot = peers.borrow_and_update().clone();
                let mut changes = Vec::new();
                for (peer, reach) in snapshot.iter().filter_map(|(peer, it)| Some((*peer, it.reach()?))) {
                    if kept.get(&peer) != Some(&reach) {
                        let (key, value) = ([REACH, &peer.0].concat(), reach.to_bytes());
                        changes.push(Change::Put { room: ROOM.name, key, value });
                        kept.insert(peer, reach);
                    }
                }
                for peer in kept.keys().filter(|peer| !snapshot.contains_key(peer)) {
                    changes.push(Change::Delete { room: ROOM.name, key: [REACH, &peer.0].concat() });
                }
                kept.retain(|peer, _| snapshot.contains_key(peer));
                if !changes.is_empty()
                    && let Err(err) = store.commit(Durability::Batched, changes, Vec::new()).await
                {
                    warn!(error = %err, "failed to remember where peers are");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_where_it_listens() {
        let host: IpAddr = [192, 0, 2, 1].into();
        assert_eq!(hosts_of(host), [host]);
        let all = hosts_of([0, 0, 0, 0].into());
        assert!(all.iter().all(|host| host.is_ipv4() && !host.is_unspecified()), "{all:?}");
    }

    #[test]
    fn a_listener_on_one_address_is_called_there() {
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        assert_eq!(local(at("[::]:7450")), at("127.0.0.1:7450"));
        assert_eq!(local(at("0.0.0.0:7450")), at("127.0.0.1:7450"));
        assert_eq!(local(at("10.78.0.1:7450")), at("10.78.0.1:7450"));
    }
}
