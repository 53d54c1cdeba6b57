//! The services of this node and where all services are: declares, issues their certificates, has their health
//! checked, tells the mesh, and gives the proxy its table.
//!
//! Who may speak for a service is the member map's business, and where a call goes is the router's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use api::node::{Health, Lease, LeaseId, LocalCaller, Registrant, Registration, Service, Source};
use attest::Attestor;
use identity::{Members, svid};
use mesh::Gossiping;
use mesh::gossip::Known;
use proto::Message;
use proto::service::v1;
use proxy::health::{self, Checker};
use proxy::{Backend, Local, Table};
use store::Room;
use tls::{Rotation, Svids, random};
use types::key::Keys;
use types::{Reason, Refusal, ServiceName, SpiffeId, TrustDomain};

use crate::addresses;
use crate::config::RawService;
use crate::readiness::Guard;

pub mod declared;
mod elsewhere;
mod handle;
mod operating;
mod registry;

pub use declared::Declared;
pub use handle::Handle;
pub use registry::SERVICES_MAX;

use elsewhere::endpoint;
use handle::Command;
use registry::{Caller, Registry};

/// What the database keeps of services: those that were added, by their names.
pub const ROOM: Room = Room { name: "service", migrations: &[] };
/// Before a service's name in a node's record.
const OFFER: &str = "service/";
/// How often scopes are looked at though nothing changed.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What the proxy goes by until services are known: nothing.
pub fn table(own: &TrustDomain) -> (watch::Sender<Arc<Table>>, watch::Receiver<Arc<Table>>) {
    watch::channel(Arc::new(Table {
        mesh: own.mesh().clone(),
        node: own.clone(),
        local: BTreeMap::new(),
        endpoints: BTreeMap::new(),
    }))
}

/// Which services a node's record offers, well or not.
pub fn offered(known: &Known) -> Vec<ServiceName> {
    let entries = known.record.iter().flat_map(|record| record.entries());
    entries.filter_map(|entry| Some(read_offer(&entry.key, &entry.value)?.0)).collect()
}

/// What services need of the node.
pub struct Node {
    /// This node.
    pub own: TrustDomain,
    /// Its keys.
    pub keys: Arc<dyn Keys>,
    /// The member map.
    pub members: watch::Receiver<Arc<Members>>,
    /// Records of all nodes, and this one's.
    pub gossip: Gossiping,
    /// Links to other nodes: the surest address of a peer is the one it is linked at.
    pub links: mesh::Handle,
    /// Where added services are kept.
    pub store: store::Handle,
    /// Tells which process listens.
    pub attestor: Arc<Attestor>,
    /// Where services of other nodes arrive; none if this node carries no calls, and so has no services.
    pub inbound: Option<SocketAddr>,
}

/// Certificates of one service, or why it has none.
struct Identity {
    svids: watch::Receiver<Arc<Svids>>,
    stop: CancellationToken,
}

/// The health check of one backend.
struct Check {
    declared: Declared,
    health: watch::Receiver<Result<(), Refusal>>,
    stop: CancellationToken,
}

/// The services, not yet running.
pub struct Services {
    node: Node,
    registry: Registry,
    /// Those that were added and are configured since, or whose node carries no calls any more: what was added waits
    /// in the database.
    shadowed: BTreeSet<ServiceName>,
    commands: mpsc::Receiver<Command>,
    table: watch::Sender<Arc<Table>>,
    shown: watch::Sender<Arc<Vec<Service>>>,
    identities: BTreeMap<ServiceName, Identity>,
    checks: BTreeMap<ServiceName, Check>,
    offered: BTreeMap<ServiceName, Vec<u8>>,
    changed: Arc<Notify>,
    tasks: JoinSet<()>,
}

impl Services {
    /// Takes over what is configured and what was added before.
    ///
    /// # Errors
    /// If the configuration is refused, or the database is damaged.
    pub async fn new(
        node: Node,
        declared: Vec<Declared>,
        table: watch::Sender<Arc<Table>>,
    ) -> anyhow::Result<(Self, Handle)> {
        let mut registry = Registry::default();
        let mut shadowed = BTreeSet::new();
        for (key, value) in node.store.scan(ROOM.name, b"").await? {
            let raw: RawService = serde_json::from_slice(&value)?;
            if node.inbound.is_none() {
                warn!(
                    sagemesh.service = raw.name,
                    "a service that was added waits: this node carries no calls, set proxy.enabled = true"
                );
                shadowed.insert(raw.name.parse()?);
                continue;
            }
            // The configuration may have been changed by hand since.
            if let Some(it) = declared.iter().find(|it| it.name.as_str().as_bytes() == key) {
                warn!(
                    sagemesh.service = raw.name,
                    "the configuration declares a service that was added: it wins; remove the other"
                );
                shadowed.insert(it.name.clone());
                continue;
            }
            registry.add(Declared::of_raw(&raw, Source::Added)?)?;
        }
        registry.configure(declared)?;
        let (commands, queue) = mpsc::channel(handle::COMMANDS_MAX);
        let seen = table.subscribe();
        let (shown, shown_seen) = watch::channel(Arc::default());
        let mut services = Self {
            node,
            registry,
            shadowed,
            commands: queue,
            table,
            shown,
            identities: BTreeMap::new(),
            checks: BTreeMap::new(),
            offered: BTreeMap::new(),
            changed: Arc::default(),
            tasks: JoinSet::new(),
        };
        services.apply();
        Ok((services, Handle { commands, table: seen, shown: shown_seen }))
    }

    /// Serves until `shutdown`. Lets go of `waits` once it has told of what is declared.
    pub async fn run(mut self, waits: Guard, shutdown: CancellationToken) {
        let mut waits = Some(waits);
        let mut peers = self.node.gossip.peers();
        let mut members = self.node.members.clone();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let changed = Arc::clone(&self.changed);
        loop {
            let due = self.registry.next_deadline();
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(command) = self.commands.recv() => self.command(command).await,
                Ok(()) = peers.changed() => {
                    peers.borrow_and_update();
                }
                Ok(()) = members.changed() => {
                    members.borrow_and_update();
                }
                () = changed.notified() => {}
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {
                    self.registry.expire(Instant::now());
                }
                _ = look.tick() => {}
                Some(ended) = self.tasks.join_next() => match ended.map_err(JoinError::try_into_panic) {
                    // Without rotation or checks the node must not go on.
                    Err(Ok(panic)) => std::panic::resume_unwind(panic),
                    _ => continue,
                },
            }
            self.apply();
            self.offer().await;
            drop(waits.take());
        }
    }

    async fn command(&mut self, command: Command) {
        let now = Instant::now();
        // Whoever asked may have gone.
        match command {
            Command::Configure(by, declared, answer) => {
                drop(answer.send(self.configure(&by, declared).await));
            }
            Command::Add(by, declaration, answer) => drop(answer.send(self.add(&by, &declaration).await)),
            Command::Remove(by, name, answer) => drop(answer.send(self.remove(&by, &name).await)),
            Command::Register(by, registration, ttl, answer) => {
                drop(answer.send(self.register(now, &by, &registration, ttl)));
            }
            Command::Renew(by, id, answer) => drop(answer.send(self.registry.renew(now, &by, id))),
            Command::Deregister(by, id, answer) => drop(answer.send(self.registry.deregister(&by, id))),
        }
    }

    fn register(
        &mut self,
        now: Instant,
        by: &Registrant,
        registration: &Registration,
        ttl: Duration,
    ) -> Result<Lease, Refusal> {
        let owner = match by {
            Registrant::Local(caller) => {
                let pid = caller.pid.ok_or_else(|| {
                    Reason::CallerGone.because("the process cannot be seen from this node's pid namespace")
                })?;
                Some(self.node.attestor.process(pid, caller.uid)?)
            }
            Registrant::Service(_) => None,
        };
        let attestor = &self.node.attestor;
        let has_ended = |held: &Registrant| match held {
            Registrant::Local(LocalCaller { pid: Some(pid), uid, .. }) => {
                attestor.process(*pid, *uid).is_err()
            }
            Registrant::Local(_) | Registrant::Service(_) => false,
        };
        let owner = owner.as_ref();
        let caller = Caller { own: &self.node.own, registrant: by, owner, has_ended: &has_ended };
        let id = LeaseId(u128::from_be_bytes(random::bytes()));
        self.registry.register(now, id, caller, registration, ttl)
    }

    fn check_scope(&self, name: &ServiceName) -> Result<(), Refusal> {
        let members = self.node.members.borrow();
        let own = &self.node.own;
        let member = members.get(own).ok_or_else(|| members.why_not(own))?;
        svid::check_scope(member, &SpiffeId::service(own.clone(), name.clone())).map_err(|refusal| {
            let detail =
                format!("{}: run `sagemesh scope {} +svc/{name}` on a signer", refusal.detail, own.node());
            Reason::SvidOutOfScope.because(detail)
        })
    }

    /// Starts and stops what goes with each service, and shows how things are.
    fn apply(&mut self) {
        let effective = self.registry.effective();
        let allowed: BTreeSet<_> =
            effective.keys().filter(|name| self.check_scope(name).is_ok()).cloned().collect();
        self.identities.retain(|name, identity| {
            let is_kept = allowed.contains(name);
            if !is_kept {
                identity.stop.cancel();
            }
            is_kept
        });
        for name in &allowed {
            self.identify(name);
        }
        self.checks.retain(|name, check| {
            let is_kept = effective.get(name).is_some_and(|it| is_checked_alike(it, &check.declared));
            if !is_kept {
                check.stop.cancel();
            }
            is_kept
        });
        for declared in effective.values() {
            self.check(declared);
        }
        self.show(&effective);
    }

    fn identify(&mut self, name: &ServiceName) {
        if self.identities.contains_key(name) {
            return;
        }
        let id = SpiffeId::service(self.node.own.clone(), name.clone());
        match Rotation::new(Arc::clone(&self.node.keys), id, self.node.members.clone()) {
            Ok((rotation, svids)) => {
                let stop = CancellationToken::new();
                self.tasks.spawn(rotation.run(stop.clone()));
                self.identities.insert(name.clone(), Identity { svids, stop });
            }
            Err(err) => {
                warn!(sagemesh.service = %name, error = %err, "failed to issue a service's certificates");
            }
        }
    }

    fn check(&mut self, declared: &Declared) {
        let Some(address) = declared.listen else { return };
        if self.checks.contains_key(&declared.name) {
            return;
        }
        let config = health::Config { kind: declared.health, ..health::Config::default() };
        let (attestor, selectors) = (Arc::clone(&self.node.attestor), declared.selectors.clone());
        let (checker, health) = Checker::new(config, address, selectors, attestor, declared.name.clone());
        let stop = CancellationToken::new();
        self.tasks.spawn(checker.run(stop.clone()));
        let (changed, mut seen) = (Arc::clone(&self.changed), health.clone());
        self.tasks.spawn(async move {
            while seen.changed().await.is_ok() {
                changed.notify_one();
            }
        });
        info!(sagemesh.service = %declared.name, server.address = %address, "watching a service");
        let check = Check { declared: declared.clone(), health, stop };
        self.checks.insert(declared.name.clone(), check);
    }

    /// Why a service of this node takes no calls now.
    fn health(&self, name: &ServiceName) -> Result<(), Refusal> {
        self.check_scope(name)?;
        match self.checks.get(name) {
            Some(check) => check.health.borrow().clone(),
            None => Err(Reason::ServiceUnhealthy.because("it only calls others")),
        }
    }

    fn show(&self, effective: &BTreeMap<ServiceName, Declared>) {
        let mut endpoints: BTreeMap<ServiceName, Vec<route::Endpoint>> = BTreeMap::new();
        let mut shown = Vec::new();
        let mut local = BTreeMap::new();
        for (name, declared) in effective {
            let health = self.health(name);
            let identity = match self.identities.get(name) {
                Some(identity) => Ok(identity.svids.clone()),
                None => Err(self.check_scope(name).err().unwrap_or_else(|| {
                    Reason::NotServing.because(format!("the certificates of `{name}` could not be issued"))
                })),
            };
            if let (Some(_), Some(inbound)) = (declared.listen, self.node.inbound) {
                let address = addresses::local(inbound);
                endpoints.entry(name.clone()).or_default().push(endpoint(
                    &self.node.own,
                    name,
                    address,
                    health.is_ok(),
                ));
            }
            shown.push(Service {
                name: name.clone(),
                node: self.node.own.node().clone(),
                address: declared.listen,
                protocol: shown_protocol(declared.protocol),
                health: match (&health, declared.listen) {
                    (_, None) => Health::Unknown,
                    (Ok(()), _) => Health::Healthy,
                    (Err(refusal), _) => Health::Unhealthy(refusal.clone()),
                },
                source: Some(declared.source),
            });
            let backend =
                declared.listen.map(|address| Backend { address, protocol: declared.protocol, health });
            local.insert(
                name.clone(),
                Local {
                    selectors: declared.selectors.clone(),
                    backend,
                    policy: declared.policy.clone(),
                    svids: identity,
                },
            );
        }
        self.add_remote(&mut endpoints, &mut shown);
        shown.sort_by(|one, other| (&one.name, &one.node).cmp(&(&other.name, &other.node)));
        let (mesh, node) = (self.node.own.mesh().clone(), self.node.own.clone());
        // Every connection looks its caller up again in a new table.
        replace(&self.table, Table { mesh, node, local, endpoints });
        replace(&self.shown, shown);
    }

    /// Tells the mesh what this node offers.
    async fn offer(&mut self) {
        // Not before it was looked at: news of a node's record are rationed.
        let checks = self.checks.iter().filter(|(_, check)| check.health.has_changed().unwrap_or(true));
        let offers: BTreeMap<_, _> = checks
            .map(|(name, check)| {
                let protocol = match check.declared.protocol {
                    proxy::Protocol::Grpc => v1::OfferedProtocol::Grpc,
                    proxy::Protocol::Tcp => v1::OfferedProtocol::Tcp,
                };
                let unhealthy = self.health(name).err().map(|refusal| refusal.reason.code().to_owned());
                let offer = v1::Offer { protocol: protocol.into(), unhealthy: unhealthy.unwrap_or_default() };
                (name.clone(), offer.encode_to_vec())
            })
            .collect();
        let gone = self.offered.keys().filter(|name| !offers.contains_key(*name));
        let gone: BTreeMap<_, _> = gone.map(|name| (format!("{OFFER}{name}"), None)).collect();
        let mut new = offers.clone();
        new.retain(|name, offer| self.offered.get(name) != Some(offer));
        // Some may be told though others fail: until all are, none counts as told rightly. No offer is empty.
        self.offered.extend(new.keys().map(|name| (name.clone(), Vec::new())));
        let new = new.into_iter().map(|(name, offer)| (format!("{OFFER}{name}"), Some(offer))).collect();
        // What goes makes room for what comes.
        for entries in [gone, new] {
            if entries.is_empty() {
                continue;
            }
            if let Err(refusal) = self.node.gossip.put(entries).await {
                return warn!(error = %refusal, "failed to offer all services");
            }
        }
        self.offered = offers;
    }
}

/// Shows `new` to whoever looks, unless it is what they see.
fn replace<T: PartialEq>(shown: &watch::Sender<Arc<T>>, new: T) {
    shown.send_if_modified(|shown| {
        let is_new = **shown != new;
        if is_new {
            *shown = Arc::new(new);
        }
        is_new
    });
}

/// Whether a running check does for a declaration.
fn is_checked_alike(one: &Declared, other: &Declared) -> bool {
    (one.listen, one.health, &one.selectors, one.protocol)
        == (other.listen, other.health, &other.selectors, other.protocol)
}

fn read_offer(key: &str, value: &[u8]) -> Option<(ServiceName, v1::Offer)> {
    let name = key.strip_prefix(OFFER)?.parse().ok()?;
    Some((name, v1::Offer::decode(value).ok()?))
}

const fn shown_protocol(protocol: proxy::Protocol) -> api::node::Protocol {
    match protocol {
        proxy::Protocol::Grpc => api::node::Protocol::Grpc,
        proxy::Protocol::Tcp => api::node::Protocol::Tcp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_of_a_table_that_is_the_same() {
        let own: TrustDomain = "pi.home.mesh".parse().expect("a name");
        let (shown, mut seen) = table(&own);
        let mut next = Table::clone(&seen.borrow_and_update());
        replace(&shown, next.clone());
        assert!(!seen.has_changed().expect("a sender"));
        let name: ServiceName = "orders".parse().expect("a name");
        let svids = Err(Reason::SvidOutOfScope.because("not now"));
        let local = Local { selectors: Vec::new(), backend: None, policy: route::Policy::default(), svids };
        next.local.insert(name.clone(), local);
        replace(&shown, next.clone());
        assert!(seen.has_changed().expect("a sender"));
        seen.borrow_and_update();
        replace(&shown, next.clone());
        assert!(!seen.has_changed().expect("a sender"));
        next.local.entry(name).and_modify(|it| it.svids = Err(Reason::NotServing.because("not now")));
        replace(&shown, next);
        assert!(seen.has_changed().expect("a sender"));
    }
}
