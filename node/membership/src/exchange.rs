//! Anti-entropy: two peers compare all they hold and close the gap (van Renesse et al. 2008, section 3).
//!
//! Pushes may be lost with a connection and nobody repeats them; this makes up for it, fills those who join
//! and joins the halves of a mesh that was parted. Deaths are compared as well: who missed an accusation
//! is sent all there are, and its suspect still gets time to answer.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::seq::IteratorRandom;
use types::{Now, Reason};

use crate::core::{Effect, Membership, Outbox};
use crate::gossip::Kind;
use crate::member::{Liveness, Member, ShortId};
use crate::record::{Applied, Record, Stamp};
use crate::wire::{ACCUSATIONS_MAX, DELTAS_MAX, Exchange, MARKS_MAX, Mark, Packet, Step};

/// First interval after a start or a healed partition; each exchange doubles it up to the configured one.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Least interval for each member, so that an exchange's bytes a second stay put as the mesh grows.
const INTERVAL_PER_MEMBER: Duration = Duration::from_millis(60);
/// Least time between two exchanges that one peer is answered.
const ANSWER_INTERVAL: Duration = Duration::from_millis(200);
/// How long a peer that named a record may take to send it before another is asked.
const WANT_TIMEOUT: Duration = Duration::from_millis(700);
/// Most records that are being asked for.
const WANTS_MAX: usize = 1024;
/// Most further peers to ask for one record.
const SOURCES_MAX: usize = 3;
/// Most records of strangers that are kept in mind.
const STRANGERS_MAX: usize = 64;
/// Most bytes of deltas in one answer, more or less.
const ANSWER_LEN_MAX: usize = 32 * 1024;

/// Exchanges and requests on their way.
#[derive(Debug)]
pub(crate) struct Exchanger {
    pub(crate) due: Instant,
    interval: Duration,
    /// With whom, if not at random.
    with: Option<ShortId>,
    wants: Vec<Want>,
    /// Whose records were passed over as they were no members, and who had them; the latest last. News of a
    /// newcomer comes sooner than its admission.
    strangers: VecDeque<(ShortId, ShortId)>,
    /// Requests that found no room; the next exchange makes up for them.
    pub(crate) n_shed: u64,
}

#[derive(Debug)]
struct Want {
    author: ShortId,
    stamp: Stamp,
    due: Instant,
    /// Who else named it.
    sources: Vec<ShortId>,
}

impl Exchanger {
    pub(crate) fn new(at: Instant) -> Self {
        Self {
            due: at,
            interval: INTERVAL_MIN,
            with: None,
            wants: Vec::new(),
            strangers: VecDeque::new(),
            n_shed: 0,
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.wants.iter().map(|want| want.due).fold(self.due, Instant::min)
    }

    /// Keeps in mind who has a stranger's record.
    fn note_stranger(&mut self, author: ShortId, from: ShortId) {
        self.strangers.retain(|(stranger, _)| *stranger != author);
        if self.strangers.len() == STRANGERS_MAX {
            self.strangers.pop_front();
        }
        self.strangers.push_back((author, from));
    }

    /// Who has the record of one that is a stranger no more.
    pub(crate) fn take_stranger(&mut self, author: ShortId) -> Option<ShortId> {
        let idx = self.strangers.iter().position(|(stranger, _)| *stranger == author)?;
        self.strangers.remove(idx).map(|(_, from)| from)
    }

    /// The next exchange is due, with this peer.
    pub(crate) fn begin_with(&mut self, now: Now, with: ShortId) {
        self.with = Some(with);
        self.due = now.mono;
    }

    /// The next exchange is due as soon as a peer answers another one.
    pub(crate) fn ask_again(&mut self, now: Now) {
        self.due = self.due.min(now.mono + ANSWER_INTERVAL + ANSWER_INTERVAL / 4);
    }

    /// There is much to catch up with.
    pub(crate) fn hurry(&mut self, now: Now) {
        self.interval = INTERVAL_MIN;
        self.due = self.due.min(now.mono + INTERVAL_MIN);
    }
}

impl Membership {
    /// Starts an exchange when it is due, and asks others for what did not come.
    pub(crate) fn run_exchanges(&mut self, now: Now, out: &mut Outbox) {
        while let Some(idx) = self.exchanger.wants.iter().position(|want| want.due <= now.mono) {
            let want = &mut self.exchanger.wants[idx];
            let Some(source) = want.sources.pop() else {
                self.exchanger.wants.swap_remove(idx);
                continue;
            };
            want.due = now.mono + WANT_TIMEOUT;
            let author = want.author;
            let stamp = self.members.by_id(author).map(Member::held).unwrap_or_default();
            self.send(source, &Packet { wants: vec![Mark { author, stamp }], ..Packet::default() }, out);
        }
        if self.exchanger.due > now.mono {
            return;
        }
        let most = self.config.exchange_interval.max(INTERVAL_PER_MEMBER * self.n_members());
        self.exchanger.interval = (self.exchanger.interval * 2).min(most);
        // A quarter up or down, or else all who started together would ask together.
        let jitter = self.rng.random_range(0.75..1.25);
        self.exchanger.due = now.mono + self.exchanger.interval.mul_f64(jitter);
        self.sweep(now);
        if let Some(with) = self.exchanger.with.take().or_else(|| self.choose_partner()) {
            let packet =
                Packet { exchange: Some(self.summary()), items: Some(self.items), ..Packet::default() };
            self.send(with, &packet, out);
        }
    }

    fn choose_partner(&mut self) -> Option<ShortId> {
        let links = self.gossip.link_ids().choose(&mut self.rng);
        if !self.is_full_mesh() && links.is_some() {
            return links;
        }
        let present = self.members.iter().filter(|member| member.liveness.is_present());
        let any = present.map(|member| member.id).choose(&mut self.rng);
        // Alone: whoever is admitted may be there.
        any.or_else(|| {
            let others = self.members.iter().filter(|member| member.liveness != Liveness::Left);
            others.map(|member| member.id).choose(&mut self.rng)
        })
    }

    fn summary(&self) -> Exchange {
        let own = Mark { author: self.me, stamp: self.own.stamp() };
        let held = self.members.iter().filter(|member| member.record.is_some());
        let mut holds: Vec<_> = held.map(|m| Mark { author: m.id, stamp: m.stamp }).collect();
        holds.insert(holds.partition_point(|mark| mark.author < self.me), own);
        let dead = self.members.iter().filter(|m| m.liveness == Liveness::Dead && m.record.is_some());
        Exchange { holds, dead: dead.map(|member| member.id).collect() }
    }

    /// Answers an exchange: what is newer here, requests for what is newer there, and deaths it missed.
    pub(crate) fn answer_exchange(
        &mut self,
        now: Now,
        from: ShortId,
        theirs: &Exchange,
        reply: &mut Packet,
        out: &mut Outbox,
    ) {
        let Some(member) = self.members.by_id_mut(from) else { return };
        if now.mono < member.exchange_free_at {
            return self.refuse_rate(from, "exchanges", out);
        }
        member.exchange_free_at = now.mono + ANSWER_INTERVAL;
        let held_by_them = |id: ShortId| {
            let idx = theirs.holds.binary_search_by_key(&id, |mark| mark.author).ok()?;
            Some(theirs.holds[idx].stamp)
        };
        let own = held_by_them(self.me).unwrap_or_default();
        if own < self.own.stamp() {
            let delta = self.own.record().delta(own.version);
            reply.deltas.push(Step { author: self.me, delta, hops: 0 });
        } else if own > self.own.stamp() {
            reply.wants.push(Mark { author: self.me, stamp: Stamp::default() });
        }
        let mut len = 0;
        let ids: Vec<_> = self.members.iter().map(|member| member.id).collect();
        // Those beyond the bound shall not always be the same.
        let start = self.rng.random_range(0..ids.len().max(1));
        for id in ids[start..].iter().chain(&ids[..start]) {
            let Some(member) = self.members.by_id(*id) else { continue };
            let stamp = held_by_them(*id).unwrap_or_default();
            let is_dead_there = theirs.dead.binary_search(id).is_ok();
            let is_dead_here = member.liveness == Liveness::Dead;
            let is_same_life = stamp.incarnation == member.stamp.incarnation;
            let asks =
                stamp > member.stamp || (is_same_life && is_dead_there && member.liveness == Liveness::Alive);
            if asks && reply.wants.len() < MARKS_MAX {
                reply.wants.push(Mark { author: *id, stamp: member.held() });
            }
            let is_newer = member.record.is_some() && member.stamp > stamp;
            if is_newer && (len > ANSWER_LEN_MAX || reply.deltas.len() >= DELTAS_MAX) {
                reply.has_more = true;
                continue;
            }
            if is_newer {
                len += self.tell(*id, stamp, reply);
            } else if is_dead_here && is_same_life && !is_dead_there {
                self.tell_accusations(*id, reply);
            }
        }
    }

    /// Answers requests for records.
    pub(crate) fn answer_wants(&mut self, wants: &[Mark], reply: &mut Packet) {
        let mut len = 0;
        for want in wants {
            if len > ANSWER_LEN_MAX || reply.deltas.len() >= DELTAS_MAX {
                // What is left out comes with the next exchange.
                break;
            }
            len += self.tell(want.author, want.stamp, reply);
        }
    }

    /// Adds the step from `stamp` of a node's record, and the accusations against it; says how many bytes.
    fn tell(&self, author: ShortId, stamp: Stamp, reply: &mut Packet) -> usize {
        let is_own = author == self.me;
        let member = self.members.by_id(author);
        let record = if is_own { Some(self.own.record()) } else { member.and_then(|m| m.record.as_ref()) };
        let mut len = 0;
        if let Some(record) = record.filter(|record| record.stamp() > stamp || is_own) {
            let delta = record.delta(stamp.version);
            len = delta.wire_len();
            reply.deltas.push(Step { author, delta, hops: 0 });
        }
        self.tell_accusations(author, reply);
        len
    }

    /// Adds the accusations against a node.
    pub(crate) fn tell_accusations(&self, author: ShortId, reply: &mut Packet) {
        let Some(member) = self.members.by_id(author) else { return };
        let room = ACCUSATIONS_MAX - reply.accusations.len().min(ACCUSATIONS_MAX);
        reply.accusations.extend(member.accusations.iter().take(room).cloned());
    }

    /// A peer names records that it holds; those that are news here are asked for, each from one peer at a
    /// time.
    pub(crate) fn take_holds(&mut self, now: Now, from: ShortId, holds: &[Mark], reply: &mut Packet) {
        for mark in holds {
            self.gossip.suppress(from, mark.author, Kind::Holds);
            let Some(member) = self.members.by_id(mark.author) else {
                self.exchanger.note_stranger(mark.author, from);
                continue;
            };
            if mark.stamp <= member.stamp {
                continue;
            }
            let held = member.held();
            let known = self.exchanger.wants.iter_mut().find(|want| want.author == mark.author);
            if let Some(want) = known.filter(|want| want.stamp >= mark.stamp) {
                if want.sources.len() < SOURCES_MAX && !want.sources.contains(&from) {
                    want.sources.insert(0, from);
                }
                continue;
            }
            if self.exchanger.wants.len() >= WANTS_MAX {
                self.exchanger.n_shed += 1;
                continue;
            }
            self.exchanger.wants.retain(|want| want.author != mark.author);
            let (author, stamp) = (mark.author, mark.stamp);
            let due = now.mono + WANT_TIMEOUT;
            self.exchanger.wants.push(Want { author, stamp, due, sources: Vec::new() });
            reply.wants.push(Mark { author, stamp: held });
        }
    }

    /// Takes in a step of someone's record; says whether it was news.
    pub(crate) fn take_step(
        &mut self,
        now: Now,
        from: ShortId,
        step: Step,
        reply: &mut Packet,
        out: &mut Outbox,
    ) -> bool {
        let Step { author, delta, hops } = step;
        if author == self.me {
            self.meet_former_self(now, from, &delta, out);
            return false;
        }
        let Some(member) = self.members.by_id_mut(author) else {
            // Its admission may be on its way.
            self.exchanger.note_stranger(author, from);
            return false;
        };
        let stamp = delta.head.stamp;
        if stamp <= member.stamp {
            self.gossip.suppress(from, author, Kind::Delta);
            self.gossip.suppress(from, author, Kind::Holds);
            return self.take_old_step(from, author, &delta, reply, out);
        }
        let has_left = delta.head.has_left;
        let had_left = member.record.as_ref().is_some_and(|held| held.head.has_left);
        match Record::apply(member.record.as_ref(), delta, member.peer, &*self.keys) {
            Err(refusal) => {
                self.refuse(Some(from), refusal, out);
                return false;
            }
            Ok(Applied::NeedsWhole) => {
                reply.wants.push(Mark { author, stamp: Stamp::default() });
                return false;
            }
            Ok(Applied::Record(record)) => {
                member.version_before = member.record.as_ref().map_or(0, |held| held.stamp().version);
                member.record = Some(record);
            }
        }
        // A life may begin in the very second that the last one ended with.
        let is_new_life = stamp.incarnation > member.stamp.incarnation || has_left != had_left;
        member.stamp = stamp;
        let peer = member.peer;
        self.exchanger.wants.retain(|want| want.author != author || want.stamp > stamp);
        if is_new_life {
            self.revive(now, author, has_left, out);
        }
        out.effects.push(Effect::RecordChanged(peer));
        self.gossip.suppress(from, author, Kind::Holds);
        if is_new_life || hops > 1 {
            self.push_for(now, author, Kind::Delta, hops.saturating_sub(1), Some(from), out);
        } else {
            self.push(now, author, Kind::Holds, Some(from), out);
        }
        true
    }

    /// A step that is no news. Duplicates are normal; what is older, or the same and yet different, is not.
    fn take_old_step(
        &mut self,
        from: ShortId,
        author: ShortId,
        delta: &crate::record::Delta,
        reply: &mut Packet,
        out: &mut Outbox,
    ) -> bool {
        let Some(member) = self.members.by_id(author) else { return false };
        if delta.head.stamp < member.stamp {
            let detail = format!("version {} of {}", delta.head.stamp.version, member.peer);
            self.refuse(Some(from), Reason::StateStale.because(detail), out);
        } else if let Some(held) = member.record.as_ref().filter(|held| held.head != delta.head)
            && reply.deltas.is_empty()
        {
            // Two lives that began in the same second, or an author that contradicts itself: let it know.
            reply.deltas.push(Step { author, delta: held.delta(0), hops: 0 });
        }
        false
    }

    /// A member's own higher incarnation: it lives, or it left.
    fn revive(&mut self, now: Now, id: ShortId, has_left: bool, out: &mut Outbox) {
        let Some(member) = self.members.by_id_mut(id) else { return };
        member.accusations.clear();
        let was_dead = member.liveness == Liveness::Dead;
        self.acquit(id);
        self.set_liveness(now, id, if has_left { Liveness::Left } else { Liveness::Alive }, out);
        let dead = self.members.iter().filter(|member| member.liveness == Liveness::Dead);
        let dead: Vec<_> = dead.map(|member| member.id).collect();
        if was_dead && dead.len() * 4 >= self.members.len() {
            // So many dead and one of them back: that was a partition, and it may be over for all.
            self.exchanger.hurry(now);
            self.prober.retry_soon(now, dead, &mut self.rng);
        }
    }

    /// There was more than fitted: goes on with the same peer.
    pub(crate) fn exchange_again(&mut self, now: Now, with: ShortId) {
        self.exchanger.with = Some(with);
        self.exchanger.due = now.mono + ANSWER_INTERVAL + ANSWER_INTERVAL / 4;
    }

    /// Drops the records of members that have been gone for long; their stamps stay.
    fn sweep(&mut self, now: Now) {
        let kept = self.config.dead_kept;
        for member in self.members.iter_mut() {
            let is_gone = matches!(member.liveness, Liveness::Dead | Liveness::Left);
            if is_gone && member.record.is_some() && now.mono.saturating_duration_since(member.since) > kept {
                member.record = None;
            }
        }
    }
}

impl Member {
    /// The stamp of the record that is here; nothing once it was dropped.
    fn held(&self) -> Stamp {
        if self.record.is_some() { self.stamp } else { Stamp::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Story, keys, peer};

    #[test]
    fn who_comes_back_in_the_second_after_it_left_is_there() {
        let mut story = Story::new(3);
        let mut says = |version, has_left| {
            let stamp = Stamp { incarnation: 1001, version };
            let record = Record::sign(stamp, version, has_left, Vec::new(), &keys(2)).expect("a key");
            let step = Step { author: ShortId::of(peer(2)), delta: record.delta(0), hops: 0 };
            story.hears(3, &Packet { deltas: vec![step], ..Packet::default() });
            story.liveness(2)
        };
        assert_eq!(says(1001, true), Some(Liveness::Left));
        assert_eq!(says(1002, false), Some(Liveness::Alive));
    }
}
