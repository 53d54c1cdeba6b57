//! What the API asks of the node: each question goes to the room that knows.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use api::node::{
    Asker, Authority, Declaration, Layer, Lease, LeaseId, Liveness, Peer, Registrant, Registration, Service,
    Status,
};
use identity::join::{self, Exporter, Invitation};
use identity::{Members, Role, Scope, Signed, Statement};
use mesh::Gossiping;
use tls::random;
use types::key::{KeySlot, Keys};
use types::{NodeName, Now, PublicKey, Reason, Refusal, ServiceName, SpiffeId, TrustDomain, chain};

use crate::addresses::Bound;
use crate::config::{self, Config, Sources};
use crate::tunnels::Tunnels;
use crate::{authorities, keeper, services, status, why};

/// How long a welcome is sent again: it tells the time.
const WELCOME_AGE_MAX: Duration = Duration::from_secs(30);

/// What was sent before to newcomers, when it was made, and of which map.
type Welcome = (Arc<Members>, Instant, Result<Arc<[u8]>, Refusal>);

/// The rooms that answer.
pub(crate) struct Node {
    own: TrustDomain,
    keys: Arc<dyn Keys>,
    sources: Sources,
    config: Config,
    keeper: keeper::Handle,
    gossip: Gossiping,
    links: mesh::Handle,
    services: services::Handle,
    proxy: Option<proxy::Handle>,
    pending: watch::Receiver<BTreeSet<&'static str>>,
    /// Why statements that were kept no longer hold.
    lost: Vec<String>,
    bound: OnceLock<Bound>,
    peers: watch::Sender<Arc<Vec<Peer>>>,
    ready: watch::Sender<bool>,
    welcome: std::sync::Mutex<Option<Welcome>>,
    authorities: authorities::Cache,
    leave: CancellationToken,
}

/// What the node is made of.
pub(crate) struct Rooms {
    /// This node.
    pub(crate) own: TrustDomain,
    /// Its keys.
    pub(crate) keys: Arc<dyn Keys>,
    /// Where its configuration comes from.
    pub(crate) sources: Sources,
    /// The configuration that it started with.
    pub(crate) config: Config,
    /// The owner of the map.
    pub(crate) keeper: keeper::Handle,
    /// Who is there.
    pub(crate) gossip: Gossiping,
    /// Who is linked.
    pub(crate) links: mesh::Handle,
    /// Which services there are.
    pub(crate) services: services::Handle,
    /// What becomes of calls; none if this node carries none.
    pub(crate) proxy: Option<proxy::Handle>,
    /// Which rooms are not ready.
    pub(crate) pending: watch::Receiver<BTreeSet<&'static str>>,
    /// Why statements that were kept no longer hold.
    pub(crate) lost: Vec<String>,
}

impl Node {
    /// Asks these rooms.
    pub(crate) fn new(rooms: Rooms) -> Self {
        let Rooms { own, keys, sources, config, keeper, gossip, links, services, proxy, pending, lost } =
            rooms;
        Self {
            own,
            keys,
            sources,
            config,
            keeper,
            gossip,
            links,
            services,
            proxy,
            pending,
            lost,
            bound: OnceLock::new(),
            peers: watch::Sender::new(Arc::default()),
            ready: watch::Sender::new(false),
            welcome: std::sync::Mutex::new(None),
            authorities: authorities::Cache::default(),
            leave: CancellationToken::new(),
        }
    }

    /// Notes where the ports are. Once.
    pub(crate) fn bound(&self, bound: Bound) {
        // It is set already only if this is called twice, with the same.
        let _ = self.bound.set(bound);
    }

    /// Ends when an operator had the node leave.
    pub(crate) async fn left(&self) {
        self.leave.cancelled().await;
    }

    /// Keeps what is shown of peers up to date, and what it gives stock clients, until `shutdown`.
    pub(crate) async fn show(&self, shutdown: CancellationToken) {
        let (mut links, mut gossip) = (self.links.peers(), self.gossip.peers());
        let (mut members, mut pending) = (self.keeper.members(), self.pending.clone());
        let mut said = None;
        loop {
            let now = self.peers_now();
            self.peers.send_if_modified(|shown| {
                let is_new = **shown != now;
                if is_new {
                    *shown = Arc::new(now);
                }
                is_new
            });
            let is_ready = pending.borrow_and_update().is_empty();
            self.ready.send_if_modified(|shown| std::mem::replace(shown, is_ready) != is_ready);
            said = authorities::say(&*self.keys, &self.own, &members, &self.gossip, said).await;
            tokio::select! {
                () = shutdown.cancelled() => return,
                Ok(()) = links.changed() => {}
                Ok(()) = gossip.changed() => {}
                Ok(()) = members.changed() => {}
                Ok(()) = pending.changed() => {}
            }
            links.mark_unchanged();
            gossip.mark_unchanged();
        }
    }

    fn peers_now(&self) -> Vec<Peer> {
        let members = self.keeper.members().borrow().clone();
        let links = self.links.peers().borrow().clone();
        let known = self.gossip.peers().borrow().clone();
        let others = members.iter().filter(|member| member.domain != self.own);
        let peer = |member: &Arc<identity::Member>| {
            let (link, known) = (links.get(&member.peer), known.get(&member.peer));
            let tls = link.map(|link| link.tls());
            Peer {
                node: member.node().clone(),
                id: member.peer,
                liveness: known.map_or(Liveness::Unknown, |known| liveness(known.liveness)),
                is_admitted: link.is_some(),
                address: link.map(|link| link.address),
                group: tls.and_then(|tls| tls.group?.as_str()).map(str::to_owned),
                // As FIPS 204 writes it, not rustls.
                signature: tls.and_then(|tls| Some(tls.signature?.as_str()?.replace('_', "-"))),
                since: link.map(|link| link.since),
                services: known.map(services::offered).unwrap_or_default(),
            }
        };
        others.map(peer).collect()
    }

    fn reach(&self) -> Result<mesh::Reach, Refusal> {
        let bound = self.bound.get().ok_or_else(|| Reason::NotServing.because("the node is starting"))?;
        Ok(bound.reach())
    }
}

const fn liveness(it: membership::Liveness) -> Liveness {
    match it {
        membership::Liveness::Unknown => Liveness::Unknown,
        membership::Liveness::Alive => Liveness::Alive,
        membership::Liveness::Suspect => Liveness::Suspect,
        membership::Liveness::Dead => Liveness::Dead,
        membership::Liveness::Left => Liveness::Left,
    }
}

#[tonic::async_trait]
impl api::Node for Node {
    fn members(&self) -> watch::Receiver<Arc<Members>> {
        self.keeper.members()
    }

    fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    fn peers(&self) -> watch::Receiver<Arc<Vec<Peer>>> {
        self.peers.subscribe()
    }

    fn services(&self) -> watch::Receiver<Arc<Vec<Service>>> {
        self.services.shown()
    }

    async fn status(&self) -> Result<Status, Refusal> {
        let members = self.keeper.members().borrow().clone();
        let is_ready = self.pending.borrow().is_empty();
        let mut status =
            status::of(&self.config.state, &members, &self.own, &self.lost, is_ready, Now::read())?;
        status.inbound = self.bound.get().and_then(|bound| bound.inbound);
        let detours = self.proxy.as_ref().map(proxy::Handle::detours).unwrap_or_default();
        status.warnings.extend(status::detours(&detours));
        Ok(status)
    }

    async fn authorities(&self) -> Result<Vec<Authority>, Refusal> {
        let members = self.keeper.members().borrow().clone();
        let known = self.gossip.peers().borrow().clone();
        self.authorities.all(&*self.keys, &self.own, &members, &known)
    }

    async fn invite(
        &self,
        by: Asker,
        node: NodeName,
        scope: Scope,
        ttl: Duration,
    ) -> Result<String, Refusal> {
        let reach = self.reach()?;
        let addresses =
            reach.hosts.iter().map(|host| SocketAddr::new(*host, reach.api).to_string()).collect();
        let subject = node.to_string();
        let token = self.keeper.change(move |draft, now| {
            let signer = draft.signer()?;
            let data = json!({ "by": by.to_string(), "scope": scope.to_string(), "ttl_s": ttl.as_secs() });
            draft.note(now, "identity.invitation.created.v1", node.as_str(), data);
            let invitation = Invitation {
                secret: random::secret(KeySlot::Node),
                domain: TrustDomain::new(node, draft.own.mesh().clone()),
                scope,
                not_after: now.wall + ttl,
                redeemed_by: None,
            };
            let own = draft.own.clone();
            draft.invitations.invite(&draft.members, &*signer, &own, invitation, addresses, now)
        });
        let token = token.await?;
        info!(sagemesh.node = subject, "made an invitation");
        Ok(token.to_string())
    }

    fn welcome(&self) -> Result<Arc<[u8]>, Refusal> {
        let members = self.keeper.members().borrow().clone();
        let mut kept = self.welcome.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = Now::read();
        if let Some((of, made, welcome)) = &*kept
            && Arc::ptr_eq(of, &members)
            && now.mono.duration_since(*made) < WELCOME_AGE_MAX
        {
            return welcome.clone();
        }
        let welcome = join::welcome(&members, &self.own, now).map(Arc::from);
        *kept = Some((members, now.mono, welcome.clone()));
        welcome
    }

    async fn redeem(&self, exporter: Exporter, request: Vec<u8>) -> Vec<u8> {
        let record = self.keeper.change(move |draft, now| {
            let signer = draft.signer()?;
            let record = draft.invitations.redeem(&draft.members, &*signer, &exporter, &request, now)?;
            if let Statement::Member(member) = Signed::read(record.clone())?.statement {
                let held = draft.members.get(&member.domain);
                let kind = match held.is_some_and(|held| held.authority == member.authority) {
                    true => "identity.member.renewed.v1",
                    false => "identity.member.admitted.v1",
                };
                let by = SpiffeId::node(member.domain.clone()).to_string();
                draft.sign(record.clone(), now, kind, member.node().as_str(), json!({ "by": by }))?;
            }
            Ok(record)
        });
        let port = self.reach().map_or(0, |reach| reach.mesh);
        join::reply(&record.await, port)
    }

    async fn change_scope(
        &self,
        by: Asker,
        node: NodeName,
        add: Scope,
        remove: Scope,
    ) -> Result<Scope, Refusal> {
        let change = self.keeper.change(move |draft, now| {
            let signer = draft.signer()?;
            let domain = TrustDomain::new(node, draft.own.mesh().clone());
            let held = draft.members.get(&domain).ok_or_else(|| draft.members.why_not(&domain))?;
            let invalid = |detail: String| Reason::ConfigInvalid.because(detail);
            let kept = held.scope.without(&remove).ok_or_else(|| {
                invalid(format!("`{}` may speak for svc/*: take that away and give the rest", domain.node()))
            })?;
            let scope = kept.with(&add).map_err(|err| invalid(err.to_string()))?;
            let record = draft.members.renew(&*signer, &domain, Some(scope.clone()), now)?;
            let data = json!({ "by": by.to_string(), "scope": scope.to_string() });
            draft.sign(record, now, "identity.member.scoped.v1", domain.node().as_str(), data)?;
            Ok(scope)
        });
        change.await
    }

    async fn revoke(&self, by: Asker, node: NodeName, note: String) -> Result<(), Refusal> {
        let change = self.keeper.change(move |draft, now| {
            let signer = draft.signer()?;
            let domain = TrustDomain::new(node, draft.own.mesh().clone());
            let tombstone = draft.members.revoke(&*signer, &domain, &note, now)?;
            let data = json!({ "by": by.to_string(), "note": note });
            draft.sign(tombstone, now, "identity.member.revoked.v1", domain.node().as_str(), data)
        });
        change.await
    }

    async fn set_operator(
        &self,
        by: Asker,
        name: ServiceName,
        role: Option<Role>,
        key: PublicKey,
    ) -> Result<(), Refusal> {
        let change = self.keeper.change(move |draft, now| {
            let signer = draft.signer()?;
            let record = draft.members.sign_operator(&*signer, name.clone(), role, key, now)?;
            let role = role.map(|role| format!("{role:?}").to_lowercase());
            let data = json!({ "by": by.to_string(), "role": role });
            draft.sign(record, now, "identity.operator.set.v1", name.as_str(), data)
        });
        change.await
    }

    async fn leave(&self, by: Asker) -> Result<(), Refusal> {
        let noted = self.keeper.change(move |draft, now| {
            draft.note(now, "mesh.node.left.v1", "", json!({ "by": by.to_string() }));
            Ok(())
        });
        noted.await?;
        self.leave.cancel();
        Ok(())
    }

    async fn reload(&self, by: Asker) -> Result<Vec<String>, Refusal> {
        let invalid = |err: config::Error| Reason::ConfigInvalid.because(chain(&err));
        let config = config::load(&self.sources).map_err(invalid)?;
        let fixed = self.config.fixed_changes(&config);
        if !fixed.is_empty() {
            let detail = format!("{} can only be changed by a restart", fixed.join(", "));
            return Err(Reason::ConfigInvalid.because(detail));
        }
        self.services.configure(by, config.services).await
    }

    async fn add_service(&self, by: Asker, declaration: Declaration) -> Result<(), Refusal> {
        self.services.add(by, declaration).await
    }

    async fn remove_service(&self, by: Asker, name: ServiceName) -> Result<(), Refusal> {
        self.services.remove(by, name).await
    }

    async fn register(
        &self,
        caller: Registrant,
        registration: Registration,
        ttl: Duration,
    ) -> Result<Lease, Refusal> {
        self.services.register(caller, registration, ttl).await
    }

    async fn renew(&self, caller: Registrant, lease: LeaseId) -> Result<Lease, Refusal> {
        self.services.renew(caller, lease).await
    }

    async fn deregister(&self, caller: Registrant, lease: LeaseId) -> Result<(), Refusal> {
        self.services.deregister(caller, lease).await
    }

    async fn explain(&self, service: ServiceName) -> Result<Vec<Layer>, Refusal> {
        let seen = why::Seen {
            own: &self.own,
            members: self.keeper.members().borrow().clone(),
            links: self.links.peers().borrow().clone(),
            tunnels: Tunnels::new(self.links.clone(), self.keeper.members()),
            gossip: self.gossip.peers().borrow().clone(),
            services: self.services.shown().borrow().clone(),
            table: self.services.table().borrow().clone(),
            views: self.proxy.as_ref().map(|proxy| proxy.explain(&service)),
        };
        Ok(why::layers(&seen, &service, Now::read()).await)
    }
}
