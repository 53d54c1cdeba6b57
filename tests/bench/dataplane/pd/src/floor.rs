//! Floors: what two hops cost at the least. A tunnel of bytes, one connection for one; and a forwarder of HTTP/2
//! calls that has one upstream connection and no feature.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::call::WINDOWS;
use crate::tls;

/// Most streams of one connection.
const STREAMS_MAX: u32 = 1024;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    to: SocketAddr,
    /// Directory of certificates for who connects; absent: in the clear
    #[arg(long)]
    tls_in: Option<PathBuf>,
    /// Directory of certificates for the connections that it makes; absent: in the clear
    #[arg(long)]
    tls_out: Option<PathBuf>,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The one upstream connection, once it was made.
#[derive(Default)]
struct Upstream {
    send: Option<SendRequest<Bytes>>,
    driven: JoinSet<()>,
}

struct Hop {
    to: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    connector: Option<TlsConnector>,
    upstream: Mutex<Upstream>,
}

/// What a hop understands of what it carries.
#[derive(Clone, Copy)]
enum Layer {
    Bytes,
    Calls,
}

/// Carries bytes until the process is ended.
pub(crate) async fn tunnel(args: Args) -> anyhow::Result<()> {
    serve(&args, Layer::Bytes).await
}

/// Carries calls until the process is ended.
pub(crate) async fn forward(args: Args) -> anyhow::Result<()> {
    serve(&args, Layer::Calls).await
}

/// Accepts connections and carries each. How one ends its caller sees.
async fn serve(args: &Args, layer: Layer) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.listen).await?;
    let hop = Arc::new(Hop {
        to: args.to,
        acceptor: args.tls_in.as_deref().map(tls::acceptor).transpose()?,
        connector: args.tls_out.as_deref().map(tls::connector).transpose()?,
        upstream: Mutex::default(),
    });
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        let hop = Arc::clone(&hop);
        connections.spawn(async move { drop(hop.carry(stream, layer).await) });
        while connections.try_join_next().is_some() {}
    }
}

impl Hop {
    async fn carry(&self, stream: TcpStream, layer: Layer) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        let mut near: Box<dyn Io> = match &self.acceptor {
            Some(acceptor) => Box::new(acceptor.accept(stream).await?),
            None => Box::new(stream),
        };
        match layer {
            Layer::Bytes => {
                let mut far = self.connect().await?;
                copy_bidirectional(&mut near, &mut far).await?;
                Ok(())
            }
            Layer::Calls => self.forward(near).await,
        }
    }

    async fn connect(&self) -> anyhow::Result<Box<dyn Io>> {
        let stream = TcpStream::connect(self.to).await?;
        stream.set_nodelay(true)?;
        Ok(match &self.connector {
            Some(connector) => Box::new(connector.connect(tls::server(), stream).await?),
            None => Box::new(stream),
        })
    }

    async fn forward(&self, near: Box<dyn Io>) -> anyhow::Result<()> {
        let mut calls = JoinSet::new();
        let mut connection = h2::server::Builder::new()
            .initial_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .max_concurrent_streams(STREAMS_MAX)
            .handshake::<_, Bytes>(near)
            .await?;
        while let Some(incoming) = connection.accept().await {
            let (request, respond) = incoming?;
            let upstream = self.upstream().await?;
            calls.spawn(call(request, respond, upstream));
            while calls.try_join_next().is_some() {}
        }
        Ok(())
    }

    async fn upstream(&self) -> anyhow::Result<SendRequest<Bytes>> {
        let mut upstream = self.upstream.lock().await;
        if let Some(send) = &upstream.send {
            return Ok(send.clone());
        }
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .initial_max_send_streams(STREAMS_MAX as usize)
            .handshake::<_, Bytes>(self.connect().await?)
            .await?;
        upstream.driven.spawn(async move { drop(connection.await) });
        upstream.send = Some(send.clone());
        Ok(send)
    }
}

async fn call(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, upstream: SendRequest<Bytes>) {
    if let Err(error) = exchange(request, &mut respond, upstream).await {
        let reason = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason);
        respond.send_reset(reason.unwrap_or(Reason::INTERNAL_ERROR));
    }
}

async fn exchange(
    request: Request<RecvStream>,
    respond: &mut SendResponse<Bytes>,
    upstream: SendRequest<Bytes>,
) -> anyhow::Result<()> {
    let (head, body) = request.into_parts();
    let mut upstream = upstream.ready().await.context("no room upstream")?;
    let (answering, send) = upstream.send_request(Request::from_parts(head, ()), false)?;
    copy(body, send).await?;
    let (head, body) = answering.await?.into_parts();
    let is_whole = body.is_end_stream();
    let send = respond.send_response(Response::from_parts(head, ()), is_whole)?;
    if is_whole { Ok(()) } else { copy(body, send).await }
}

async fn copy(mut from: RecvStream, mut to: SendStream<Bytes>) -> anyhow::Result<()> {
    while let Some(bytes) = from.data().await {
        let bytes = bytes?;
        let (n, is_last) = (bytes.len(), from.is_end_stream());
        to.send_data(bytes, is_last)?;
        from.flow_control().release_capacity(n)?;
        if is_last {
            return Ok(());
        }
    }
    match from.trailers().await? {
        Some(trailers) => to.send_trailers(trailers)?,
        None => to.send_data(Bytes::new(), true)?,
    }
    Ok(())
}
