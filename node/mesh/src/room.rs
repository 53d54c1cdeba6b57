//! The room: binds, runs the swarm and what goes with it, and stops.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::Swarm;
use libp2p::core::transport::ListenerId;
use libp2p::swarm::{ConnectionId, ListenError, SwarmEvent};
use tls::server::Newcomers;
use tls::{Client, Pq, Server, Svids, random};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use identity::Members;
use types::{Envelope, NodeName, PeerId, Refusal, chain};

use crate::address::{from_libp2p, multiaddr, to_libp2p};
use crate::config::Config;
use crate::dialer::{Dialer, Target};
use crate::error::{Error, refusal};
use crate::handle::Handle;
use crate::link::{Link, Snapshot};
use crate::mdns::Mdns;
use crate::metrics::{Count, Counts};
use crate::muxer;
use crate::protocol::Registry;
use crate::swarm::{Links, Tasks, swarm};
use crate::transport::{ALPN, Door, Lobby, Tcp};

mod dialling;
mod keeping;

/// Events that wait for the owner. Beyond that they are shed and counted.
const EVENTS_MAX: usize = 1024;
/// Hints that wait to be noted. Beyond that they are shed and counted.
const HINTS_WAITING_MAX: usize = 256;
/// How often links are looked at though nothing changed: records end by themselves.
const TICK: Duration = Duration::from_secs(5);

/// What the owner should know.
#[derive(Clone, Debug)]
pub enum Event {
    /// A peer is linked that was not.
    Linked(Arc<Link>),
    /// The last link to a peer ended.
    Unlinked {
        /// The peer.
        peer: PeerId,
        /// Its name.
        name: NodeName,
        /// Why this side cut it, if it did.
        refusal: Option<Refusal>,
    },
    /// A peer brought a member record that the map lacks: merge it.
    Record(PeerId, Envelope),
}

/// What the owner should know, in order. Events that it is too slow for are shed: `Handle::peers` tells who is
/// linked, and a record comes again by gossip.
pub type Events = mpsc::Receiver<Event>;

/// The links of this node, not yet running.
pub struct Mesh {
    config: Config,
    own: PeerId,
    addresses: Vec<SocketAddr>,
    swarm: Swarm<Links>,
    listeners: Vec<ListenerId>,
    tasks: Tasks,
    members: watch::Receiver<Arc<Members>>,
    handle: Handle,
    hints: mpsc::Receiver<(PeerId, SocketAddr)>,
    snapshot: watch::Sender<Snapshot>,
    events: mpsc::Sender<Event>,
    /// Of each peer the one in use last, after those that end.
    links: BTreeMap<PeerId, Vec<Arc<Link>>>,
    dialer: Dialer,
    dialing: HashMap<ConnectionId, Target>,
    lookups: JoinSet<(Target, u32, io::Result<Vec<SocketAddr>>)>,
    mdns: Option<Mdns>,
}

impl Mesh {
    /// Holds the ports. Connections presents what `svids` holds and are let in by what `members` holds, each
    /// at the time.
    ///
    /// # Errors
    /// A field out of bounds, a port that cannot be had, or a node without a record.
    pub async fn bind(
        config: Config,
        svids: watch::Receiver<Arc<Svids>>,
        members: watch::Receiver<Arc<Members>>,
    ) -> Result<(Self, Events), Error> {
        config.check()?;
        let domain = svids.borrow().id.domain().cloned().ok_or(Error::NotAMember)?;
        let own = members.borrow().get(&domain).ok_or(Error::NotAMember)?.peer;
        let (sockets, addresses) = listen(&config.listen).await?;
        let counts: Arc<Counts> = Arc::default();
        let registry = Registry::new(Arc::clone(&counts));
        let lobby = Lobby::default();
        let links = Links::new(&config, lobby.clone(), registry.clone(), members.clone());
        let door = door(&config, svids, members.clone(), lobby, Arc::clone(&counts));
        let transport =
            Tcp::new(door, sockets).map_err(|source| Error::Listen { address: addresses[0], source })?;
        let tasks = Tasks::new(Arc::clone(&counts));
        let mut swarm = swarm(own, &config, transport, links, tasks.clone());
        let mut listeners = Vec::new();
        for address in &addresses {
            let id = swarm
                .listen_on(multiaddr(*address))
                .map_err(|err| Error::Listen { address: *address, source: io::Error::other(err) })?;
            listeners.push(id);
        }
        let (events, taken) = mpsc::channel(EVENTS_MAX);
        let (hint, hints) = mpsc::channel(HINTS_WAITING_MAX);
        let (snapshot, seen) = watch::channel(Snapshot::default());
        let handle = Handle {
            links: seen,
            hints: hint,
            registry,
            counts,
            mdns_wires: Arc::default(),
            open_timeout: config.open_timeout,
            streams_max: config.peer_streams_max,
        };
        let retry = (config.retry_min, config.retry_max);
        let dialer = Dialer::new(own, &config.seeds, retry, random::bytes());
        let mdns = config.mdns.then(|| Mdns::new(own, &addresses, members.clone(), handle.clone()));
        let mesh = Self {
            config,
            own,
            addresses,
            swarm,
            listeners,
            tasks,
            members,
            handle,
            hints,
            snapshot,
            events,
            links: BTreeMap::new(),
            dialer,
            dialing: HashMap::new(),
            lookups: JoinSet::new(),
            mdns: mdns.flatten(),
        };
        Ok((mesh, taken))
    }

    /// The address of the first listener.
    pub fn local_addr(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// The addresses of all listeners.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What other rooms use.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Makes and keeps links until `shutdown`, then closes them within `stop_grace`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let Some(mdns) = self.mdns.take() else { return self.keep(shutdown).await };
        tokio::join!(self.keep(shutdown.clone()), mdns.run(shutdown));
    }

    async fn keep(mut self, shutdown: CancellationToken) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_map_kept = true;
        loop {
            self.dial_due();
            let due = self.next_dial();
            tokio::select! {
                () = shutdown.cancelled() => break,
                event = self.swarm.select_next_some() => self.on_swarm(event),
                changed = self.members.changed(), if is_map_kept => {
                    is_map_kept = changed.is_ok();
                    self.recheck();
                }
                Some((peer, address)) = self.hints.recv() => {
                    if !self.dialer.hint(peer, address) {
                        self.count(Count::HintShed);
                    }
                }
                Some(found) = self.lookups.join_next() => {
                    if let Ok((target, n_failed, found)) = found {
                        self.on_lookup(target, n_failed, found);
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {}
                _ = tick.tick() => self.recheck(),
            }
        }
        self.stop().await;
    }

    async fn stop(mut self) {
        self.handle.registry.close();
        self.lookups.abort_all();
        for id in std::mem::take(&mut self.listeners) {
            self.swarm.remove_listener(id);
        }
        for peer in self.links.keys() {
            // Fails for whom it has lost by now.
            let _ = self.swarm.disconnect_peer_id(to_libp2p(*peer));
        }
        let swarm = &mut self.swarm;
        let drain = async {
            while swarm.network_info().num_peers() > 0 {
                swarm.select_next_some().await;
            }
        };
        if timeout(self.config.stop_grace, drain).await.is_err() {
            info!("stopped before all links had ended");
        }
        self.snapshot.send_replace(Snapshot::default());
        self.tasks.stop().await;
    }

    fn count(&self, count: Count) {
        self.handle.counts.add(count);
    }

    fn on_swarm(&mut self, event: SwarmEvent<std::convert::Infallible>) {
        match event {
            SwarmEvent::ConnectionEstablished { connection_id, .. } => self.on_link(connection_id),
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                self.count(Count::LinkEnded);
                let Some(peer) = from_libp2p(&peer_id) else { return };
                let why = cause.map_or_else(|| "closed".to_owned(), |cause| chain(&cause));
                self.on_end(peer, connection_id, &why, None);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                let is_refused = matches!(error, ListenError::Transport(_) | ListenError::Denied { .. })
                    && refusal(&error).is_some();
                self.count(if is_refused { Count::LinkRefused } else { Count::LinkFailed });
                let reason = refusal(&error).map(|it| it.reason.code());
                info!(
                    network.peer.address = %send_back_addr,
                    error.type = reason,
                    error = chain(&error),
                    "refused a connection"
                );
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                self.on_dial_failed(connection_id, &error);
            }
            SwarmEvent::ListenerError { error, .. } => {
                warn!(error = chain(&error), "failed to accept a connection");
            }
            SwarmEvent::ListenerClosed { reason: Err(error), .. } => {
                warn!(error = chain(&error), "lost a listener");
            }
            _ => {}
        }
    }

    fn tell(&self, event: Event) {
        if self.events.try_send(event).is_err() {
            self.count(Count::EventShed);
        }
    }
}

async fn listen(wanted: &[SocketAddr]) -> Result<(Vec<TcpListener>, Vec<SocketAddr>), Error> {
    let (mut sockets, mut addresses) = (Vec::new(), Vec::new());
    for address in wanted {
        let listen = async {
            let socket = TcpListener::bind(address).await?;
            Ok((socket.local_addr()?, socket))
        };
        let (bound, socket) = listen.await.map_err(|source| Error::Listen { address: *address, source })?;
        sockets.push(socket);
        addresses.push(bound);
    }
    Ok((sockets, addresses))
}

fn door(
    config: &Config,
    svids: watch::Receiver<Arc<Svids>>,
    members: watch::Receiver<Arc<Members>>,
    lobby: Lobby,
    counts: Arc<Counts>,
) -> Door {
    let alpn = vec![ALPN.to_vec()];
    let server = tls::server::Config { pq: Pq::Require, alpn: alpn.clone(), newcomers: Newcomers::Refused };
    Door {
        server: Server::new(server, svids.clone(), members.clone()),
        client: Client::new(Pq::Require, alpn, svids, members),
        yamux: muxer::bounds(config.peer_streams_max),
        silence_max: config.silence_max,
        lobby,
        counts,
    }
}
