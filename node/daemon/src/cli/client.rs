//! How commands reach the node that runs: by its Unix socket, or another machine's by its port.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::service_fn;

use proto::identity::v1::identity_service_client::IdentityServiceClient;
use proto::mesh::v1::mesh_service_client::MeshServiceClient;
use proto::service::v1::service_service_client::ServiceServiceClient;

use super::remote::Remote;
use crate::config::{self, Config};

/// Most bytes of an answer: the certificates of a large mesh.
const ANSWER_LEN_MAX: usize = 16 << 20;

/// Where the node listens.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    place: Place,
    /// The operator's files, less their endings.
    identity: Option<PathBuf>,
    /// Whether a person named it.
    pub(crate) is_given: bool,
}

#[derive(Clone, Debug)]
enum Place {
    Socket(PathBuf),
    Remote(Remote),
}

impl Address {
    /// What `--api` says, or where a node of this user listens, or else the machine's.
    pub(crate) fn find(given: Option<&str>, identity: Option<&Path>, config: &Config) -> Self {
        let identity = identity.map(Path::to_owned);
        if let Some(text) = given {
            let place = Remote::read(text).map_or_else(|| Place::Socket(PathBuf::from(text)), Place::Remote);
            return Self { place, identity, is_given: true };
        }
        let own = config.api.socket.clone();
        let machine = Path::new(config::SOCKET);
        let (state, is_usual) = (&config.state, config::is_default_state(&config.state));
        // Who has no node of their own means the machine's.
        let is_own = !is_usual || own.exists() || state.exists() || !machine.exists();
        let path = if is_own { own } else { machine.to_owned() };
        Self { place: Place::Socket(path), identity, is_given: false }
    }

    /// Connects.
    ///
    /// # Errors
    /// If no node answers there.
    pub(crate) async fn connect(&self) -> anyhow::Result<Node> {
        match self.try_connect().await? {
            Some(node) => Ok(node),
            None => {
                bail!("no node answers on {self}: start it with `sagemesh up`, or name its socket with --api")
            }
        }
    }

    /// Connects; `None` if no node of this machine runs there.
    ///
    /// # Errors
    /// If that cannot be told.
    pub(crate) async fn try_connect(&self) -> anyhow::Result<Option<Node>> {
        let channel = match &self.place {
            Place::Remote(remote) => Some(remote.connect(self.identity.as_deref()).await?),
            Place::Socket(path) => connect_socket(path).await?,
        };
        Ok(channel.map(|channel| Node { channel }))
    }
}

async fn connect_socket(path: &Path) -> anyhow::Result<Option<Channel>> {
    match UnixStream::connect(path).await {
        Ok(_) => {}
        Err(err) if is_absent(&err) => return Ok(None),
        Err(err) => {
            let what = format!("failed to connect to {}: name the node's socket with --api", path.display());
            return Err(anyhow!(err).context(what));
        }
    }
    let path = path.to_owned();
    let connect = service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Ok(Some(Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect)))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Socket(path) => write!(f, "{}", path.display()),
            Place::Remote(remote) => write!(f, "{}", remote.at),
        }
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
    // A status with a source was not sent by the node: the connection failed.
    let is_lost = std::error::Error::source(&status).is_some();
    match status.code() {
        Code::Unavailable | Code::Cancelled | Code::Unknown if is_lost => {
            anyhow!("the node went away before it answered, or knows no such operator: its log says which")
        }
        Code::Unimplemented => anyhow!(
            "the node does not know this call: it runs another version; compare `sagemesh --version` with `sagemesh status`"
        ),
        code => anyhow!("the node answered {code:?}: {}", status.message()),
    }
}
