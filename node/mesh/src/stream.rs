//! A stream to a peer, with tokio's traits.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::compat::Compat;

use types::PeerId;

use crate::link::Link;
use crate::protocol::Permit;

/// A stream to a peer. Dropping it without `shutdown` resets it. If its link ends it ends, and that may read
/// like the peer's end of it: protocols must say in their own words when they are done.
pub struct Stream {
    pub(crate) inner: Compat<libp2p::Stream>,
    pub(crate) link: Arc<Link>,
    pub(crate) _of_link: OwnedSemaphorePermit,
    /// Only for streams that the peer opened.
    pub(crate) _of_protocol: Option<Permit>,
}

impl Stream {
    /// Who is at the other end.
    pub fn peer(&self) -> PeerId {
        self.link.peer
    }

    /// The link that carries it.
    pub fn link(&self) -> &Link {
        &self.link
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stream to {}", self.link.name)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
