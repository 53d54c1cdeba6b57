//! `sagemesh up`: builds all rooms in the order in which data flows, runs them, and stops them sources first:
//! gossip tells the mesh to send no more, then what takes work from outside ends, then what it stands on.
//!
//! The only place that knows every room. A room that ends before it is told to, or panics, stops the node.

use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use api::node::Asker;
use attest::Attestor;
use mesh::sync::{DIFFERING_MAX, Given, Sync};
use mesh::{Event, Events, Gossip, Mesh};
use proxy::Proxy;
use tls::Rotation;
use types::{Now, SpiffeId};

use crate::addresses::{self, Bound};
use crate::config::{Config, Sources};
use crate::figures::Figures;
use crate::keeper::{self, Keeper};
use crate::metrics::Metrics;
use crate::node::{Node, Rooms};
use crate::readiness::Readiness;
use crate::services::{self, Services};
use crate::serving::Serving;
use crate::tunnels::Tunnels;
use crate::{carried, init, renewal, run_dir, state, telemetry};

/// Rooms that stop together.
struct Stage {
    stop: CancellationToken,
    rooms: JoinSet<&'static str>,
}

impl Stage {
    fn new() -> Self {
        Self { stop: CancellationToken::new(), rooms: JoinSet::new() }
    }

    /// Starts a room.
    fn run<F>(&mut self, name: &'static str, room: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let room = room(self.stop.child_token());
        self.rooms.spawn(async move {
            room.await;
            name
        });
    }
}

/// The node, running.
pub struct App {
    /// Says that the node leaves. It stops first.
    gossip: Stage,
    /// Take work from outside: the API, calls, whoever watches.
    faces: Stage,
    /// What the others stand on: links, services, certificates, the map.
    ground: Stage,
    node: Arc<Node>,
    config: Config,
    bound: Bound,
}

/// Runs the node until it is told to stop.
///
/// # Errors
/// Why it could not start, or which room failed.
pub async fn up(config: Config, sources: Sources, store: &store::Store) -> anyhow::Result<()> {
    let known = state::load(&config.state, &store.handle()).await?;
    let mut known = known.context(
        "this node belongs to no mesh yet: found one with `sagemesh init`, or join one with `sagemesh join`",
    )?;
    init::unmark(&config.state)?;
    let telemetry = telemetry::start(&config.telemetry, &known.own.to_string())?;
    let run = async {
        renewal::renew(&mut known, &store.handle(), Now::read()).await?;
        App::start(config, sources, known, store.handle()).await?.run().await
    };
    let result = run.await;
    telemetry.stop();
    result
}

impl App {
    /// Holds all ports and starts all rooms.
    ///
    /// # Errors
    /// What could not be had. Nothing runs then.
    pub async fn start(
        config: Config,
        sources: Sources,
        known: state::Known,
        store: store::Handle,
    ) -> anyhow::Result<Self> {
        let (own, keys) = (known.own.clone(), Arc::clone(&known.keys));
        run_dir::make(&config.run)?;
        let lost: Vec<_> = known.lost.iter().map(ToString::to_string).collect();
        let remembered = addresses::remembered(&store).await?;
        let readiness = Readiness::new();
        let (mut faces, mut gossip, mut ground) = (Stage::new(), Stage::new(), Stage::new());

        let (keeper, keeping) = Keeper::new(known, store.clone());
        let members = keeping.members();
        ground.run("keeper", |stop| keeper.run(stop));
        let (rotation, svids) = Rotation::new(keys.clone(), SpiffeId::node(own.clone()), members.clone())?;
        ground.run("rotation", |stop| rotation.run(stop));

        let links =
            mesh::Config { seeds: seeds(&config.mesh.seeds, remembered.seeds), ..config.mesh.clone() };
        let (links, events) = Mesh::bind(links, svids.clone(), members.clone()).await?;
        let (linked_at, linking) = (links.local_addr(), links.handle());
        let (differing, differ) = mpsc::channel(DIFFERING_MAX);
        let (gossiper, gossiping) = Gossip::new(
            membership::Config::default(),
            keys.clone(),
            linking.clone(),
            members.clone(),
            remembered.peers.clone(),
            differing,
        )?;
        let sync = Sync::new(linking.clone(), members.clone(), differ, keeping.given())?;
        ground.run("mesh", |stop| links.run(stop));
        ground.run("links", |stop| follow(events, keeping.clone(), stop));
        ground.run("sync", |stop| sync.run(stop));
        gossip.run("gossip", |stop| gossiper.run(stop));

        let (news, brought) = tls::news();
        ground.run("carried", {
            let (members, given) = (members.clone(), keeping.given());
            |stop| carried::run(brought, members, given, stop)
        });

        let attestor = Arc::new(Attestor::new().context("failed to ask the kernel who owns sockets")?);
        let (table_in, table) = services::table(&own);
        let calls = match config.proxy.clone() {
            Some(proxy) => {
                let lent =
                    Tunnels::new(linking.clone(), members.clone()).lend(config.mesh.peer_streams_max)?;
                Some(Proxy::bind(proxy, table, members.clone(), news.clone(), Some(lent)).await?)
            }
            None => None,
        };
        let (inbound, calling) = (calls.as_ref().map(Proxy::inbound_addr), calls.as_ref().map(Proxy::handle));
        let context = services::Node {
            own: own.clone(),
            keys: keys.clone(),
            members: members.clone(),
            gossip: gossiping.clone(),
            links: linking.clone(),
            store: store.clone(),
            attestor,
            inbound,
        };
        let (serving, services) = Services::new(context, config.services.clone(), table_in).await?;
        let declares = readiness.wait_for("services");
        ground.run("services", |stop| serving.run(declares, stop));
        let serving = Serving::new(
            own.clone(),
            readiness.clone(),
            members.clone(),
            linking.clone(),
            gossiping.clone(),
            svids.clone(),
        );
        ground.run("serving", |stop| serving.run(stop));

        let node = Arc::new(Node::new(Rooms {
            own,
            keys,
            sources,
            config: config.clone(),
            keeper: keeping.clone(),
            gossip: gossiping.clone(),
            links: linking.clone(),
            services,
            proxy: calling.clone(),
            pending: readiness.pending(),
            lost,
        }));
        let api = api::Server::bind(config.api.clone(), node.clone(), svids.clone(), news).await?;
        let bound = Bound {
            mesh: linked_at,
            inbound,
            is_inbound_direct: config.is_inbound_direct,
            api: api.local_addr(),
            advertise: config.advertise.clone(),
        };
        node.bound(bound.clone());
        ground.run("shown", {
            let node = node.clone();
            |stop| async move { node.show(stop).await }
        });
        ground.run("addresses", {
            let (bound, gossiping, kept) = (bound.clone(), gossiping.clone(), remembered.peers);
            |stop| addresses::run(bound, gossiping, kept, store.clone(), stop)
        });
        let figures = Figures {
            links: linking,
            gossip: gossiping,
            proxy: calling,
            api: api.counts(),
            store: store.clone(),
        };
        let metrics = Metrics::new(vec![Box::new(figures)]);
        let watched = telemetry::Server::bind(config.telemetry.listen, readiness.pending(), metrics).await?;
        // All ports are held: work may come in.
        if let Some(calls) = calls {
            faces.run("proxy", |stop| calls.run(stop));
        }
        faces.run("api", |stop| api.run(stop));
        faces.run("telemetry", |stop| async move {
            if let Err(err) = watched.run(stop).await {
                warn!(error = %err, "lost the listener for metrics");
            }
        });
        Ok(Self { faces, gossip, ground, node, config, bound })
    }

    /// Where its ports are.
    pub const fn bound(&self) -> &Bound {
        &self.bound
    }

    /// Runs until a signal, `sagemesh leave`, or a room that failed.
    ///
    /// # Errors
    /// Which room failed.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let listen = |kind| signal(kind).context("failed to listen for signals");
        let (mut stop, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        let mut reload = listen(SignalKind::hangup())?;
        info!(
            sagemesh.mesh.address = %self.bound.mesh,
            sagemesh.inbound.address = self.bound.inbound.map(tracing::field::display),
            sagemesh.api.address = %self.bound.api,
            "the node is up"
        );
        let failed = loop {
            tokio::select! {
                _ = stop.recv() => break None,
                _ = interrupt.recv() => break None,
                () = self.node.left() => break None,
                _ = reload.recv() => match api::Node::reload(&*self.node, Asker::Signal).await {
                    Ok(changes) => info!(changes = changes.join(", "), "reloaded the configuration"),
                    Err(refusal) => warn!(error = %refusal, "kept the configuration: the new one is refused"),
                },
                Some(ended) = self.faces.rooms.join_next() => break Some(ended),
                Some(ended) = self.gossip.rooms.join_next() => break Some(ended),
                Some(ended) = self.ground.rooms.join_next() => break Some(ended),
            }
        };
        info!("stopping");
        self.stop(&mut stop, &mut interrupt).await;
        match failed {
            None => Ok(()),
            Some(Ok(room)) => {
                bail!("the room `{room}` ended by itself: this is a bug, report it with the log")
            }
            Some(Err(err)) => Err(err).context("a room failed: this is a bug, report it with the log"),
        }
    }

    /// Stops one stage after the other, each within the grace; a second signal stops waiting.
    async fn stop(self, stop: &mut Signal, interrupt: &mut Signal) {
        let Self { faces, gossip, ground, config, .. } = self;
        let mut is_aborting = false;
        // Who hears that this node leaves calls others while calls here end.
        for mut stage in [gossip, faces, ground] {
            stage.stop.cancel();
            if is_aborting {
                stage.rooms.abort_all();
                continue;
            }
            let all = async { while stage.rooms.join_next().await.is_some() {} };
            let is_done = tokio::select! {
                done = timeout(config.shutdown_grace, all) => done.is_ok(),
                _ = stop.recv() => false,
                _ = interrupt.recv() => false,
            };
            if !is_done {
                warn!("stopped before all had ended");
                is_aborting = true;
                stage.rooms.abort_all();
            }
        }
    }
}

/// What is configured, and where the inviter was.
fn seeds(configured: &[String], remembered: Vec<String>) -> Vec<String> {
    let mut seeds = configured.to_vec();
    seeds.extend(remembered.into_iter().filter(|seed| !configured.contains(seed)));
    seeds
}

/// Hands to the map's owner what links bring.
async fn follow(mut events: Events, keeper: keeper::Handle, shutdown: CancellationToken) {
    loop {
        let event = tokio::select! {
            () = shutdown.cancelled() => return,
            event = events.recv() => event,
        };
        match event {
            None => return shutdown.cancelled().await,
            Some(Event::Linked(link)) => {
                if let Some(member) = link.tls().caller.member() {
                    keeper.verified(member.authority.authority()).await;
                }
            }
            Some(Event::Record(from, record)) => {
                // Fails only once the node stops.
                let _ = keeper.given().send(Given { from, statements: vec![record] }).await;
            }
            Some(Event::Unlinked { .. }) => {}
        }
    }
}
