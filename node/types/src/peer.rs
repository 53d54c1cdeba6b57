//! The id of a node on the mesh links, as libp2p computes it.

use std::fmt;
use std::str::FromStr;

/// A node's Ed25519 public key, printed as libp2p prints it: base58 of the identity multihash of the key's
/// protobuf form (libp2p specifications, peer-ids). The key can be read back from the id, so whoever knows
/// the id can check what the node signs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub [u8; 32]);

/// Identity multihash of 36 bytes: a protobuf message with key type 1 (Ed25519) and 32 bytes of key.
const PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// A text or byte string is not the id of an Ed25519 key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a peer id: use the base58 form of an Ed25519 key, which begins with 12D3KooW")]
pub struct Error;

impl PeerId {
    /// The 38 bytes that libp2p calls the peer id.
    pub fn to_multihash(self) -> [u8; 38] {
        let mut out = [0; 38];
        out[..6].copy_from_slice(&PREFIX);
        out[6..].copy_from_slice(&self.0);
        out
    }

    /// Reads the 38 bytes that libp2p calls the peer id.
    ///
    /// # Errors
    /// If they are not the identity multihash of an Ed25519 key.
    pub fn from_multihash(bytes: &[u8]) -> Result<Self, Error> {
        let key = bytes.strip_prefix(&PREFIX).ok_or(Error)?;
        Ok(Self(key.try_into().map_err(|_| Error)?))
    }
}

impl FromStr for PeerId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        // 38 bytes make at most 52 base58 digits; decoding is quadratic, so bound it first.
        if text.len() > 60 {
            return Err(Error);
        }
        Self::from_multihash(&bs58::decode(text).into_vec().map_err(|_| Error)?)
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&bs58::encode(self.to_multihash()).into_string())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prints_as_libp2p_does() {
        // Every Ed25519 id begins so: the prefix and base58 fix it.
        let id = PeerId([0; 32]);
        assert!(id.to_string().starts_with("12D3KooW"), "{id}");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn refuses_what_is_not_an_ed25519_id() {
        #[track_caller]
        fn check(text: &str) {
            assert_eq!(text.parse::<PeerId>(), Err(Error), "{text}");
        }
        check("");
        check("12D3KooW");
        check("QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N");
        check(&"1".repeat(4000));
        check("0OIl");
    }

    proptest! {
        #[test]
        fn an_altered_id_is_refused_or_another(key: [u8; 32], at in 0usize..52, other in "[1-9A-Za-z]") {
            let id = PeerId(key);
            let mut text = id.to_string();
            text.replace_range(at..=at, &other);
            match text.parse::<PeerId>() {
                Ok(read) => prop_assert_eq!(read.to_string(), text),
                Err(_) => prop_assert_ne!(text, id.to_string()),
            }
        }
    }
}
