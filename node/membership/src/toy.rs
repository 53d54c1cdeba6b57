//! Keys whose signature is a digest, for tests: enough to see what the core does with an answer.

use types::key::Unavailable;
use types::{Algorithm, Digest, KeySlot, Keys, PeerId, PublicKey};

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
