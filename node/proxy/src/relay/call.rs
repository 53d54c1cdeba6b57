//! One call: two streams, what is on its way between them, and what is to be told when it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use route::{Endpoint, EndpointId};
use tracing::Span;
use types::{Reason, Refusal, ServiceName};
use wire::frame::append;
use wire::hpack::Fields;
use wire::{Code, Stream};

use crate::edges::{Counted, Tally};
use crate::inbound::Guest;
use crate::outbound::Caller;
use crate::refusal::Form;
use crate::routes::Pending;

use super::slab::Key;
use super::timer::Timer;

/// Of a request, as many bytes are kept for sending it elsewhere.
pub(super) const KEPT_BYTES_MAX: usize = 32 << 10;

/// One call.
pub(super) struct Call {
    /// Who asked.
    pub(super) near: (Key, Stream),
    /// Whether it asks for headers only (HEAD).
    pub(super) is_head: bool,
    /// Who is asked, once it was sent.
    pub(super) far: Option<(Key, Stream)>,
    /// The fields of the request, as they go on. Empty once it was answered.
    pub(super) request: Fields,
    pub(super) body: Body,
    pub(super) answer: Answer,
    pub(super) side: Side,
    /// The lane on which it waits to be sent; none once it was.
    pub(super) waits_on: Option<Key>,
    pub(super) timer: Option<Timer>,
    pub(super) limits: Limits,
    /// When it was sent.
    pub(super) started: Instant,
    /// When the whole request had been sent.
    pub(super) sent_at: Option<Instant>,
    /// Counts the attempt.
    pub(super) counted: Option<Counted>,
    /// The gRPC status, once it came.
    pub(super) status: Option<u8>,
    /// For who traces it.
    pub(super) _span: Span,
}

/// From which side of the mesh a call comes. Nothing is boxed: that costs each call an allocation and a miss of the cache.
pub(super) enum Side {
    /// From a process on this machine, for a service anywhere.
    Out(Out),
    /// From another node or a stock client, for a service on this machine.
    In(In),
    /// From either, and not gRPC: it is answered once all of it has come.
    Foreign,
}

/// What a call of a process on this machine has.
pub(super) struct Out {
    pub(super) caller: Arc<Caller>,
    pub(super) service: Arc<ServiceName>,
    /// When the caller gives up, if it said so.
    pub(super) deadline: Option<Instant>,
    /// Where it was tried in vain.
    pub(super) tried: Vec<EndpointId>,
    /// Why the last attempt was in vain.
    pub(super) last: Option<Refusal>,
    /// Whether no connection could be made there; a call does not wait for that twice.
    pub(super) is_unreachable: bool,
    pub(super) attempt: Option<Attempt>,
}

/// The attempt that is under way.
pub(super) struct Attempt {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) deadline: Instant,
    pub(super) is_trial: bool,
    /// Until the router was told what came of it.
    pub(super) pending: Option<Pending>,
}

/// What a call for a service on this machine has.
pub(super) struct In {
    pub(super) guest: Arc<Guest>,
    /// Whether another proxy sent it, which counts it by itself.
    pub(super) is_proxy: bool,
    pub(super) n_tried: usize,
}

/// How long a call may take once it was sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    /// When it is over.
    pub(super) deadline: Option<Instant>,
    /// If it has no deadline: how long after the whole request was sent the answer must begin.
    pub(super) answer_within: Option<Duration>,
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It was answered, with this gRPC status if it had one.
    Answered(Option<u8>),
    /// It reached no server; the caller was told why.
    Unsent(Reason),
    /// The connection to the server broke; the caller was told.
    Lost,
    /// The server reset it; the caller saw the same.
    Reset(Code),
    /// Its time was over; the caller was told.
    TimedOut,
    /// The caller went away.
    Cancelled,
}

/// A request's body on its way.
pub(super) struct Body {
    /// What is not sent yet, and before it what was and is kept.
    pub(super) bytes: Vec<u8>,
    /// How much of `bytes` was sent.
    pub(super) sent: usize,
    /// Bytes that were sent and are not kept.
    n_gone: u64,
    /// Bytes for which the sender was given credit.
    n_credited: u64,
    /// Whether all was read but the trailers.
    pub(super) is_over: bool,
    pub(super) trailers: Option<Box<Fields>>,
    /// Whether all that was read is there, so that it can be sent once more.
    pub(super) is_kept: bool,
}

impl Body {
    pub(super) const fn new(is_over: bool) -> Self {
        Self { bytes: Vec::new(), sent: 0, n_gone: 0, n_credited: 0, is_over, trailers: None, is_kept: true }
    }

    /// Bytes that were read.
    pub(super) const fn n_read(&self) -> u64 {
        self.n_gone + self.bytes.len() as u64
    }

    /// Whether it has neither bytes nor trailers.
    pub(super) const fn is_empty(&self) -> bool {
        self.is_over && self.trailers.is_none() && self.n_read() == 0
    }

    /// What is to be sent.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Takes in what was read, of which `n_sent` bytes were sent already.
    pub(super) fn take(&mut self, bytes: &[u8], n_sent: usize) {
        debug_assert!(n_sent == 0 || self.rest().is_empty());
        if self.is_kept {
            append(bytes, &mut self.bytes);
            self.advance(n_sent);
        } else {
            self.n_gone += n_sent as u64;
            append(&bytes[n_sent..], &mut self.bytes);
        }
    }

    /// Notes that more was sent.
    pub(super) fn advance(&mut self, n: usize) {
        self.sent += n;
        if self.bytes.len() > KEPT_BYTES_MAX && self.sent > 0 {
            self.is_kept = false;
        }
        if !self.is_kept {
            self.forget();
        }
    }

    /// Keeps nothing that was sent.
    pub(super) fn forget(&mut self) {
        self.is_kept = false;
        // What waits is moved seldom.
        if self.sent == self.bytes.len() || self.sent >= KEPT_BYTES_MAX {
            self.n_gone += self.sent as u64;
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Begins anew.
    pub(super) const fn rewind(&mut self) {
        debug_assert!(self.is_kept);
        self.sent = 0;
    }

    /// For how many bytes more the sender is to be given credit: what was sent, each byte once.
    pub(super) const fn credit(&mut self) -> usize {
        self.credit_up_to(self.n_gone + self.sent as u64)
    }

    /// The same for all that was read: nothing more is sent.
    pub(super) const fn credit_all(&mut self) -> usize {
        self.credit_up_to(self.n_read())
    }

    #[expect(clippy::cast_possible_truncation, reason = "no more than a window")]
    const fn credit_up_to(&mut self, n: u64) -> usize {
        let more = n.saturating_sub(self.n_credited);
        self.n_credited += more;
        more as usize
    }
}

/// An answer on its way.
#[derive(Default)]
pub(super) struct Answer {
    /// What is not sent yet, after what was.
    pub(super) bytes: Vec<u8>,
    pub(super) sent: usize,
    /// Bytes that were read.
    pub(super) n_read: u64,
    /// Whether the headers were sent.
    pub(super) has_begun: bool,
    /// Whether all was read.
    pub(super) is_over: bool,
    pub(super) trailers: Option<Box<Fields>>,
}

impl Answer {
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Notes that more was sent.
    pub(super) fn advance(&mut self, n: usize) {
        self.sent += n;
        if self.sent == self.bytes.len() || self.sent >= KEPT_BYTES_MAX {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }
}

impl Call {
    /// How it is told that it is refused.
    pub(super) const fn form(&self) -> Form {
        match &self.side {
            Side::In(it) if it.is_proxy => Form::AnswerToProxy,
            Side::In(_) | Side::Out(_) | Side::Foreign => Form::Answer,
        }
    }

    /// What its edge counts, if it is counted.
    pub(super) fn tally(&mut self) -> Option<&mut Tally> {
        self.counted.as_mut().map(|counted| &mut counted.tally)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_body_is_kept_and_credited_once() {
        let mut body = Body::new(false);
        body.take(b"abc", 0);
        assert_eq!((body.rest().to_vec(), body.credit()), (b"abc".to_vec(), 0));
        body.advance(3);
        assert_eq!((body.rest().len(), body.credit(), body.credit()), (0, 3, 0));
        body.take(b"de", 2);
        body.rewind();
        assert_eq!((body.rest().to_vec(), body.credit()), (b"abcde".to_vec(), 0));
        body.advance(5);
        assert_eq!((body.credit(), body.n_read()), (2, 5));
        body.forget();
        body.take(b"f", 0);
        assert_eq!((body.rest().len(), body.credit(), body.credit_all(), body.n_read()), (1, 0, 1, 6));
    }

    #[test]
    fn a_long_body_is_kept_until_some_was_sent() {
        let mut body = Body::new(false);
        body.take(&[1; KEPT_BYTES_MAX + 1], 0);
        assert!(body.is_kept);
        body.advance(10);
        assert!(!body.is_kept);
        assert_eq!((body.rest().len(), body.credit()), (KEPT_BYTES_MAX - 9, 10));
        body.advance(KEPT_BYTES_MAX - 9);
        assert_eq!((body.bytes.len(), body.credit()), (0, KEPT_BYTES_MAX - 9));
        body.take(&[2; 100], 60);
        assert_eq!((body.rest().len(), body.credit(), body.n_read()), (40, 60, KEPT_BYTES_MAX as u64 + 101));
    }
}
