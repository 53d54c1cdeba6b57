//! What is read of fields and answers, and the relay by hand, for `tests/fuzz` alone.

use std::time::Duration;

use wire::hpack::{Fields, Name};

use types::{Reason, Refusal};

use crate::headers::{self, Asked};
use crate::{health, trace};

pub use crate::relay::rig::{Held, Rig, Scene};

/// What the fields of a call or of an answer say.
#[derive(Debug)]
pub struct Said {
    /// The host that it is for.
    pub host: Vec<u8>,
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

/// Reads all that is read of fields.
pub fn read(fields: &Fields) -> Said {
    let asked = Asked::of(fields);
    let traced = fields.value(Name::Traceparent).and_then(|it| trace::parent(std::str::from_utf8(it).ok()?));
    Said {
        host: asked.host(fields).to_vec(),
        timeout: asked.timeout(fields),
        status: headers::status(fields),
        server_time: headers::server_time(fields),
        refused: headers::refused(fields),
        is_taken: asked.is_grpc && asked.check(fields).is_ok(),
        is_traced: traced.is_some(),
    }
}

/// Makes a call what goes to a service of this node, called by `caller`.
pub fn onward(fields: &mut Fields, caller: &[u8]) {
    Asked::of(fields).onward(fields, b"http", (Name::XForwardedClientCert, caller));
}

/// Leaves of the fields of an answer what passes.
pub fn strip(fields: &mut Fields) {
    headers::strip(fields);
}

/// Sets a timeout as it is told to the service.
pub fn set_timeout(fields: &mut Fields, left: Duration) {
    headers::set_timeout(fields, left);
}

/// Whether the body of an answer to a health check says that the service is well.
///
/// # Errors
/// What was seen instead.
pub fn health(body: &[u8]) -> Result<bool, String> {
    health::is_serving(body)
}
