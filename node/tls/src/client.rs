//! Making connections.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::TLS13;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use identity::join::{self, Exporter};
use identity::token::Token;
use identity::{Caller, Members};
use types::{PeerId, Reason, Refusal, SpiffeId, TrustDomain, Workload};

use crate::chooser::Chooser;
use crate::peer::{Error, HANDSHAKE_TIMEOUT, Peer, Pq, describe, explain};
use crate::server::exporter;
use crate::svids::Svids;
use crate::verifier::Verifier;

/// Whom a caller means to reach. Checked inside the handshake, before anything is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Exactly this identity.
    Id(SpiffeId),
    /// The node with this peer id, itself and not a service on it.
    Peer(PeerId),
    /// Anything on this node.
    Domain(TrustDomain),
    /// Any node of the mesh, itself and not a service on it.
    AnyNode,
}

impl Expect {
    /// What the hello names: a service, since many share a port.
    fn server_name(&self) -> Option<ServerName<'static>> {
        match self {
            Self::Id(id @ SpiffeId::Workload { workload: Workload::Service(_), .. }) => {
                id.dns_names().into_iter().next().and_then(|name| ServerName::try_from(name).ok())
            }
            _ => None,
        }
    }

    fn check(&self, caller: &Caller) -> Result<(), Refusal> {
        let member = caller.member();
        let is_node = member.is_some_and(|member| caller.id == SpiffeId::node(member.domain.clone()));
        let is_met = match self {
            Self::Id(id) => caller.id == *id,
            Self::Peer(peer) => is_node && member.is_some_and(|member| member.peer == *peer),
            Self::Domain(domain) => member.is_some_and(|member| member.domain == *domain),
            Self::AnyNode => is_node,
        };
        if is_met {
            return Ok(());
        }
        Err(Reason::PeerMismatch.because(format!("dialled {self:?} and reached {}", caller.id)))
    }
}

/// Makes connections as one identity.
#[derive(Clone)]
pub struct Client {
    pq: Pq,
    alpn: Vec<Vec<u8>>,
    provider: Arc<rustls::crypto::CryptoProvider>,
    svids: watch::Receiver<Arc<Svids>>,
    members: watch::Receiver<Arc<Members>>,
}

impl Client {
    /// A client that presents what `svids` holds and believes what `members` holds, each at the time of a
    /// connection. Sessions are never resumed.
    pub fn new(
        pq: Pq,
        alpn: Vec<Vec<u8>>,
        svids: watch::Receiver<Arc<Svids>>,
        members: watch::Receiver<Arc<Members>>,
    ) -> Self {
        Self { pq, alpn, provider: pq.provider(), svids, members }
    }

    /// Shakes hands with whoever is at the other end of `stream`, who must be as expected. Where that is a
    /// service, the hello names it (SNI `SERVICE.NODE.MESH`).
    ///
    /// # Errors
    /// Why the peer was refused, or what failed; the stream is closed then. That the peer let us in shows
    /// only when it answers: in TLS 1.3 a client that is refused sees its handshake succeed.
    pub async fn connect<S>(&self, stream: S, expect: Expect) -> Result<(TlsStream<S>, Peer), Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let members = Arc::clone(&self.members.borrow());
        let seen = Arc::clone(&members);
        let meant = expect.clone();
        let verifier = Arc::new(Verifier::new(Arc::clone(&self.provider), self.pq, move |chain, now| {
            let caller = identity::verify(chain, now, &seen)?;
            meant.check(&caller)?;
            Ok(caller)
        }));
        let chooser = Arc::new(Chooser::new(Arc::clone(&self.svids.borrow()), self.pq));
        let mut config =
            builder(&self.provider, &verifier)?.with_client_cert_resolver(Arc::<Chooser>::clone(&chooser));
        config.alpn_protocols.clone_from(&self.alpn);
        let stream = connect(config, stream, expect.server_name(), &verifier, self.pq).await?;
        let current = Arc::clone(&self.members.borrow());
        // What was found holds only for the map it was found in.
        let found = verifier.found().filter(|_| Arc::ptr_eq(&members, &current)).cloned();
        let peer = describe(stream.get_ref().1, found, verifier.scheme(), &chooser, &current)?;
        expect.check(&peer.caller)?;
        Ok((stream, peer))
    }
}

/// Connects to the inviter of a token, before anything of the mesh is known but what the token says. Answers
/// the stream, the inviter's chain, and the bytes that both ends can export.
///
/// # Errors
/// As [`Client::connect`].
pub async fn connect_to_inviter<S>(
    stream: S,
    token: &Token,
) -> Result<(TlsStream<S>, Vec<CertificateDer<'static>>, Exporter), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let inviter = token.inviter;
    let provider = Pq::Require.provider();
    let verifier = Arc::new(Verifier::new(Arc::clone(&provider), Pq::Require, move |chain, now| {
        join::verify_inviter(chain, now, inviter)
    }));
    let mut config = builder(&provider, &verifier)?.with_no_client_auth();
    config.alpn_protocols = vec![join::ALPN.to_vec()];
    let stream = connect(config, stream, None, &verifier, Pq::Require).await?;
    let connection = stream.get_ref().1;
    if connection.alpn_protocol() != Some(join::ALPN) {
        return Err(Reason::AlpnRefused.because("nobody can join at that address").into());
    }
    let chain = connection.peer_certificates().unwrap_or_default().to_vec();
    let exporter = exporter(connection)?;
    Ok((stream, chain, exporter))
}

fn builder<T: Send + Sync + 'static>(
    provider: &Arc<rustls::crypto::CryptoProvider>,
    verifier: &Arc<Verifier<T>>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, Error> {
    let verifier: Arc<Verifier<T>> = Arc::clone(verifier);
    Ok(ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(Error::Setup)?
        .dangerous()
        .with_custom_certificate_verifier(verifier))
}

async fn connect<S, T>(
    mut config: ClientConfig,
    stream: S,
    server_name: Option<ServerName<'static>>,
    verifier: &Verifier<T>,
    pq: Pq,
) -> Result<TlsStream<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    config.resumption = Resumption::disabled();
    // Who the peer is follows from its SVID; where one port has one identity, a name would only tell others.
    config.enable_sni = server_name.is_some();
    let nobody = || ServerName::try_from("sagemesh.invalid").expect("a valid DNS name");
    let name = server_name.unwrap_or_else(nobody);
    let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
    match timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(err)) => Err(explain(err, verifier, None, pq)),
        Err(_) => Err(Error::Timeout),
    }
}
