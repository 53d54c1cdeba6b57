//! Bodies on their way from one HTTP/2 stream to another, with their trailers.
//!
//! Credit is given back to the sender as the receiver takes what was sent, so no more than a window of each
//! stream is ever held. The first few bytes of a request are kept until it is answered: if it turns out that no
//! server has seen them, they can be sent elsewhere. While a receiver takes nothing, small pieces are put together:
//! `h2` ends a whole connection when too many of them wait to be read.

use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::HeaderMap;

/// Of a request, as many bytes are kept for sending it elsewhere.
const KEPT_BYTES_MAX: usize = 32 << 10;
/// In as many pieces at most: each holds on to the buffer it was read into.
const KEPT_PIECES_MAX: usize = 8;
/// Pieces smaller than this are put together while they wait.
const SMALL_BYTES: usize = 1024;

/// A body did not pass whole.
#[derive(Debug)]
pub(crate) enum Broken {
    /// Whoever sends it stopped.
    Source(h2::Error),
    /// Whoever receives it takes no more.
    Sink,
}

/// What was read of a request so far; nothing if that was more than is kept.
pub(crate) struct Kept(Mutex<Option<Vec<Bytes>>>);

impl Default for Kept {
    fn default() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }
}

impl Kept {
    fn pieces(&self) -> MutexGuard<'_, Option<Vec<Bytes>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the request can be sent once more.
    pub(crate) fn is_whole(&self) -> bool {
        self.pieces().is_some()
    }

    /// Forgets it: the call was answered.
    pub(crate) fn release(&self) {
        self.pieces().take();
    }

    /// Keeps one more piece, after which `n_bytes` were read. Whether it did.
    fn keep(&self, piece: &Bytes, n_bytes: u64) -> bool {
        let mut pieces = self.pieces();
        let fits = |kept: &Vec<Bytes>| kept.len() < KEPT_PIECES_MAX && n_bytes <= KEPT_BYTES_MAX as u64;
        *pieces = pieces.take().filter(fits);
        if let Some(kept) = &mut *pieces {
            kept.push(piece.clone());
        }
        pieces.is_some()
    }
}

/// The body of a request.
pub(crate) struct Body {
    stream: RecvStream,
    is_over: bool,
    trailers: Option<HeaderMap>,
    /// Bytes read so far.
    pub(crate) n_bytes: u64,
}

impl Body {
    pub(crate) const fn new(stream: RecvStream) -> Self {
        Self { stream, is_over: false, trailers: None, n_bytes: 0 }
    }

    /// Whether it has neither bytes nor trailers.
    pub(crate) fn is_empty(&self) -> bool {
        self.n_bytes == 0 && self.stream.is_end_stream()
    }

    /// Takes the rest and keeps none of it.
    pub(crate) async fn discard(&mut self) -> Result<(), h2::Error> {
        while let Some(piece) = self.stream.data().await {
            self.stream.flow_control().release_capacity(piece?.len())?;
        }
        poll_fn(|cx| self.stream.poll_trailers(cx)).await.map(drop)
    }

    /// Sends all of it, what was read before included.
    pub(crate) async fn send(&mut self, kept: &Kept, mut sink: SendStream<Bytes>) -> Result<(), Broken> {
        let before = kept.pieces().as_ref().map(|pieces| pieces.concat()).unwrap_or_default();
        let mut source = Source {
            stream: &mut self.stream,
            n_bytes: &mut self.n_bytes,
            kept: Some(kept),
            n_credited: before.len(),
            is_over: self.is_over,
        };
        let passed = pass(&mut source, &mut sink, before.into(), Ending::Whole).await;
        self.is_over = source.is_over;
        if passed? == Passed::Ended {
            return Ok(());
        }
        let trailers = poll_fn(|cx| self.stream.poll_trailers(cx)).await.map_err(Broken::Source)?;
        self.trailers = trailers.or_else(|| self.trailers.take());
        finish(&mut sink, self.trailers.clone())
    }
}

/// Sends the body of an answer, and answers its trailers, which are yet to be sent. Ends early when the
/// receiver goes away.
pub(crate) async fn forward(
    stream: &mut RecvStream,
    sink: &mut SendStream<Bytes>,
    n_bytes: &mut u64,
) -> Result<Option<HeaderMap>, Broken> {
    let mut source = Source { stream, n_bytes, kept: None, n_credited: 0, is_over: false };
    pass(&mut source, sink, Bytes::new(), Ending::Trailers).await?;
    poll_fn(|cx| stream.poll_trailers(cx)).await.map_err(Broken::Source)
}

/// Ends a body, with trailers if there are any.
pub(crate) fn finish(sink: &mut SendStream<Bytes>, trailers: Option<HeaderMap>) -> Result<(), Broken> {
    let sent = match trailers {
        Some(trailers) => sink.send_trailers(trailers),
        None => sink.send_data(Bytes::new(), true),
    };
    sent.map_err(|_| Broken::Sink)
}

/// Where pieces come from.
struct Source<'a> {
    stream: &'a mut RecvStream,
    n_bytes: &'a mut u64,
    kept: Option<&'a Kept>,
    /// Of what comes next, as many bytes were given credit for when they were read: what is kept is bounded by
    /// itself, and may be sent twice.
    n_credited: usize,
    is_over: bool,
}

impl Source<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        let Some(piece) = std::task::ready!(self.stream.poll_data(cx)) else {
            self.is_over = true;
            return Poll::Ready(Ok(None));
        };
        let piece = piece.map_err(Broken::Source)?;
        *self.n_bytes += piece.len() as u64;
        if self.kept.is_some_and(|kept| kept.keep(&piece, *self.n_bytes)) {
            self.n_credited += piece.len();
            self.credit(piece.len());
        }
        Poll::Ready(Ok(Some(piece)))
    }

    /// Notes that the receiver took so many bytes.
    fn taken(&mut self, n: usize) {
        let n_credited = self.n_credited.min(n);
        self.n_credited -= n_credited;
        self.credit(n - n_credited);
    }

    fn credit(&mut self, n: usize) {
        // Fails if the sender has gone, who then needs none.
        let _ = self.stream.flow_control().release_capacity(n);
    }

    /// Whether nothing follows what was read, not even trailers.
    fn is_at_end(&self) -> bool {
        self.is_over || self.stream.is_end_stream()
    }
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// With its last piece, if it has no trailers.
    Whole,
    /// By what is sent after it.
    Trailers,
}

/// Whether the end of a body was sent with its last piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passed {
    Ended,
    Open,
}

/// What can be done next with a body.
enum Step {
    Send(usize),
    Take(Option<Bytes>),
}

/// Sends `front` and then all that comes from `source`. Ends early when the receiver goes away.
async fn pass(
    source: &mut Source<'_>,
    sink: &mut SendStream<Bytes>,
    mut front: Bytes,
    ending: Ending,
) -> Result<Passed, Broken> {
    // What comes while `front` waits; less than a window, since no credit is given for it.
    let mut rear = BytesMut::new();
    let mut is_small = false;
    loop {
        if front.is_empty() {
            front = rear.split().freeze();
        }
        if front.is_empty() && source.is_over {
            return Ok(Passed::Open);
        }
        if !front.is_empty() {
            sink.reserve_capacity(front.len() + rear.len());
        }
        match poll_fn(|cx| poll_step(source, sink, (front.len(), is_small), cx)).await? {
            Step::Send(n) => {
                let part = front.split_to(n.min(front.len()));
                source.taken(part.len());
                let is_last = front.is_empty() && rear.is_empty() && source.is_at_end();
                let is_end = is_last && ending == Ending::Whole && !source.is_over;
                source.is_over |= is_end;
                sink.send_data(part, is_end).map_err(|_| Broken::Sink)?;
                if is_end {
                    return Ok(Passed::Ended);
                }
            }
            Step::Take(None) => {}
            Step::Take(Some(piece)) => {
                is_small = piece.len() < SMALL_BYTES;
                match front.is_empty() {
                    true => front = piece,
                    false => rear.extend_from_slice(&piece),
                }
            }
        }
    }
}

fn poll_step(
    source: &mut Source<'_>,
    sink: &mut SendStream<Bytes>,
    (n_waiting, is_small): (usize, bool),
    cx: &mut Context<'_>,
) -> Poll<Result<Step, Broken>> {
    if n_waiting == 0 {
        // Nothing to send: only the receiver's going away is of interest.
        if sink.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(Broken::Sink));
        }
        return source.poll(cx).map_ok(Step::Take);
    }
    let n = sink.capacity();
    if n > 0 {
        return Poll::Ready(Ok(Step::Send(n)));
    }
    loop {
        match sink.poll_capacity(cx) {
            // The credit went to another stream meanwhile.
            Poll::Ready(Some(Ok(0))) => {}
            Poll::Ready(Some(Ok(n))) => return Poll::Ready(Ok(Step::Send(n))),
            Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(Broken::Sink)),
            Poll::Pending => break,
        }
    }
    if is_small && !source.is_over {
        return source.poll(cx).map_ok(Step::Take);
    }
    Poll::Pending
}
