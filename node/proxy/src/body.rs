//! Bodies on their way from one HTTP/2 stream to another, with their trailers.
//!
//! Credit is given back to the sender as the receiver takes what was sent, so no more than a window of each
//! stream is ever held. The first few bytes of a request are kept until it is answered: if it turns out that no
//! server has seen them, they can be sent elsewhere.

use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderMap;

/// Of a request, as many bytes are kept for sending it elsewhere.
const KEPT_BYTES_MAX: usize = 32 << 10;
/// In as many pieces at most: each holds on to the buffer it was read into.
const KEPT_PIECES_MAX: usize = 8;

/// A body did not pass whole.
#[derive(Debug)]
pub(crate) enum Broken {
    /// Whoever sends it stopped.
    Source(h2::Error),
    /// Whoever receives it takes no more.
    Sink,
}

/// The body of a request.
pub(crate) struct Body {
    source: RecvStream,
    /// Set once all was read: the trailers, if there were any.
    end: Option<Option<HeaderMap>>,
    /// Bytes read so far.
    pub(crate) n_bytes: u64,
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

impl Body {
    pub(crate) fn new(source: RecvStream) -> Self {
        Self { source, end: None, n_bytes: 0 }
    }

    /// Whether it has neither bytes nor trailers.
    pub(crate) fn is_empty(&self) -> bool {
        self.n_bytes == 0 && self.source.is_end_stream()
    }

    /// Sends all of it, what was read before included.
    pub(crate) async fn send(&mut self, kept: &Kept, mut sink: SendStream<Bytes>) -> Result<(), Broken> {
        let before = kept.pieces().clone().unwrap_or_default();
        for piece in before {
            put(&mut sink, piece, Last::No, |_| {}).await?;
        }
        while self.end.is_none() {
            match poll_fn(|cx| self.source.poll_data(cx)).await {
                Some(piece) => {
                    let piece = piece.map_err(Broken::Source)?;
                    if self.source.is_end_stream() && !piece.is_empty() {
                        self.end = Some(None);
                        return self.pass(piece, Last::Yes, kept, &mut sink).await;
                    }
                    self.pass(piece, Last::No, kept, &mut sink).await?;
                }
                None => {
                    let trailers = poll_fn(|cx| self.source.poll_trailers(cx)).await;
                    self.end = Some(trailers.map_err(Broken::Source)?);
                }
            }
        }
        finish(&mut sink, self.end.clone().flatten())
    }

    async fn pass(
        &mut self,
        piece: Bytes,
        last: Last,
        kept: &Kept,
        sink: &mut SendStream<Bytes>,
    ) -> Result<(), Broken> {
        self.n_bytes += piece.len() as u64;
        let flow = self.source.flow_control();
        // What is kept is bounded by itself, and may be sent twice.
        let is_kept = kept.keep(&piece, self.n_bytes);
        if is_kept {
            let _ = flow.release_capacity(piece.len());
        }
        let taken = |n| {
            if !is_kept {
                let _ = flow.release_capacity(n);
            }
        };
        put(sink, piece, last, taken).await
    }
}

/// Whether a piece of a body is the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Yes,
    No,
}

/// Sends the body of an answer, and answers its trailers, which are yet to be sent. Ends early when the
/// receiver goes away.
pub(crate) async fn forward(
    source: &mut RecvStream,
    sink: &mut SendStream<Bytes>,
    n_bytes: &mut u64,
) -> Result<Option<HeaderMap>, Broken> {
    loop {
        let next = poll_fn(|cx| {
            if sink.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Broken::Sink));
            }
            source.poll_data(cx).map(Ok)
        });
        let Some(piece) = next.await? else { break };
        let piece = piece.map_err(Broken::Source)?;
        *n_bytes += piece.len() as u64;
        let flow = source.flow_control();
        put(sink, piece, Last::No, |n| {
            let _ = flow.release_capacity(n);
        })
        .await?;
    }
    poll_fn(|cx| source.poll_trailers(cx)).await.map_err(Broken::Source)
}

/// Sends bytes as the receiver gives credit, and tells how many it took each time.
async fn put(
    sink: &mut SendStream<Bytes>,
    mut piece: Bytes,
    last: Last,
    mut taken: impl FnMut(usize),
) -> Result<(), Broken> {
    while !piece.is_empty() {
        sink.reserve_capacity(piece.len());
        let mut n = sink.capacity();
        while n == 0 {
            // None: the stream was closed. Nought: the credit went to another stream meanwhile.
            let credit = poll_fn(|cx| sink.poll_capacity(cx)).await;
            n = credit.ok_or(Broken::Sink)?.map_err(|_| Broken::Sink)?;
        }
        let part = piece.split_to(n.min(piece.len()));
        taken(part.len());
        sink.send_data(part, last == Last::Yes && piece.is_empty()).map_err(|_| Broken::Sink)?;
    }
    Ok(())
}

/// Ends a body, with trailers if there are any.
pub(crate) fn finish(sink: &mut SendStream<Bytes>, trailers: Option<HeaderMap>) -> Result<(), Broken> {
    let sent = match trailers {
        Some(trailers) => sink.send_trailers(trailers),
        None => sink.send_data(Bytes::new(), true),
    };
    sent.map_err(|_| Broken::Sink)
}
