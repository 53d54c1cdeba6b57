//! An API that listens, and clients of every kind for it.

use std::fs;
use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use api::{Config, Count, Counts, Server};
use hyper_util::rt::TokioIo;
use identity::{Role, SoftKeys, svid};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tls::news::Brought;
use tls::{Pq, Svids};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;
use types::key::{KeySlot, Keys};
use types::{Now, ServiceName, SpiffeId};

use super::backend::Backend;
use crate::stock::{python, script};
use crate::tls::Stock;
use crate::world::{Mesh, Node};

/// Bounds every wait in these tests.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    let waited = tokio::time::timeout(Duration::from_secs(20), future).await;
    waited.unwrap_or_else(|_| panic!("{what} did not come"))
}

/// A node `one` whose API listens.
pub struct Place {
    pub backend: Arc<Backend>,
    /// What callers brought along.
    pub brought: mpsc::Receiver<Brought>,
    pub port: u16,
    pub dir: tempfile::TempDir,
    pub counts: Arc<Counts>,
    pub stop: CancellationToken,
    pub tasks: JoinSet<()>,
}

impl Place {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(tune: impl FnOnce(&mut Config)) -> Self {
        let backend = Arc::new(Backend::new(Mesh::found("home.mesh")));
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            socket: dir.path().join("api.sock"),
            ..Config::default()
        };
        tune(&mut config);
        let id = backend.own.id();
        let (news, brought) = tls::news();
        let own = svids(&backend, &backend.own, &id);
        let server = Server::bind(config, backend.clone(), own, news).await.unwrap();
        let (port, counts) = (server.local_addr().port(), server.counts());
        backend.address.send_replace(format!("127.0.0.1:{port}"));
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        tasks.spawn(server.run(stop.clone()));
        let place = Self { backend, brought, port, dir, counts, stop, tasks };
        place.write_anchors().await;
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts both files of authorities where clients find them, as the API hands them out.
    async fn write_anchors(&self) {
        use proto::identity::v1::{GetTrustAnchorsRequest, identity_service_client::IdentityServiceClient};
        let mut client = IdentityServiceClient::new(self.local().await);
        let anchors = client.get_trust_anchors(GetTrustAnchorsRequest::default()).await.unwrap().into_inner();
        assert_eq!(anchors.nodes, ["one"]);
        fs::write(self.path("ca.crt"), anchors.stock_pem).unwrap();
        fs::write(self.path("rustls.crt"), anchors.rustls_pem).unwrap();
    }

    /// Makes an operator, and its files `NAME.crt` and `NAME.key`.
    pub fn operator(&self, name: &str, role: Role) {
        let secret = tls::random::secret(KeySlot::Operator);
        let keys = SoftKeys::new([(KeySlot::Operator, &secret)]).unwrap();
        let name: ServiceName = name.parse().unwrap();
        let key = keys.public(KeySlot::Operator).unwrap().clone();
        self.set_role(&name, Some(role), key);
        let mesh = self.backend.own.domain.mesh();
        let leaf = svid::operator_certificate(&keys, mesh, &name, tls::random::bytes(), Now::read()).unwrap();
        fs::write(self.path(&format!("{name}.crt")), tls::pem::certificate(&leaf)).unwrap();
        fs::write(self.path(&format!("{name}.key")), tls::pem::private_key(&secret).unwrap().as_str())
            .unwrap();
    }

    fn set_role(&self, name: &ServiceName, role: Option<Role>, key: types::PublicKey) {
        self.backend.with(|mesh| {
            let signed = mesh.members.sign_operator(&mesh.signer, name.clone(), role, key, Now::read());
            mesh.members.merge(signed.unwrap()).unwrap();
        });
    }

    /// Takes every role of an operator away, or gives another.
    pub fn change_role(&self, name: &str, role: Option<Role>) {
        let name: ServiceName = name.parse().unwrap();
        let key = self.backend.map.borrow().operators().find(|it| it.name == name).unwrap().key.clone();
        self.set_role(&name, role, key);
    }

    /// A client on the Unix socket; as root in tests, and otherwise as who runs the node.
    pub async fn local(&self) -> Channel {
        self.try_local().await.unwrap()
    }

    pub async fn try_local(&self) -> Result<Channel, tonic::transport::Error> {
        let path = self.path("api.sock");
        let connect = service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://localhost").connect_with_connector(connect).await
    }

    /// A stock client on the port with an operator's files.
    pub async fn remote(&self, operator: &str) -> Channel {
        let read = |name: String| fs::read(self.path(&name)).unwrap();
        let leaf = CertificateDer::from_pem_slice(&read(format!("{operator}.crt"))).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&read(format!("{operator}.key"))).unwrap();
        self.stock(Stock { leaf: vec![leaf], key, ..Stock::of(&self.backend.own) }).await
    }

    pub async fn stock(&self, stock: Stock) -> Channel {
        let (port, config) = (self.port, Arc::new(stock.config()));
        let connect = service_fn(move |_| {
            let config = Arc::clone(&config);
            async move {
                let stream = TcpStream::connect(("127.0.0.1", port)).await?;
                let name = ServerName::try_from("one.home.mesh").unwrap();
                let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await?;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        });
        Endpoint::from_static("http://one.home.mesh").connect_with_connector_lazy(connect)
    }

    /// A mesh client on the port with an SVID.
    pub async fn member(&self, node: &Node, id: &SpiffeId) -> Channel {
        let svids = svids(&self.backend, node, id);
        let client = tls::Client::new(Pq::Prefer, vec![b"h2".to_vec()], svids, self.backend.map.subscribe());
        let port = self.port;
        let expect = tls::Expect::Id(self.backend.own.id());
        let connect = service_fn(move |_| {
            let (client, expect) = (client.clone(), expect.clone());
            async move {
                let stream = TcpStream::connect(("127.0.0.1", port)).await?;
                let (stream, _) = client.connect(stream, expect).await.map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        });
        Endpoint::from_static("http://one.home.mesh").connect_with_connector_lazy(connect)
    }

    /// grpcurl on the port with an operator's files. The address is to be added.
    pub fn grpcurl(&self, operator: &str) -> Command {
        let mut grpcurl = grpcurl();
        grpcurl.arg("-cacert").arg(self.path("ca.crt")).args(["-authority", "one.home.mesh"]);
        grpcurl.arg("-cert").arg(self.path(&format!("{operator}.crt")));
        grpcurl.arg("-key").arg(self.path(&format!("{operator}.key")));
        grpcurl
    }

    /// A Python program of tests/e2e that speaks gRPC, on the port with an operator's files.
    pub fn python(&self, operator: &str, args: &[&str]) -> String {
        let mut command = python();
        command
            .arg(script("api.py"))
            .arg(self.dir.path())
            .args([operator, &self.port.to_string()])
            .args(args);
        succeeds(&mut command, "")
    }

    pub async fn counts(&self, count: Count, least: u64) {
        let counted = async {
            let mut every = tokio::time::interval(Duration::from_millis(5));
            while self.counts.of(count) < least {
                every.tick().await;
            }
        };
        within(count.metric().1, counted).await;
    }
}

fn svids(backend: &Backend, node: &Node, id: &SpiffeId) -> watch::Receiver<Arc<Svids>> {
    let record = identity::SignedRecord::of(&backend.map.borrow(), &node.id()).unwrap();
    let svids = Svids::issue(&*node.keys, &record, id, Now::read()).unwrap();
    watch::Sender::new(Arc::new(svids)).subscribe()
}

pub fn grpcurl() -> Command {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    Command::new(cache.unwrap_or_default().join("sagemesh/bin/grpcurl"))
}

/// Runs a program that ends well; answers what it printed.
#[track_caller]
pub fn succeeds(command: &mut Command, input: &str) -> String {
    let (is_done, told, errors) = run(command, input);
    assert!(is_done, "{command:?} failed: {told}{errors}");
    told
}

/// Runs a program that fails; answers what it said.
#[track_caller]
pub fn fails(command: &mut Command, input: &str) -> String {
    let (is_done, told, errors) = run(command, input);
    assert!(!is_done, "{command:?} succeeded: {told}");
    errors
}

fn run(command: &mut Command, input: &str) -> (bool, String, String) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|err| {
        panic!("failed to run {command:?}: {err}: run `make setup`, which installs it");
    });
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (out.status.success(), text(&out.stdout), text(&out.stderr))
}
