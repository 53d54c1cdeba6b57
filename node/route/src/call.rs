//! One call: what is asked, what is answered, and what became of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use types::{Refusal, ServiceName};

use crate::endpoint::{Endpoint, EndpointId};

/// What a shell asks for each attempt of a call.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Whom the caller means.
    pub service: &'a ServiceName,
    /// When the caller gives up; absent if it did not say.
    pub deadline: Option<Instant>,
    /// Whether this call was tried before.
    pub attempt: Attempt<'a>,
}

/// Whether a call was tried before.
#[derive(Clone, Copy, Debug)]
pub enum Attempt<'a> {
    /// It was not.
    First,
    /// It was, at these endpoints, and reached none of their servers. Spends the retry budget.
    Again(&'a [EndpointId]),
}

/// What is to be done with a call.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Send it there.
    Send(Route),
    /// Refuse it.
    Refuse(Refusal),
}

/// Where an attempt goes. It counts as in flight until its ticket is reported.
#[derive(Clone, Debug)]
pub struct Route {
    /// To be handed back with what became of it.
    pub ticket: Ticket,
    /// Where to.
    pub endpoint: Arc<Endpoint>,
    /// When it is over: the caller's deadline, or the configured timeout.
    pub deadline: Instant,
    /// Whether the endpoint is out, so that this shows whether it is back. If no connection can be made soon, or the
    /// one there is gives no sign of life, the call is better sent elsewhere: [`Outcome::Unsent`].
    pub is_trial: bool,
}

/// Names one attempt. Each is reported once, whatever happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The first response headers came after `latency`. `status` is the gRPC status if the call has ended
    /// already (trailers only).
    Answered {
        /// From the request forwarded to the first response headers.
        latency: Duration,
        /// The gRPC status code, if known by now.
        status: Option<u8>,
    },
    /// Nothing reached a server: no connection, or the stream was refused before it was looked at.
    Unsent,
    /// The connection broke after the request had been sent.
    Lost,
    /// The deadline passed without an answer.
    TimedOut,
    /// The caller went away first.
    Cancelled,
}
