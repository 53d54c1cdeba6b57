//! Mutual TLS with the benchmark's certificates, for the floors and for callers that need no proxy.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The name in the server's certificate.
const SERVER: &str = "server.mesh";

/// Accepts as `server`, from callers of the same authority.
pub(crate) fn acceptor(dir: &Path) -> anyhow::Result<TlsAcceptor> {
    let callers = WebPkiClientVerifier::builder(roots(dir)?).build()?;
    let (chain, key) = identity(dir, "server")?;
    let mut config =
        ServerConfig::builder().with_client_cert_verifier(callers).with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config).into())
}

/// Connects as `client`.
pub(crate) fn connector(dir: &Path) -> anyhow::Result<TlsConnector> {
    let (chain, key) = identity(dir, "client")?;
    let mut config =
        ClientConfig::builder().with_root_certificates(roots(dir)?).with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config).into())
}

/// Whom a connector expects.
pub(crate) fn server() -> ServerName<'static> {
    ServerName::try_from(SERVER).expect("a name of two labels")
}

fn roots(dir: &Path) -> anyhow::Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&dir.join("ca.pem"))? {
        roots.add(certificate)?;
    }
    Ok(Arc::new(roots))
}

fn identity(
    dir: &Path,
    name: &str,
) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let key = dir.join(format!("{name}.key"));
    let read =
        PrivateKeyDer::from_pem_file(&key).with_context(|| format!("failed to read {}", key.display()));
    Ok((certificates(&dir.join(format!("{name}.pem")))?, read?))
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    read.with_context(|| format!("failed to read {}", path.display()))
}
