//! The room: binds, serves its ports, follows the table and the member map, and drains.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mio::Poll;
use tls::{News, Server};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use attest::Attestor;
use identity::Members;

use crate::config::Config;
use crate::connections::Connections;
use crate::detours::{self, Detours};
use crate::dial::Ground;
use crate::doors::Door;
use crate::edges::Edges;
use crate::error::Error;
use crate::handle::Handle;
use crate::inbound;
use crate::links::Lent;
use crate::metrics::Counts;
use crate::relay::{Crew, Working};
use crate::routes::Routes;
use crate::shares::Shares;
use crate::socket;
use crate::table::Table;
use crate::tasks::Tasks;

/// How often open connections are looked at though nothing changed: records end by themselves.
const TICK: Duration = Duration::from_secs(5);
/// Most TLS handshakes of inbound at a time, and no more than half its connections, so that strangers take no
/// place of those who are known.
const HANDSHAKES_MAX: usize = 128;

/// How long bridges may take over the last words of connections that were closed.
const BRIDGES_END_WITHIN: Duration = Duration::from_millis(500);

/// What all connections and calls use.
pub(crate) struct Shared {
    pub(crate) ground: Arc<Ground>,
    pub(crate) table: watch::Receiver<Arc<Table>>,
    pub(crate) members: watch::Receiver<Arc<Members>>,
    pub(crate) server: Server,
    pub(crate) attestor: Attestor,
    pub(crate) handshakes: Semaphore,
    pub(crate) shares: Arc<Shares>,
    pub(crate) routes: Arc<Routes>,
    pub(crate) crew: Crew,
    pub(crate) tasks: Tasks,
}

/// The proxy of this node, not yet running.
pub struct Proxy {
    shared: Arc<Shared>,
    doors: Vec<Door>,
    pollers: Vec<Poll>,
    outbound: SocketAddr,
    inbound: SocketAddr,
    tunnels: Vec<SocketAddr>,
}

impl Proxy {
    /// Holds the ports. Calls are carried by what `table` holds, and connections let in by what `members`
    /// holds, each at the time. What peers bring along of themselves goes to `news`. Nodes whose ports cannot be
    /// reached are called over `links`, if there are any.
    ///
    /// # Errors
    /// A field out of bounds, a port that cannot be had, or a kernel that does not tell who calls.
    pub async fn bind(
        config: Config,
        table: watch::Receiver<Arc<Table>>,
        members: watch::Receiver<Arc<Members>>,
        news: News,
        links: Option<Lent>,
    ) -> Result<Self, Error> {
        config.check()?;
        let attestor = Attestor::new()?;
        let (listener, outbound) = listen(config.outbound, "proxy.outbound").await?;
        let mut doors = vec![Door::Outbound(listener)];
        let (listener, inbound) = listen(config.inbound, "proxy.inbound").await?;
        doors.push(Door::Inbound(listener));
        let links = links.map(|Lent { links, arrivals }| {
            doors.push(Door::Mesh(arrivals));
            links
        });
        let mut tunnels = Vec::new();
        for tunnel in &config.tunnels {
            let (listener, address) = listen(tunnel.listen, "outbound.listen").await?;
            doors.push(Door::Tunnel(listener, tunnel.service.clone()));
            tunnels.push(address);
        }
        if let Some(path) = &config.socket {
            doors.push(Door::Socket(socket::listen(path).await?));
        }
        let counts: Arc<Counts> = Arc::default();
        let routes = Arc::new(Routes::new(config.route.clone(), tls::random::bytes()));
        routes.update(&table.borrow().endpoints);
        let edges = Arc::new(Edges::new(Arc::clone(&counts)));
        let (crew, pollers) = Crew::new(config.workers, &counts).map_err(Error::Workers)?;
        let tasks = Tasks::new(Arc::clone(&counts));
        let server = inbound::server(table.clone(), members.clone());
        let n_max = config.connections_max as usize;
        let (handshakes, shares) = (Semaphore::new(HANDSHAKES_MAX.min(n_max / 2)), Shares::new(n_max));
        let ground = Arc::new(Ground {
            config,
            bridges: Tasks::new(Arc::clone(&counts)),
            counts,
            edges,
            connections: Arc::new(Connections::new(news)),
            links,
            detours: Detours::default(),
        });
        let shared =
            Shared { ground, table, members, server, attestor, handshakes, shares, routes, crew, tasks };
        let shared = Arc::new(shared);
        Ok(Self { shared, doors, pollers, outbound, inbound, tunnels })
    }

    /// Where callers on this machine connect.
    pub const fn outbound_addr(&self) -> SocketAddr {
        self.outbound
    }

    /// Where other nodes connect.
    pub const fn inbound_addr(&self) -> SocketAddr {
        self.inbound
    }

    /// The local ports of tunnels, in the order of the configuration.
    pub fn tunnel_addrs(&self) -> &[SocketAddr] {
        &self.tunnels
    }

    /// What other rooms use.
    pub fn handle(&self) -> Handle {
        Handle { shared: Arc::clone(&self.shared) }
    }

    /// Carries calls until `shutdown`. Then takes no more, tells callers so (GOAWAY), and waits for those in
    /// flight, `drain_timeout` at most.
    ///
    /// # Panics
    /// If a worker did, outside of what one connection made it do.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { shared, doors, pollers, .. } = self;
        let mut working = Working::start(&shared, pollers);
        let config = &shared.ground.config;
        let n_max = config.connections_max;
        let permits = [(); 3].map(|()| Arc::new(Semaphore::new(n_max as usize)));
        let [near, far, tunnels] = &permits;
        let mut serving = JoinSet::new();
        for door in doors {
            let permits = match &door {
                Door::Outbound(_) | Door::Socket(_) => near,
                Door::Inbound(_) | Door::Mesh(_) => far,
                Door::Tunnel(..) => tunnels,
            };
            serving.spawn(door.serve(Arc::clone(&shared), Arc::clone(permits), shutdown.clone()));
        }
        serving.spawn(detours::watch(Arc::clone(&shared.ground), shutdown.clone()));
        tokio::select! {
            () = follow(&shared, &shutdown) => {}
            () = working.ended() => working.stop(),
        }
        shared.crew.drain();
        let drained = async {
            while serving.join_next().await.is_some() {}
            for permits in &permits {
                // All of them: nobody holds a connection any more.
                let _ = permits.acquire_many(n_max).await;
            }
        };
        if timeout(config.drain_timeout, drained).await.is_err() {
            info!("stopped before all calls had ended");
        }
        serving.shutdown().await;
        working.stop();
        shared.tasks.stop().await;
        shared.ground.bridges.finish(BRIDGES_END_WITHIN).await;
        if let Some(path) = &config.socket
            && let Err(err) = std::fs::remove_file(path)
        {
            warn!(error = %err, "failed to remove the Unix socket");
        }
    }
}

/// Follows the table and the member map.
async fn follow(shared: &Shared, shutdown: &CancellationToken) {
    let (mut table, mut members) = (shared.table.clone(), shared.members.clone());
    let (mut is_table_kept, mut is_map_kept) = (true, true);
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // What changed between the binding and now.
    table.mark_changed();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = table.changed(), if is_table_kept => {
                is_table_kept = changed.is_ok();
                shared.routes.update(&table.borrow_and_update().endpoints);
            }
            changed = members.changed(), if is_map_kept => is_map_kept = changed.is_ok(),
            _ = tick.tick() => {}
        }
        let current = Arc::clone(&members.borrow_and_update());
        if shared.ground.connections.recheck(&current, &shared.ground.counts) {
            shared.crew.recheck();
        }
    }
}

async fn listen(wanted: SocketAddr, field: &'static str) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source| Error::Listen { address: wanted, field, source };
    let listener = TcpListener::bind(wanted).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}
