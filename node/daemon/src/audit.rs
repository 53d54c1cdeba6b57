//! The events of the audit: who did what to the mesh or to this node. The store never drops them.

use serde_json::Value;
use types::event::{Event, EventId, Priority};
use types::{Now, SpiffeId, TrustDomain};

use tls::random;

/// What was done at the node `own`, and to whom or what.
pub(crate) fn event(own: &TrustDomain, now: Now, kind: &str, subject: &str, data: Value) -> Event {
    Event {
        id: EventId(random::bytes()),
        kind: kind.to_owned(),
        source: SpiffeId::node(own.clone()).to_string(),
        subject: subject.to_owned(),
        time: now.wall,
        priority: Priority::Audit,
        data,
    }
}
