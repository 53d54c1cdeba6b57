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
    pub(crate) chosen: OnceLock<SignatureScheme>,
}

impl Chooser {
    pub(crate) fn new(svids: Arc<Svids>, pq: Pq) -> Self {
        Self { svids, pq, chosen: OnceLock::new() }
    }

    fn choose(&self, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let scheme = if schemes.contains(&SignatureScheme::ML_DSA_65) {
            SignatureScheme::ML_DSA_65
        } else if self.pq == Pq::Prefer && schemes.contains(&SignatureScheme::ECDSA_NISTP256_SHA256) {
            SignatureScheme::ECDSA_NISTP256_SHA256
        } else {
            return None;
        };
        // The first choice stands: rustls asks once a connection, and again only after a retried hello.
        let _ = self.chosen.set(scheme);
        Some(Arc::clone(match scheme {
            SignatureScheme::ML_DSA_65 => &self.svids.ml_dsa,
            _ => &self.svids.p256,
        }))
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
