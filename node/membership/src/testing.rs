//! For unit tests: keys whose signature is a digest, and one core that is told what others say.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use types::key::Unavailable;
use types::{Algorithm, Digest, KeySlot, Keys, Now, PeerId, PublicKey, Timestamp};

use crate::charge::Accusation;
use crate::config::Config;
use crate::core::{Effect, Input, Membership, Outbox};
use crate::member::{Liveness, ShortId};
use crate::record::{Record, Stamp};
use crate::wire::{Packet, Step};

struct Toy(PublicKey);

impl Keys for Toy {
    fn public(&self, _: KeySlot) -> Result<&PublicKey, Unavailable> {
        Ok(&self.0)
    }
    fn sign(&self, slot: KeySlot, message: &[u8]) -> Result<Vec<u8>, Unavailable> {
        match slot {
            KeySlot::Node => Ok(Digest::of(&[self.0.as_bytes(), message]).0.to_vec()),
            _ => Err(Unavailable(slot)),
        }
    }
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
        Digest::of(&[key.as_bytes(), message]).0[..] == *signature
    }
}

/// The peer whose key is made from `seed`.
pub(crate) fn peer(seed: u8) -> PeerId {
    PeerId(Digest::of(&[&[seed]]).0)
}

/// The keys of [`peer`].
pub(crate) fn keys(seed: u8) -> impl Keys {
    Toy(PublicKey::new(Algorithm::Ed25519, &peer(seed).0).expect("32 bytes"))
}

/// A core of peer 1 that holds peers 2 to `n` alive, as of the second 1,000; and everything it sent since.
pub(crate) struct Story {
    /// Peers that answer no ping; all others do, at once.
    pub(crate) silent: Vec<u8>,
    pub(crate) core: Membership,
    pub(crate) now: Now,
    pub(crate) sent: Vec<(PeerId, Packet)>,
}

impl Story {
    pub(crate) fn new(n: u8) -> Self {
        let now = Now { mono: Instant::now(), wall: Timestamp::from_secs(1000) };
        let rng = ChaCha8Rng::seed_from_u64(1);
        let core = Membership::new(now, Config::default(), Arc::new(keys(1)), rng).expect("a key");
        let mut story = Self { silent: Vec::new(), core, now, sent: Vec::new() };
        for seed in 2..=n {
            story.input(Input::Admitted(peer(seed)));
            let stamp = Stamp { incarnation: 1000, version: 1000 };
            let record = Record::sign(stamp, 1000, false, Vec::new(), &keys(seed)).expect("a key");
            let step = Step { author: ShortId::of(peer(seed)), delta: record.delta(0), hops: 0 };
            story.hears(seed, &Packet { deltas: vec![step], ..Packet::default() });
        }
        story
    }

    pub(crate) fn input(&mut self, input: Input<'_>) {
        let mut out = Outbox::default();
        self.core.handle(self.now, input, &mut out);
        for effect in out.effects {
            let Effect::Send { to, bytes } = effect else { continue };
            let packet = Packet::from_bytes(&bytes).expect("what a core sends can be read");
            let ack = packet.ping.filter(|_| !self.silent.iter().any(|seed| peer(*seed) == to));
            self.sent.push((to, packet));
            if ack.is_some() {
                let bytes = Packet { ack, ..Packet::default() }.to_bytes();
                self.input(Input::Received { from: to, bytes: &bytes });
            }
        }
    }

    pub(crate) fn hears(&mut self, from: u8, packet: &Packet) {
        self.input(Input::Received { from: peer(from), bytes: &packet.to_bytes() });
    }

    /// Lets `from` bring the words of these accusers against `subject`.
    pub(crate) fn hears_accusers(&mut self, from: u8, accusers: &[u8], subject: u8) {
        let accuse = |accuser: &u8| {
            let (by, about) = (ShortId::of(peer(*accuser)), ShortId::of(peer(subject)));
            Accusation::sign(by, about, 1000, &keys(*accuser)).expect("a key")
        };
        let accusations = accusers.iter().map(accuse).collect();
        self.hears(from, &Packet { accusations, ..Packet::default() });
    }

    /// Lets time pass, waking the core whenever it wants.
    pub(crate) fn waits(&mut self, time: Duration) {
        let end = self.now.after(time);
        while let Some(due) = self.core.next_deadline().filter(|due| *due <= end.mono) {
            self.now = self.now.after(due.saturating_duration_since(self.now.mono));
            self.input(Input::Tick);
        }
        self.now = end;
    }

    pub(crate) fn liveness(&self, seed: u8) -> Option<Liveness> {
        self.core.liveness(peer(seed))
    }
}
