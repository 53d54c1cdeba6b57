//! Invitations as people carry them: one line of text.
//!
//! The text is `smj1` and the unpadded base64url of a protobuf message and four bytes of its digest, so that
//! a line that was cut short is told from one that was never a token.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use proto::Message;
use proto::identity::v1;
use zeroize::{Zeroize, Zeroizing};

use types::{Digest, MeshName, NodeName, Reason, Refusal, TrustDomain};

use crate::keyset::AuthorityId;
use crate::soft_keys::Secret;

/// Most addresses in a token.
pub const ADDRESSES_MAX: usize = 8;
/// Longest token in characters.
pub const TOKEN_LEN_MAX: usize = 4096;
const PREFIX: &str = "smj1";
const CHECK_LEN: usize = 4;
const ADDRESS_LEN_MAX: usize = 260;

/// An invitation into a mesh. Printing for debugging hides the secret; [`fmt::Display`] is the token.
#[derive(Clone)]
pub struct Token {
    /// The name that the newcomer gets, in the mesh it joins.
    pub domain: TrustDomain,
    /// The first root.
    pub root: Digest,
    /// The inviter's authority.
    pub inviter: AuthorityId,
    /// What proves the invitation.
    pub secret: Secret,
    /// Where the inviter listens, as `HOST:PORT`.
    pub addresses: Vec<String>,
}

impl Token {
    /// Which invitation it is; says nothing about the secret.
    pub fn id(&self) -> [u8; 16] {
        invitation_id(&self.secret)
    }
}

/// Names an invitation by its secret without giving it away.
pub(crate) fn invitation_id(secret: &Secret) -> [u8; 16] {
    let digest = Digest::of(&[b"sagemesh invitation v1", secret.expose()]);
    digest.0.first_chunk().copied().expect("a digest has 32 bytes")
}

fn check_of(payload: &[u8]) -> [u8; CHECK_LEN] {
    let digest = Digest::of(&[b"sagemesh token v1", payload]);
    digest.0.first_chunk().copied().expect("a digest has 32 bytes")
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut wire = v1::Token {
            mesh: self.domain.mesh().to_string(),
            node: self.domain.node().to_string(),
            root: self.root.0.to_vec(),
            inviter: self.inviter.0.0.to_vec(),
            secret: self.secret.expose().to_vec(),
            addresses: self.addresses.clone(),
        };
        // Sized at once: a buffer that grows leaves secrets behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(wire.encoded_len() + CHECK_LEN));
        let encoded = wire.encode(&mut *bytes);
        wire.secret.zeroize();
        encoded.map_err(|_| fmt::Error)?;
        let check = check_of(&bytes);
        bytes.extend(check);
        let text = Zeroizing::new(BASE64URL_NOPAD.encode(&bytes));
        write!(f, "{PREFIX}{}", *text)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invitation of {} into {}", self.domain.node(), self.domain.mesh())
    }
}

impl FromStr for Token {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<Self, Refusal> {
        let malformed = |detail: &str| Reason::TokenMalformed.because(detail);
        let text = text.trim();
        if text.len() > TOKEN_LEN_MAX {
            return Err(malformed("the text is too long for a token"));
        }
        let encoded = text.strip_prefix(PREFIX).ok_or_else(|| malformed("a token begins with `smj1`"))?;
        let bytes = BASE64URL_NOPAD.decode(encoded.as_bytes()).map(Zeroizing::new);
        let bytes = bytes.map_err(|_| malformed("the token was cut short or altered"))?;
        let (payload, _) = bytes
            .split_last_chunk::<CHECK_LEN>()
            .filter(|(payload, check)| check_of(payload) == **check)
            .ok_or_else(|| malformed("the token was cut short or altered"))?;
        let mut wire = v1::Token::decode(payload).map_err(|_| malformed("the token holds something else"))?;
        let token = Self::read(&wire);
        wire.secret.zeroize();
        token.ok_or_else(|| malformed("the token holds something else"))
    }
}

/// Whether a token can carry these addresses.
///
/// # Errors
/// [`Reason::TokenMalformed`] if there are too many, or one is no `HOST:PORT`.
pub(crate) fn check_addresses(addresses: &[String]) -> Result<(), Refusal> {
    let is_address = |text: &String| text.len() <= ADDRESS_LEN_MAX && text.contains(':');
    if addresses.len() > ADDRESSES_MAX || !addresses.iter().all(is_address) {
        let detail = format!("a token carries up to {ADDRESSES_MAX} addresses of the form HOST:PORT");
        return Err(Reason::TokenMalformed.because(detail));
    }
    Ok(())
}

impl Token {
    fn read(wire: &v1::Token) -> Option<Self> {
        check_addresses(&wire.addresses).ok()?;
        let node: NodeName = wire.node.parse().ok()?;
        let mesh: MeshName = wire.mesh.parse().ok()?;
        Some(Self {
            domain: TrustDomain::new(node, mesh),
            root: Digest::from_slice(&wire.root)?,
            inviter: AuthorityId(Digest::from_slice(&wire.inviter)?),
            secret: Secret::new(wire.secret.as_slice().try_into().ok()?),
            addresses: wire.addresses.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> Token {
        Token {
            domain: "pi.home.mesh".parse().expect("a name"),
            root: Digest([1; 32]),
            inviter: AuthorityId(Digest([2; 32])),
            secret: Secret::new([3; 32]),
            addresses: vec!["192.0.2.1:7443".to_owned(), "[2001:db8::1]:7443".to_owned()],
        }
    }

    #[test]
    fn reads_back_what_it_prints() {
        let text = token().to_string();
        let read: Token = format!("  {text}\n").parse().expect("a token");
        assert_eq!(read.to_string(), text);
        assert_eq!(read.id(), token().id());
        assert!(!format!("{read:?}").contains("AwMD"), "the secret is not printed");
    }

    #[test]
    fn a_token_cut_short_or_altered_is_refused() {
        let text = token().to_string();
        for len in 0..text.len() {
            let refusal = text[..len].parse::<Token>().expect_err("a cut token");
            assert_eq!(refusal.reason, Reason::TokenMalformed);
        }
        for idx in PREFIX.len()..text.len() {
            let mut altered = text.clone().into_bytes();
            altered[idx] = if altered[idx] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(altered).expect("ASCII");
            assert!(altered.parse::<Token>().is_err(), "at {idx}");
        }
    }

    proptest! {
        #[test]
        fn reading_hostile_text_never_panics(text in "smj1[A-Za-z0-9_-]{0,300}") {
            let _ = text.parse::<Token>();
        }
    }
}
