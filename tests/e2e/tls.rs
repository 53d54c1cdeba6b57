//! Connections between real peers: who is let in, how well the connection is kept, and what ends it.

mod joining;

use std::sync::Arc;

use aws_lc_rs::signature::{ML_DSA_65_SIGNING, PqdsaKeyPair};
use identity::{Members, SoftKeys};
use rustls::client::Resumption as ClientResumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject};
use rustls::version::TLS13;
use rustls::{ClientConfig, HandshakeKind, NamedGroup, SignatureScheme};
use tls::server::{Config, Newcomers};
use tls::{Accepted, Client, Error, Expect, Peer, Pq, Rotation, Server, Svids};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use types::key::KeySlot;
use types::{Now, Reason, SpiffeId};

use crate::verify::forge_with;
use crate::world::{Mesh, Node};

const H2: &[u8] = b"h2";

/// A mesh whose map everybody watches.
pub struct Net {
    pub mesh: Mesh,
    pub map: watch::Sender<Arc<Members>>,
}

impl Net {
    pub fn new() -> Self {
        Self::of("home.mesh")
    }

    pub fn of(name: &str) -> Self {
        let mesh = Mesh::found(name);
        let map = watch::Sender::new(Arc::new(mesh.members.clone()));
        Self { mesh, map }
    }

    pub fn admit(&mut self, name: &str, scope: &str) -> Node {
        let node = self.mesh.admit(name, scope);
        self.publish();
        node
    }

    pub fn publish(&self) {
        self.map.send_replace(Arc::new(self.mesh.members.clone()));
    }

    pub fn svids(&self, node: &Node, id: &SpiffeId) -> watch::Receiver<Arc<Svids>> {
        let svids = Svids::issue(&*node.keys, &self.mesh.record(node), id, self.mesh.now).unwrap();
        watch::Sender::new(Arc::new(svids)).subscribe()
    }

    fn server(&self, node: &Node, pq: Pq) -> Server {
        self.server_with(node, pq, Newcomers::Refused)
    }

    fn server_with(&self, node: &Node, pq: Pq, newcomers: Newcomers) -> Server {
        let config = Config { pq, alpn: vec![H2.to_vec()], newcomers };
        Server::new(config, self.svids(node, &node.id()), self.map.subscribe())
    }

    fn client(&self, node: &Node, pq: Pq) -> Client {
        Client::new(pq, vec![H2.to_vec()], self.svids(node, &node.id()), self.map.subscribe())
    }
}

/// Lets a client and a server meet, and answers what each of them saw.
async fn meet(
    client: &Client,
    expect: Expect,
    server: &Server,
) -> (Result<Peer, Error>, Result<Peer, Error>) {
    let (here, there) = duplex(64 * 1024);
    let (client, server) = tokio::join!(client.connect(here, expect), server.accept(there));
    (client.map(|(_, peer)| peer), server.map(peer_of))
}

fn peer_of<S>(accepted: Accepted<S>) -> Peer {
    match accepted {
        Accepted::Peer(_, peer) => *peer,
        Accepted::Newcomer(..) => panic!("a newcomer where a peer was due"),
    }
}

#[track_caller]
fn refused<T>(result: Result<T, Error>, reason: Reason) {
    match result {
        Ok(_) => panic!("let in what {reason} should refuse"),
        Err(Error::Refused(refusal)) => assert_eq!(refusal.reason, reason, "{refusal}"),
        Err(other) => panic!("{other:?} where {reason} is due"),
    }
}

/// What a stock client brings.
pub struct Stock {
    pub leaf: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    pub provider: rustls::crypto::CryptoProvider,
    pub alpn: Vec<Vec<u8>>,
    pub schemes: Vec<SignatureScheme>,
}

impl Stock {
    pub fn of(node: &Node) -> Self {
        let secret = tls::random::secret(KeySlot::Jwt);
        let keys = SoftKeys::new([(KeySlot::Jwt, &secret)]).unwrap();
        let leaf = forge_with(node, &node.id().to_string(), &[], &[], &keys, |_| {});
        let key = PrivateKeyDer::from_pem_slice(tls::pem::private_key(&secret).unwrap().as_bytes()).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let schemes = vec![SignatureScheme::ECDSA_NISTP256_SHA256];
        Self { leaf: vec![leaf], key, provider, alpn: vec![H2.to_vec()], schemes }
    }

    /// One with an ML-DSA key that the node's classical authority vouches for.
    fn half_classical(node: &Node) -> Self {
        let secret = tls::random::secret(KeySlot::AuthorityMlDsa);
        let keys = SoftKeys::new([(KeySlot::AuthorityMlDsa, &secret)]).unwrap();
        let leaf = forge_with(node, &node.id().to_string(), &[], &[], &keys, |_| {});
        let pair = PqdsaKeyPair::from_seed(&ML_DSA_65_SIGNING, secret.expose()).unwrap();
        let key = PrivatePkcs8KeyDer::from(pair.to_pkcs8v1().unwrap().as_ref().to_vec()).into();
        Self { leaf: vec![leaf], key, schemes: vec![SignatureScheme::ML_DSA_65], ..Self::of(node) }
    }

    /// A client that believes everybody: what it is let in for is the server's decision.
    pub fn config(&self) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(self.provider.clone()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous(
                self.provider.clone(),
                self.schemes.clone(),
            )));
        let mut config = match self.leaf.is_empty() {
            true => builder.with_no_client_auth(),
            false => builder.with_client_auth_cert(self.leaf.clone(), self.key.clone_key()).unwrap(),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        config
    }

    async fn meet(&self, server: &Server) -> Result<Peer, Error> {
        meet_stock(&Arc::new(self.config()), server).await.1
    }
}

/// Answers what the client saw (how the handshake went, and whether the server then spoke) and the server.
async fn meet_stock(
    config: &Arc<ClientConfig>,
    server: &Server,
) -> (Option<HandshakeKind>, Result<Peer, Error>) {
    let (here, there) = duplex(64 * 1024);
    let name = ServerName::try_from("pi.home.mesh").unwrap();
    let client = async {
        let mut stream = TlsConnector::from(Arc::clone(config)).connect(name, here).await.ok()?;
        let kind = stream.get_ref().1.handshake_kind();
        // In TLS 1.3 only what the server sends shows that it let us in.
        stream.read_u8().await.ok()?;
        kind
    };
    let server = async {
        match server.accept(there).await? {
            Accepted::Peer(mut stream, peer) => {
                stream.write_u8(1).await.unwrap();
                stream.flush().await.unwrap();
                Ok(*peer)
            }
            Accepted::Newcomer(..) => panic!("a newcomer where a peer was due"),
        }
    };
    tokio::join!(client, server)
}

#[derive(Debug)]
struct Credulous(rustls::crypto::CryptoProvider, Vec<SignatureScheme>);

impl rustls::client::danger::ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("not asked for".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.1.clone()
    }
}

#[tokio::test]
async fn nodes_meet_post_quantum_and_know_each_other() {
    let mut net = Net::new();
    let (pi, tv) = (net.admit("pi", ""), net.admit("tv", ""));
    let (client, server) = (net.client(&tv, Pq::Require), net.server(&pi, Pq::Require));
    let (seen, met) = meet(&client, Expect::AnyNode, &server).await;
    let (seen, met) = (seen.unwrap(), met.unwrap());
    assert_eq!((&seen.caller.id, &met.caller.id), (&pi.id(), &tv.id()));
    assert!(seen.is_post_quantum() && met.is_post_quantum(), "{seen} {met}");
    assert_eq!(met.group, Some(NamedGroup::X25519MLKEM768));
    assert_eq!(met.signature, Some(SignatureScheme::ML_DSA_65));
    assert_eq!(met.alpn, H2);
}

#[tokio::test]
async fn a_node_that_nobody_has_heard_of_brings_its_record_along() {
    let mut net = Net::new();
    let pi = net.admit("pi", "");
    let server = net.server(&pi, Pq::Require);
    let before = net.map.borrow().clone();
    let tv = net.admit("tv", "");
    let client = net.client(&tv, Pq::Require);
    net.map.send_replace(before);
    let met = meet(&client, Expect::AnyNode, &server).await.1.unwrap();
    assert!(met.caller.carried.is_some());
    // A change of the map that has nothing to do with it leaves the connection alone; its end does not.
    met.recheck(Now::read(), &net.map.borrow()).unwrap();
    net.mesh.revoke(&tv);
    assert_eq!(met.recheck(Now::read(), &net.mesh.members).unwrap_err().reason, Reason::MemberRevoked);
}

#[tokio::test]
async fn node_links_refuse_what_is_not_post_quantum() {
    let mut net = Net::new();
    let pi = net.admit("pi", "");
    let server = net.server(&pi, Pq::Require);
    let mut classic = Stock::of(&pi);
    refused(classic.meet(&server).await, Reason::PqRequired);
    classic.provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    refused(classic.meet(&server).await, Reason::PqRequired);

    // A key of ML-DSA does not help where the authority's signature on it is classical.
    refused(Stock::half_classical(&pi).meet(&server).await, Reason::PqRequired);
}

#[tokio::test]
async fn a_node_refuses_a_server_that_is_not_post_quantum() {
    let mut net = Net::new();
    let pi = net.admit("pi", "");
    let client = net.client(&pi, Pq::Require);
    let stock = Stock::of(&pi);
    let server = rustls::ServerConfig::builder_with_provider(Arc::new(stock.provider.clone()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(stock.leaf.clone(), stock.key.clone_key())
        .unwrap();
    let (here, there) = duplex(64 * 1024);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let (seen, met) = tokio::join!(client.connect(here, Expect::AnyNode), acceptor.accept(there));
    assert!(matches!(seen, Err(Error::Handshake(_))), "no signature in common");
    assert!(met.is_err());
}

#[tokio::test]
async fn stock_clients_get_p256_where_they_may() {
    let mut net = Net::new();
    let pi = net.admit("pi", "");
    let met = Stock::of(&pi).meet(&net.server(&pi, Pq::Prefer)).await.unwrap();
    assert_eq!(met.own_signature, Some(SignatureScheme::ECDSA_NISTP256_SHA256));
    assert_eq!(met.signature, Some(SignatureScheme::ECDSA_NISTP256_SHA256));
    assert_eq!(met.group, Some(NamedGroup::X25519MLKEM768));
    assert!(!met.is_post_quantum());
}

#[tokio::test]
async fn a_dialler_reaches_whom_it_meant_or_nobody() {
    let mut net = Net::new();
    let (pi, tv) = (net.admit("pi", "svc/api"), net.admit("tv", ""));
    let client = net.client(&tv, Pq::Require);
    let server = net.server(&pi, Pq::Require);
    let peer = |node: &Node| net.mesh.record(node).member().peer;
    for expect in [Expect::Peer(peer(&pi)), Expect::Domain(pi.domain.clone()), Expect::Id(pi.id())] {
        meet(&client, expect, &server).await.0.unwrap();
    }
    for expect in [Expect::Peer(peer(&tv)), Expect::Domain(tv.domain.clone()), Expect::Id(pi.service("api"))]
    {
        refused(meet(&client, expect, &server).await.0, Reason::PeerMismatch);
    }
}

#[tokio::test]
async fn who_has_no_certificate_or_one_of_another_mesh_or_a_revoked_one_is_refused() {
    let mut net = Net::new();
    let (pi, tv) = (net.admit("pi", ""), net.admit("tv", ""));
    let server = net.server(&pi, Pq::Prefer);
    let bare = Stock { leaf: Vec::new(), ..Stock::of(&tv) };
    refused(bare.meet(&server).await, Reason::SvidMissing);

    let mut other = Mesh::found("other.mesh");
    let stranger = Stock::of(&other.admit("tv", ""));
    refused(stranger.meet(&server).await, Reason::MeshMismatch);

    let client = net.client(&tv, Pq::Prefer);
    let met = meet(&client, Expect::AnyNode, &server).await.1.unwrap();
    met.recheck(Now::read(), &net.mesh.members).unwrap();
    net.mesh.revoke(&tv);
    net.publish();
    refused(meet(&client, Expect::AnyNode, &server).await.1, Reason::MemberRevoked);
    let gone = met.recheck(Now::read(), &net.mesh.members).expect_err("open connections end too");
    assert_eq!(gone.reason, Reason::MemberRevoked);
}

#[tokio::test]
async fn a_revoked_peer_cannot_resume() {
    let mut net = Net::new();
    let (pi, tv) = (net.admit("pi", ""), net.admit("tv", ""));
    let server = net.server(&pi, Pq::Prefer);
    // A client that would resume if it were let.
    let mut config = Stock::of(&tv).config();
    config.resumption = ClientResumption::in_memory_sessions(8);
    let config = Arc::new(config);
    for _ in 0..3 {
        let (kind, met) = meet_stock(&config, &server).await;
        assert_eq!((kind, met.unwrap().caller.id), (Some(HandshakeKind::Full), tv.id()));
    }
    net.mesh.revoke(&tv);
    net.publish();
    let (kind, met) = meet_stock(&config, &server).await;
    assert_eq!(kind, None, "the server does not speak");
    refused(met, Reason::MemberRevoked);
}

#[tokio::test]
async fn joining_and_other_protocols_do_not_mix_and_silence_is_no_protocol() {
    let mut net = Net::new();
    let pi = net.admit("pi", "");
    let server = net.server_with(&pi, Pq::Prefer, Newcomers::Welcome);
    let closed = net.server(&pi, Pq::Prefer);
    let offer =
        |alpn: &[&[u8]]| Stock { alpn: alpn.iter().map(|it| it.to_vec()).collect(), ..Stock::of(&pi) };
    offer(&[H2]).meet(&server).await.unwrap();
    let join = identity::join::ALPN;
    refused(offer(&[join, H2]).meet(&server).await, Reason::AlpnRefused);
    refused(offer(&[H2, join]).meet(&server).await, Reason::AlpnRefused);
    refused(offer(&[]).meet(&server).await, Reason::AlpnRefused);
    refused(offer(&[b"http/1.1"]).meet(&server).await, Reason::AlpnRefused);
    refused(offer(&[join]).meet(&closed).await, Reason::AlpnRefused);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_is_left_after_ten_seconds() {
    let mut net = Net::new();
    let pi = net.admit("pi", "");
    let (_silent, there) = duplex(1024);
    let result = net.server(&pi, Pq::Require).accept(there).await;
    assert!(matches!(result, Err(Error::Timeout)), "{result:?}");
    let (_silent, here) = duplex(1024);
    let result = net.client(&pi, Pq::Require).connect(here, Expect::AnyNode).await;
    assert!(matches!(result, Err(Error::Timeout)));
}

#[tokio::test]
async fn a_peer_that_sends_a_hundred_megabytes_is_cut_off_at_the_first_bytes() {
    async fn flood(mut stream: DuplexStream, start: &[u8]) -> usize {
        let mut sent = 0;
        if stream.write_all(start).await.is_err() {
            return sent;
        }
        let block = vec![0x16; 64 * 1024];
        while sent < 100 << 20 {
            match stream.write(&block).await {
                Ok(n) => sent += n,
                Err(_) => break,
            }
        }
        sent
    }
    let mut net = Net::new();
    let pi = net.admit("pi", "");
    let server = net.server(&pi, Pq::Require);
    // Noise; a handshake record that promises the longest message; plain HTTP.
    for start in [&[0xff; 16][..], &[0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff], b"GET / HTTP/1.1\r\n"] {
        let (here, there) = duplex(64 * 1024);
        let (sent, result) = tokio::join!(flood(here, start), server.accept(there));
        assert!(matches!(result, Err(Error::Handshake(_))), "{result:?}");
        assert!(sent < 1 << 20, "{sent} bytes were taken");
    }
}

#[tokio::test]
async fn certificates_are_replaced_when_the_record_changes_and_without_a_restart() {
    let mut net = Net::new();
    let pi = net.admit("pi", "svc/api");
    let id = pi.service("api");
    let (rotation, mut svids) = Rotation::new(pi.keys.clone(), id.clone(), net.map.subscribe()).unwrap();
    let stop = CancellationToken::new();
    let mut running = tokio::task::JoinSet::new();
    running.spawn(rotation.run(stop.clone()));
    let first = svids.borrow_and_update().clone();

    net.mesh.sign(&pi, "svc/api,svc/web").unwrap();
    net.publish();
    svids.changed().await.unwrap();
    let second = svids.borrow_and_update().clone();
    let algorithm = types::Algorithm::MlDsa65;
    assert_ne!(first.leaf(algorithm), second.leaf(algorithm));
    let chain = [CertificateDer::from(second.leaf(algorithm).to_vec())];
    assert_eq!(identity::verify(&chain, Now::read(), &net.mesh.members).unwrap().id, id);

    stop.cancel();
    running.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_service_out_of_scope_gets_no_certificate_and_is_told_how_to_get_one() {
    let mut net = Net::new();
    let pi = net.admit("pi", "svc/api");
    let result = Rotation::new(pi.keys.clone(), pi.service("web"), net.map.subscribe());
    let Err(tls::svids::Error::Refused(refusal)) = result.map(drop) else { panic!("a certificate") };
    assert_eq!(refusal.reason, Reason::SvidOutOfScope);
    assert!(refusal.to_string().contains("sagemesh scope NODE +svc/NAME"), "{refusal}");
}
