//! Streams of links between nodes, which the mesh lends to this room: the way to a node that nobody can dial.

use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite};

use types::{Refusal, TrustDomain};

/// Bytes in both directions.
pub trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

/// A stream of a link. It ends with the link.
pub struct LinkStream {
    /// What goes over it.
    pub bytes: Box<dyn Bytes>,
    /// The node at the other end of the link.
    pub node: TrustDomain,
    /// Where that end is.
    pub address: SocketAddr,
}

/// Opens streams to the proxies of other nodes, over links that stand.
pub trait Links: Send + Sync {
    /// Opens a stream to a node. Never dials, and ends within a time of its own.
    ///
    /// # Errors
    /// Why there is none, and what to do.
    fn open(&self, node: TrustDomain) -> BoxFuture<'static, Result<LinkStream, Refusal>>;
}

/// Links as the mesh lends them.
pub struct Lent {
    /// To open streams by.
    pub links: Arc<dyn Links>,
    /// Streams that other nodes open, within the mesh's bounds.
    pub arrivals: BoxStream<'static, LinkStream>,
}
