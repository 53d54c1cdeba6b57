//! What the node's configuration says of its own services, and where all services are.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tls::Svids;
use tokio::sync::watch;

use attest::{Owner, Selector};
use types::{MeshName, Reason, Refusal, ServiceName, SpiffeId, TrustDomain};

/// What calls are carried by. Replaced as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The mesh.
    pub mesh: MeshName,
    /// This node.
    pub node: TrustDomain,
    /// The services on this node.
    pub local: BTreeMap<ServiceName, Local>,
    /// Where all services are, this node's included.
    pub endpoints: BTreeMap<ServiceName, Vec<route::Endpoint>>,
}

/// A service on this node.
#[derive(Clone, Debug)]
pub struct Local {
    /// Which processes are it: those that match all of these. None matches nothing.
    pub selectors: Vec<Selector>,
    /// Where it is served; absent if it only calls.
    pub backend: Option<Backend>,
    /// Who may call it.
    pub policy: route::Policy,
    /// Its certificates, or why this node may not issue any.
    pub svids: Result<watch::Receiver<Arc<Svids>>, Refusal>,
}

/// Two are equal if their certificates come from the same place.
impl PartialEq for Local {
    fn eq(&self, other: &Self) -> bool {
        let is_svids_same = match (&self.svids, &other.svids) {
            (Ok(one), Ok(other)) => one.same_channel(other),
            (Err(one), Err(other)) => one == other,
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
        };
        is_svids_same
            && (&self.selectors, &self.backend, &self.policy)
                == (&other.selectors, &other.backend, &other.policy)
    }
}

impl Eq for Local {}

/// Where a service on this node is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The port it listens on.
    pub address: SocketAddr,
    /// What it speaks.
    pub protocol: Protocol,
    /// Why it takes no calls now, if it takes none.
    pub health: Result<(), Refusal>,
}

/// What a backend speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC over HTTP/2 in the clear (h2c, prior knowledge).
    Grpc,
    /// Bytes over TCP, whatever they are.
    Tcp,
}

impl Table {
    /// The service that a process is: of those it matches, the one with the most selectors.
    ///
    /// # Errors
    /// [`Reason::CallerUnmapped`] if there is none, or two that match equally well.
    pub(crate) fn caller(&self, owner: &Owner) -> Result<(&ServiceName, &Local), Refusal> {
        let matching = self.local.iter().filter(|(_, local)| owner.matches(&local.selectors));
        let mut best: Option<(&ServiceName, &Local)> = None;
        let mut rival = None;
        for (name, local) in matching {
            let n_best = best.map_or(0, |(_, best)| best.selectors.len());
            if local.selectors.len() > n_best {
                (best, rival) = (Some((name, local)), None);
            } else if local.selectors.len() == n_best {
                rival = Some(name);
            }
        }
        match (best, rival) {
            (Some(found), None) => Ok(found),
            (Some((one, _)), Some(other)) => Err(Reason::CallerUnmapped.because(format!(
                "the process matches `{one}` and `{other}` equally well: give one of them another selector"
            ))),
            (None, _) => Err(Reason::CallerUnmapped
                .because(format!("no service's selectors match the process; `{}` would", owner.selector()))),
        }
    }

    /// The service that an authority's host names: `NAME`, or `NAME.svc.MESH`.
    pub(crate) fn named(&self, host: &str) -> Option<ServiceName> {
        let label = match host.split_once('.') {
            None => host,
            Some((label, rest)) => (rest.strip_prefix("svc.")? == self.mesh.as_str()).then_some(label)?,
        };
        label.parse().ok()
    }

    /// The service of this node that an authority's host or a hello names: as [`Table::named`], or
    /// `NAME.NODE.MESH`.
    pub(crate) fn named_here(&self, host: &str) -> Option<ServiceName> {
        let on_node = host.split_once('.').filter(|(_, rest)| *rest == self.node.to_string());
        match on_node {
            Some((label, _)) => label.parse().ok(),
            None => self.named(host),
        }
    }

    /// A service that is served on this node.
    ///
    /// # Errors
    /// [`Reason::ServiceUnknown`].
    pub(crate) fn served(&self, service: &ServiceName) -> Result<(&Local, &Backend), Refusal> {
        let local = self.local.get(service);
        let found = local.and_then(|local| Some((local, local.backend.as_ref()?)));
        found.ok_or_else(|| {
            Reason::ServiceUnknown.because(format!("`{service}` is not served on `{}`", self.node))
        })
    }

    /// A service of this node as it is known to others.
    pub(crate) fn id(&self, service: &ServiceName) -> SpiffeId {
        SpiffeId::service(self.node.clone(), service.clone())
    }
}
