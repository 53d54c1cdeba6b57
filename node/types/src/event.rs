//! What happened, as others may read it: the attributes of CloudEvents 1.0 that we use. Sinks write the
//! JSON form, with `specversion` and an RFC 3339 `time`.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// Names an event for ever, everywhere; drawn at random by its author. It is CloudEvents' `id` and the
/// `Nats-Msg-Id` of a sink.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventId(pub [u8; 16]);

/// A text is not an event id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an event id: it has 32 hexadecimal digits")]
pub struct Error;

impl FromStr for EventId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| Error)?;
        Ok(Self(bytes.try_into().map_err(|_| Error)?))
    }
}

impl TryFrom<String> for EventId {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<EventId> for String {
    fn from(id: EventId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is kept when there is room for some events only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// May be shed under pressure, and the shedding is counted.
    Info,
    /// Waits for room.
    Notice,
    /// Never dropped: who did what to the mesh.
    Audit,
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Names it.
    pub id: EventId,
    /// CloudEvents' `type`: room, subject, verb and version, such as `mesh.peer.joined.v1`. Its meaning never
    /// changes.
    pub kind: String,
    /// Where: the SPIFFE ID of the node.
    pub source: String,
    /// To whom or what; empty if to the node itself.
    pub subject: String,
    /// When, by the author's clock.
    pub time: Timestamp,
    /// How dear it is.
    pub priority: Priority,
    /// The facts, by the kind's own schema.
    pub data: serde_json::Value,
}
