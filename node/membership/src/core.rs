//! The core itself: one input in, effects out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use types::key::Unavailable;
use types::{Digest, KeySlot, Keys, Now, PeerId, Reason, Refusal};

use crate::config::Config;
use crate::exchange::Exchanger;
use crate::gossip::Gossip;
use crate::health::Health;
use crate::member::{Liveness, Members, ShortId};
use crate::own::Own;
use crate::probe::Prober;
use crate::record::{Record, Stamp};
use crate::suspicion::Suspicion;
use crate::wire::{Mark, Packet};

/// A wake-up this late says that this process did not run. Loaded machines are late by a tenth of it.
const STALL: Duration = Duration::from_millis(500);

/// What happens to a core.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// The deadline has come.
    Tick,
    /// This peer may take part.
    Admitted(PeerId),
    /// This peer may not take part any more; all that is known of it goes.
    Removed(PeerId),
    /// A packet came over a stream whose other end is `from`.
    Received {
        /// Who sent it, as TLS says.
        from: PeerId,
        /// The packet, without its length.
        bytes: &'a [u8],
    },
    /// A connection to this peer stands. A hint: if it is not known to live, it is asked who it is.
    Connected(PeerId),
    /// The connection to this peer broke. A hint: it is probed next.
    Disconnected(PeerId),
    /// The digest of this node's set of identity items.
    Items(Digest),
    /// This node is about to stop of its own accord. It says so to its neighbours and then does nothing.
    Leave,
}

/// What a shell is to do or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send these bytes as one message, over a connection that is open or to be opened. If that fails they
    /// are dropped; nothing hangs on one message.
    Send {
        /// To whom.
        to: PeerId,
        /// At most [`crate::PACKET_LEN_MAX`].
        bytes: Vec<u8>,
    },
    /// A member lives, is suspected, died or left.
    LivenessChanged {
        /// Which one.
        peer: PeerId,
        /// What it is now.
        liveness: Liveness,
    },
    /// A member's record changed; [`Membership::record`] has it.
    RecordChanged(PeerId),
    /// [`Membership::links`] changed.
    LinksChanged,
    /// This peer has another set of identity items: compare them with it.
    ItemsDiffer(PeerId),
    /// Something a peer said was refused and changed nothing.
    Refused {
        /// Who said it; absent if it is not admitted.
        peer: Option<PeerId>,
        /// Why.
        refusal: Refusal,
    },
    /// The node's key did not sign. It is tried again.
    Unavailable(Unavailable),
}

/// Where effects are written, in order. The caller owns it and empties it.
#[derive(Debug, Default)]
pub struct Outbox {
    /// The effects.
    pub effects: Vec<Effect>,
}

impl Outbox {
    pub(crate) fn refused(&mut self, peer: Option<PeerId>, refusal: Refusal) {
        self.effects.push(Effect::Refused { peer, refusal });
    }

    pub(crate) fn unavailable(&mut self, err: Unavailable) {
        self.effects.push(Effect::Unavailable(err));
    }
}

/// Liveness and records of one mesh, as one node sees them.
pub struct Membership {
    pub(crate) config: Config,
    pub(crate) keys: Arc<dyn Keys>,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) me: ShortId,
    pub(crate) own: Own,
    pub(crate) members: Members,
    pub(crate) health: Health,
    pub(crate) prober: Prober,
    pub(crate) suspicions: Vec<Suspicion>,
    pub(crate) gossip: Gossip,
    pub(crate) exchanger: Exchanger,
    pub(crate) items: Digest,
    pub(crate) refused: BTreeMap<Reason, u64>,
}

impl Membership {
    /// A node that knows nobody yet. `rng` is seeded by the caller; `config` keeps its bounds.
    ///
    /// # Errors
    /// If the node's key is not at hand.
    pub fn new(now: Now, config: Config, keys: Arc<dyn Keys>, rng: ChaCha8Rng) -> Result<Self, Unavailable> {
        debug_assert_eq!(config.check(), Ok(()));
        let public = keys.public(KeySlot::Node)?;
        let bytes = public.as_bytes().try_into().map_err(|_| Unavailable(KeySlot::Node))?;
        let peer = PeerId(bytes);
        Ok(Self {
            own: Own::new(now, peer, &*keys)?,
            me: ShortId::of(peer),
            config,
            keys,
            rng,
            members: Members::default(),
            health: Health::default(),
            prober: Prober::new(now.mono),
            suspicions: Vec::new(),
            gossip: Gossip::new(),
            exchanger: Exchanger::new(now.mono),
            items: Digest::default(),
            refused: BTreeMap::new(),
        })
    }

    /// Digests one input and writes the effects it calls for.
    pub fn handle(&mut self, now: Now, input: Input<'_>, out: &mut Outbox) {
        if self.own.has_left() {
            return self.run_gossip(now, out);
        }
        self.notice_stall(now, out);
        match input {
            Input::Tick => {}
            Input::Admitted(peer) => self.admit(now, peer, out),
            Input::Removed(peer) => self.remove(peer),
            Input::Received { from, bytes } => self.receive(now, from, bytes, out),
            Input::Connected(peer) => self.meet(now, peer, out),
            Input::Disconnected(peer) => {
                let member = self.members.by_peer(peer).filter(|m| m.liveness.is_present());
                if let Some(id) = member.map(|member| member.id) {
                    self.prober.prefer(id);
                }
            }
            Input::Items(digest) if digest == self.items => {}
            Input::Items(digest) => {
                self.items = digest;
                self.gossip.push_items(now, self.config.digest_delay);
            }
            Input::Leave => return self.leave(now, out),
        }
        // After the input: what is due may have been answered by it.
        self.run_own(now, out);
        self.run_suspicions(now, out);
        self.run_probes(now, out);
        self.run_exchanges(now, out);
        self.run_gossip(now, out);
    }

    /// When `Input::Tick` is next due; `None` while idle.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.own.has_left() {
            return self.gossip.deadline();
        }
        let suspicions = self.suspicions.iter().map(|suspicion| suspicion.due);
        let always = self.prober.deadline().min(self.exchanger.deadline());
        let sometimes = self.gossip.deadline().into_iter().chain(self.own.deadline());
        Some(suspicions.chain(sometimes).fold(always, Instant::min))
    }

    /// This node's own id.
    pub fn me(&self) -> PeerId {
        self.own.peer
    }

    /// This node's own record as it was last signed.
    pub fn own_record(&self) -> &Record {
        self.own.record()
    }

    /// What is known of a member's life; `None` if it is not admitted.
    pub fn liveness(&self, peer: PeerId) -> Option<Liveness> {
        self.members.by_peer(peer).map(|member| member.liveness)
    }

    /// What a member last said of itself.
    pub fn record(&self, peer: PeerId) -> Option<&Record> {
        self.members.by_peer(peer)?.record.as_ref()
    }

    /// All admitted peers but this node.
    pub fn members(&self) -> impl Iterator<Item = (PeerId, Liveness)> + '_ {
        self.members.iter().map(|member| (member.peer, member.liveness))
    }

    /// How much this node doubts itself: 0 is well, 8 is worst.
    pub fn health_score(&self) -> u32 {
        self.health.score()
    }

    /// What was refused so far, by reason.
    pub fn refused(&self) -> &BTreeMap<Reason, u64> {
        &self.refused
    }

    /// How much work was given up because a bound was reached: pings, and requests for records.
    pub fn shed(&self) -> u64 {
        self.prober.n_shed + self.exchanger.n_shed
    }

    fn admit(&mut self, now: Now, peer: PeerId, out: &mut Outbox) {
        if peer == self.own.peer {
            return;
        }
        if let Err(refusal) = self.members.admit(peer, now.mono) {
            return self.refuse(None, refusal, out);
        }
        let id = ShortId::of(peer);
        if self.members.n_present() == 0 {
            // This may be the first that can be met.
            self.exchanger.hurry(now);
        } else if let Some(from) = self.exchanger.take_stranger(id) {
            let wants = vec![Mark { author: id, stamp: Stamp::default() }];
            self.send(from, &Packet { wants, ..Packet::default() }, out);
        } else if self.members.len() > 2 * self.members.n_present() {
            // Most are strangers still. What was said of them before they were admitted was passed over.
            self.exchanger.ask_again(now);
        }
    }

    fn remove(&mut self, peer: PeerId) {
        let Some(id) = self.members.by_peer(peer).map(|member| member.id) else { return };
        self.members.remove(id);
        self.acquit(id);
        self.gossip.spoil();
    }

    fn receive(&mut self, now: Now, from: PeerId, bytes: &[u8], out: &mut Outbox) {
        let Some(from) = self.members.by_peer(from).map(|member| member.id) else {
            let detail = format!("{from} is not admitted");
            return self.refuse(None, Reason::MemberUnknown.because(detail), out);
        };
        let packet = match Packet::from_bytes(bytes) {
            Ok(packet) => packet,
            Err(refusal) => return self.refuse(Some(from), refusal, out),
        };
        let mut reply = Packet::default();
        // Records first: what is said of a node is to be judged by its newest word.
        let mut has_news = false;
        for step in packet.deltas {
            has_news |= self.take_step(now, from, step, &mut reply, out);
        }
        for said in packet.accusations {
            self.hear(now, from, said, &mut reply, out);
        }
        self.take_holds(now, from, &packet.holds, &mut reply);
        self.answer_wants(&packet.wants, &mut reply);
        if let Some(exchange) = &packet.exchange {
            self.answer_exchange(now, from, exchange, &mut reply, out);
        }
        if packet.has_more && has_news {
            self.exchange_again(now, from);
        }
        if let Some(ask) = packet.ask {
            self.help(now, from, ask, out);
        }
        if let Some(number) = packet.ack {
            self.take_ack(from, number, out);
        }
        if let Some(number) = packet.nack {
            self.take_nack(number);
        }
        reply.ack = packet.ping;
        if packet.items.is_some_and(|items| items != self.items) {
            out.effects.extend(self.members.by_id(from).map(|member| Effect::ItemsDiffer(member.peer)));
            reply.items = packet.exchange.is_some().then_some(self.items);
        }
        self.greet(from, &mut reply);
        if !reply.is_empty() {
            reply.clamp();
            self.send(from, &reply, out);
        }
    }

    /// Who speaks is there, whatever was said of it: the unknown are asked who they are, and the dead are
    /// shown why they are taken for dead, so that they can refute it.
    fn greet(&self, from: ShortId, reply: &mut Packet) {
        match self.members.by_id(from).map(|member| member.liveness) {
            Some(Liveness::Unknown) if !reply.wants.iter().any(|mark| mark.author == from) => {
                reply.wants.push(Mark { author: from, stamp: Stamp::default() });
            }
            Some(Liveness::Dead) => self.tell_accusations(from, reply),
            _ => {}
        }
    }

    /// Somebody can be spoken to now. Who knows nobody yet asks for all that is known: the first peer drawn at
    /// random is rarely one that can be reached.
    fn meet(&mut self, now: Now, peer: PeerId, out: &mut Outbox) {
        let Some((id, liveness)) = self.members.by_peer(peer).map(|member| (member.id, member.liveness))
        else {
            return;
        };
        if self.members.n_present() == 0 {
            return self.exchanger.begin_with(now, id);
        }
        let mut packet = Packet::default();
        match liveness {
            Liveness::Unknown | Liveness::Left => {
                packet.wants.push(Mark { author: id, stamp: Stamp::default() });
            }
            Liveness::Dead => self.tell_accusations(id, &mut packet),
            Liveness::Alive | Liveness::Suspect => {}
        }
        if !packet.is_empty() {
            self.send(id, &packet, out);
        }
    }

    /// If this process did not run for a while, it is the sick one: it takes back what it was about to
    /// conclude from silence, and doubts itself.
    fn notice_stall(&mut self, now: Now, out: &mut Outbox) {
        let Some(due) = self.next_deadline() else { return };
        let slept = now.mono.saturating_duration_since(due);
        if slept < STALL {
            return;
        }
        self.health.worsen(1 + u32::try_from(slept.as_secs()).unwrap_or(u32::MAX));
        self.prober.forget_pings();
        self.prober.next_at = now.mono + self.config.probe_interval;
        self.thaw_suspicions(now, slept, out);
    }

    /// Sets what is known of a member's life and says so.
    pub(crate) fn set_liveness(&mut self, now: Now, id: ShortId, to: Liveness, out: &mut Outbox) {
        let was_present = self.members.is_present(id);
        if !self.members.set_liveness(id, to, now.mono) {
            return;
        }
        if was_present != to.is_present() {
            self.gossip.spoil();
        }
        let peer = self.members.by_id(id).map(|member| member.peer);
        out.effects.extend(peer.map(|peer| Effect::LivenessChanged { peer, liveness: to }));
    }

    /// Counts a refusal and says so.
    pub(crate) fn refuse(&mut self, from: Option<ShortId>, refusal: Refusal, out: &mut Outbox) {
        *self.refused.entry(refusal.reason).or_default() += 1;
        let peer = from.and_then(|id| self.members.by_id(id)).map(|member| member.peer);
        out.refused(peer, refusal);
    }

    /// Says no to a peer that asks too often.
    pub(crate) fn refuse_rate(&mut self, from: ShortId, what: &str, out: &mut Outbox) {
        self.refuse(Some(from), Reason::RateLimited.because(format!("too many {what}")), out);
    }

    pub(crate) fn send(&self, to: ShortId, packet: &Packet, out: &mut Outbox) {
        if let Some(member) = self.members.by_id(to) {
            out.effects.push(Effect::Send { to: member.peer, bytes: packet.to_bytes() });
        }
    }

    /// How many members there are, this node included.
    pub(crate) fn n_members(&self) -> u32 {
        u32::try_from(self.members.len() + 1).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::Delta;
    use crate::testing::{Story, peer};

    #[test]
    fn who_is_not_admitted_is_not_heard() {
        let mut story = Story::new(3);
        story.hears(9, &Packet { ping: Some(1), ..Packet::default() });
        assert_eq!(story.core.refused().get(&Reason::MemberUnknown), Some(&1));
        assert!(story.sent.iter().all(|(to, _)| *to != peer(9)));
        story.input(Input::Removed(peer(3)));
        assert_eq!(story.core.liveness(peer(3)), None);
    }

    #[test]
    fn who_knows_nobody_asks_the_first_that_it_is_connected_to() {
        let mut story = Story::new(1);
        for seed in 2..=9 {
            story.input(Input::Admitted(peer(seed)));
        }
        story.sent.clear();
        story.input(Input::Connected(peer(7)));
        let asked = |(to, packet): &(PeerId, Packet)| *to == peer(7) && packet.exchange.is_some();
        assert!(story.sent.iter().any(asked), "{:?}", story.sent);
    }

    #[test]
    fn a_newcomer_whose_record_came_first_is_asked_for_once_it_is_admitted() {
        let mut story = Story::new(3);
        let stamp = Stamp { incarnation: 1000, version: 1000 };
        let record = crate::record::Record::sign(stamp, 1000, false, Vec::new(), &crate::testing::keys(9));
        let delta = record.expect("a key").delta(0);
        let author = ShortId::of(peer(9));
        let step = crate::wire::Step { author, delta, hops: 1 };
        story.hears(2, &Packet { deltas: vec![step], ..Packet::default() });
        story.sent.clear();
        story.input(Input::Admitted(peer(9)));
        let asked = |(to, packet): &(PeerId, Packet)| {
            *to == peer(2) && packet.wants.iter().any(|mark| mark.author == author)
        };
        assert!(story.sent.iter().any(asked), "{:?}", story.sent);
    }

    #[test]
    fn who_learns_of_most_members_late_asks_about_them_soon() {
        let mut story = Story::new(2);
        story.waits(Duration::from_millis(300));
        story.sent.clear();
        for seed in 3..=9 {
            story.input(Input::Admitted(peer(seed)));
        }
        story.waits(Duration::from_millis(300));
        let exchanges = story.sent.iter().filter(|(_, packet)| packet.exchange.is_some());
        assert_eq!(exchanges.count(), 1);
    }

    #[test]
    fn who_left_does_nothing_more() {
        let mut story = Story::new(4);
        story.core.put(story.now, "mesh/reach", b"here").expect("an entry");
        story.waits(Duration::from_secs(1));
        story.input(Input::Leave);
        story.waits(Duration::from_secs(1));
        assert_eq!(story.core.next_deadline(), None);
        // Whoever missed the step before this one can ask nobody for it.
        let says_all = |delta: &Delta| delta.head.has_left && delta.base == 0;
        let said_so = |packet: &Packet| packet.deltas.iter().any(|step| says_all(&step.delta));
        for seed in 2..=4 {
            assert!(story.sent.iter().any(|(to, packet)| *to == peer(seed) && said_so(packet)));
        }
    }

    proptest! {
        #[test]
        fn a_peer_that_sends_anything_stops_nothing(
            lists in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 0..20),
            number in any::<u32>(),
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut story = Story::new(5);
            let mark = |(author, incarnation, version): &(u64, u64, u64)| {
                // Some of them name real nodes.
                let author = if author % 2 == 0 { ShortId::of(peer((author % 7) as u8)) } else { ShortId(*author) };
                Mark { author, stamp: Stamp { incarnation: *incarnation, version: *version } }
            };
            let mut holds: Vec<Mark> = lists.iter().map(mark).collect();
            holds.sort_by_key(|mark| mark.author);
            holds.dedup_by_key(|mark| mark.author);
            let dead = holds.iter().map(|mark| mark.author).collect();
            let exchange = Some(crate::wire::Exchange { holds: holds.clone(), dead });
            let ask = holds.first().map(|mark| crate::wire::Ask { number, target: mark.author });
            let packet = Packet {
                ping: Some(number), ack: Some(number), nack: Some(number), ask,
                holds: holds.clone(), wants: holds, exchange, has_more: true, ..Packet::default()
            };
            story.hears(2, &packet);
            story.input(Input::Received { from: peer(3), bytes: &bytes });
            story.waits(Duration::from_secs(3));
            prop_assert!(story.core.next_deadline().is_some_and(|due| due > story.now.mono));
        }
    }
}
