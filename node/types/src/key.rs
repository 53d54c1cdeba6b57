//! Keys as cores see them: public halves as values, private halves behind [`Keys`].
//!
//! The trait is the seam along which key use may move to a process of its own, and along which simulations
//! put cheap keys in the place of real ones.

use std::fmt;

use crate::digest::Digest;

/// A signature algorithm that the mesh uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Algorithm {
    /// Ed25519, RFC 8032. Keys of 32 bytes, signatures of 64.
    Ed25519 = 1,
    /// ECDSA on P-256 with SHA-256, FIPS 186-5. Keys uncompressed (65 bytes), signatures as ASN.1 DER.
    EcdsaP256 = 2,
    /// ML-DSA-65, FIPS 204. Keys of 1,952 bytes, signatures of 3,309.
    MlDsa65 = 3,
}

impl Algorithm {
    /// The algorithm with this number on the wire.
    pub const fn from_wire(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Ed25519),
            2 => Some(Self::EcdsaP256),
            3 => Some(Self::MlDsa65),
            _ => None,
        }
    }

    /// Bytes of a public key.
    pub const fn public_key_len(self) -> usize {
        match self {
            Self::Ed25519 => 32,
            Self::EcdsaP256 => 65,
            Self::MlDsa65 => 1952,
        }
    }

    /// Most bytes of a signature.
    pub const fn signature_len_max(self) -> usize {
        match self {
            Self::Ed25519 => 64,
            Self::EcdsaP256 => 72,
            Self::MlDsa65 => 3309,
        }
    }

    /// The DER of SubjectPublicKeyInfo that stands before the key's bytes (RFC 8410, RFC 5480, RFC 9881).
    const fn spki_prefix(self) -> &'static [u8] {
        match self {
            Self::Ed25519 => &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00],
            Self::EcdsaP256 => &[
                0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08,
                0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
            ],
            Self::MlDsa65 => &[
                0x30, 0x82, 0x07, 0xb2, 0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04,
                0x03, 0x12, 0x03, 0x82, 0x07, 0xa1, 0x00,
            ],
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ed25519 => "Ed25519",
            Self::EcdsaP256 => "ECDSA-P256",
            Self::MlDsa65 => "ML-DSA-65",
        })
    }
}

/// A public key whose length fits its algorithm. Whether it is a point on the curve shows when it is used.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey {
    algorithm: Algorithm,
    bytes: Box<[u8]>,
}

/// The bytes are no key of that algorithm.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a {algorithm} public key has {} bytes, not {len}", algorithm.public_key_len())]
pub struct Error {
    algorithm: Algorithm,
    len: usize,
}

impl PublicKey {
    /// The key that `bytes` hold.
    ///
    /// # Errors
    /// If their number is not that of a key of this algorithm.
    pub fn new(algorithm: Algorithm, bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() != algorithm.public_key_len() {
            return Err(Error { algorithm, len: bytes.len() });
        }
        Ok(Self { algorithm, bytes: bytes.into() })
    }

    /// Its algorithm.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Its bytes, without any wrapping.
    pub const fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its SubjectPublicKeyInfo, RFC 5280 §4.1.2.7, in DER.
    pub fn spki(&self) -> Vec<u8> {
        [self.algorithm.spki_prefix(), &self.bytes].concat()
    }

    /// The digest that names it.
    pub fn digest(&self) -> Digest {
        Digest::of(&[b"sagemesh key v1", &[self.algorithm as u8], &self.bytes])
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm, self.digest().short())
    }
}

/// Which private key is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeySlot {
    /// The node's Ed25519 key, whose public half is its [`PeerId`](crate::PeerId).
    Node,
    /// The P-256 key of the node's authority.
    AuthorityP256,
    /// The ML-DSA-65 key of the node's authority.
    AuthorityMlDsa,
    /// The P-256 key that signs JWT-SVIDs.
    Jwt,
    /// The Ed25519 key of a signer.
    SignerEd25519,
    /// The ML-DSA-65 key of a signer.
    SignerMlDsa,
    /// The Ed25519 key of the mesh's root.
    RootEd25519,
    /// The ML-DSA-65 key of the mesh's root.
    RootMlDsa,
    /// The P-256 key of an operator's certificate.
    Operator,
}

impl KeySlot {
    /// All slots.
    pub const ALL: [Self; 9] = [
        Self::Node,
        Self::AuthorityP256,
        Self::AuthorityMlDsa,
        Self::Jwt,
        Self::SignerEd25519,
        Self::SignerMlDsa,
        Self::RootEd25519,
        Self::RootMlDsa,
        Self::Operator,
    ];
    /// What a node keeps for itself.
    pub const NODE: [Self; 4] = [Self::Node, Self::AuthorityP256, Self::AuthorityMlDsa, Self::Jwt];
    /// A node's authority: what signs its SVIDs.
    pub const AUTHORITY: [Self; 2] = [Self::AuthorityP256, Self::AuthorityMlDsa];
    /// What a signer signs records with.
    pub const SIGNER: [Self; 2] = [Self::SignerEd25519, Self::SignerMlDsa];
    /// What the root signs with.
    pub const ROOT: [Self; 2] = [Self::RootEd25519, Self::RootMlDsa];

    /// The algorithm of the key in this slot.
    pub const fn algorithm(self) -> Algorithm {
        match self {
            Self::Node | Self::SignerEd25519 | Self::RootEd25519 => Algorithm::Ed25519,
            Self::AuthorityP256 | Self::Jwt | Self::Operator => Algorithm::EcdsaP256,
            Self::AuthorityMlDsa | Self::SignerMlDsa | Self::RootMlDsa => Algorithm::MlDsa65,
        }
    }

    /// Its name in key files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Node => "node-ed25519",
            Self::AuthorityP256 => "authority-p256",
            Self::AuthorityMlDsa => "authority-ml-dsa-65",
            Self::Jwt => "jwt-p256",
            Self::SignerEd25519 => "signer-ed25519",
            Self::SignerMlDsa => "signer-ml-dsa-65",
            Self::RootEd25519 => "root-ed25519",
            Self::RootMlDsa => "root-ml-dsa-65",
            Self::Operator => "operator-p256",
        }
    }
}

/// There is no key in that slot, or its holder did not answer. Nothing was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no `{}` key is at hand here", .0.name())]
pub struct Unavailable(pub KeySlot);

/// What a core may ask of keys.
pub trait Keys: Send + Sync {
    /// The public half of the key in `slot`.
    ///
    /// # Errors
    /// [`Unavailable`] if there is none.
    fn public(&self, slot: KeySlot) -> Result<&PublicKey, Unavailable>;

    /// Signs `message` with the key in `slot`.
    ///
    /// # Errors
    /// [`Unavailable`] if there is none.
    fn sign(&self, slot: KeySlot, message: &[u8]) -> Result<Vec<u8>, Unavailable>;

    /// Whether `signature` over `message` is by `key`. Needs no private key.
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &[u8]) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_length_of_its_algorithm() {
        for algorithm in [Algorithm::Ed25519, Algorithm::EcdsaP256, Algorithm::MlDsa65] {
            let len = algorithm.public_key_len();
            assert!(PublicKey::new(algorithm, &vec![4; len]).is_ok());
            assert!(PublicKey::new(algorithm, &vec![4; len - 1]).is_err());
            assert_eq!(Algorithm::from_wire(algorithm as u32), Some(algorithm));
        }
        assert_eq!(Algorithm::from_wire(0), None);
    }
}
