//! Asking the node of another machine: by its port, with the files that `operator add` wrote.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

/// The file of authorities for programs made with rustls, such as this one.
pub(super) const ANCHORS: &str = "ca-rustls.crt";
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A node by its name, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remote {
    /// The name that its certificate must have: `NODE.MESH`.
    pub(super) host: String,
    /// Where it listens, as `HOST:PORT`.
    pub(super) at: String,
}

impl Remote {
    /// Reads `NODE.MESH:PORT` or `NODE.MESH@HOST:PORT`; `None` if the text is a path.
    pub(super) fn read(text: &str) -> Option<Self> {
        if text.contains('/') {
            return None;
        }
        let (host, at) = match text.split_once('@') {
            Some((host, at)) => (host, at),
            None => (text.rsplit_once(':')?.0, text),
        };
        let has_port = at.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        has_port.then(|| Self { host: host.to_owned(), at: at.to_owned() })
    }

    /// Connects as the operator whose files begin with `identity`.
    pub(super) async fn connect(&self, identity: Option<&Path>) -> anyhow::Result<Channel> {
        let identity = identity.context(
            "a node on another machine asks who you are: give the files of `sagemesh operator add` with \
             --identity DIR/NAME",
        )?;
        let config = Arc::new(config(identity)?);
        let name = ServerName::try_from(self.host.clone())
            .with_context(|| format!("`{}` is no name of a node: write NODE.MESH@HOST:PORT", self.host))?;
        let at = self.at.clone();
        let connect = service_fn(move |_| {
            let (config, name, at) = (Arc::clone(&config), name.clone(), at.clone());
            async move {
                let connecting = async {
                    let stream = TcpStream::connect(&at).await?;
                    stream.set_nodelay(true)?;
                    TlsConnector::from(config).connect(name, stream).await
                };
                let stream = timeout(CONNECT_TIMEOUT, connecting).await.map_err(io::Error::other)??;
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        });
        let endpoint = Endpoint::from_shared(format!("http://{}", self.host))?;
        endpoint.connect_with_connector(connect).await.with_context(|| {
            format!(
                "failed to reach `{}` at {}: check the address with `sagemesh status` on that node",
                self.host, self.at
            )
        })
    }
}

/// What the operator presents, and whom it believes.
fn config(identity: &Path) -> anyhow::Result<ClientConfig> {
    let with = |ending: &str| {
        let mut name = identity.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let certificates = certificates(&with(".crt"))?;
    let path = with(".key");
    let damaged =
        |what: &str, path: &Path| anyhow!("{} holds no {what}: add the operator again", path.display());
    let key = PrivateKeyDer::from_pem_slice(&read(&path)?).map_err(|_| damaged("key", &path))?;
    let path = identity.with_file_name(ANCHORS);
    let mut roots = RootCertStore::empty();
    for anchor in self::certificates(&path)? {
        roots.add(anchor).map_err(|_| damaged("authorities", &path))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates, key)
        .context("the operator's key and certificate do not fit: add the operator again")?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.with_context(|| format!("{} holds no certificate: add the operator again", path.display()))
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| {
        format!(
            "failed to read {}: name the files of `sagemesh operator add` with --identity DIR/NAME",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_from_a_path() {
        #[track_caller]
        fn check(text: &str, expected: Option<(&str, &str)>) {
            let read = Remote::read(text);
            let read = read.as_ref().map(|it| (it.host.as_str(), it.at.as_str()));
            assert_eq!(read, expected, "{text}");
        }
        check("pi.home.mesh:7443", Some(("pi.home.mesh", "pi.home.mesh:7443")));
        check("pi.home.mesh@192.0.2.1:7443", Some(("pi.home.mesh", "192.0.2.1:7443")));
        check("pi.home.mesh@[2001:db8::1]:7443", Some(("pi.home.mesh", "[2001:db8::1]:7443")));
        check("/run/sagemesh/api.sock", None);
        check("./a:1", None);
        check("api.sock", None);
        check("pi.home.mesh:port", None);
    }
}
