//! A worker by hand: what the other ends of its connections do, and how time passes, is the caller's to say. Nothing
//! runs beside it, and the same steps lead to the same state. For `tests/fuzz` and for tests of the relay.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use mio::Events;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, watch};

use attest::{Attestor, Owner};
use identity::Members;
use tls::{Peer, Server, Svids};
use types::{Now, Reason, Refusal, ServiceName, SpiffeId, Workload};

use crate::config::Config;
use crate::connections::{Connections, Direction, Open};
use crate::detours::Detours;
use crate::dial::{Ground, Made};
use crate::edges::Edges;
use crate::handle::Handle;
use crate::inbound;
use crate::metrics::Counts;
use crate::room::Shared;
use crate::routes::Routes;
use crate::shares::Shares;
use crate::table::Table;
use crate::tasks::Tasks;
use crate::way::End;

use super::conn::Kind;
use super::crew::Crew;
use super::inbox::Newcomer;
use super::io::Socket;
use super::lane::LaneTo;
use super::slab::Key;
use super::worker::Worker;

/// Most events of one turn.
const EVENTS_MAX: usize = 64;
/// What chance begins with.
const SEED: [u8; 32] = [7; 32];

/// What rigs begin with. Nothing that happens in one changes it.
pub struct Scene {
    config: Config,
    table: Table,
    members: watch::Receiver<Arc<Members>>,
    /// Who is at the other end of connections to other nodes, and the certificates that this end has there.
    far: (Peer, Arc<Svids>),
    now: Now,
    attestor: Attestor,
    server: Server,
}

/// One worker, and what it needs.
pub struct Rig {
    worker: Worker,
    shared: Arc<Shared>,
    table: watch::Sender<Arc<Table>>,
    now: Now,
    events: Events,
    permits: Arc<Semaphore>,
    /// Tasks are started on it and never run.
    _runtime: Runtime,
}

/// What a worker holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Connections of callers, as those who hand them over see it.
    pub near: usize,
    /// All connections.
    pub connections: usize,
    /// Streams of callers that are not over.
    pub near_streams: usize,
    /// Streams to services that are not over.
    pub far_streams: usize,
    /// Bytes for which their senders were not given credit again.
    pub bytes: usize,
    /// Calls.
    pub calls: usize,
    /// Lanes, between which ends there are or may be connections.
    pub lanes: usize,
    /// What is due some time, beside the look at everything.
    pub timers: usize,
    /// Calls in flight by the router's count.
    pub routed: usize,
    /// And by that of the edges.
    pub counted: usize,
}

impl Scene {
    /// A node whose services and endpoints are those of `table`, at a moment.
    ///
    /// # Panics
    /// If the kernel does not tell who owns a socket.
    pub fn new(
        config: Config,
        table: Table,
        members: watch::Receiver<Arc<Members>>,
        far: (Peer, Arc<Svids>),
        now: Now,
    ) -> Self {
        let attestor = Attestor::new().expect("the kernel tells");
        let server =
            inbound::server(watch::Sender::new(Arc::new(table.clone())).subscribe(), members.clone());
        Self { config, table, members, far, now, attestor, server }
    }

    /// A worker that nothing happened to yet.
    ///
    /// # Panics
    /// If the system has no more files.
    pub fn rig(&self) -> Rig {
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        let guard = runtime.enter();
        let counts: Arc<Counts> = Arc::default();
        let table = watch::Sender::new(Arc::new(self.table.clone()));
        let routes = Arc::new(Routes::new(self.config.route.clone(), SEED));
        routes.update(&self.table.endpoints);
        let (crew, mut polls) = Crew::new(1, &counts).expect("files");
        let n_max = self.config.connections_max as usize;
        let ground = Ground {
            config: self.config.clone(),
            edges: Arc::new(Edges::new(Arc::clone(&counts))),
            connections: Arc::new(Connections::new(tls::news().0)),
            counts: Arc::clone(&counts),
            links: None,
            detours: Detours::default(),
            bridges: Tasks::new(Arc::clone(&counts)),
        };
        let shared = Arc::new(Shared {
            ground: Arc::new(ground),
            table: table.subscribe(),
            members: self.members.clone(),
            server: self.server.clone(),
            attestor: self.attestor.clone(),
            handshakes: Semaphore::new(1),
            shares: Shares::new(n_max),
            routes,
            crew,
            tasks: Tasks::new(counts),
        });
        let inbox = Arc::clone(&shared.crew.inboxes[0]);
        let worker = Worker::new(Arc::clone(&shared), inbox, polls.remove(0));
        let now = Now { mono: worker.now.mono, wall: self.now.wall };
        let permits = Arc::new(Semaphore::new(n_max));
        let events = Events::with_capacity(EVENTS_MAX);
        drop(guard);
        Rig { worker, shared, table, now, events, permits, _runtime: runtime }
    }
}

impl Rig {
    /// What is counted, routed and listed.
    pub fn handle(&self) -> Handle {
        Handle { shared: Arc::clone(&self.shared) }
    }

    /// Has a process on this machine connect, unless there are too many. Answers its end.
    pub fn near(&self, owner: Result<Owner, Refusal>) -> Option<UnixStream> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        let (socket, other) = pair().ok()?;
        self.shared.crew.adopt(Newcomer::Near { socket, owner, share: None, permit });
        Some(other)
    }

    /// Has `peer` connect to the service that it means, in the clear, unless there are too many connections. Answers its
    /// end.
    pub fn guest(&self, peer: &Peer) -> Option<UnixStream> {
        let SpiffeId::Workload { workload: Workload::Service(service), .. } = peer.own.clone() else {
            return None;
        };
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        let (socket, other) = pair().ok()?;
        let end = End::direct(([127, 0, 0, 1], 1).into());
        let open = Open::new(peer.clone(), end.clone(), Direction::Inbound);
        let listed = self.shared.ground.connections.list(open);
        let guest = Arc::new(inbound::Guest { service, peer: peer.clone(), end });
        self.shared.crew.adopt(Newcomer::Guest { socket, tls: None, guest, listed, permit });
        Some(other)
    }

    /// Lets the `nth` of the connections be made that the worker waits for. Answers the end of who is called.
    pub fn accept(&mut self, scene: &Scene, nth: usize) -> Option<UnixStream> {
        let lane = self.asked_for(nth)?;
        let (address, far) = match &self.worker.lanes.get(lane)?.to {
            LaneTo::Node { endpoint, .. } => (endpoint.address, Some(scene.far.clone())),
            LaneTo::Backend { address, .. } => (*address, None),
        };
        let (socket, other) = pair().ok()?;
        self.tell(lane, Ok(Made { socket, tls: None, end: End::direct(address), far }));
        Some(other)
    }

    /// Has it fail. False if the worker waits for none.
    pub fn refuse(&mut self, nth: usize) -> bool {
        let Some(lane) = self.asked_for(nth) else { return false };
        self.tell(lane, Err(Reason::EndpointUnreachable.because("on purpose")));
        true
    }

    fn tell(&self, lane: Key, made: Result<Made, Refusal>) {
        self.shared.crew.inboxes[0].tell(|letters| letters.made.push((lane, made)));
    }

    /// The lane whose connection is being made, and not made yet.
    fn asked_for(&self, nth: usize) -> Option<Key> {
        let worker = &self.worker;
        let is_made = |lane: Key| {
            let is_its = |kind: &Kind| matches!(kind, Kind::Upstream(it) if it.lane == lane && !it.is_proven);
            worker.conns.slab.iter().any(|(_, conn)| is_its(&conn.kind))
        };
        let mut lanes = worker.lanes.keys(|lane| lane.is_dialing);
        lanes.retain(|lane| !is_made(*lane));
        lanes.get(nth % lanes.len().max(1)).copied()
    }

    /// Replaces the table.
    pub fn change(&self, change: impl FnOnce(&mut Table)) {
        let mut table = Table::clone(&self.table.borrow());
        change(&mut table);
        self.shared.routes.update(&table.endpoints);
        self.table.send_replace(Arc::new(table));
    }

    /// Has no more calls taken.
    pub fn drain(&self) {
        self.shared.crew.drain();
    }

    /// Lets time pass.
    pub fn pass(&mut self, by: Duration) {
        self.now = self.now.after(by);
    }

    /// Has the worker do what there is to do: one turn of its loop.
    ///
    /// # Panics
    /// If the system does not say what happened.
    pub fn turn(&mut self) {
        let waited = self.worker.poll.poll(&mut self.events, Some(Duration::ZERO));
        match waited {
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            waited => waited.expect("the system says what happened"),
        }
        self.worker.act(self.now, &self.events);
    }

    /// Whether the worker would go on at once.
    pub fn is_busy(&self) -> bool {
        !self.worker.ready.is_empty()
    }

    /// What it holds.
    pub fn held(&self) -> Held {
        let worker = &self.worker;
        let (mut near_streams, mut far_streams, mut bytes) = (0, 0, 0);
        for (_, conn) in worker.conns.slab.iter() {
            bytes += conn.wire.n_held() as usize;
            match conn.kind {
                Kind::Near(_) | Kind::Guest(_) => near_streams += conn.wire.n_streams(),
                Kind::Upstream(_) => far_streams += conn.wire.n_streams(),
            }
        }
        let in_flight = |service: &ServiceName| {
            let views = self.shared.routes.endpoints(service);
            views.iter().map(|view| view.in_flight as usize).sum::<usize>()
        };
        debug_assert_eq!(bytes, worker.conns.n_unread);
        let counted = self.shared.ground.edges.take();
        Held {
            near: worker.inbox.load(),
            connections: worker.conns.slab.len(),
            near_streams,
            far_streams,
            bytes,
            calls: worker.calls.len(),
            lanes: worker.lanes.len(),
            timers: worker.wheel.len().saturating_sub(1),
            routed: self.table.borrow().endpoints.keys().map(in_flight).sum(),
            counted: counted.iter().map(|(_, stats)| usize::try_from(stats.in_flight).unwrap_or(0)).sum(),
        }
    }
}

/// Two ends that do not block.
fn pair() -> io::Result<(Socket, UnixStream)> {
    let (one, other) = UnixStream::pair()?;
    one.set_nonblocking(true)?;
    other.set_nonblocking(true)?;
    Ok((Socket::Unix(one), other))
}
