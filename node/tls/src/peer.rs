//! The other end of a connection, and what a handshake can fail of.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{CommonState, NamedGroup, SignatureScheme};

use identity::{Caller, Members};
use types::{Algorithm, Now, Reason, Refusal, SpiffeId};

use crate::chooser::Chooser;
use crate::verifier::Verifier;

/// How long a handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How post-quantum a connection must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pq {
    /// As much as both sides can: for stock clients.
    Prefer,
    /// X25519MLKEM768 and ML-DSA-65 on both sides, or none: for node links.
    Require,
}

impl Pq {
    /// The signature algorithms that are used and believed, the preferred one first.
    pub(crate) const fn schemes(self) -> &'static [SignatureScheme] {
        match self {
            Self::Require => &[SignatureScheme::ML_DSA_65],
            Self::Prefer => &[SignatureScheme::ML_DSA_65, SignatureScheme::ECDSA_NISTP256_SHA256],
        }
    }

    pub(crate) fn provider(self) -> Arc<CryptoProvider> {
        let mut provider = aws_lc_rs::default_provider();
        if self == Self::Require {
            provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768];
        }
        Arc::new(provider)
    }
}

/// The other end of a connection: who it is, and how the connection is kept.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Who it is.
    pub caller: Caller,
    /// Whom this side presented itself as.
    pub own: SpiffeId,
    /// The key-exchange group.
    pub group: Option<NamedGroup>,
    /// The algorithm by which the peer proved its key.
    pub signature: Option<SignatureScheme>,
    /// The algorithm by which this side proved its own.
    pub own_signature: Option<SignatureScheme>,
    /// The application protocol.
    pub alpn: Vec<u8>,
}

impl Peer {
    /// Whether the group, both signatures and the authority's on the peer's certificate are post-quantum.
    pub fn is_post_quantum(&self) -> bool {
        self.caller.algorithm == Algorithm::MlDsa65
            && self.group == Some(NamedGroup::X25519MLKEM768)
            && self.signature == Some(SignatureScheme::ML_DSA_65)
            && self.own_signature == Some(SignatureScheme::ML_DSA_65)
    }

    /// Whether the peer would be let in still; asked of every open connection when the map changes.
    ///
    /// # Errors
    /// Why not: close the connection.
    pub fn recheck(&self, now: Now, members: &Members) -> Result<(), Refusal> {
        self.caller.still_holds(now, members)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = self.group.and_then(|group| group.as_str()).unwrap_or("no known group");
        let signature = self.signature.and_then(|scheme| scheme.as_str()).unwrap_or("no known signature");
        write!(f, "{} ({group}, {signature})", self.caller.id)
    }
}

/// A connection was not made. The stream is closed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One side refused the other, or would.
    #[error("refused the peer")]
    Refused(#[from] Refusal),
    /// TLS failed: the peer refused us, or speaks something else.
    #[error("failed to complete the TLS handshake: look at the peer's log for the reason it gives")]
    Handshake(#[source] io::Error),
    /// The peer was too slow.
    #[error("no TLS handshake within {} s: check that the address is a sagemesh port", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout,
    /// The configuration cannot work.
    #[error("failed to set up TLS: report this")]
    Setup(#[source] rustls::Error),
}

/// Judges a failed handshake: by what the verifier found, by what TLS says, or as it is.
pub(crate) fn explain<T>(err: io::Error, verifier: &Verifier<T>, chooser: Option<&Chooser>, pq: Pq) -> Error {
    if let Some(Err(refusal)) = verifier.found() {
        return Error::Refused(refusal.clone());
    }
    if chooser.is_some_and(Chooser::is_at_a_loss) && pq == Pq::Require {
        return Reason::PqRequired.because("the peer does not verify ML-DSA-65").into();
    }
    let tls = err.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let reason = match tls {
        Some(rustls::Error::NoCertificatesPresented) => Some(Reason::SvidMissing),
        Some(rustls::Error::NoApplicationProtocol) => Some(Reason::AlpnRefused),
        // With `require` the only groups and signatures on offer are post-quantum.
        Some(rustls::Error::PeerIncompatible(_)) if pq == Pq::Require => Some(Reason::PqRequired),
        _ => None,
    };
    match (reason, tls) {
        (Some(reason), Some(tls)) => Error::Refused(reason.because(tls.to_string())),
        _ => Error::Handshake(err),
    }
}

/// Reads off a finished handshake what there is to know of the peer. `signature` is the peer's.
pub(crate) fn describe(
    state: &CommonState,
    found: Option<Result<Caller, Refusal>>,
    signature: Option<SignatureScheme>,
    chooser: &Chooser,
    members: &Members,
) -> Result<Peer, Error> {
    let (own, own_signature, pq) = (chooser.svids.id.clone(), chooser.scheme(), chooser.pq);
    let alpn = state.alpn_protocol().map(<[u8]>::to_vec).unwrap_or_default();
    if alpn.is_empty() {
        return Err(Reason::AlpnRefused.because("the peer names no application protocol").into());
    }
    // What was found held for a map that has changed since.
    let caller = match found {
        Some(found) => found?,
        None => identity::verify(state.peer_certificates().unwrap_or_default(), Now::read(), members)?,
    };
    let group = state.negotiated_key_exchange_group().map(rustls::crypto::SupportedKxGroup::name);
    let peer = Peer { caller, own, group, signature, own_signature, alpn };
    if pq == Pq::Require && !peer.is_post_quantum() {
        return Err(Reason::PqRequired
            .because(format!("the connection to {peer} is not post-quantum"))
            .into());
    }
    Ok(peer)
}
