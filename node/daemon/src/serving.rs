//! When this node can carry calls. Its ports are held and its services declared before anybody can ask; what it
//! waits for beyond that is here: a peer whose gossip it has, and certificates of its own that hold.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use identity::Members;
use membership::Liveness;
use mesh::Gossiping;
use tls::Svids;
use types::{Now, TrustDomain};

use crate::readiness::{Guard, Readiness};

/// How long a node waits for peers while it reaches none: after that it is alone for now. The first node that
/// starts after all had stopped must not wait for the others, which may wait for it.
const ALONE_AFTER: Duration = Duration::from_secs(10);
/// How often is looked at what only time brings.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Waits, and says so.
pub(crate) struct Serving {
    own: TrustDomain,
    readiness: Readiness,
    members: watch::Receiver<Arc<Members>>,
    links: mesh::Handle,
    gossip: Gossiping,
    svids: watch::Receiver<Arc<Svids>>,
    waits_for_gossip: Option<Guard>,
    waits_for_certificate: Option<Guard>,
}

impl Serving {
    /// Not ready from here on.
    pub(crate) fn new(
        own: TrustDomain,
        readiness: Readiness,
        members: watch::Receiver<Arc<Members>>,
        links: mesh::Handle,
        gossip: Gossiping,
        svids: watch::Receiver<Arc<Svids>>,
    ) -> Self {
        let waits_for_gossip = Some(readiness.wait_for("gossip"));
        let waits_for_certificate = Some(readiness.wait_for("certificate"));
        Self { own, readiness, members, links, gossip, svids, waits_for_gossip, waits_for_certificate }
    }

    /// Looks until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let started = Instant::now();
        let (mut links, mut peers) = (self.links.peers(), self.gossip.peers());
        loop {
            if self.waits_for_gossip.is_some() {
                let around = self.around(links.borrow_and_update().len());
                peers.mark_unchanged();
                if around.is_enough(started.elapsed()) {
                    self.waits_for_gossip = None;
                }
            }
            let is_valid = self.svids.borrow_and_update().not_after > Now::read().wall;
            if is_valid {
                self.waits_for_certificate = None;
            } else if self.waits_for_certificate.is_none() {
                self.waits_for_certificate = Some(self.readiness.wait_for("certificate"));
            }
            let is_waiting = self.waits_for_gossip.is_some();
            tokio::select! {
                () = shutdown.cancelled() => return,
                Ok(()) = links.changed(), if is_waiting => {}
                Ok(()) = peers.changed(), if is_waiting => {}
                Ok(()) = self.svids.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    fn around(&self, n_linked: usize) -> Around {
        let members = Arc::clone(&self.members.borrow());
        let known = self.gossip.peers().borrow().clone();
        let mut around = Around { n_linked, ..Around::default() };
        for member in members.iter().filter(|member| member.domain != self.own) {
            around.n_others += 1;
            let known = known.get(&member.peer);
            let is_heard = known.is_some_and(|it| it.liveness == Liveness::Alive && it.record.is_some());
            around.n_heard += usize::from(is_heard);
        }
        around
    }
}

/// What a node sees of the others.
#[derive(Clone, Copy, Debug, Default)]
struct Around {
    /// Members but itself.
    n_others: usize,
    /// Links that stand.
    n_linked: usize,
    /// Those that live and whose own words it has.
    n_heard: usize,
}

impl Around {
    /// Whether calls can be carried by what is seen after waiting for so long.
    fn is_enough(self, waited: Duration) -> bool {
        self.n_others == 0 || self.n_heard > 0 || (self.n_linked == 0 && waited >= ALONE_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_waits_for_gossip_of_one_peer_unless_it_is_alone() {
        #[track_caller]
        fn check(n_others: usize, n_linked: usize, n_heard: usize, waited: Duration, expected: bool) {
            let around = Around { n_others, n_linked, n_heard };
            assert_eq!(around.is_enough(waited), expected, "{around:?} after {waited:?}");
        }
        let (at_once, late) = (Duration::ZERO, ALONE_AFTER);
        check(0, 0, 0, at_once, true);
        check(2, 0, 0, at_once, false);
        check(2, 1, 0, at_once, false);
        check(2, 1, 1, at_once, true);
        // A link over which nothing comes is no mesh, however long it stands.
        check(2, 1, 0, 100 * late, false);
        check(2, 0, 0, late, true);
    }
}
