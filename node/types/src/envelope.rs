//! The signed envelope: bytes, what they are, and who signed them.
//!
//! Verify the bytes and then read them; never encode a message again to check a signature. What is signed
//! is the domain and the payload, so a signature made for one kind of statement is none for another. The
//! first byte signed is a letter, so nothing signed here is a certificate (DER begins with 0x30).

use prost::Message;

use crate::digest::Digest;
use crate::key::{Algorithm, KeySlot, Keys, PublicKey, Unavailable};
use crate::reason::{Reason, Refusal};

/// Longest encoded envelope in bytes. A member record must also fit a certificate.
pub const ENVELOPE_LEN_MAX: usize = 1 << 20;
/// Most signatures on one envelope.
pub const SIGNATURES_MAX: usize = 4;
const CONTEXT: &[u8] = b"sagemesh envelope v1";

/// A signed statement on the wire and at rest. Its fields are protobuf, so that others can read it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Envelope {
    /// The full protobuf name of the payload's message; a signature holds for this name only.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// The statement, encoded once by its author.
    #[prost(bytes = "vec", tag = "2")]
    pub payload: Vec<u8>,
    /// In the order that the statement's kind demands.
    #[prost(message, repeated, tag = "3")]
    pub signatures: Vec<Signature>,
}

/// One signature over an envelope's domain and payload.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Signature {
    /// An [`Algorithm`] by its number.
    #[prost(uint32, tag = "1")]
    pub algorithm: u32,
    /// The signature in the form its algorithm names.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

impl Envelope {
    /// Signs `payload` as a statement of the kind `domain` with the key of each slot, in that order.
    ///
    /// # Errors
    /// If a key is not at hand.
    pub fn seal(
        domain: &str,
        payload: Vec<u8>,
        keys: &dyn Keys,
        slots: &[KeySlot],
    ) -> Result<Self, Unavailable> {
        let message = message(domain, &payload);
        let sign = |slot: &KeySlot| {
            keys.sign(*slot, &message).map(|value| Signature { algorithm: slot.algorithm() as u32, value })
        };
        let signatures = slots.iter().map(sign).collect::<Result<_, _>>()?;
        Ok(Self { domain: domain.to_owned(), payload, signatures })
    }

    /// The payload, once every one of `signers` is seen to have signed it, in that order and nobody else.
    ///
    /// # Errors
    /// [`Reason::EnvelopeMalformed`] for another kind of statement, [`Reason::SignatureInvalid`] otherwise.
    pub fn open(&self, domain: &str, signers: &[&PublicKey], keys: &dyn Keys) -> Result<&[u8], Refusal> {
        if self.domain != domain {
            let detail = format!("expected a `{domain}`, found a `{}`", clip(&self.domain));
            return Err(Reason::EnvelopeMalformed.because(detail));
        }
        if signers.is_empty() || signers.len() != self.signatures.len() {
            let detail = format!("{} signatures where {} are due", self.signatures.len(), signers.len());
            return Err(Reason::SignatureInvalid.because(detail));
        }
        let message = message(domain, &self.payload);
        for (key, signature) in signers.iter().zip(&self.signatures) {
            let is_same = Algorithm::from_wire(signature.algorithm) == Some(key.algorithm());
            if !is_same || !keys.verify(key, &message, &signature.value) {
                let detail = format!("the {} signature on this `{domain}` does not verify", key.algorithm());
                return Err(Reason::SignatureInvalid.because(detail));
            }
        }
        Ok(&self.payload)
    }

    /// Reads an envelope; says nothing yet about its signatures.
    ///
    /// # Errors
    /// [`Reason::EnvelopeMalformed`] if the bytes are torn or too long, or the signatures too many or too long.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > ENVELOPE_LEN_MAX {
            let detail = format!("{} bytes where {ENVELOPE_LEN_MAX} are allowed", bytes.len());
            return Err(Reason::EnvelopeMalformed.because(detail));
        }
        let envelope =
            Self::decode(bytes).map_err(|err| Reason::EnvelopeMalformed.because(err.to_string()))?;
        let is_bounded = envelope.signatures.len() <= SIGNATURES_MAX
            && envelope.signatures.iter().all(|s| {
                Algorithm::from_wire(s.algorithm).is_some_and(|a| s.value.len() <= a.signature_len_max())
            });
        if !is_bounded {
            return Err(Reason::EnvelopeMalformed.because("too many or too long signatures"));
        }
        Ok(envelope)
    }

    /// Its encoding.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    /// The digest of what is signed. Two envelopes with one digest say the same, whatever their signatures.
    pub fn digest(&self) -> Digest {
        Digest::of(&[CONTEXT, self.domain.as_bytes(), &self.payload])
    }
}

/// What is signed: context, domain and payload, each but the last behind its length.
fn message(domain: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(CONTEXT.len() + 8 + domain.len() + payload.len());
    out.extend_from_slice(CONTEXT);
    out.extend_from_slice(&(domain.len() as u64).to_be_bytes());
    out.extend_from_slice(domain.as_bytes());
    out.extend_from_slice(payload);
    out
}

fn clip(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Keys whose signature is a digest: enough to see what the envelope does with an answer.
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

    fn toy(seed: u8) -> Toy {
        Toy(PublicKey::new(Algorithm::Ed25519, &[seed; 32]).expect("32 bytes"))
    }

    #[test]
    fn opens_for_its_domain_and_signer_only() {
        let keys = toy(1);
        let sealed = Envelope::seal("a.B", b"hello".to_vec(), &keys, &[KeySlot::Node]).expect("a key");
        assert_eq!(sealed.open("a.B", &[&keys.0], &keys), Ok(&b"hello"[..]));

        #[track_caller]
        fn check(envelope: &Envelope, domain: &str, signers: &[&PublicKey], expected: Reason) {
            assert_eq!(envelope.open(domain, signers, &toy(1)).map_err(|r| r.reason), Err(expected));
        }
        check(&sealed, "a.C", &[&keys.0], Reason::EnvelopeMalformed);
        check(&sealed, "a.B", &[&toy(2).0], Reason::SignatureInvalid);
        check(&sealed, "a.B", &[], Reason::SignatureInvalid);
        check(&sealed, "a.B", &[&keys.0, &keys.0], Reason::SignatureInvalid);
        let renamed = Envelope { domain: "a.C".to_owned(), ..sealed.clone() };
        check(&renamed, "a.C", &[&keys.0], Reason::SignatureInvalid);
        let forged = Envelope { payload: b"hullo".to_vec(), ..sealed };
        check(&forged, "a.B", &[&keys.0], Reason::SignatureInvalid);
    }

    #[test]
    fn a_missing_key_is_named() {
        assert_eq!(
            Envelope::seal("a.B", Vec::new(), &toy(1), &[KeySlot::RootMlDsa]),
            Err(Unavailable(KeySlot::RootMlDsa))
        );
    }

    proptest! {
        #[test]
        fn reading_hostile_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Envelope::from_bytes(&bytes);
        }

        #[test]
        fn every_truncation_is_refused_or_says_less(cut in 0usize..200) {
            let sealed = Envelope::seal("a.B", vec![7; 100], &toy(1), &[KeySlot::Node]).expect("a key");
            let bytes = sealed.to_bytes();
            let cut = cut % bytes.len();
            if let Ok(read) = Envelope::from_bytes(&bytes[..cut]) {
                prop_assert!(read.open("a.B", &[&toy(1).0], &toy(1)).is_err());
            }
        }
    }
}
