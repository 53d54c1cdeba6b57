//! Accepting connections.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{Acceptor, ClientHello, NoServerSessionStorage};
use rustls::version::TLS13;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use identity::join::{self, Exporter};
use identity::{Caller, Members};
use types::{Reason, Refusal};

use crate::chooser::Chooser;
use crate::peer::{Error, HANDSHAKE_TIMEOUT, Peer, Pq, describe, explain};
use crate::svids::Svids;
use crate::verifier::Verifier;

/// The fatal alert `unrecognized_name` in the clear, as before any key is agreed on (RFC 8446, sections 5.1
/// and 6): rustls has no way to send it.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Whether newcomers may ask to join at this port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Newcomers {
    /// They are refused.
    Refused,
    /// They are let in, with `sagemesh-join/1` and nothing else.
    Welcome,
}

/// How a port is kept.
#[derive(Clone, Debug)]
pub struct Config {
    /// How post-quantum its connections must be.
    pub pq: Pq,
    /// Application protocols, the preferred one first. Never empty.
    pub alpn: Vec<Vec<u8>>,
    /// Whether newcomers may join here.
    pub newcomers: Newcomers,
}

/// What a connection turned out to be.
#[derive(Debug)]
pub enum Accepted<S> {
    /// A member, or an operator.
    Peer(Box<TlsStream<S>>, Box<Peer>),
    /// A newcomer that wants to join, with the bytes that both ends can export.
    Newcomer(Box<TlsStream<S>>, Exporter),
}

/// Answers what to present to a hello that asks for this name (SNI, in lower case), or why nothing.
pub type ByName = dyn Fn(Option<&str>) -> Result<Arc<Svids>, Refusal> + Send + Sync;

/// Whom a port speaks for.
#[derive(Clone)]
enum Identity {
    One(watch::Receiver<Arc<Svids>>),
    ByName(Arc<ByName>),
}

impl Identity {
    fn svids(&self, name: Option<&str>) -> Result<Arc<Svids>, Refusal> {
        match self {
            Self::One(svids) => Ok(Arc::clone(&svids.borrow())),
            Self::ByName(choose) => choose(name),
        }
    }
}

/// Accepts connections on streams that a listener hands to it.
#[derive(Clone)]
pub struct Server {
    config: Config,
    provider: Arc<rustls::crypto::CryptoProvider>,
    identity: Identity,
    members: watch::Receiver<Arc<Members>>,
}

impl Server {
    /// A server that presents what `svids` holds and believes what `members` holds, each at the time of a
    /// connection.
    pub fn new(
        config: Config,
        svids: watch::Receiver<Arc<Svids>>,
        members: watch::Receiver<Arc<Members>>,
    ) -> Self {
        Self::of(config, Identity::One(svids), members)
    }

    /// A server that speaks for many: `choose` says for each hello what to present. Whom it refuses gets the
    /// TLS alert `unrecognized_name` (RFC 6066, section 3).
    pub fn by_name(config: Config, choose: Arc<ByName>, members: watch::Receiver<Arc<Members>>) -> Self {
        Self::of(config, Identity::ByName(choose), members)
    }

    fn of(config: Config, identity: Identity, members: watch::Receiver<Arc<Members>>) -> Self {
        debug_assert!(!config.alpn.is_empty() && !config.alpn.iter().any(|it| it == join::ALPN));
        Self { provider: config.pq.provider(), config, identity, members }
    }

    /// Shakes hands with whoever is at the other end of `stream`.
    ///
    /// # Errors
    /// Why the peer was refused, or what failed; the stream is closed then.
    pub async fn accept<S>(&self, stream: S) -> Result<Accepted<S>, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        timeout(HANDSHAKE_TIMEOUT, self.shake_hands(stream)).await.unwrap_or(Err(Error::Timeout))
    }

    async fn shake_hands<S>(&self, stream: S) -> Result<Accepted<S>, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut start =
            LazyConfigAcceptor::new(Acceptor::default(), stream).await.map_err(Error::Handshake)?;
        let wish = wish(&start.client_hello());
        let name = start.client_hello().server_name().map(str::to_ascii_lowercase);
        let svids = match self.identity.svids(name.as_deref()) {
            Ok(svids) => svids,
            Err(refusal) => {
                // Whether the peer hears why changes nothing.
                let _ = start.io.write_all(&UNRECOGNIZED_NAME).await;
                let _ = start.io.shutdown().await;
                return Err(refusal.into());
            }
        };
        let chooser = Arc::new(Chooser::new(svids, self.config.pq));
        match wish {
            Wish::Join if self.config.newcomers == Newcomers::Welcome => {
                let config = self.join_config(chooser)?;
                let stream = start.into_stream(Arc::new(config)).await.map_err(Error::Handshake)?;
                let exporter = exporter(stream.get_ref().1)?;
                Ok(Accepted::Newcomer(Box::new(stream), exporter))
            }
            // rustls has no alert for this; shaking hands would only look like success to the peer.
            Wish::Nothing => {
                Err(Reason::AlpnRefused.because("the peer names no application protocol").into())
            }
            Wish::Mixed | Wish::Join => {
                // A protocol nobody can name: rustls then tells the peer by an alert.
                let mut config = self.join_config(chooser)?;
                config.alpn_protocols = vec![b"sagemesh refuses".to_vec()];
                let _ = start.into_stream(Arc::new(config)).await;
                let detail = match wish {
                    Wish::Mixed => "the peer offers sagemesh-join/1 together with other protocols",
                    _ => "newcomers cannot join at this port",
                };
                Err(Reason::AlpnRefused.because(detail).into())
            }
            Wish::Other => self.accept_peer(start, chooser).await,
        }
    }

    async fn accept_peer<S>(
        &self,
        start: tokio_rustls::StartHandshake<S>,
        chooser: Arc<Chooser>,
    ) -> Result<Accepted<S>, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let members = Arc::clone(&self.members.borrow());
        let seen = Arc::clone(&members);
        let pq = self.config.pq;
        let verifier = Arc::new(Verifier::new(Arc::clone(&self.provider), pq, move |chain, now| {
            identity::verify(chain, now, &seen)
        }));
        let config = self.peer_config(Arc::clone(&chooser), Arc::clone(&verifier))?;
        let stream = start
            .into_stream(Arc::new(config))
            .await
            .map_err(|err| explain(err, &verifier, Some(&chooser), pq))?;
        // What was found holds only for the map it was found in.
        let current = Arc::clone(&self.members.borrow());
        let found = verifier.found().filter(|_| Arc::ptr_eq(&members, &current)).cloned();
        let peer = describe(stream.get_ref().1, found, verifier.scheme(), &chooser, &current)?;
        Ok(Accepted::Peer(Box::new(stream), Box::new(peer)))
    }

    fn peer_config(
        &self,
        chooser: Arc<Chooser>,
        verifier: Arc<Verifier<Caller>>,
    ) -> Result<ServerConfig, Error> {
        let mut config = self.builder()?.with_client_cert_verifier(verifier).with_cert_resolver(chooser);
        config.alpn_protocols.clone_from(&self.config.alpn);
        never_resume(&mut config);
        Ok(config)
    }

    fn join_config(&self, chooser: Arc<Chooser>) -> Result<ServerConfig, Error> {
        let mut config = self.builder()?.with_no_client_auth().with_cert_resolver(chooser);
        config.alpn_protocols = vec![join::ALPN.to_vec()];
        never_resume(&mut config);
        Ok(config)
    }

    fn builder(&self) -> Result<rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>, Error> {
        ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(Error::Setup)
    }
}

/// Switches resumption off. A resumed session skips the verifier and keeps the certificate that the peer had
/// then, whatever became of it.
fn never_resume(config: &mut ServerConfig) {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
}

/// What a hello asks for.
enum Wish {
    Join,
    Mixed,
    Nothing,
    Other,
}

fn wish(hello: &ClientHello<'_>) -> Wish {
    let Some(offered) = hello.alpn() else { return Wish::Nothing };
    let (mut n, mut has_join) = (0, false);
    for protocol in offered {
        n += 1;
        has_join |= protocol == join::ALPN;
    }
    match (has_join, n) {
        (true, 1) => Wish::Join,
        (true, _) => Wish::Mixed,
        (false, 0) => Wish::Nothing,
        (false, _) => Wish::Other,
    }
}

/// The bytes that both ends of this connection can export.
pub(crate) fn exporter<D>(connection: &rustls::ConnectionCommon<D>) -> Result<Exporter, Error> {
    connection.export_keying_material([0; 32], join::EXPORTER_LABEL, None).map_err(Error::Setup)
}
