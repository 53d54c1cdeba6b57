//! Links between nodes, and the streams over them: libp2p over TCP and yamux, secured by our own mTLS.
//!
//! A link is a connection whose peer is a member, seen post-quantum. The room dials, accepts, keeps one link a
//! peer, and closes it at once when the peer no longer counts. Other rooms ask a [`Handle`] to open and
//! accept streams by protocol. Two protocols are its own: it drives the `membership` core and compares member
//! maps. It decides neither who is alive nor who belongs: what peers say of members goes to the map's owner.
//! It alone uses libp2p.

pub mod config;
pub mod error;
pub mod metrics;

mod address;
mod muxer;
mod socket;
mod transport;

pub mod link;
mod negotiation;
pub mod protocol;
pub mod stream;
mod swarm;

mod dialer;
pub mod handle;
mod mdns;
pub mod room;

pub mod gossip;
pub mod reach;
pub mod sync;

#[doc(hidden)]
pub mod fuzz;

pub use config::Config;
pub use error::Error;
pub use gossip::{Gossip, Gossiping};
pub use handle::Handle;
pub use link::{Direction, Link, Snapshot};
pub use metrics::Count;
pub use protocol::{Incoming, Limits, Protocol};
pub use reach::Reach;
pub use room::{Event, Events, Mesh};
pub use stream::Stream;
pub use transport::ALPN;
