//! News on its way to the neighbours.
//!
//! Accusations, new incarnations and the first hops of a changed record are pushed whole and at once: hardly
//! anyone there has them. Later hops push digests that wait for company, and who lacks a record asks the
//! first who named it. What waits is named, not copied, so it leaves in its newest form.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use types::{Now, PeerId};

use crate::core::{Effect, Membership, Outbox};
use crate::member::ShortId;
use crate::record::Record;
use crate::ring;
use crate::wire::{ACCUSATIONS_MAX, DELTAS_MAX, HOPS_MAX, MARKS_MAX, Mark, Packet, Step};

/// Least time between two computations of the rings: joins and deaths come in waves.
const REFRESH_INTERVAL: Duration = Duration::from_millis(500);
/// Most bytes of deltas and accusations that one flush sends to one neighbour, more or less.
const FLUSH_LEN_MAX: usize = 16 * 1024;

/// The neighbours and what each is yet to hear.
#[derive(Debug)]
pub(crate) struct Gossip {
    /// Sorted by id.
    links: Vec<Link>,
    is_stale: bool,
    refreshed_at: Option<Instant>,
    urgent_due: Option<Instant>,
    digest_due: Option<Instant>,
}

#[derive(Debug)]
struct Link {
    id: ShortId,
    ring: usize,
    /// Whom it is about and what; for a delta, the hops it has left. At most one entry a member and kind, and
    /// few accusers a member, so it is bounded by the members.
    pending: BTreeMap<(ShortId, Kind), u32>,
    owes_items: bool,
}

/// A kind of news about a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// What this accuser, the first, says of it.
    Accusation(ShortId),
    /// That this accuser says so too. No hurry: it only shortens a clock that runs already.
    Confirmation(ShortId),
    /// The newest step of its record; goes on this many hops unasked.
    Delta,
    /// That its record is held here.
    Holds,
}

impl Kind {
    fn is_urgent(self) -> bool {
        matches!(self, Self::Accusation(_) | Self::Delta)
    }
}

impl Gossip {
    pub(crate) fn new() -> Self {
        Self { links: Vec::new(), is_stale: true, refreshed_at: None, urgent_due: None, digest_due: None }
    }

    /// The rings are to be computed again.
    pub(crate) fn spoil(&mut self) {
        self.is_stale = true;
    }

    /// They are to be computed again however lately they were.
    pub(crate) fn spoil_at_once(&mut self) {
        self.is_stale = true;
        self.refreshed_at = None;
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.urgent_due.into_iter().chain(self.digest_due).min()
    }

    pub(crate) fn has_link(&self, id: ShortId) -> bool {
        self.links.binary_search_by_key(&id, |link| link.id).is_ok()
    }

    pub(crate) fn link_ids(&self) -> impl Iterator<Item = ShortId> {
        self.links.iter().map(|link| link.id)
    }

    /// `from` knows it already.
    pub(crate) fn suppress(&mut self, from: ShortId, subject: ShortId, kind: Kind) {
        if let Ok(idx) = self.links.binary_search_by_key(&from, |link| link.id) {
            let pending = &mut self.links[idx].pending;
            if !pending.is_empty() {
                pending.remove(&(subject, kind));
            }
        }
    }

    /// Tells every neighbour the digest of this node's identity items, soon.
    pub(crate) fn push_items(&mut self, now: Now, delay: Duration) {
        for link in &mut self.links {
            link.owes_items = true;
        }
        set_sooner(&mut self.digest_due, now.mono + delay);
    }
}

impl Membership {
    /// Puts news on its way to all neighbours but the one it came from.
    pub(crate) fn push(
        &mut self,
        now: Now,
        subject: ShortId,
        kind: Kind,
        except: Option<ShortId>,
        out: &mut Outbox,
    ) {
        self.push_for(now, subject, kind, 0, except, out);
    }

    /// Like [`Self::push`], for a delta that goes on `hops` hops unasked.
    pub(crate) fn push_for(
        &mut self,
        now: Now,
        subject: ShortId,
        kind: Kind,
        hops: u32,
        except: Option<ShortId>,
        out: &mut Outbox,
    ) {
        self.refresh_links(now, out);
        // What starts here goes to all neighbours; what is passed on goes round fewer rings.
        let is_own = except.is_none();
        let few_rings = self.config.few_rings;
        for link in &mut self.gossip.links {
            let is_told = Some(link.id) == except
                || (!is_own && link.ring >= few_rings)
                || (link.id == subject && matches!(kind, Kind::Delta | Kind::Holds));
            if is_told || (kind == Kind::Holds && link.pending.contains_key(&(subject, Kind::Delta))) {
                continue;
            }
            if kind == Kind::Delta {
                link.pending.remove(&(subject, Kind::Holds));
            }
            link.pending.insert((subject, kind), hops);
        }
        if kind.is_urgent() {
            set_sooner(&mut self.gossip.urgent_due, now.mono + self.config.urgent_delay);
        } else {
            set_sooner(&mut self.gossip.digest_due, now.mono + self.config.digest_delay);
        }
    }

    /// How many hops a changed record goes unasked: as many as send each member 1.5 copies at most.
    pub(crate) fn eager_hops(&self) -> u32 {
        let n_members = self.members.n_present() + 1;
        let few = (2 * self.config.few_rings).max(2);
        let copies = |hops: &u32| 2 * self.config.rings * few.saturating_pow(*hops - 1);
        (1..=HOPS_MAX).take_while(|hops| copies(hops) <= n_members * 3 / 2).last().unwrap_or(1)
    }

    /// Sends what has waited long enough.
    pub(crate) fn run_gossip(&mut self, now: Now, out: &mut Outbox) {
        self.refresh_links(now, out);
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now.mono);
        let (urgent, digest) = (is_due(self.gossip.urgent_due), is_due(self.gossip.digest_due));
        if !urgent && !digest {
            return;
        }
        if urgent {
            self.gossip.urgent_due = None;
        }
        if digest {
            self.gossip.digest_due = None;
        }
        for idx in 0..self.gossip.links.len() {
            let link = &self.gossip.links[idx];
            let has_urgent = link.pending.keys().any(|(_, kind)| kind.is_urgent());
            let has_any = link.owes_items || !link.pending.is_empty();
            if (urgent && has_urgent) || (digest && has_any) {
                self.flush(now, idx, out);
            }
        }
    }

    /// Sends one neighbour what it is yet to hear, up to a bound.
    fn flush(&mut self, now: Now, idx: usize, out: &mut Outbox) {
        let mut packet = Packet::default();
        let mut len = 0;
        while len < FLUSH_LEN_MAX
            && packet.accusations.len() < ACCUSATIONS_MAX
            && packet.deltas.len() < DELTAS_MAX
            && packet.holds.len() < MARKS_MAX
        {
            let Some(((subject, kind), hops)) = self.gossip.links[idx].pending.pop_first() else { break };
            match kind {
                Kind::Accusation(accuser) | Kind::Confirmation(accuser) => {
                    let member = self.members.by_id(subject);
                    let said = member.and_then(|m| m.accusations.iter().find(|a| a.accuser == accuser));
                    len += 120;
                    packet.accusations.extend(said.cloned());
                }
                Kind::Delta => {
                    let Some((record, base)) = self.step_of(subject) else { continue };
                    let delta = record.delta(base);
                    len += delta.wire_len();
                    packet.deltas.push(Step { author: subject, delta, hops });
                }
                Kind::Holds => {
                    let Some((record, _)) = self.step_of(subject) else { continue };
                    len += 20;
                    packet.holds.push(Mark { author: subject, stamp: record.stamp() });
                }
            }
        }
        let link = &mut self.gossip.links[idx];
        if std::mem::take(&mut link.owes_items) {
            packet.items = Some(self.items);
        }
        if !link.pending.is_empty() {
            set_sooner(&mut self.gossip.urgent_due, now.mono + self.config.urgent_delay);
        }
        let to = link.id;
        if !packet.is_empty() {
            self.send(to, &packet, out);
        }
    }

    /// A node's record, and the version that others probably hold.
    fn step_of(&self, id: ShortId) -> Option<(&Record, u64)> {
        if id == self.me {
            return Some((self.own.record(), self.own.version_before()));
        }
        let member = self.members.by_id(id)?;
        Some((member.record.as_ref()?, member.version_before))
    }

    /// Computes the neighbours again if the members changed.
    pub(crate) fn refresh_links(&mut self, now: Now, out: &mut Outbox) {
        let is_early = self.gossip.refreshed_at.is_some_and(|at| now.mono < at + REFRESH_INTERVAL);
        if !self.gossip.is_stale || is_early {
            return;
        }
        self.gossip.is_stale = false;
        self.gossip.refreshed_at = Some(now.mono);
        let present = self.members.iter().filter(|member| member.liveness.is_present());
        let present: Vec<_> = present.map(|member| member.id).collect();
        let found = ring::neighbours(self.me, self.config.rings, &present);
        let mut old = std::mem::take(&mut self.gossip.links);
        let has_changed = old.len() != found.len() || old.iter().zip(&found).any(|(a, b)| a.id != b.id);
        let link = |neighbour: &ring::Neighbour| {
            let kept = old.iter_mut().find(|link| link.id == neighbour.id);
            let (pending, owes_items) = match kept {
                Some(link) => (std::mem::take(&mut link.pending), link.owes_items),
                None => (BTreeMap::new(), true),
            };
            Link { id: neighbour.id, ring: neighbour.ring, pending, owes_items }
        };
        self.gossip.links = found.iter().map(link).collect();
        if has_changed {
            set_sooner(&mut self.gossip.digest_due, now.mono + self.config.digest_delay);
            out.effects.push(Effect::LinksChanged);
        }
    }

    /// The peers that connections shall be held to: all that are present in a small mesh, else the
    /// neighbours. To any other, one is opened when something is sent and closed when it idles.
    pub fn links(&self) -> impl Iterator<Item = PeerId> + '_ {
        let is_full_mesh = self.is_full_mesh();
        let is_link =
            move |id| if is_full_mesh { self.members.is_present(id) } else { self.gossip.has_link(id) };
        self.members.iter().filter(move |member| is_link(member.id)).map(|member| member.peer)
    }

    /// Whether all probe all.
    pub(crate) fn is_full_mesh(&self) -> bool {
        self.members.n_present() < self.config.full_mesh_max
    }

    /// Whether a connection to `id` is held.
    pub(crate) fn is_linked(&self, id: ShortId) -> bool {
        self.is_full_mesh() || self.gossip.has_link(id)
    }
}

fn set_sooner(due: &mut Option<Instant>, at: Instant) {
    *due = Some(due.map_or(at, |due| due.min(at)));
}
