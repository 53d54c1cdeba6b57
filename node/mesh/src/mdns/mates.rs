//! What mDNS knows of its mesh: who belongs to it, and who is linked.

use std::sync::Arc;

use tokio::sync::watch;

use identity::Members;
use types::PeerId;

use super::hints::Standing;
use crate::handle::Handle;
use crate::metrics::Count;

/// With so many links gossip finds the rest, and links are made as it wants them.
const LINKS_ENOUGH: usize = 128;

/// The mesh as this node sees it. Cheap to clone.
#[derive(Clone)]
pub(super) struct Mates {
    pub(super) own: PeerId,
    pub(super) members: watch::Receiver<Arc<Members>>,
    pub(super) links: Handle,
}

impl Mates {
    /// Whether there is a member to be looked for.
    pub(super) fn is_missing(&self) -> bool {
        let linked = self.links.links.borrow();
        let members = self.members.borrow();
        let mut others = members.iter().filter(|member| member.peer != self.own);
        linked.len() < LINKS_ENOUGH && others.any(|member| !linked.contains_key(&member.peer))
    }

    /// Whether a link to `peer` would be of use, and what `peer` is then.
    pub(super) fn wants(&self, peer: PeerId) -> Option<Standing> {
        let linked = self.links.links.borrow();
        if peer == self.own || linked.len() >= LINKS_ENOUGH || linked.contains_key(&peer) {
            return None;
        }
        let is_member = self.members.borrow().by_peer(&peer).is_some();
        Some(if is_member { Standing::Member } else { Standing::Stranger })
    }

    pub(super) fn count(&self, count: Count) {
        self.links.counts.add(count);
    }
}
