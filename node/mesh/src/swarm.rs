//! libp2p's swarm, set up with every bound of it, and the behaviour that makes links of its connections.

use std::collections::HashMap;
use std::convert::Infallible;
use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::core::Endpoint;
use libp2p::core::transport::{PortUse, Transport};
use libp2p::swarm::{
    Config as SwarmConfig, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, Swarm};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use identity::Members;
use types::{Now, PeerId, Reason};

use crate::address::{from_libp2p, place, to_libp2p};
use crate::config::Config;
use crate::link::{Direction, Link};
use crate::metrics::{Count, Counts};
use crate::negotiation::Negotiation;
use crate::protocol::Registry;
use crate::transport::{Lobby, Tcp};

/// Most links to one peer: more than one only until the surplus is closed.
pub(crate) const LINKS_PER_PEER_MAX: u32 = 4;
/// Events of one connection, and commands to it, that wait to be handled.
const EVENTS_WAITING_MAX: usize = 8;
/// How long a link that another took over from is kept after its last stream. All others are kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// The tasks of all connections, ended with whoever holds them.
#[derive(Clone)]
pub(crate) struct Tasks(Arc<Mutex<JoinSet<()>>>, Arc<Counts>);

impl Tasks {
    pub(crate) fn new(counts: Arc<Counts>) -> Self {
        Self(Arc::default(), counts)
    }

    fn start(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(ended) = tasks.try_join_next() {
            if ended.is_err_and(|err| err.is_panic()) {
                self.1.add(Count::LinkPanicked);
            }
        }
        tasks.spawn(task);
    }

    /// Ends all of them.
    pub(crate) async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
    }
}

/// The swarm of the node `own`.
pub(crate) fn swarm(
    own: PeerId,
    config: &Config,
    transport: Tcp,
    links: Links,
    tasks: Tasks,
) -> Swarm<Links> {
    let events = NonZeroUsize::new(EVENTS_WAITING_MAX).expect("not zero");
    let swarm_config = SwarmConfig::with_executor(move |task| tasks.start(task))
        .with_notify_handler_buffer_size(events)
        .with_per_connection_event_buffer_size(EVENTS_WAITING_MAX)
        .with_dial_concurrency_factor(NonZeroU8::MIN)
        .with_max_negotiating_inbound_streams(usize::from(config.peer_streams_max))
        .with_idle_connection_timeout(IDLE_TIMEOUT);
    Swarm::new(transport.boxed(), links, to_libp2p(own), swarm_config)
}

/// Makes a link of each connection that may be one.
pub(crate) struct Links {
    bounds: connection_limits::Behaviour,
    lobby: Lobby,
    registry: Registry,
    members: watch::Receiver<Arc<Members>>,
    streams_max: u16,
    open_timeout: Duration,
    /// Links that the room has not been told of yet.
    fresh: HashMap<ConnectionId, Arc<Link>>,
}

impl Links {
    pub(crate) fn new(
        config: &Config,
        lobby: Lobby,
        registry: Registry,
        members: watch::Receiver<Arc<Members>>,
    ) -> Self {
        // Whichever side began them, all links may be of one direction.
        let bounds = ConnectionLimits::default()
            .with_max_pending_incoming(Some(config.pending_max))
            .with_max_pending_outgoing(Some(config.pending_max))
            .with_max_established_incoming(Some(config.links_max))
            .with_max_established_outgoing(Some(config.links_max))
            .with_max_established(Some(config.links_max))
            .with_max_established_per_peer(Some(LINKS_PER_PEER_MAX));
        Self {
            bounds: connection_limits::Behaviour::new(bounds),
            lobby,
            registry,
            members,
            streams_max: config.peer_streams_max,
            open_timeout: config.open_timeout,
            fresh: HashMap::new(),
        }
    }

    /// The link that a connection has become.
    pub(crate) fn take(&mut self, id: ConnectionId) -> Option<Arc<Link>> {
        self.fresh.remove(&id)
    }

    fn link(
        &mut self,
        id: ConnectionId,
        peer: &libp2p::PeerId,
        address: &Multiaddr,
        direction: Direction,
    ) -> Result<Negotiation, ConnectionDenied> {
        let unknown =
            || ConnectionDenied::new(Reason::NotANode.because("libp2p hands over whom nobody let in"));
        let peer = from_libp2p(peer).ok_or_else(unknown)?;
        let (address, _) = place(address).ok_or_else(unknown)?;
        let admitted = self.lobby.take(peer, address, direction).ok_or_else(unknown)?;
        let name = admitted.tls.caller.member().ok_or_else(unknown)?.node().clone();
        let (asks, asked) = mpsc::channel(usize::from(self.streams_max));
        let streams = || Arc::new(Semaphore::new(usize::from(self.streams_max)));
        let now = Now::read();
        let link = Arc::new(Link {
            peer,
            name,
            address,
            direction,
            since: now.wall,
            born: Instant::now(),
            id,
            admitted,
            retire: CancellationToken::new(),
            asks,
            inbound: streams(),
            outbound: streams(),
        });
        // The map may have changed since the handshake.
        link.recheck(now, &self.members.borrow()).map_err(ConnectionDenied::new)?;
        self.fresh.insert(id, Arc::clone(&link));
        Ok(Negotiation::new(link, asked, self.registry.clone(), self.open_timeout))
    }
}

impl NetworkBehaviour for Links {
    type ConnectionHandler = Negotiation;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.bounds.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: libp2p::PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.bounds.handle_established_inbound_connection(id, peer, local, remote)?;
        self.link(id, &peer, remote, Direction::Inbound)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<libp2p::PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.bounds.handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: libp2p::PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.bounds.handle_established_outbound_connection(id, peer, address, role, port)?;
        self.link(id, &peer, address, Direction::Outbound)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.bounds.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        _: libp2p::PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}
