//! The bridge from rustls to `identity::verify`: one verifier a connection, which remembers what it found.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};

use types::{Now, Refusal};

use crate::peer::Pq;

/// What a chain must show; answers for the rest of the connection what it found.
type Check<T> = Box<dyn Fn(&[CertificateDer<'_>], Now) -> Result<T, Refusal> + Send + Sync>;

/// Verifies the certificate of one peer once, and keeps the answer.
pub(crate) struct Verifier<T> {
    check: Check<T>,
    pq: Pq,
    provider: Arc<CryptoProvider>,
    found: OnceLock<Result<T, Refusal>>,
    scheme: OnceLock<SignatureScheme>,
}

impl<T> Verifier<T> {
    pub(crate) fn new(
        provider: Arc<CryptoProvider>,
        pq: Pq,
        check: impl Fn(&[CertificateDer<'_>], Now) -> Result<T, Refusal> + Send + Sync + 'static,
    ) -> Self {
        Self { check: Box::new(check), pq, provider, found: OnceLock::new(), scheme: OnceLock::new() }
    }

    /// What the handshake showed; `None` if the peer's certificate was not looked at.
    pub(crate) fn found(&self) -> Option<&Result<T, Refusal>> {
        self.found.get()
    }

    /// With which algorithm the peer proved that it holds its key.
    pub(crate) fn scheme(&self) -> Option<SignatureScheme> {
        self.scheme.get().copied()
    }

    fn verify(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let chain: Vec<_> = std::iter::once(leaf).chain(rest).cloned().collect();
        let found = self.found.get_or_init(|| (self.check)(&chain, Now::read()));
        match found {
            Ok(_) => Ok(()),
            Err(refusal) => {
                let other = OtherError(Arc::new(refusal.clone()));
                Err(rustls::Error::InvalidCertificate(CertificateError::Other(other)))
            }
        }
    }

    fn verify_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // rustls asks for what was signed with, not whether it was on offer.
        if !self.pq.schemes().contains(&dss.scheme) {
            return Err(rustls::PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        let valid = verify_tls13_signature(message, cert, dss, algorithms)?;
        let _ = self.scheme.set(dss.scheme);
        Ok(valid)
    }
}

impl<T> fmt::Debug for Verifier<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "verifier ({:?})", self.pq)
    }
}

const NO_TLS12: &str = "only TLS 1.3 is offered";

impl<T: Send + Sync + 'static> ServerCertVerifier for Verifier<T> {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(leaf, rest).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General(NO_TLS12.to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.pq.schemes().to_vec()
    }
}

impl<T: Send + Sync + 'static> ClientCertVerifier for Verifier<T> {
    /// None: with one authority a node the list would outgrow the handshake near 1,500 nodes.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(leaf, rest).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General(NO_TLS12.to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.pq.schemes().to_vec()
    }
}
