//! A classical key and a post-quantum one that only count together.

use std::fmt;

use types::key::{Algorithm, KeySlot, Keys, PublicKey, Unavailable};
use types::{Digest, Reason, Refusal};

/// Two public keys, both of which must have signed: Ed25519 (for signers and roots) or P-256 (for
/// authorities) first, ML-DSA-65 second.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeySet {
    /// The classical key.
    pub classical: PublicKey,
    /// The ML-DSA-65 key.
    pub post_quantum: PublicKey,
}

/// Names a signer, or the root, by its keys.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SignerId(pub Digest);

/// Names a node's authority by its keys.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuthorityId(pub Digest);

impl KeySet {
    /// Reads both keys from their bytes.
    ///
    /// # Errors
    /// [`Reason::RecordInvalid`] if one has the wrong length.
    pub fn read(classical: Algorithm, first: &[u8], post_quantum: &[u8]) -> Result<Self, Refusal> {
        let key = |algorithm, bytes| {
            PublicKey::new(algorithm, bytes).map_err(|err| Reason::RecordInvalid.because(err.to_string()))
        };
        Ok(Self { classical: key(classical, first)?, post_quantum: key(Algorithm::MlDsa65, post_quantum)? })
    }

    /// The public halves of two slots.
    ///
    /// # Errors
    /// If one is not at hand.
    pub fn of(keys: &dyn Keys, slots: [KeySlot; 2]) -> Result<Self, Unavailable> {
        Ok(Self { classical: keys.public(slots[0])?.clone(), post_quantum: keys.public(slots[1])?.clone() })
    }

    /// Both, in the order in which they sign.
    pub fn both(&self) -> [&PublicKey; 2] {
        [&self.classical, &self.post_quantum]
    }

    /// The digest of each, in the order in which they sign.
    pub fn digests(&self) -> [Digest; 2] {
        self.both().map(PublicKey::digest)
    }

    /// The digest that names the pair.
    pub fn digest(&self) -> Digest {
        pair_digest(&self.digests())
    }

    /// Its name as a signer.
    pub fn signer(&self) -> SignerId {
        SignerId(self.digest())
    }

    /// Its name as an authority.
    pub fn authority(&self) -> AuthorityId {
        AuthorityId(self.digest())
    }
}

/// The digest that names a pair of keys, from theirs.
pub(crate) fn pair_digest(digests: &[Digest; 2]) -> Digest {
    Digest::of(&[b"sagemesh key pair v1", digests[0].as_bytes(), digests[1].as_bytes()])
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "keys {}", self.digest().short())
    }
}

impl fmt::Debug for SignerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "signer {}", self.0.short())
    }
}

impl fmt::Debug for AuthorityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "authority {}", self.0.short())
    }
}
