//! Private keys in this process's memory, each made from 32 secret bytes.
//!
//! A secret is the Ed25519 seed (RFC 8032 §5.1.5), the P-256 scalar (FIPS 186-5 §A.2), or the ML-DSA seed ξ
//! (FIPS 204 §5.1), so a key file is short and the same secrets always make the same keys. The library frees
//! its own copies zeroised. Where secrets come from and rest is the shells' business.

use std::collections::BTreeMap;

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    ML_DSA_65, ML_DSA_65_SIGNING, PqdsaKeyPair, UnparsedPublicKey, VerificationAlgorithm,
};
use zeroize::{Zeroize, ZeroizeOnDrop};

use types::key::{Algorithm, KeySlot, Keys, PublicKey, Unavailable};

/// 32 secret bytes. Printing shows nothing; dropping wipes them.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Takes the bytes over.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the file that keeps them.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

/// A secret makes no key of that kind. No key was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the secret of the `{}` key makes no key: draw another", .0.name())]
pub struct Error(pub KeySlot);

enum Pair {
    Ed25519(Ed25519KeyPair),
    EcdsaP256(EcdsaKeyPair),
    MlDsa65(Box<PqdsaKeyPair>),
}

impl Pair {
    fn new(algorithm: Algorithm, secret: &Secret) -> Option<(Self, PublicKey)> {
        let (pair, public) = match algorithm {
            Algorithm::Ed25519 => {
                let pair = Ed25519KeyPair::from_seed_unchecked(&secret.0).ok()?;
                let public = pair.public_key().as_ref().to_vec();
                (Self::Ed25519(pair), public)
            }
            Algorithm::EcdsaP256 => {
                let scalar = PrivateKey::from_private_key(&ECDH_P256, &secret.0).ok()?;
                let point = scalar.compute_public_key().ok()?;
                let alg = &ECDSA_P256_SHA256_ASN1_SIGNING;
                let pair =
                    EcdsaKeyPair::from_private_key_and_public_key(alg, &secret.0, point.as_ref()).ok()?;
                (Self::EcdsaP256(pair), point.as_ref().to_vec())
            }
            Algorithm::MlDsa65 => {
                let pair = PqdsaKeyPair::from_seed(&ML_DSA_65_SIGNING, &secret.0).ok()?;
                let public = pair.public_key().as_ref().to_vec();
                (Self::MlDsa65(Box::new(pair)), public)
            }
        };
        Some((pair, PublicKey::new(algorithm, &public).ok()?))
    }

    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Ed25519(pair) => Some(pair.sign(message).as_ref().to_vec()),
            Self::EcdsaP256(pair) => Some(pair.sign(&SystemRandom::new(), message).ok()?.as_ref().to_vec()),
            Self::MlDsa65(pair) => {
                let mut out = vec![0; ML_DSA_65_SIGNING.signature_len()];
                let len = pair.sign(message, &mut out).ok()?;
                out.truncate(len);
                Some(out)
            }
        }
    }
}

/// [`Keys`] held in memory.
#[derive(Default)]
pub struct SoftKeys {
    pairs: BTreeMap<KeySlot, (Pair, PublicKey)>,
}

impl SoftKeys {
    /// Makes the key of each slot from its secret.
    ///
    /// # Errors
    /// If a secret makes no key: for P-256 one in 2^32 does not.
    pub fn new<'a>(secrets: impl IntoIterator<Item = (KeySlot, &'a Secret)>) -> Result<Self, Error> {
        let pair = |(slot, secret): (KeySlot, &Secret)| {
            Ok((slot, Pair::new(slot.algorithm(), secret).ok_or(Error(slot))?))
        };
        Ok(Self { pairs: secrets.into_iter().map(pair).collect::<Result<_, _>>()? })
    }
}

impl std::fmt::Debug for SoftKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.pairs.iter().map(|(slot, (_, public))| (slot, public))).finish()
    }
}

impl Keys for SoftKeys {
    fn public(&self, slot: KeySlot) -> Result<&PublicKey, Unavailable> {
        self.pairs.get(&slot).map(|(_, public)| public).ok_or(Unavailable(slot))
    }

    fn sign(&self, slot: KeySlot, message: &[u8]) -> Result<Vec<u8>, Unavailable> {
        let (pair, _) = self.pairs.get(&slot).ok_or(Unavailable(slot))?;
        pair.sign(message).ok_or(Unavailable(slot))
    }

    fn verify(&self, key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &dyn VerificationAlgorithm = match key.algorithm() {
            Algorithm::Ed25519 => &ED25519,
            Algorithm::EcdsaP256 => &ECDSA_P256_SHA256_ASN1,
            Algorithm::MlDsa65 => &ML_DSA_65,
        };
        UnparsedPublicKey::new(algorithm, key.as_bytes()).verify(message, signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_signs_and_only_its_key_verifies() {
        let secret = |byte| Secret::new([byte; 32]);
        for slot in KeySlot::NODE.into_iter().chain(KeySlot::SIGNER).chain(KeySlot::ROOT) {
            let keys = SoftKeys::new([(slot, &secret(1))]).expect("a key");
            let other = SoftKeys::new([(slot, &secret(2))]).expect("a key");
            let signature = keys.sign(slot, b"hello").expect("a signature");
            assert!(signature.len() <= slot.algorithm().signature_len_max());
            let public = keys.public(slot).expect("a key");
            assert!(keys.verify(public, b"hello", &signature));
            assert!(!keys.verify(public, b"hullo", &signature));
            assert!(!keys.verify(other.public(slot).expect("a key"), b"hello", &signature));
            assert!(!keys.verify(public, b"hello", b""));
        }
    }

    #[test]
    fn the_same_secret_makes_the_same_key() {
        let public = || {
            let keys = SoftKeys::new([(KeySlot::AuthorityP256, &Secret::new([9; 32]))]).expect("a key");
            keys.public(KeySlot::AuthorityP256).cloned()
        };
        assert_eq!(public(), public());
    }

    #[test]
    fn a_secret_that_is_no_scalar_is_refused_and_nothing_secret_is_printed() {
        let zero = Secret::new([0; 32]);
        assert_eq!(SoftKeys::new([(KeySlot::Jwt, &zero)]).err(), Some(Error(KeySlot::Jwt)));
        assert_eq!(format!("{zero:?}"), "(secret)");
    }
}
