//! What this room asks of the node that it speaks for. The daemon implements [`Node`]; roles are checked
//! before any of it is called.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use identity::authority::{self, Form};
use identity::join::Exporter;
use identity::{Member, Members, Role, Scope};
use types::key::{KeySlot, Keys};
use types::{
    Digest, MeshName, NodeName, PeerId, PublicKey, Reason, Refusal, ServiceName, SpiffeId, Timestamp,
    TrustDomain,
};

/// The node behind the API. What it refuses it leaves unchanged.
///
/// A call is dropped where it waits when its caller goes away, [`Node::redeem`] alone excepted until the node
/// stops. What must not be done by half is therefore done by an owner that is sent a message. What is asked for
/// with an [`Asker`] leaves an event for the audit, durable before the answer.
#[tonic::async_trait]
pub trait Node: Send + Sync + 'static {
    /// The member map.
    fn members(&self) -> watch::Receiver<Arc<Members>>;

    /// Whether the node serves all that it is meant to.
    fn ready(&self) -> watch::Receiver<bool>;

    /// The other nodes, in the order of their names.
    fn peers(&self) -> watch::Receiver<Arc<Vec<Peer>>>;

    /// The services offered in the mesh, in the order of their names, then their nodes'.
    fn services(&self) -> watch::Receiver<Arc<Vec<Service>>>;

    /// Who the node is and how its mesh stands; why not, if its own record does not count.
    async fn status(&self) -> Result<Status, Refusal>;

    /// The authority certificates of members that are known here, its own among them.
    async fn authorities(&self) -> Result<Vec<Authority>, Refusal>;

    /// Makes an invitation, and answers its token as people carry it.
    async fn invite(&self, by: Asker, node: NodeName, scope: Scope, ttl: Duration)
    -> Result<String, Refusal>;

    /// What the inviter says first to a newcomer: [`identity::join::welcome`]. Why nobody can join here.
    fn welcome(&self) -> Result<Arc<[u8]>, Refusal>;

    /// Answers a newcomer's request with a reply, [`identity::join::reply`], a refusal included. What it
    /// grants is durable before this answers.
    async fn redeem(&self, exporter: Exporter, request: Vec<u8>) -> Vec<u8>;

    /// Changes what a node may speak for: first what goes, then what comes. Answers the new scope.
    async fn change_scope(
        &self,
        by: Asker,
        node: NodeName,
        add: Scope,
        remove: Scope,
    ) -> Result<Scope, Refusal>;

    /// Ends the membership of a node's keys.
    async fn revoke(&self, by: Asker, node: NodeName, note: String) -> Result<(), Refusal>;

    /// Gives an operator a role, or takes it away.
    async fn set_operator(
        &self,
        by: Asker,
        name: ServiceName,
        role: Option<Role>,
        key: PublicKey,
    ) -> Result<(), Refusal>;

    /// Tells the mesh that the node leaves, and has it stop once this has been answered.
    async fn leave(&self, by: Asker) -> Result<(), Refusal>;

    /// Reads the configuration again; answers what changed.
    async fn reload(&self, by: Asker) -> Result<Vec<String>, Refusal>;

    /// Declares a service of this node and keeps it.
    async fn add_service(&self, by: Asker, declaration: Declaration) -> Result<(), Refusal>;

    /// Takes back what [`Node::add_service`] declared.
    async fn remove_service(&self, by: Asker, name: ServiceName) -> Result<(), Refusal>;

    /// Registers where the service that calls serves, for `ttl`. The node attests the caller.
    async fn register(
        &self,
        caller: Registrant,
        registration: Registration,
        ttl: Duration,
    ) -> Result<Lease, Refusal>;

    /// Extends a registration by its ttl from now; only whoever made it may.
    async fn renew(&self, caller: Registrant, lease: LeaseId) -> Result<Lease, Refusal>;

    /// Ends a registration; only whoever made it may.
    async fn deregister(&self, caller: Registrant, lease: LeaseId) -> Result<(), Refusal>;

    /// Looks at each layer that a call to a service passes through, in order.
    async fn explain(&self, service: ServiceName) -> Result<Vec<Layer>, Refusal>;
}

/// Who the node is and how its mesh stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The mesh.
    pub mesh: MeshName,
    /// Digest of the first root.
    pub root: Digest,
    /// Generation of the root in force.
    pub root_generation: u32,
    /// This node.
    pub node: TrustDomain,
    /// Its peer id.
    pub peer: PeerId,
    /// The services it may speak for.
    pub scope: Scope,
    /// When its record ends.
    pub record_until: Timestamp,
    /// Nodes that hold the keys of a signer in force.
    pub signers: Vec<NodeName>,
    /// Members whose records count.
    pub n_members: usize,
    /// What deserves attention, each with what to do.
    pub warnings: Vec<String>,
    /// Whether it serves all that it is meant to.
    pub is_ready: bool,
    /// Where its services are called; none if its proxy is off or does not run yet.
    pub inbound: Option<SocketAddr>,
    /// Version of the program.
    pub version: String,
}

/// Whether a peer lives, as this node has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// Nothing has been heard of it.
    Unknown,
    /// It lives.
    Alive,
    /// It does not answer, and has some time to object.
    Suspect,
    /// It is dead.
    Dead,
    /// It left of its own accord.
    Left,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub node: NodeName,
    /// Its peer id.
    pub id: PeerId,
    /// Whether it lives.
    pub liveness: Liveness,
    /// Whether a link to it stands now.
    pub is_admitted: bool,
    /// The other end of that link.
    pub address: Option<SocketAddr>,
    /// The link's key-exchange group.
    pub group: Option<String>,
    /// The algorithm by which the peer proved its key.
    pub signature: Option<String>,
    /// Since when the link stands.
    pub since: Option<Timestamp>,
    /// The services that it offers.
    pub services: Vec<ServiceName>,
}

/// What a service speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC.
    Grpc,
    /// Bytes that nobody looks into.
    Tcp,
}

/// How a service's health is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthCheck {
    /// By grpc.health.v1.
    Grpc,
    /// By connecting.
    Tcp,
    /// Not at all.
    None,
}

/// A service as it is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// Its name.
    pub name: ServiceName,
    /// Where it listens on this node; `None` if it only calls others.
    pub listen: Option<SocketAddr>,
    /// What it speaks.
    pub protocol: Protocol,
    /// How its health is told.
    pub health: HealthCheck,
    /// Which processes are the service. The form is not checked here.
    pub selectors: Vec<String>,
    /// Who may call it. The form is not checked here.
    pub allow: Vec<String>,
}

/// Where a process says that it serves. What a service is, the operator declares: what the process says of that
/// must be the same, or left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The service's name.
    pub name: ServiceName,
    /// Where it listens on this node; `None`: as it is declared.
    pub listen: Option<SocketAddr>,
    /// What it speaks.
    pub protocol: Option<Protocol>,
    /// How its health is told.
    pub health: Option<HealthCheck>,
}

/// Whether a service can take calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It was not looked at yet.
    Unknown,
    /// It can.
    Healthy,
    /// It cannot, and why.
    Unhealthy(Refusal),
}

/// Where a service of this node was declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the configuration.
    Config,
    /// By [`Node::add_service`].
    Added,
    /// By [`Node::register`].
    Leased,
}

/// A service on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// The node that offers it.
    pub node: NodeName,
    /// Where it is reached: here at its own port, elsewhere at its node's.
    pub address: Option<SocketAddr>,
    /// What it speaks.
    pub protocol: Protocol,
    /// Whether it can take calls.
    pub health: Health,
    /// Where it was declared; `None` if it is another node's.
    pub source: Option<Source>,
}

/// Which process of this machine is at the other end of the Unix socket, as the kernel told when it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalCaller {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its process; `None` if it is in a pid namespace that cannot be seen from here.
    pub pid: Option<u32>,
}

impl fmt::Display for LocalCaller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid} of user {}", self.uid),
            None => write!(f, "a process of user {}", self.uid),
        }
    }
}

/// Who asks the node to change something, for the audit. As text: a SPIFFE ID, or which process of which user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asker {
    /// One with a certificate.
    Remote(SpiffeId),
    /// A process of this machine.
    Local(LocalCaller),
    /// Whoever may send signals to the node's process.
    Signal,
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remote(id) => write!(f, "{id}"),
            Self::Local(caller) => write!(f, "{caller}"),
            Self::Signal => f.write_str("a signal"),
        }
    }
}

/// Who registers a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registrant {
    /// A process of this machine, to be attested.
    Local(LocalCaller),
    /// A service that presented an SVID; its trust domain may be another node's.
    Service(SpiffeId),
}

/// Names a registration. Drawn at random, so that nobody guesses another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u128);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for LeaseId {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<Self, Refusal> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).ok().filter(|_| is_hex);
        number.map(Self).ok_or_else(|| Reason::LeaseUnknown.because("a lease has 32 hex digits"))
    }
}

/// A registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Which one.
    pub id: LeaseId,
    /// How long it holds unless renewed.
    pub ttl: Duration,
}

/// How a layer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It lets calls through.
    Ok,
    /// It does not.
    Failed(Reason),
    /// It could not be looked at, since one before it fails.
    Skipped,
}

/// One of the layers that a call passes through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its name.
    pub name: String,
    /// How it stands.
    pub outcome: Outcome,
    /// What was seen.
    pub seen: String,
    /// What to do if it failed; `None`: as the reason advises.
    pub advice: Option<String>,
}

/// The certificates by which stock clients believe one node and its services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Whose.
    pub node: NodeName,
    /// Those for clients made with rustls, one for each algorithm that is known.
    pub rustls: Vec<CertificateDer<'static>>,
    /// Those for all others.
    pub stock: Vec<CertificateDer<'static>>,
}

impl Authority {
    /// The certificates of the member whose keys are at hand.
    ///
    /// # Errors
    /// As [`authority::certificate`].
    pub fn of(keys: &dyn Keys, member: &Member) -> Result<Self, Refusal> {
        let both = |form: Form| {
            KeySlot::AUTHORITY
                .into_iter()
                .map(|slot| authority::certificate(keys, slot, member, form))
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(Self { node: member.node().clone(), rustls: both(Form::Rustls)?, stock: both(Form::Stock)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_reads_back_what_it_prints() {
        for number in [0, 1, u128::MAX] {
            let lease = LeaseId(number);
            assert_eq!(lease.to_string().parse(), Ok(lease));
        }
        for text in ["", "+0000000000000000000000000000000", "0", "g0000000000000000000000000000000"] {
            assert!(text.parse::<LeaseId>().is_err(), "{text}");
        }
    }
}
