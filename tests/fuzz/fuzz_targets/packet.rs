//! Gossip that is changed on its way, or made up, by a member: no record is believed that its author has not
//! signed, nobody who is not admitted is written to, messages are within their bound, and time goes on.
#![no_main]

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use membership::{Config, Effect, Input as Event, Membership, Outbox, PACKET_LEN_MAX, Record};
use sagemesh_fuzz::edit::{Edit, edited};
use sagemesh_fuzz::mesh;
use types::key::Unavailable;
use types::{Algorithm, Digest, KeySlot, Keys, Now, PeerId, PublicKey};

/// Nodes that talk honestly; the first is who is lied to afterwards.
const N_NODES: u8 = 4;
/// For how long they talk, in ticks.
const TALK_TICKS: usize = 60;
const STEPS_MAX: usize = 24;
/// Wake-ups in a second, however much was said: probes, retries, pushes and what is signed.
const WAKES_MAX: usize = 200;
/// Effects of one message.
const EFFECTS_MAX: usize = 1000;

#[derive(Arbitrary, Debug)]
enum Step {
    /// What an honest node once said, changed.
    Said { which: u16, from: u8, edits: Vec<Edit> },
    /// Anything.
    Bytes { from: u8, bytes: Vec<u8> },
    /// Time passes.
    Waits(u8),
}

/// Keys whose signature is a digest: as easy to make for who knows how, and beyond mere chance.
struct Toy(PublicKey);

impl Keys for Toy {
    fn public(&self, _: KeySlot) -> Result<&PublicKey, Unavailable> {
        Ok(&self.0)
    }

    fn sign(&self, _: KeySlot, message: &[u8]) -> Result<Vec<u8>, Unavailable> {
        Ok(Digest::of(&[self.0.as_bytes(), message]).0.to_vec())
    }

    fn verify(&self, key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
        Digest::of(&[key.as_bytes(), message]).0[..] == *signature
    }
}

fn peer(seed: u8) -> PeerId {
    PeerId(Digest::of(&[&[seed % N_NODES]]).0)
}

fn core(now: Now, seed: u8) -> Membership {
    let key = PublicKey::new(Algorithm::Ed25519, &peer(seed).0).expect("32 bytes");
    let rng = ChaCha8Rng::seed_from_u64(seed.into());
    let mut core = Membership::new(now, Config::default(), Arc::new(Toy(key)), rng).expect("a key");
    for other in (0..N_NODES).filter(|other| *other != seed) {
        core.handle(now, Event::Admitted(peer(other)), &mut Outbox::default());
    }
    core
}

/// All that was said in an honest talk, when it was over, and every record that was signed in it.
struct Talk {
    said: Vec<Vec<u8>>,
    now: Now,
    signed: Vec<(PeerId, Record)>,
}

static TALK: LazyLock<Talk> = LazyLock::new(|| {
    let mut now = mesh::dawn();
    let mut cores: Vec<Membership> = (0..N_NODES).map(|seed| core(now, seed)).collect();
    let (mut said, mut signed) = (Vec::new(), Vec::new());
    for tick in 0..TALK_TICKS {
        now = now.after(Duration::from_millis(500));
        for seed in 0..N_NODES {
            let core = &mut cores[usize::from(seed)];
            let _ = core.put(now, "service/api", &[u8::try_from(tick).expect("a small number")]);
            let mut queue = Vec::new();
            let mut out = Outbox::default();
            core.handle(now, Event::Tick, &mut out);
            queue.extend(out.effects.into_iter().map(|effect| (peer(seed), effect)));
            while let Some((from, effect)) = queue.pop() {
                let Effect::Send { to, bytes } = effect else { continue };
                let hears = (0..N_NODES).find(|seed| peer(*seed) == to).expect("one of them");
                let mut out = Outbox::default();
                cores[usize::from(hears)].handle(now, Event::Received { from, bytes: &bytes }, &mut out);
                queue.extend(out.effects.into_iter().map(|effect| (to, effect)));
                said.push(bytes);
            }
        }
        let records = cores.iter().map(|core| (core.me(), core.own_record().clone()));
        signed.extend(records.filter(|it| !signed.contains(it)).collect::<Vec<_>>());
    }
    said.sort_by_key(|bytes| std::cmp::Reverse(bytes.len()));
    said.dedup();
    said.truncate(usize::from(u16::MAX));
    Talk { said, now, signed }
});

fuzz_target!(|steps: Vec<Step>| {
    let talk = &*TALK;
    let mut now = talk.now;
    let mut victim = core(now, 0);
    for step in steps.iter().take(STEPS_MAX) {
        match step {
            Step::Said { which, from, edits } => {
                let bytes = edited(&talk.said[usize::from(*which) % talk.said.len()], edits);
                hear(&mut victim, now, *from, &bytes);
            }
            Step::Bytes { from, bytes } => hear(&mut victim, now, *from, bytes),
            Step::Waits(tenths) => {
                now = wait(&mut victim, now, Duration::from_millis(100) * u32::from(*tenths))
            }
        }
        for seed in 1..N_NODES {
            let record = victim.record(peer(seed));
            let is_signed =
                |record: &Record| talk.signed.iter().any(|it| (it.0, &it.1) == (peer(seed), record));
            assert!(record.is_none_or(is_signed), "nobody signed it");
        }
    }
    let members: BTreeSet<PeerId> = victim.members().map(|(peer, _)| peer).collect();
    assert!(members.iter().all(|it| (1..N_NODES).any(|seed| peer(seed) == *it)));
    assert_eq!(members.len(), usize::from(N_NODES) - 1);
});

fn hear(victim: &mut Membership, now: Now, from: u8, bytes: &[u8]) {
    let mut out = Outbox::default();
    victim.handle(now, Event::Received { from: peer(from), bytes }, &mut out);
    check(&out);
}

fn wait(victim: &mut Membership, now: Now, time: Duration) -> Now {
    let (end, mut now, mut n_wakes) = (now.after(time), now, 0);
    while let Some(due) = victim.next_deadline().filter(|due| *due <= end.mono) {
        now = now.after(due.saturating_duration_since(now.mono));
        let mut out = Outbox::default();
        victim.handle(now, Event::Tick, &mut out);
        check(&out);
        n_wakes += 1;
        assert!(n_wakes <= WAKES_MAX * (1 + time.as_secs() as usize), "it does not sleep");
    }
    end
}

fn check(out: &Outbox) {
    assert!(out.effects.len() <= EFFECTS_MAX);
    for effect in &out.effects {
        if let Effect::Send { to, bytes } = effect {
            assert!(bytes.len() <= PACKET_LEN_MAX);
            assert!((1..N_NODES).any(|seed| peer(seed) == *to), "{to} is not admitted");
        }
    }
}
