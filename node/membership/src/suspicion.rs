//! From the first accusation to death or refutation (SWIM section 4.2; Lifeguard section IV.B).
//!
//! Nobody dies on one word. An accusation starts a clock at each node that hears it, the more independent
//! accusers there are the shorter; whoever has a connection to the suspect asks it, and a suspect that
//! answered gets more time. Only the suspect's own higher incarnation ends the suspicion.

use std::time::{Duration, Instant};

use types::Now;

use crate::charge::Accusation;
use crate::core::{Membership, Outbox};
use crate::gossip::Kind;
use crate::member::{Liveness, ShortId};
use crate::wire::{Mark, Packet};

/// A clock that runs against a suspect.
#[derive(Debug)]
pub(crate) struct Suspicion {
    pub(crate) subject: ShortId,
    since: Instant,
    /// However many accuse it, it is not declared dead before this: this node slept, and the answer may lie
    /// unread among what came in meanwhile.
    not_before: Instant,
    pub(crate) due: Instant,
    /// Whether the suspect itself has answered this node since then.
    is_answered: bool,
}

impl Membership {
    /// Takes in an accusation that `from` passed on.
    pub(crate) fn hear(
        &mut self,
        now: Now,
        from: ShortId,
        said: Accusation,
        reply: &mut Packet,
        out: &mut Outbox,
    ) {
        if said.subject == self.me {
            return self.hear_of_self(now, from, &said, reply, out);
        }
        let Some(member) = self.members.by_id(said.subject) else { return };
        if said.incarnation > member.stamp.incarnation {
            // It belongs to a head that is not here yet.
            return reply.wants.push(Mark { author: said.subject, stamp: member.stamp });
        }
        let is_news = said.incarnation == member.stamp.incarnation
            && member.liveness.is_present()
            && member.accusations.len() <= self.config.confirmations
            && !member.accusations.iter().any(|known| known.accuser == said.accuser);
        if !is_news {
            self.gossip.suppress(from, said.subject, Kind::Accusation(said.accuser));
            return self.gossip.suppress(from, said.subject, Kind::Confirmation(said.accuser));
        }
        // The dead do not testify: or else two halves of a mesh that meet again would bury each other.
        let Some(accuser) = self.members.by_id(said.accuser).filter(|m| m.liveness.is_present()) else {
            return;
        };
        match said.verify(accuser.peer, &*self.keys) {
            Ok(()) => self.charge(now, said, Some(from), out),
            Err(refusal) => self.refuse(Some(from), refusal, out),
        }
    }

    fn hear_of_self(
        &mut self,
        now: Now,
        from: ShortId,
        said: &Accusation,
        reply: &mut Packet,
        out: &mut Outbox,
    ) {
        let own = self.own.stamp();
        if said.incarnation > own.incarnation {
            // Someone may hold an older life of ours, from a clock that ran ahead.
            return reply.wants.push(Mark { author: self.me, stamp: own });
        }
        if said.incarnation == own.incarnation && !self.own.is_refuting() {
            let Some(accuser) = self.members.by_id(said.accuser) else { return };
            if let Err(refusal) = said.verify(accuser.peer, &*self.keys) {
                return self.refuse(Some(from), refusal, out);
            }
            self.refute(now, out);
        }
        self.tell_own_head(reply);
    }

    /// Accuses `subject`: this node saw it fail.
    pub(crate) fn accuse(&mut self, now: Now, subject: ShortId, out: &mut Outbox) {
        let Some(member) = self.members.by_id(subject).filter(|m| m.liveness.is_present()) else { return };
        let is_enough = member.accusations.len() > self.config.confirmations;
        if is_enough || member.accusations.iter().any(|known| known.accuser == self.me) {
            return;
        }
        match Accusation::sign(self.me, subject, member.stamp.incarnation, &*self.keys) {
            Ok(said) => self.charge(now, said, None, out),
            Err(err) => out.unavailable(err),
        }
    }

    /// Adds a verified accusation, passes it on, and starts or shortens the clock.
    fn charge(&mut self, now: Now, said: Accusation, from: Option<ShortId>, out: &mut Outbox) {
        let (subject, accuser) = (said.subject, said.accuser);
        let Some(member) = self.members.by_id_mut(subject) else { return };
        member.accusations.push(said);
        let n_accusers = member.accusations.len();
        let kind = if n_accusers == 1 { Kind::Accusation(accuser) } else { Kind::Confirmation(accuser) };
        self.push(now, subject, kind, from, out);
        let timeout = self.suspicion_timeout(n_accusers);
        if let Some(suspicion) = self.suspicions.iter_mut().find(|s| s.subject == subject) {
            suspicion.due = (suspicion.since + timeout).max(suspicion.not_before);
            return;
        }
        let (since, due) = (now.mono, now.mono + timeout);
        self.suspicions.push(Suspicion { subject, since, not_before: since, due, is_answered: false });
        self.set_liveness(now, subject, Liveness::Suspect, out);
        if self.is_linked(subject) {
            self.check(now, subject, out);
        }
    }

    /// Notes that a suspect has answered this node itself.
    pub(crate) fn note_answer(&mut self, subject: ShortId) {
        if let Some(suspicion) = self.suspicions.iter_mut().find(|s| s.subject == subject) {
            suspicion.is_answered = true;
        }
    }

    /// Ends the clock against `subject`.
    pub(crate) fn acquit(&mut self, subject: ShortId) {
        self.suspicions.retain(|suspicion| suspicion.subject != subject);
    }

    /// Gives all suspects the time back that this node slept through, and asks them again.
    pub(crate) fn thaw_suspicions(&mut self, now: Now, slept: Duration, out: &mut Outbox) {
        let grace = self.suspicion_timeout(self.config.confirmations + 1) / 2;
        let mut subjects = Vec::with_capacity(self.suspicions.len());
        for suspicion in &mut self.suspicions {
            suspicion.since += slept;
            suspicion.not_before = now.mono + grace;
            suspicion.due = (suspicion.due + slept).max(suspicion.not_before);
            subjects.push(suspicion.subject);
        }
        for subject in subjects {
            if self.is_linked(subject) {
                self.check(now, subject, out);
            }
        }
    }

    /// Declares dead whose time is up.
    pub(crate) fn run_suspicions(&mut self, now: Now, out: &mut Outbox) {
        while let Some(idx) = self.suspicions.iter().position(|suspicion| suspicion.due <= now.mono) {
            let subject = self.suspicions[idx].subject;
            if !self.suspicions[idx].is_answered {
                self.suspicions.swap_remove(idx);
                self.set_liveness(now, subject, Liveness::Dead, out);
                continue;
            }
            // It lives, and its refutation is on its way or was lost.
            let n_accusers = self.members.by_id(subject).map_or(1, |member| member.accusations.len());
            let timeout = self.suspicion_timeout(n_accusers);
            let suspicion = &mut self.suspicions[idx];
            (suspicion.since, suspicion.due) = (now.mono, now.mono + timeout);
            suspicion.is_answered = false;
            self.check(now, subject, out);
        }
    }

    /// How long a suspect has, by Lifeguard's equation 1: `max - (max - min) ln(C + 1) / ln(K + 1)` and no
    /// less than `min`, with C further accusers where K suffice. Where nobody else could confirm, `max`.
    fn suspicion_timeout(&self, n_accusers: usize) -> Duration {
        let n_present = self.members.n_present();
        let wanted = self.config.confirmations.min(n_present.saturating_sub(1));
        // Below 100 members a late message, and not their number, sets how much time is fair.
        let scale = ((n_present + 1) as f64).log10().max(2.0);
        let least = (self.config.probe_interval * self.config.suspicion_alpha).mul_f64(scale);
        let most = least * self.config.suspicion_beta;
        if wanted == 0 {
            return most;
        }
        let further = n_accusers.saturating_sub(1).min(wanted);
        let share = ((further + 1) as f64).ln() / ((wanted + 1) as f64).ln();
        most - (most - least).mul_f64(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Stamp;
    use crate::testing::{Story, peer};
    use crate::wire::Exchange;

    const LEAST: Duration = Duration::from_secs(3);

    #[test]
    fn a_suspect_that_answers_gets_more_time() {
        #[track_caller]
        fn check(answers: bool, expected: Liveness) {
            let mut story = Story::new(9);
            story.silent.extend((!answers).then_some(2));
            story.hears_accusers(3, &[3, 4, 5, 6], 2);
            story.waits(LEAST - Duration::from_millis(1));
            assert_eq!(story.liveness(2), Some(Liveness::Suspect));
            story.waits(Duration::from_millis(2));
            assert_eq!(story.liveness(2), Some(expected));
        }
        check(false, Liveness::Dead);
        check(true, Liveness::Suspect);
    }

    #[test]
    fn one_accuser_is_given_six_times_as_long_as_four() {
        let timeout = |n_accusers| Story::new(9).core.suspicion_timeout(n_accusers);
        assert_eq!((timeout(1), timeout(4), timeout(9)), (LEAST * 6, LEAST, LEAST));
        assert!(timeout(2) < timeout(1) && timeout(3) < timeout(2));
    }

    #[test]
    fn the_dead_do_not_testify() {
        let mut story = Story::new(9);
        story.silent = vec![3];
        story.hears_accusers(4, &[4, 5, 6, 7], 3);
        story.waits(LEAST + Duration::from_millis(1));
        assert_eq!(story.liveness(3), Some(Liveness::Dead));
        story.hears_accusers(4, &[3], 2);
        assert_eq!(story.liveness(2), Some(Liveness::Alive));
        story.hears_accusers(4, &[5], 2);
        assert_eq!(story.liveness(2), Some(Liveness::Suspect), "the living do");
    }

    #[test]
    fn a_silent_suspect_is_accused_by_its_neighbours_too() {
        let mut story = Story::new(9);
        story.silent = vec![2];
        story.hears_accusers(3, &[3], 2);
        story.waits(Duration::from_secs(2));
        let said = |packet: &Packet| {
            packet
                .accusations
                .iter()
                .any(|said| (said.accuser, said.subject) == (ShortId::of(peer(1)), ShortId::of(peer(2))))
        };
        assert!(story.sent.iter().any(|(to, packet)| *to == peer(4) && said(packet)));
    }

    #[test]
    fn who_missed_a_death_is_shown_its_accusers() {
        let mut story = Story::new(9);
        story.silent = vec![2];
        story.hears_accusers(3, &[3, 4, 5, 6], 2);
        story.waits(LEAST + Duration::from_millis(1));
        story.sent.clear();
        let stamp = Stamp { incarnation: 1000, version: 1000 };
        let holds = vec![Mark { author: ShortId::of(peer(2)), stamp }];
        let exchange = Some(Exchange { holds, dead: Vec::new() });
        story.hears(7, &Packet { exchange, ..Packet::default() });
        let (to, reply) = story.sent.last().expect("an exchange is answered");
        assert_eq!((*to, reply.accusations.len()), (peer(7), 4));
    }
}
