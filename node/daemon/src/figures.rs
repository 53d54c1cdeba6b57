//! Where the figures come from: each room's own counts.

use membership::Liveness;
use mesh::Gossiping;
use mesh::metrics::Count;

use crate::metrics::{Figure, Source};

/// All rooms that count.
pub(crate) struct Figures {
    links: mesh::Handle,
    gossip: Gossiping,
    proxy: proxy::Handle,
    store: store::Handle,
}

impl Figures {
    /// Reads these.
    pub(crate) const fn new(
        links: mesh::Handle,
        gossip: Gossiping,
        proxy: proxy::Handle,
        store: store::Handle,
    ) -> Self {
        Self { links, gossip, proxy, store }
    }
}

impl Source for Figures {
    fn counters(&self) -> Vec<Figure> {
        let links = Count::ALL.iter().map(|count| {
            let (name, error) = count.metric();
            (name, error, self.links.count(*count))
        });
        let calls = proxy::Count::ALL.iter().map(|count| {
            let (name, error) = count.metric();
            (name, error, self.proxy.count(*count))
        });
        let store = self.store.counts();
        let store = [
            ("sagemesh.store.transactions", "", store.n_transactions),
            ("sagemesh.store.transactions", "failed", store.n_failures),
            ("sagemesh.store.commits", "refused", store.n_refused),
            ("sagemesh.store.events", "shed", store.n_shed),
        ];
        #[expect(clippy::cast_precision_loss, reason = "OpenMetrics counts in floating point")]
        links.chain(calls).chain(store).map(|(name, error, value)| (name, error, value as f64)).collect()
    }

    fn gauges(&self) -> Vec<Figure> {
        let peers = self.gossip.peers();
        let peers = peers.borrow();
        let alive = peers.values().filter(|known| known.liveness == Liveness::Alive).count();
        #[expect(clippy::cast_precision_loss, reason = "a mesh has fewer nodes than that")]
        let figures = vec![
            ("sagemesh.mesh.peers", "", peers.len() as f64),
            ("sagemesh.mesh.peers_alive", "", alive as f64),
            ("sagemesh.mesh.peers_linked", "", self.links.peers().borrow().len() as f64),
        ];
        figures
    }
}
