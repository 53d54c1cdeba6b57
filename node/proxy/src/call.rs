//! One call over two HTTP/2 streams: the request one way, the answer the other, and the end of either told to
//! both.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, response};
use tokio::time::{sleep_until, timeout};

use types::{Reason, Refusal};

use crate::body::{Body, Broken, Kept, finish, forward};
use crate::headers;
use crate::link::Lease;
use crate::refusal;

/// How long a request that is not gRPC may take to come before it is answered.
const FOREIGN_MAX: Duration = Duration::from_secs(1);

/// When nothing else sets an end.
const FAR: Duration = Duration::from_secs(30 * 24 * 3600);

/// A call that is not answered yet. Dropped, its stream is reset.
pub(crate) struct Call {
    pub(crate) head: Parts,
    body: Body,
    kept: Kept,
    respond: SendResponse<Bytes>,
}

/// How long a call may take.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    /// When it is over.
    pub(crate) deadline: Option<Instant>,
    /// If it has no deadline: how long after the whole request was forwarded the answer must begin.
    pub(crate) answer_within: Option<Duration>,
}

/// How long it took until the answer began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// Since the request was forwarded, as much of it as there was.
    pub(crate) latency: Duration,
    /// Since the whole request was forwarded; absent if the answer began earlier.
    pub(crate) own: Option<Duration>,
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was answered, with this gRPC status if it had one.
    Answered(Option<u8>),
    /// It reached no server; the caller was told why.
    Unsent(Reason),
    /// The connection to the server broke; the caller was told.
    Lost,
    /// The server reset it; the caller saw the same.
    Reset,
    /// Its time was over; the caller was told.
    TimedOut,
    /// The caller went away.
    Cancelled,
}

/// What became of an attempt.
pub(crate) enum Sent {
    /// The call is over.
    Ended(End),
    /// It reached no server and can be sent once more.
    Unsent(Box<Call>, Refusal),
}

/// What became of a call, and how many bytes it carried.
pub(crate) struct Carried {
    pub(crate) sent: Sent,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
}

/// How an attempt is made.
#[derive(Clone, Copy)]
struct Terms {
    limits: Limits,
    started: Instant,
    /// Whether the other end is a proxy, whose word counts that a call reached no server. A service's does not.
    is_to_proxy: bool,
}

/// Why a call stopped before its end.
enum Stop {
    Cancelled,
    TimedOut,
    Broken(h2::Error),
    /// The other proxy says that the call reached no server.
    TurnedAway(response::Parts, Reason),
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Source(err) => Self::Broken(err),
            Broken::Sink => Self::Cancelled,
        }
    }
}

/// A request body on its way.
struct Upload<'a, F> {
    sending: Pin<&'a mut F>,
    is_done: bool,
    /// When all of it had been forwarded.
    sent_at: Option<Instant>,
}

impl<F: Future<Output = Result<(), Broken>>> Upload<'_, F> {
    /// Goes on sending.
    async fn run(&mut self) -> Result<(), Stop> {
        let sent = self.sending.as_mut().await;
        self.is_done = true;
        match sent {
            Ok(()) => self.sent_at = Some(Instant::now()),
            Err(Broken::Source(_)) => return Err(Stop::Cancelled),
            // The server may answer all the same, and says so by itself if not.
            Err(Broken::Sink) => {}
        }
        Ok(())
    }
}

impl Call {
    pub(crate) fn new(request: Request<RecvStream>, respond: SendResponse<Bytes>) -> Self {
        let (head, body) = request.into_parts();
        Self { head, body: Body::new(body), kept: Kept::default(), respond }
    }

    /// Answers with a refusal. If the caller has gone away, nobody hears it.
    pub(crate) fn refuse(mut self, refusal: &Refusal) {
        let _ = self.respond.send_response(refusal::response(refusal), true);
    }

    /// Answers another proxy with a refusal that it can tell from what a service answers.
    pub(crate) fn refuse_proxy(self, refusal: &Refusal) {
        let mut response = refusal::response(refusal);
        let code = HeaderValue::from_static(refusal.reason.code());
        response.headers_mut().insert(headers::REFUSED, code);
        self.answer(response);
    }

    /// Answers what is not gRPC, in words, once it has all come.
    pub(crate) async fn refuse_foreign(mut self) {
        // One that breaks hears why from `h2`.
        let _ = timeout(FOREIGN_MAX, self.body.discard()).await;
        // The answer to HEAD has no body (RFC 9110, section 9.3.2).
        let is_whole = self.head.method == Method::HEAD;
        let sent = self.respond.send_response(refusal::not_grpc(), is_whole);
        if let Ok(mut stream) = sent
            && !is_whole
        {
            let _ = stream.send_data(Bytes::from_static(refusal::NOT_GRPC.as_bytes()), true);
        }
    }

    /// Answers with what is complete in itself.
    pub(crate) fn answer(mut self, response: Response<()>) {
        let _ = self.respond.send_response(response, true);
    }

    /// Waits until the caller goes away.
    pub(crate) async fn is_gone(&mut self) {
        let _ = poll_fn(|cx| self.respond.poll_reset(cx)).await;
    }

    /// Sends the call over a connection with `head` as its headers, and the answer back. `on_head` sees the
    /// answer's headers before the caller does.
    pub(crate) async fn exchange(
        self,
        lease: &mut Lease,
        head: Request<()>,
        limits: Limits,
        mut on_head: impl FnMut(&mut response::Parts, &Timing, bool),
    ) -> Carried {
        let Self { head: own_head, mut body, kept, mut respond } = self;
        let mut response_bytes = 0;
        let terms = Terms { limits, started: Instant::now(), is_to_proxy: lease.link.is_to_proxy() };
        let outcome = match lease.send(head, body.is_empty()) {
            Err(err) => Err(Stop::Broken(err)),
            Ok((response, sink)) => {
                let is_whole = body.is_empty();
                let sending = pin!(async {
                    match is_whole {
                        true => Ok(()),
                        false => body.send(&kept, sink).await,
                    }
                });
                let upload = Upload { sending, is_done: false, sent_at: None };
                let on_head = |head: &mut response::Parts, timing: &Timing, is_end| {
                    kept.release();
                    on_head(head, timing, is_end);
                };
                relay(response, &mut respond, upload, terms, on_head, &mut response_bytes).await
            }
        };
        let request_bytes = body.n_bytes;
        let sent = match outcome {
            Ok(end) => Sent::Ended(end),
            Err(stop) => Self { head: own_head, body, kept, respond }.stopped(stop),
        };
        Carried { sent, request_bytes, response_bytes }
    }

    /// Tells the caller why there is no answer, unless the call can be sent once more.
    fn stopped(mut self, stop: Stop) -> Sent {
        let end = match stop {
            Stop::Cancelled => End::Cancelled,
            Stop::TimedOut => {
                self.refuse(&timed_out());
                End::TimedOut
            }
            Stop::TurnedAway(head, reason) if self.kept.is_whole() => {
                let refusal = turned_away(&head, reason);
                return Sent::Unsent(Box::new(self), refusal);
            }
            Stop::TurnedAway(mut head, reason) => {
                headers::strip(&mut head.headers);
                self.answer(Response::from_parts(head, ()));
                End::Unsent(reason)
            }
            Stop::Broken(err) if is_unsent(&err) => {
                let refusal =
                    Reason::EndpointUnreachable.because(format!("the other end took no call: {err}"));
                if self.kept.is_whole() {
                    return Sent::Unsent(Box::new(self), refusal);
                }
                self.refuse(&refusal);
                End::Unsent(refusal.reason)
            }
            Stop::Broken(err) => match reset(&err) {
                Some(reason) => {
                    self.respond.send_reset(reason);
                    End::Reset
                }
                None => {
                    self.refuse(&lost(&err));
                    End::Lost
                }
            },
        };
        Sent::Ended(end)
    }
}

/// Waits for the answer and forwards it while the request goes on.
async fn relay<F: Future<Output = Result<(), Broken>>>(
    response: ResponseFuture,
    respond: &mut SendResponse<Bytes>,
    mut upload: Upload<'_, F>,
    terms: Terms,
    mut on_head: impl FnMut(&mut response::Parts, &Timing, bool),
    n_bytes: &mut u64,
) -> Result<End, Stop> {
    let (mut head, mut source) = await_head(response, respond, &mut upload, terms.limits).await?.into_parts();
    let is_end = source.is_end_stream();
    if is_end
        && terms.is_to_proxy
        && let Some(reason) = headers::unsent_by_peer(&head.headers)
    {
        return Err(Stop::TurnedAway(head, reason));
    }
    let now = Instant::now();
    let own = upload.sent_at.map(|at| now - at);
    on_head(&mut head, &Timing { latency: own.unwrap_or(now - terms.started), own }, is_end);
    let status = headers::status(&head.headers);
    let Ok(mut sink) = respond.send_response(Response::from_parts(head, ()), is_end) else {
        return Err(Stop::Cancelled);
    };
    if is_end {
        return Ok(End::Answered(status));
    }
    let ended = await_end(&mut source, &mut sink, &mut upload, terms.limits.deadline, n_bytes).await;
    Ok(conclude(ended, &mut sink, status))
}

async fn await_head<F: Future<Output = Result<(), Broken>>>(
    response: ResponseFuture,
    respond: &mut SendResponse<Bytes>,
    upload: &mut Upload<'_, F>,
    limits: Limits,
) -> Result<Response<RecvStream>, Stop> {
    let mut response = pin!(response);
    let mut over = pin!(sleep_until(limits.deadline.unwrap_or_else(|| Instant::now() + FAR).into()));
    loop {
        tokio::select! {
            biased;
            sent = upload.run(), if !upload.is_done => {
                sent?;
                if let (None, Some(within)) = (limits.deadline, limits.answer_within) {
                    over.as_mut().reset((Instant::now() + within).into());
                }
            }
            head = &mut response => return head.map_err(Stop::Broken),
            _ = poll_fn(|cx| respond.poll_reset(cx)) => return Err(Stop::Cancelled),
            () = &mut over => return Err(Stop::TimedOut),
        }
    }
}

async fn await_end<F: Future<Output = Result<(), Broken>>>(
    source: &mut RecvStream,
    sink: &mut SendStream<Bytes>,
    upload: &mut Upload<'_, F>,
    deadline: Option<Instant>,
    n_bytes: &mut u64,
) -> Result<Option<HeaderMap>, Stop> {
    let mut over = pin!(sleep_until(deadline.unwrap_or_else(|| Instant::now() + FAR).into()));
    let mut forwarding = pin!(forward(source, sink, n_bytes));
    loop {
        tokio::select! {
            biased;
            trailers = &mut forwarding => return Ok(trailers?),
            sent = upload.run(), if !upload.is_done => sent?,
            () = &mut over => return Err(Stop::TimedOut),
        }
    }
}

/// Ends an answer that has begun.
fn conclude(ended: Result<Option<HeaderMap>, Stop>, sink: &mut SendStream<Bytes>, status: Option<u8>) -> End {
    let (trailers, end) = match ended {
        Ok(Some(mut trailers)) => {
            headers::strip(&mut trailers);
            let status = headers::status(&trailers).or(status);
            (Some(trailers), End::Answered(status))
        }
        Ok(None) => (None, End::Answered(status)),
        Err(Stop::TimedOut) => (Some(refusal::trailers(&timed_out())), End::TimedOut),
        Err(Stop::Cancelled | Stop::TurnedAway(..)) => return End::Cancelled,
        Err(Stop::Broken(err)) => match reset(&err) {
            Some(reason) => {
                sink.send_reset(reason);
                return End::Reset;
            }
            None => (Some(refusal::trailers(&lost(&err))), End::Lost),
        },
    };
    match finish(sink, trailers) {
        Ok(()) => end,
        Err(_) => End::Cancelled,
    }
}

/// Whether an error shows that no server has looked at the call (RFC 9113, section 8.7): a GOAWAY whose last
/// stream is an earlier one, or REFUSED_STREAM.
fn is_unsent(err: &h2::Error) -> bool {
    err.is_remote()
        && (err.is_go_away() || (err.is_reset() && err.reason() == Some(h2::Reason::REFUSED_STREAM)))
}

/// The code by which the other end reset the call.
fn reset(err: &h2::Error) -> Option<h2::Reason> {
    if err.is_reset() && err.is_remote() { err.reason() } else { None }
}

fn lost(err: &h2::Error) -> Refusal {
    Reason::CallLost.because(format!("the connection to the endpoint broke: {err}"))
}

fn timed_out() -> Refusal {
    Reason::DeadlineExceeded.because("the call did not end in time")
}

fn turned_away(head: &response::Parts, reason: Reason) -> Refusal {
    let told = head.headers.get("grpc-message").and_then(|it| it.to_str().ok()).unwrap_or_default();
    reason.because(refusal::detail_of(told))
}
