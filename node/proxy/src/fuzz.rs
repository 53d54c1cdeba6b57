//! What is read of headers and answers, for `tests/fuzz` alone.

use std::time::Duration;

use http::request::Parts;
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Request};

use types::{Reason, Refusal};

use crate::{headers, health, trace};

/// What the headers of a call or of an answer say.
#[derive(Debug)]
pub struct Said {
    /// The host that it is for.
    pub host: Option<String>,
    /// How long the caller waits.
    pub timeout: Result<Option<Duration>, Refusal>,
    /// The status of the call.
    pub status: Option<u8>,
    /// How long the service took.
    pub server_time: Option<Duration>,
    /// Why the other proxy refused it.
    pub refused: Option<Reason>,
    /// Whether it is gRPC, and well-formed.
    pub is_taken: bool,
    /// Whether its caller traces it.
    pub is_traced: bool,
}

/// Reads all that is read of headers.
pub fn read(head: &Parts) -> Said {
    let traced = head.headers.get("traceparent").and_then(|value| trace::parent(value.to_str().ok()?));
    Said {
        host: headers::host(head).map(str::to_owned),
        timeout: headers::timeout(&head.headers),
        status: headers::status(&head.headers),
        server_time: headers::server_time(&head.headers),
        refused: headers::refused(&head.headers),
        is_taken: headers::is_grpc(&head.headers) && headers::check(head).is_ok(),
        is_traced: traced.is_some(),
    }
}

/// The call as it goes to a service of this node, but for who called.
pub fn onward(head: &Parts) -> Request<()> {
    let mut request = headers::onward(head, Scheme::HTTP);
    headers::strip(request.headers_mut());
    request
}

/// What is left of the headers of an answer.
pub fn strip(map: &mut HeaderMap) {
    headers::strip(map);
}

/// A timeout as it is told to the service.
pub fn timeout(left: Duration) -> HeaderValue {
    headers::format_timeout(left)
}

/// Whether the body of an answer to a health check says that the service is well.
///
/// # Errors
/// What was seen instead.
pub fn health(body: &[u8]) -> Result<bool, String> {
    health::is_serving(body)
}
