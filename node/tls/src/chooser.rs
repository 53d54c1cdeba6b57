//! Which certificate is presented: ML-DSA to whoever can verify it, P-256 to the others.

use std::sync::{Arc, OnceLock};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::peer::Pq;
use crate::svids::Svids;

/// Chooses for one connection, and remembers what it chose.
#[derive(Debug)]
pub(crate) struct Chooser {
    pub(crate) svids: Arc<Svids>,
    pub(crate) pq: Pq,
    chosen: OnceLock<Option<SignatureScheme>>,
}

impl Chooser {
    pub(crate) fn new(svids: Arc<Svids>, pq: Pq) -> Self {
        Self { svids, pq, chosen: OnceLock::new() }
    }

    fn choose(&self, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let is_offered = |scheme: &SignatureScheme| schemes.contains(scheme);
        let scheme = self.pq.schemes().iter().copied().find(is_offered);
        // The first choice stands: rustls asks once a connection, and again only after a retried hello.
        let _ = self.chosen.set(scheme);
        Some(Arc::clone(match scheme? {
            SignatureScheme::ML_DSA_65 => &self.svids.ml_dsa,
            _ => &self.svids.p256,
        }))
    }

    /// With which algorithm this side proved its key.
    pub(crate) fn scheme(&self) -> Option<SignatureScheme> {
        self.chosen.get().copied().flatten()
    }

    /// Whether the peer verifies none of the algorithms that this side may use.
    pub(crate) fn is_at_a_loss(&self) -> bool {
        self.chosen.get() == Some(&None)
    }
}

impl ResolvesServerCert for Chooser {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.signature_schemes())
    }
}

impl ResolvesClientCert for Chooser {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.choose(schemes)
    }

    fn has_certs(&self) -> bool {
        true
    }
}
