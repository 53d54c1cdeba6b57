//! One caller's connection, and one unary call over it, on the h2 crate: cheaper than tonic, so that the caller
//! is not what is measured.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{Builder, SendRequest};
use http::Request;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::{echo, tls};

/// A stream's window, and a connection's.
pub(crate) const WINDOWS: (u32, u32) = (1 << 20, 4 << 20);
/// Most calls at once on one connection.
const STREAMS_MAX: u32 = 1000;
/// How long a call may take that says so.
const TIMEOUT: &str = "2000m";

/// Whom to call, and how.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Target {
    /// Where to connect
    #[arg(long)]
    target: SocketAddr,
    /// What `:authority` says
    #[arg(long, default_value = "server.mesh")]
    authority: String,
    /// Directory of certificates; absent: in the clear
    #[arg(long)]
    tls: Option<PathBuf>,
    /// Bytes of a message's body
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// Send with each call what real callers send: a deadline, a trace context of its own, a token of 300 bytes
    #[arg(long)]
    meta: bool,
}

/// Makes connections and holds them.
pub(crate) struct Caller {
    target: Target,
    message: Bytes,
    token: String,
    n_called: AtomicU64,
}

/// A connection. Clones share it.
pub(crate) type Connection = SendRequest<Bytes>;

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Caller {
    pub(crate) fn new(target: Target) -> Arc<Self> {
        let encoded = echo::Message { body: vec![b'x'; target.size] }.encode_to_vec();
        // A flag, its length, its bytes (grpc/doc/PROTOCOL-HTTP2.md).
        let mut message = BytesMut::with_capacity(5 + encoded.len());
        message.put_u8(0);
        message.put_u32(u32::try_from(encoded.len()).expect("a size of some KiB"));
        message.put_slice(&encoded);
        let token = format!("Bearer {}", "tok3n".repeat(60));
        Arc::new(Self { target, message: message.freeze(), token, n_called: AtomicU64::new(1) })
    }

    /// Connects; `driven` drives the connection.
    pub(crate) async fn connect(&self, driven: &mut JoinSet<()>) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(self.target.target).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Io> = match &self.target.tls {
            Some(dir) => Box::new(tls::connector(dir)?.connect(tls::server(), stream).await?),
            None => Box::new(stream),
        };
        let (send, connection) = Builder::new()
            .initial_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .max_concurrent_streams(STREAMS_MAX)
            .handshake::<_, Bytes>(stream)
            .await?;
        // How it ends its calls tell.
        driven.spawn(async move { drop(connection.await) });
        Ok(send)
    }

    /// Connects `n` times; each connection makes a call, which has to succeed.
    pub(crate) async fn connect_all(
        &self,
        n: usize,
        driven: &mut JoinSet<()>,
    ) -> anyhow::Result<Vec<Connection>> {
        let mut connections = Vec::with_capacity(n);
        for idx in 0..n {
            let mut connection = self.connect(driven).await.with_context(|| format!("connection {idx}"))?;
            self.call(&mut connection)
                .await
                .with_context(|| format!("the first call of connection {idx}"))?;
            connections.push(connection);
        }
        Ok(connections)
    }

    /// Makes one call and checks its answer.
    ///
    /// # Errors
    /// `grpc-status N`, if it was answered otherwise than with an echo; else how it failed.
    pub(crate) async fn call(&self, connection: &mut Connection) -> anyhow::Result<()> {
        let mut connection = connection.clone().ready().await.context("no room for a call")?;
        let (response, mut request) = connection.send_request(self.head()?, false)?;
        request.send_data(self.message.clone(), true)?;
        let (head, mut body) = response.await?.into_parts();
        ensure!(head.status == 200, "http {}", head.status);
        let mut n_bytes = 0;
        while let Some(bytes) = body.data().await {
            let bytes = bytes?;
            n_bytes += bytes.len();
            body.flow_control().release_capacity(bytes.len())?;
        }
        let trailers = body.trailers().await?;
        let status =
            trailers.as_ref().and_then(|it| it.get("grpc-status")).or(head.headers.get("grpc-status"));
        match status.map(|status| status.as_bytes()) {
            Some(b"0") => {}
            Some(status) => bail!("grpc-status {}", String::from_utf8_lossy(status)),
            None => bail!("no grpc-status"),
        }
        ensure!(n_bytes == self.message.len(), "{n_bytes} bytes of {} came back", self.message.len());
        Ok(())
    }

    fn head(&self) -> anyhow::Result<Request<()>> {
        let mut head = Request::post(format!("http://{}/pd.Echo/Unary", self.target.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", "pd/0.1");
        if self.target.meta {
            // Any odd factor makes each number one that no other call has.
            let n = self.n_called.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let trace = format!("00-{:016x}{n:016x}-{:016x}-01", !n, n.rotate_left(17));
            head = head
                .header("grpc-timeout", TIMEOUT)
                .header("authorization", &self.token)
                .header("traceparent", trace);
        }
        Ok(head.body(())?)
    }
}
