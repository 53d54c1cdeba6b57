//! HTTP/2 for a relay (RFC 9113 and RFC 7541): bytes in, events and bytes out.
//!
//! A core: it reads from bytes that the caller owns, writes into an output that the caller owns, and is told the time.
//! It knows frames, fields, windows and streams; it knows nothing of sockets, of TLS, of gRPC, and of where a
//! message goes. In steady state it allocates nothing for a frame or a stream.
//!
//! Left out on purpose: server push, priorities, extended CONNECT, and HTTP/1.1.

pub mod frame;
pub mod hpack;

mod authority;
mod code;
mod config;
mod error;
mod flood;

mod conn;

mod message;
mod settings;
mod streams;

pub use crate::authority::Authorities;
pub use crate::code::Code;
pub use crate::config::{Bounds, Config, Floods};
pub use crate::conn::{Cause, Conn, Event, Message, Role};
pub use crate::error::{Error, SendError};
pub use crate::flood::{Counts, Flood, Limit};
pub use crate::streams::Stream;
