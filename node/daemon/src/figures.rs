//! Where the figures come from: each room's own counts.

use std::sync::Arc;

use membership::Liveness;
use mesh::Gossiping;
use proxy::{FLOODS, FRAMES, Flood, REFUSALS};
use types::Reason;

use crate::metrics::{Figure, Source};

/// All rooms that count.
pub(crate) struct Figures {
    pub(crate) links: mesh::Handle,
    pub(crate) gossip: Gossiping,
    /// None if this node carries no calls.
    pub(crate) proxy: Option<proxy::Handle>,
    pub(crate) api: Arc<api::Counts>,
    pub(crate) store: store::Handle,
}

#[expect(clippy::cast_precision_loss, reason = "OpenMetrics counts in floating point")]
const fn figure((name, error): (&'static str, &'static str), help: &'static str, value: u64) -> Figure {
    Figure { name, error, flood: "", help, value: value as f64 }
}

impl Source for Figures {
    fn counters(&self) -> Vec<Figure> {
        let links = mesh::Count::ALL.iter();
        let links = links.map(|count| figure(count.metric(), count.help(), self.links.count(*count)));
        let asked = api::Count::ALL.iter();
        let asked = asked.map(|count| figure(count.metric(), count.help(), self.api.of(*count)));
        let counts = self.store.counts();
        let store = [
            figure(("sagemesh.store.transactions", ""), "Transactions written.", counts.n_transactions),
            figure(("sagemesh.store.transactions", "failed"), "Transactions failed.", counts.n_failures),
            figure(("sagemesh.store.commits", "refused"), "Batched commits given up.", counts.n_refused),
            figure(("sagemesh.store.events", "shed"), "Events shed from a full queue.", counts.n_shed),
        ];
        let calls = self.proxy.as_ref().map(calls_counted).unwrap_or_default();
        links.chain(calls).chain(asked).chain(store).collect()
    }

    fn gauges(&self) -> Vec<Figure> {
        let peers = self.gossip.peers();
        let peers = peers.borrow();
        let alive = peers.values().filter(|known| known.liveness == Liveness::Alive).count();
        let linked = self.links.peers().borrow().len();
        let mdns = self.links.mdns_wires();
        let links = [
            figure(("sagemesh.mesh.peers", ""), "Other nodes that belong to the mesh.", peers.len() as u64),
            figure(("sagemesh.mesh.peers_alive", ""), "Other nodes that are alive.", alive as u64),
            figure(("sagemesh.mesh.peers_linked", ""), "Other nodes that are linked.", linked as u64),
            figure(("sagemesh.mesh.mdns_interfaces", ""), "Interfaces on which mDNS is on.", mdns as u64),
        ];
        let calls = self.proxy.as_ref().map(calls_open).into_iter().flatten();
        links.into_iter().chain(calls).collect()
    }
}

fn calls_counted(proxy: &proxy::Handle) -> Vec<Figure> {
    let calls = proxy::Count::ALL.iter();
    let calls = calls.map(|count| figure(count.metric(), count.help(), proxy.count(*count)));
    let refused = Reason::ALL.iter().map(|reason| (reason.code(), proxy.refused(*reason)));
    let refused = refused
        .filter(|(_, n)| *n > 0)
        .map(|(code, n)| figure((REFUSALS, code), "Calls, tunnels and connections refused.", n));
    let floods = Flood::ALL.into_iter().flat_map(|flood| {
        let (ended, came) = (proxy.floods(flood), proxy.frames(flood));
        let frames = figure((FRAMES, ""), "Frames of which too many are a flood.", came);
        [figure(FLOODS, "Connections ended for a flood.", ended), frames]
            .map(|figure| Figure { flood: flood.name(), ..figure })
    });
    calls.chain(floods).chain(refused).collect()
}

fn calls_open(proxy: &proxy::Handle) -> [Figure; 3] {
    let by_mesh = proxy.connections().iter().filter(|it| it.way == proxy::Way::Mesh).count() as u64;
    let (calls, streams) = proxy.open();
    let by_mesh_help = "Connections of services that go over mesh links.";
    let calls_help = "Calls in flight, as they were at most 5 s ago.";
    let streams_help = "HTTP/2 streams of all connections that carry calls, as they were at most 5 s ago.";
    [
        figure(("sagemesh.proxy.connections_by_mesh", ""), by_mesh_help, by_mesh),
        figure(("sagemesh.proxy.calls_open", ""), calls_help, calls as u64),
        figure(("sagemesh.proxy.streams_open", ""), streams_help, streams as u64),
    ]
}
