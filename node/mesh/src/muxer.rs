//! Streams over one connection: yamux, with every window bounded, and a way to cut it at once.
//!
//! Follows libp2p-yamux 0.48, which lets the receive window of a connection grow to 1 GiB and does not let
//! that be set.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::StreamMuxer;
use libp2p::core::muxing::StreamMuxerEvent;
use tokio_util::sync::WaitForCancellationFutureOwned;
use yamux::{Connection, ConnectionError, Mode};

use crate::metrics::{Count, Counts};
use crate::transport::Admitted;

/// What yamux lets a peer send on a stream before it is read, in bytes (yamux specification, flow control).
const STREAM_WINDOW: usize = 256 << 10;
/// By how much the windows of one connection may grow together when its streams are read fast, in bytes.
const WINDOW_GROWTH_MAX: usize = 16 << 20;
/// Most streams that wait for their protocol to be asked. libp2p takes them off at once unless as many are
/// being negotiated as may be.
const BACKLOG: usize = 64;

/// The bounds of a connection on which each side may hold `streams_max` streams.
pub(crate) fn bounds(streams_max: u16) -> yamux::Config {
    // Each side's own, as many being negotiated, and as many closed by one side and not yet by the other:
    // more is an attack, and yamux ends the connection.
    let n_streams = 4 * usize::from(streams_max) + BACKLOG;
    let mut config = yamux::Config::default();
    config.set_max_connection_receive_window(None);
    config.set_max_num_streams(n_streams);
    config.set_max_connection_receive_window(Some(n_streams * STREAM_WINDOW + WINDOW_GROWTH_MAX));
    config
}

/// A connection that can be cut.
pub(crate) struct Muxer<C> {
    connection: Connection<C>,
    backlog: VecDeque<yamux::Stream>,
    /// Whoever waits for a stream in the backlog.
    waker: Option<Waker>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    is_cut: bool,
    /// Kept for as long as the connection is open.
    _admitted: Arc<Admitted>,
    counts: Arc<Counts>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    /// Streams over `socket` until it is cut.
    pub(crate) fn new(
        socket: C,
        bounds: yamux::Config,
        mode: Mode,
        admitted: Arc<Admitted>,
        counts: Arc<Counts>,
    ) -> Self {
        Self {
            connection: Connection::new(socket, bounds, mode),
            backlog: VecDeque::new(),
            waker: None,
            cut: Box::pin(admitted.cut.clone().cancelled_owned()),
            is_cut: false,
            _admitted: admitted,
            counts,
        }
    }

    fn check_cut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.is_cut = self.is_cut || self.cut.as_mut().poll(cx).is_ready();
        match self.is_cut {
            true => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the link was cut")),
            false => Ok(()),
        }
    }
}

fn io(err: ConnectionError) -> io::Error {
    match err {
        ConnectionError::Io(err) => err,
        other => io::Error::other(other),
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = yamux::Stream;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<yamux::Stream>> {
        if let Some(stream) = self.backlog.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        // `poll` fills the backlog; libp2p calls it always.
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<yamux::Stream>> {
        self.connection.poll_new_outbound(cx).map_err(io)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_cut(cx)?;
        self.connection.poll_close(cx).map_err(io)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        self.check_cut(cx)?;
        let stream = match self.connection.poll_next_inbound(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => return Poll::Ready(Err(io(ConnectionError::Closed))),
            Poll::Ready(Some(Err(err))) => return Poll::Ready(Err(io(err))),
            Poll::Ready(Some(Ok(stream))) => stream,
        };
        self.counts.add(Count::StreamOffered);
        if self.backlog.len() < BACKLOG {
            self.backlog.push_back(stream);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        } else {
            // Dropping it resets it.
            self.counts.add(Count::StreamDropped);
        }
        // One at a time, so that a flood of streams leaves the others their turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
