//! When to speak on one link: a plain state machine that sends nothing and reads no clock.
//!
//! The times are those of RFC 6762 §5.2, §6, §7.3 and §8.3. A node at rest is silent.

use std::ops::Range;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// The first words come at random within this: nodes that had their power back at once do not speak at once.
const FIRST_MS: Range<u64> = 20..1000;
/// An answer comes at random within this.
const ANSWER_MS: Range<u64> = 20..120;
/// What was said is not said again sooner.
const SAID_EVERY: Duration = Duration::from_secs(1);
/// How often a node that came announces itself.
const ANNOUNCEMENTS: u8 = 2;
/// From one question to the next: doubled each time, and jittered.
const ASK_MIN: Duration = Duration::from_secs(1);
const ASK_MAX: Duration = Duration::from_secs(600);

/// What to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Say {
    /// Where this node is.
    Announcement,
    /// Who is there?
    Question,
}

/// When what is due.
#[derive(Clone, Debug)]
pub(super) struct Voice {
    announce: Option<Instant>,
    n_announcements: u8,
    said: Option<Instant>,
    ask: Instant,
    wait: Duration,
}

impl Voice {
    pub(super) fn new(now: Instant, rng: &mut ChaCha8Rng) -> Self {
        let first = now + millis(FIRST_MS, rng);
        let ask = first + millis(ANSWER_MS, rng);
        Self { announce: Some(first), n_announcements: ANNOUNCEMENTS, said: None, ask, wait: ASK_MIN }
    }

    /// When [`Self::next`] is due.
    pub(super) fn due(&self) -> Instant {
        self.announce.map_or(self.ask, |at| at.min(self.ask))
    }

    /// What to say now. Nobody is asked for while nobody `is_missing`.
    pub(super) fn next(&mut self, now: Instant, is_missing: bool, rng: &mut ChaCha8Rng) -> Option<Say> {
        if self.announce.is_some_and(|at| at <= now) {
            self.said = Some(now);
            self.n_announcements = self.n_announcements.saturating_sub(1);
            self.announce = (self.n_announcements > 0).then_some(now + SAID_EVERY);
            return Some(Say::Announcement);
        }
        if self.ask > now {
            return None;
        }
        self.postpone(now, rng);
        is_missing.then_some(Say::Question)
    }

    /// Notes that somebody wants to know where this node is.
    pub(super) fn asked(&mut self, now: Instant, rng: &mut ChaCha8Rng) {
        let at = now + millis(ANSWER_MS, rng);
        let at = self.said.map_or(at, |said| at.max(said + SAID_EVERY));
        self.announce = Some(self.announce.map_or(at, |other| other.min(at)));
    }

    /// Notes that somebody asked what this node would ask: all hear the answers.
    pub(super) fn overheard(&mut self, now: Instant, rng: &mut ChaCha8Rng) {
        self.postpone(now, rng);
    }

    fn postpone(&mut self, now: Instant, rng: &mut ChaCha8Rng) {
        self.ask = now + self.wait.mul_f64(rng.random_range(1.0..1.5));
        self.wait = (self.wait * 2).min(ASK_MAX);
    }
}

fn millis(range: Range<u64>, rng: &mut ChaCha8Rng) -> Duration {
    Duration::from_millis(rng.random_range(range))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    /// What is said within `span` on a link where nobody else speaks, in milliseconds since the start.
    fn said(seed: u8, span: Duration, is_missing: bool) -> Vec<(u128, Say)> {
        let (start, mut rng) = (Instant::now(), ChaCha8Rng::from_seed([seed; 32]));
        let mut voice = Voice::new(start, &mut rng);
        let mut said = Vec::new();
        while voice.due() < start + span {
            let now = voice.due();
            said.extend(voice.next(now, is_missing, &mut rng).map(|say| ((now - start).as_millis(), say)));
        }
        said
    }

    #[test]
    fn a_node_at_rest_is_silent() {
        let said = said(1, Duration::from_secs(86_400), false);
        assert_eq!(said.len(), usize::from(ANNOUNCEMENTS), "{said:?}");
        assert!(said.iter().all(|(_, say)| *say == Say::Announcement));
        assert!(said[1].0 - said[0].0 >= SAID_EVERY.as_millis());
    }

    #[test]
    fn a_node_that_misses_others_asks_ever_less() {
        let said = said(1, Duration::from_secs(86_400), true);
        let asked: Vec<_> = said.iter().filter(|(_, say)| *say == Say::Question).map(|(at, _)| *at).collect();
        assert!(asked[0] < 1200 && asked[1] - asked[0] >= 1000, "{asked:?}");
        assert!(asked.len() > 90 && asked.len() < 160, "{}", asked.len());
        let waits: Vec<_> = asked.windows(2).map(|it| it[1] - it[0]).collect();
        assert!(waits.iter().all(|wait| *wait <= ASK_MAX.as_millis() * 3 / 2), "{waits:?}");
    }

    #[test]
    fn nodes_that_start_at_once_speak_one_after_the_other() {
        let firsts: std::collections::BTreeSet<_> =
            (0..20).map(|seed| said(seed, Duration::from_secs(2), false)[0].0).collect();
        assert!(firsts.len() > 15, "{firsts:?}");
        assert!(firsts.iter().all(|at| (u128::from(FIRST_MS.start)..u128::from(FIRST_MS.end)).contains(at)));
    }

    #[test]
    fn however_often_it_is_asked_it_answers_once_a_second() {
        let (start, mut rng) = (Instant::now(), ChaCha8Rng::from_seed([1; 32]));
        let mut voice = Voice::new(start, &mut rng);
        let mut n_said = 0;
        for ms in 0..10_000 {
            let now = start + Duration::from_millis(ms);
            voice.asked(now, &mut rng);
            voice.overheard(now, &mut rng);
            n_said += usize::from(voice.next(now, true, &mut rng).is_some());
        }
        assert!((9..=11).contains(&n_said), "{n_said}");
    }

    #[test]
    fn who_hears_its_own_question_asked_need_not_ask() {
        let (start, mut rng) = (Instant::now(), ChaCha8Rng::from_seed([1; 32]));
        let mut voice = Voice::new(start, &mut rng);
        let before = voice.ask;
        voice.overheard(start, &mut rng);
        assert!(voice.ask > before || voice.ask >= start + ASK_MIN);
    }
}
