//! Keeping links: one a peer, of peers that count.

use std::sync::Arc;
use std::time::Instant;

use libp2p::swarm::ConnectionId;
use tracing::{debug, info};

use types::{Now, PeerId, Refusal};

use crate::link::{Decides, Link, is_late, surplus};
use crate::metrics::Count;
use crate::room::{Event, Mesh};
use crate::swarm::LINKS_PER_PEER_MAX;

impl Mesh {
    pub(super) fn on_link(&mut self, id: ConnectionId) {
        let Some(link) = self.swarm.behaviour_mut().take(id) else { return };
        if let Some(target) = self.dialing.remove(&id) {
            self.dialer.answered(&target, link.peer);
        }
        let (peer, tls) = (link.peer, link.tls());
        self.count(Count::LinkMade);
        info!(
            peer.id = %peer,
            sagemesh.peer.name = %link.name,
            network.peer.address = %link.address,
            network.connection.direction = link.direction.name(),
            tls.curve = tls.group.and_then(|group| group.as_str()),
            sagemesh.tls.signature = tls.signature.and_then(|scheme| scheme.as_str()),
            "linked"
        );
        if let Some(record) = tls.caller.carried.clone() {
            self.tell(Event::Record(peer, record));
        }
        let held = self.links.entry(peer).or_default();
        let is_first = held.is_empty();
        let old = held.last().cloned();
        held.push(Arc::clone(&link));
        if let Some(old) = old {
            self.settle(&old, &link);
        }
        self.publish();
        if is_first {
            self.tell(Event::Linked(link));
        }
    }

    /// Of two links to one peer, uses one, and retires the other if that is for this end to do. Both stay
    /// known, so that both are cut should the peer no longer count.
    fn settle(&mut self, old: &Arc<Link>, new: &Arc<Link>) {
        let by = if self.own < new.peer { Decides::Here } else { Decides::There };
        let surplus = surplus(by, old, new);
        let Some(held) = self.links.get_mut(&new.peer) else { return };
        held.retain(|link| link.id != surplus.id);
        held.insert(0, Arc::clone(&surplus));
        // Beyond that the peer should have closed it long ago.
        let is_dead = is_late(old, new) || held.len() >= LINKS_PER_PEER_MAX as usize;
        if by == Decides::Here {
            self.count(Count::LinkDoubled);
            debug!(peer.id = %new.peer, "retired the surplus link");
            surplus.retire.cancel();
        }
        if surplus.id == old.id && is_dead {
            surplus.admitted.cut.cancel();
        }
    }

    pub(super) fn on_end(&mut self, peer: PeerId, id: ConnectionId, why: &str, refusal: Option<Refusal>) {
        let Some(held) = self.links.get_mut(&peer) else { return };
        let Some(idx) = held.iter().position(|link| link.id == id) else { return };
        let link = held.remove(idx);
        let is_last = held.is_empty();
        let reason = refusal.as_ref().map(|it| it.reason.code());
        info!(
            peer.id = %peer,
            sagemesh.peer.name = %link.name,
            network.peer.address = %link.address,
            error.type = reason,
            why,
            "a link ended"
        );
        if is_last {
            self.links.remove(&peer);
            self.dialer.lost(peer, Instant::now());
        }
        self.publish();
        if is_last {
            self.tell(Event::Unlinked { peer, name: link.name.clone(), refusal });
        }
    }

    /// Cuts the links of peers that would not be let in now, and forgets those whose task is gone.
    pub(super) fn recheck(&mut self) {
        let members = Arc::clone(&self.members.borrow_and_update());
        let now = Now::read();
        let all: Vec<Arc<Link>> = self.links.values().flatten().cloned().collect();
        for link in all {
            match link.recheck(now, &members) {
                Err(refusal) => {
                    link.admitted.cut.cancel();
                    self.count(Count::LinkCut);
                    self.on_end(link.peer, link.id, &refusal.detail.clone(), Some(refusal));
                }
                Ok(()) if link.asks.is_closed() => self.on_end(link.peer, link.id, "its task is gone", None),
                Ok(()) => {}
            }
        }
    }

    fn publish(&self) {
        let in_use = self.links.iter().filter_map(|(peer, held)| Some((*peer, Arc::clone(held.last()?))));
        self.snapshot.send_replace(Arc::new(in_use.collect()));
    }
}
