//! Whom to dial next: seeds and hints, each with a jittered backoff of its own.
//!
//! A plain state machine: it dials nothing and reads no clock.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use types::PeerId;

/// Most hints that are kept. Seeds are kept beside them.
pub(crate) const HINTS_MAX: usize = 4096;
/// After how many failures in a row a hint is forgotten. Seeds never are.
const HINT_FAILURES_MAX: u32 = 8;

/// Where somebody may be reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// A configured `host:port`; who is there shows when it answers.
    Seed(String),
    /// An address at which a certain peer is said to be.
    Hint(PeerId, SocketAddr),
}

#[derive(Debug, Default)]
struct State {
    /// Who answered there last.
    peer: Option<PeerId>,
    failures: u32,
    due: Option<Instant>,
    is_in_flight: bool,
}

/// What is known of each target.
pub(crate) struct Dialer {
    own: PeerId,
    targets: BTreeMap<Target, State>,
    n_hints: usize,
    retry: (Duration, Duration),
    rng: ChaCha8Rng,
}

impl Dialer {
    /// A dialer that waits from `retry.0` to `retry.1` after failures.
    pub(crate) fn new(own: PeerId, seeds: &[String], retry: (Duration, Duration), seed: [u8; 32]) -> Self {
        let targets = seeds.iter().map(|seed| (Target::Seed(seed.clone()), State::default())).collect();
        Self { own, targets, n_hints: 0, retry, rng: ChaCha8Rng::from_seed(seed) }
    }

    /// Notes that `peer` may be at `address`. Answers whether there was room for it.
    pub(crate) fn hint(&mut self, peer: PeerId, address: SocketAddr) -> bool {
        let target = Target::Hint(peer, address);
        if peer == self.own || self.targets.contains_key(&target) {
            return true;
        }
        if self.n_hints >= HINTS_MAX {
            return false;
        }
        self.n_hints += 1;
        self.targets.insert(target, State { peer: Some(peer), ..State::default() });
        true
    }

    /// A target to dial now, which is then in flight. Nobody is dialled twice at once, nor who is linked.
    pub(crate) fn next(
        &mut self,
        now: Instant,
        is_linked: impl Fn(&PeerId) -> bool,
    ) -> Option<(Target, u32)> {
        let in_flight = self.in_flight();
        let is_due = |state: &State| state.due.is_none_or(|due| due <= now);
        let is_free = |state: &State| is_free(self.own, state, &in_flight, &is_linked);
        let (target, state) = self.targets.iter_mut().find(|(_, state)| is_free(state) && is_due(state))?;
        state.is_in_flight = true;
        Some((target.clone(), state.failures))
    }

    /// When the next target that may be dialled is due; `None` while none waits.
    pub(crate) fn next_deadline(&self, is_linked: impl Fn(&PeerId) -> bool) -> Option<Instant> {
        let in_flight = self.in_flight();
        let free = self.targets.values().filter(|state| is_free(self.own, state, &in_flight, &is_linked));
        free.filter_map(|state| state.due).min()
    }

    fn in_flight(&self) -> Vec<PeerId> {
        self.targets.values().filter(|state| state.is_in_flight).filter_map(|state| state.peer).collect()
    }

    /// Notes who answered at a target.
    pub(crate) fn answered(&mut self, target: &Target, peer: PeerId) {
        if let Some(state) = self.targets.get_mut(target) {
            *state = State { peer: Some(peer), ..State::default() };
        }
    }

    /// Notes that nobody answered, or not who should.
    pub(crate) fn failed(&mut self, target: &Target, now: Instant) {
        let wait = self.targets.get(target).map(|state| self.backoff(state.failures));
        let (Some(state), Some(wait)) = (self.targets.get_mut(target), wait) else { return };
        state.failures = state.failures.saturating_add(1);
        state.is_in_flight = false;
        // Another node may have moved in.
        if matches!(target, Target::Seed(_)) {
            state.peer = None;
        }
        let jitter = self.rng.random_range(0.5..1.0);
        state.due = Some(now + wait.mul_f64(jitter));
        if state.failures >= HINT_FAILURES_MAX && matches!(target, Target::Hint(..)) {
            self.targets.remove(target);
            self.n_hints -= 1;
        }
    }

    /// Notes that the last link to `peer` ended: it is dialled again soon, but not by all at once.
    pub(crate) fn lost(&mut self, peer: PeerId, now: Instant) {
        let (retry_min, _) = self.retry;
        for state in self.targets.values_mut().filter(|state| state.peer == Some(peer)) {
            state.due = Some(now + retry_min.mul_f64(self.rng.random_range(0.5..1.0)));
        }
    }

    fn backoff(&self, failures: u32) -> Duration {
        let (retry_min, retry_max) = self.retry;
        retry_min.saturating_mul(1 << failures.min(16)).min(retry_max)
    }
}

fn is_free(own: PeerId, state: &State, in_flight: &[PeerId], is_linked: impl Fn(&PeerId) -> bool) -> bool {
    let is_away = |peer| peer != own && !is_linked(&peer) && !in_flight.contains(&peer);
    !state.is_in_flight && state.peer.is_none_or(is_away)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_secs(1);
    const MAX: Duration = Duration::from_secs(60);
    const OWN: PeerId = PeerId([0; 32]);
    const PI: PeerId = PeerId([1; 32]);

    fn dialer(seeds: &[&str]) -> Dialer {
        let seeds: Vec<String> = seeds.iter().map(|seed| (*seed).to_owned()).collect();
        Dialer::new(OWN, &seeds, (MIN, MAX), [7; 32])
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn failures_double_the_wait_up_to_its_end() {
        let (mut dialer, mut now) = (dialer(&["pi:1"]), Instant::now());
        for failures in 0..20 {
            let (target, n_failed) = dialer.next(now, |_| false).expect("due");
            assert_eq!(n_failed, failures);
            dialer.failed(&target, now);
            assert!(dialer.next(now, |_| false).is_none(), "not at once");
            let due = dialer.next_deadline(|_| false).expect("later");
            let wait = (MIN * 2_u32.pow(failures.min(10))).min(MAX);
            assert!(due - now >= wait / 2 && due - now <= wait, "{failures}: {:?}", due - now);
            now = due;
        }
    }

    #[test]
    fn who_is_linked_or_being_dialled_is_not_dialled() {
        let (mut dialer, now) = (dialer(&[]), Instant::now());
        assert!(dialer.hint(PI, address(1)) && dialer.hint(PI, address(2)) && dialer.hint(OWN, address(3)));
        assert!(dialer.next(now, |peer| *peer == PI).is_none());
        let (target, _) = dialer.next(now, |_| false).expect("a hint");
        assert!(dialer.next(now, |_| false).is_none(), "one address of a peer at a time");
        dialer.failed(&target, now);
        let (other, _) = dialer.next(now, |_| false).expect("the other address");
        assert_ne!(target, other);
    }

    #[test]
    fn a_lost_peer_is_dialled_again_where_it_was() {
        let (mut dialer, now) = (dialer(&["pi:1"]), Instant::now());
        let (target, _) = dialer.next(now, |_| false).expect("a seed");
        dialer.answered(&target, PI);
        assert!(dialer.next(now, |peer| *peer == PI).is_none());
        dialer.lost(PI, now);
        assert!(dialer.next(now, |_| false).is_none(), "not at once");
        assert_eq!(dialer.next(now + MIN, |_| false), Some((target, 0)));
    }

    #[test]
    fn a_seed_that_is_this_node_is_left_alone() {
        let (mut dialer, now) = (dialer(&["pi:1"]), Instant::now());
        let (target, _) = dialer.next(now, |_| false).expect("a seed");
        dialer.answered(&target, OWN);
        assert!(dialer.next(now + MAX * 9, |_| false).is_none());
        assert_eq!(dialer.next_deadline(|_| false), None);
    }

    #[test]
    fn hints_are_bounded_and_forgotten_when_they_fail() {
        let (mut dialer, mut now) = (dialer(&[]), Instant::now());
        let peer =
            |n: usize| PeerId(std::array::from_fn(|idx| if idx < 2 { n.to_be_bytes()[6 + idx] } else { 9 }));
        for n in 0..HINTS_MAX {
            assert!(dialer.hint(peer(n), address(1)));
        }
        assert!(!dialer.hint(PI, address(1)));
        let (target, _) = dialer.next(now, |_| false).expect("a hint");
        for _ in 0..HINT_FAILURES_MAX {
            dialer.failed(&target, now);
            now += MAX;
        }
        assert!(!dialer.targets.contains_key(&target));
        assert!(dialer.hint(PI, address(1)));
    }
}
