//! Keys for fuzzing: ones that believe every signature, and real ones made from constants.

use std::collections::BTreeMap;

use identity::SoftKeys;
use identity::soft_keys::Secret;
use types::Digest;
use types::key::{KeySlot, Keys, PublicKey, Unavailable};

/// Keys that sign with nothing and believe every signature, so that what lies behind the check is reached.
#[derive(Default)]
pub struct Lenient(BTreeMap<KeySlot, PublicKey>);

impl Lenient {
    /// Keys in these slots, made from `seed`.
    pub fn new(seed: u8, slots: &[KeySlot]) -> Self {
        let public = |slot: KeySlot| {
            let digest = Digest::of(&[slot.name().as_bytes(), &[seed]]);
            let bytes: Vec<u8> =
                digest.0.into_iter().cycle().take(slot.algorithm().public_key_len()).collect();
            PublicKey::new(slot.algorithm(), &bytes).expect("it has the length of its algorithm")
        };
        Self(slots.iter().map(|slot| (*slot, public(*slot))).collect())
    }
}

impl Keys for Lenient {
    fn public(&self, slot: KeySlot) -> Result<&PublicKey, Unavailable> {
        self.0.get(&slot).ok_or(Unavailable(slot))
    }

    fn sign(&self, slot: KeySlot, _: &[u8]) -> Result<Vec<u8>, Unavailable> {
        self.public(slot).map(|_| Vec::new())
    }

    fn verify(&self, _: &PublicKey, _: &[u8], _: &[u8]) -> bool {
        true
    }
}

/// Real keys in these slots, made from `seed`, which is not zero.
pub fn real(seed: u8, slots: &[KeySlot]) -> SoftKeys {
    let secret = Secret::new([seed; 32]);
    SoftKeys::new(slots.iter().map(|slot| (*slot, &secret))).expect("a small number is a scalar")
}
