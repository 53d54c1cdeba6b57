//! The node behind the API: a real member map with a real signer, and lists that tests set.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::node::{
    Asker, Authority, Declaration, Health, Layer, Lease, LeaseId, Outcome, Peer, Registrant, Registration,
    Service, Source, Status,
};
use identity::join::{self, Exporter, Invitation, Invitations};
use identity::{Members, Role, Scope};
use tokio::sync::watch;
use types::key::KeySlot;
use types::{Digest, Envelope, NodeName, Now, PublicKey, Reason, Refusal, ServiceName, TrustDomain};

use crate::world::{Mesh, Node};

/// A service at whose name the node panics.
pub const PANICS: &str = "panics";

/// A node `one`, which is a signer, as its API sees it.
pub struct Backend {
    pub own: Node,
    pub map: watch::Sender<Arc<Members>>,
    pub ready: watch::Sender<bool>,
    pub peers: watch::Sender<Arc<Vec<Peer>>>,
    pub services: watch::Sender<Arc<Vec<Service>>>,
    pub left: watch::Sender<bool>,
    /// Where it says that it listens.
    pub address: watch::Sender<String>,
    kept: Mutex<Kept>,
}

struct Kept {
    mesh: Mesh,
    invitations: Invitations,
    lease: Option<(Registrant, Lease)>,
}

impl Backend {
    pub fn new(mut mesh: Mesh) -> Self {
        let own = mesh.admit("one", "svc/*");
        let map = watch::Sender::new(Arc::new(mesh.members.clone()));
        let kept = Mutex::new(Kept { mesh, invitations: Invitations::default(), lease: None });
        Self {
            own,
            map,
            ready: watch::Sender::new(true),
            peers: watch::Sender::default(),
            services: watch::Sender::default(),
            left: watch::Sender::new(false),
            address: watch::Sender::default(),
            kept,
        }
    }

    /// Does something to the mesh, and lets everybody see it.
    pub fn with<T>(&self, act: impl FnOnce(&mut Mesh) -> T) -> T {
        let mut kept = self.kept.lock().unwrap();
        let done = act(&mut kept.mesh);
        self.map.send_replace(Arc::new(kept.mesh.members.clone()));
        done
    }

    fn sign(&self, sign: impl FnOnce(&Mesh) -> Result<Envelope, Refusal>) -> Result<(), Refusal> {
        self.with(|mesh| {
            let signed = sign(mesh)?;
            mesh.members.merge(signed).map(drop)
        })
    }

    fn domain(&self, node: NodeName) -> TrustDomain {
        TrustDomain::new(node, self.own.domain.mesh().clone())
    }
}

#[tonic::async_trait]
impl api::Node for Backend {
    fn members(&self) -> watch::Receiver<Arc<Members>> {
        self.map.subscribe()
    }

    fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    fn peers(&self) -> watch::Receiver<Arc<Vec<Peer>>> {
        self.peers.subscribe()
    }

    fn services(&self) -> watch::Receiver<Arc<Vec<Service>>> {
        self.services.subscribe()
    }

    async fn status(&self) -> Result<Status, Refusal> {
        let members = Arc::clone(&self.map.borrow());
        let own = members.get(&self.own.domain).ok_or_else(|| members.why_not(&self.own.domain))?;
        let signers = members.signers().values().map(|it| it.grant().node.clone()).collect();
        Ok(Status {
            mesh: members.mesh().clone(),
            root: members.fingerprint(),
            root_generation: members.root().generation,
            node: own.domain.clone(),
            peer: own.peer,
            scope: own.scope.clone(),
            record_until: own.not_after,
            signers,
            n_members: members.iter().count(),
            warnings: vec!["there is one signer only".to_owned()],
            is_ready: *self.ready.borrow(),
            inbound: None,
            version: "0.0.0".to_owned(),
        })
    }

    async fn authorities(&self) -> Result<Vec<Authority>, Refusal> {
        let members = Arc::clone(&self.map.borrow());
        let own = members.get(&self.own.domain).ok_or_else(|| members.why_not(&self.own.domain))?;
        Ok(vec![Authority::of(&*self.own.keys, own)?])
    }

    async fn invite(&self, _: Asker, node: NodeName, scope: Scope, ttl: Duration) -> Result<String, Refusal> {
        let mut kept = self.kept.lock().unwrap();
        let Kept { mesh, invitations, .. } = &mut *kept;
        let invitation = Invitation {
            secret: tls::random::secret(KeySlot::Node),
            domain: self.domain(node),
            scope,
            not_after: mesh.now.wall + ttl,
            redeemed_by: None,
        };
        let at = vec![self.address.borrow().clone()];
        let own = &self.own.domain;
        let token = invitations.invite(&mesh.members, &mesh.signer, own, invitation, at, Now::read())?;
        Ok(token.to_string())
    }

    fn welcome(&self) -> Result<Arc<[u8]>, Refusal> {
        join::welcome(&self.map.borrow(), &self.own.domain, Now::read()).map(Arc::from)
    }

    async fn redeem(&self, exporter: Exporter, request: Vec<u8>) -> Vec<u8> {
        let mut kept = self.kept.lock().unwrap();
        let Kept { mesh, invitations, .. } = &mut *kept;
        let record = invitations.redeem(&mesh.members, &mesh.signer, &exporter, &request, Now::read());
        if let Ok(record) = &record {
            mesh.members.merge(record.clone()).unwrap();
            self.map.send_replace(Arc::new(mesh.members.clone()));
        }
        join::reply(&record, 7400)
    }

    async fn change_scope(&self, _: Asker, node: NodeName, add: Scope, _: Scope) -> Result<Scope, Refusal> {
        let domain = self.domain(node);
        self.sign(|mesh| mesh.members.renew(&mesh.signer, &domain, Some(add), Now::read()))?;
        Ok(self.map.borrow().get(&domain).unwrap().scope.clone())
    }

    async fn revoke(&self, _: Asker, node: NodeName, note: String) -> Result<(), Refusal> {
        let domain = self.domain(node);
        self.sign(|mesh| mesh.members.revoke(&mesh.signer, &domain, &note, Now::read()))
    }

    async fn set_operator(
        &self,
        _: Asker,
        name: ServiceName,
        role: Option<Role>,
        key: PublicKey,
    ) -> Result<(), Refusal> {
        self.sign(|mesh| mesh.members.sign_operator(&mesh.signer, name, role, key, Now::read()))
    }

    async fn leave(&self, _: Asker) -> Result<(), Refusal> {
        self.left.send_replace(true);
        Ok(())
    }

    async fn reload(&self, _: Asker) -> Result<Vec<String>, Refusal> {
        Err(Reason::ConfigInvalid.because("line 3: a bracket is missing"))
    }

    async fn add_service(&self, _: Asker, declaration: Declaration) -> Result<(), Refusal> {
        let service = Service {
            name: declaration.name,
            node: self.own.domain.node().clone(),
            address: declaration.listen,
            protocol: declaration.protocol,
            health: Health::Unhealthy(Reason::ServiceUnhealthy.because("nobody listens")),
            source: Some(Source::Added),
        };
        self.services.send_modify(|list| Arc::make_mut(list).push(service));
        Ok(())
    }

    async fn remove_service(&self, _: Asker, name: ServiceName) -> Result<(), Refusal> {
        let before = self.services.borrow().len();
        self.services.send_modify(|list| Arc::make_mut(list).retain(|it| it.name != name));
        if self.services.borrow().len() < before {
            return Ok(());
        }
        Err(Reason::ServiceUnknown.because(format!("`{name}` was not added here")))
    }

    async fn register(
        &self,
        caller: Registrant,
        registration: Registration,
        ttl: Duration,
    ) -> Result<Lease, Refusal> {
        if let Registrant::Service(id) = &caller {
            let own = self.own.service(registration.name.as_str());
            if *id != own {
                return Err(Reason::CallerUnmapped.because(format!("{id} is not {own}")));
            }
        }
        let lease = Lease { id: LeaseId(u128::from_be_bytes(tls::random::bytes())), ttl };
        self.kept.lock().unwrap().lease = Some((caller, lease));
        Ok(lease)
    }

    async fn renew(&self, caller: Registrant, id: LeaseId) -> Result<Lease, Refusal> {
        match &self.kept.lock().unwrap().lease {
            Some((by, lease)) if lease.id == id && *by == caller => Ok(*lease),
            _ => Err(Reason::LeaseUnknown.because("no such lease of this caller")),
        }
    }

    async fn deregister(&self, caller: Registrant, id: LeaseId) -> Result<(), Refusal> {
        self.renew(caller, id).await?;
        self.kept.lock().unwrap().lease = None;
        Ok(())
    }

    async fn explain(&self, service: ServiceName) -> Result<Vec<Layer>, Refusal> {
        assert!(service.as_str() != PANICS, "a test asked for this");
        let layer = |name: &str, outcome, seen: &str| Layer {
            name: name.to_owned(),
            outcome,
            seen: seen.to_owned(),
            advice: None,
        };
        let digest = Digest::of(&[service.as_str().as_bytes()]);
        Ok(vec![
            layer("name", Outcome::Ok, &digest.short()),
            layer("membership", Outcome::Failed(Reason::ServiceUnknown), "no node offers it"),
            layer("health", Outcome::Skipped, ""),
        ])
    }
}
