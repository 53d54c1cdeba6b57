//! How commands reach the node that runs: by its Unix socket.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{anyhow, bail};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::service_fn;

use proto::identity::v1::identity_service_client::IdentityServiceClient;
use proto::mesh::v1::mesh_service_client::MeshServiceClient;
use proto::service::v1::service_service_client::ServiceServiceClient;

use crate::config::{self, Config};

/// Most bytes of an answer: the certificates of a large mesh.
const ANSWER_LEN_MAX: usize = 16 << 20;
/// Longest time for which the node may stay silent.
const TIMEOUT: Duration = Duration::from_secs(90);

/// Where the node listens.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    path: PathBuf,
    /// Whether a person named it.
    pub(crate) is_given: bool,
}

impl Address {
    /// What `--api` says, or where a node of this user listens, or else the machine's.
    pub(crate) fn find(given: Option<&Path>, config: &Config) -> Self {
        if let Some(path) = given {
            return Self { path: path.to_owned(), is_given: true };
        }
        let own = config.api.socket.clone();
        let machine = Path::new(config::SOCKET);
        let (state, is_usual) = (&config.state, config::is_default_state(&config.state));
        // Who has no node of their own means the machine's.
        let is_own = !is_usual || own.exists() || state.exists() || !machine.exists();
        Self { path: if is_own { own } else { machine.to_owned() }, is_given: false }
    }

    /// Connects.
    ///
    /// # Errors
    /// If no node answers there.
    pub(crate) async fn connect(&self) -> anyhow::Result<Node> {
        match self.try_connect().await? {
            Some(node) => Ok(node),
            None => bail!(
                "no node answers on {}: start it with `sagemesh up`, or name its socket with --api",
                self.path.display()
            ),
        }
    }

    /// Connects; `None` if no node runs there.
    ///
    /// # Errors
    /// If that cannot be told.
    pub(crate) async fn try_connect(&self) -> anyhow::Result<Option<Node>> {
        match UnixStream::connect(&self.path).await {
            Ok(_) => {}
            Err(err) if is_absent(&err) => return Ok(None),
            Err(err) => {
                let path = self.path.display();
                return Err(anyhow!(err)
                    .context(format!("failed to connect to {path}: name the node's socket with --api")));
            }
        }
        let path = self.path.clone();
        let connect = service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost").connect_timeout(TIMEOUT);
        Ok(Some(Node { channel: endpoint.connect_with_connector_lazy(connect) }))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

fn is_absent(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// The node that runs.
pub(crate) struct Node {
    channel: Channel,
}

impl Node {
    pub(crate) fn mesh(&self) -> MeshServiceClient<Channel> {
        MeshServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_LEN_MAX)
    }

    pub(crate) fn identity(&self) -> IdentityServiceClient<Channel> {
        IdentityServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_LEN_MAX)
    }

    pub(crate) fn service(&self) -> ServiceServiceClient<Channel> {
        ServiceServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_LEN_MAX)
    }
}

/// What a call's status tells a person: a refusal of the mesh, or that something is amiss with the node.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(crate) fn failure(status: Status) -> anyhow::Error {
    if let Some(refusal) = api::refusal::read(&status) {
        return refusal.into();
    }
    match status.code() {
        Code::Unavailable | Code::Cancelled => {
            anyhow!("the node went away before it answered: look at its log, and start it with `sagemesh up`")
        }
        Code::Unimplemented => anyhow!(
            "the node does not know this call: it runs another version; compare `sagemesh --version` with `sagemesh status`"
        ),
        code => anyhow!("the node answered {code:?}: {}", status.message()),
    }
}
