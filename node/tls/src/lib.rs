//! TLS 1.3 with SVIDs: who is at the other end, and how well the connection is kept.
//!
//! This shell owns what the `identity` core must not: key files, random keys of leaves, handshakes. A
//! [`Server`] or [`Client`] answers with a stream and a [`Peer`]; it decides nothing that [`identity::verify()`]
//! has not decided. TLS 1.2 and bundles of certificate authorities are deliberately absent.

pub mod keyfile;
pub mod pem;
pub mod random;

mod chooser;
pub mod svids;
mod verifier;

pub mod client;
pub mod frame;
pub mod news;
pub mod peer;
pub mod server;

pub use client::{Client, Expect};
pub use news::{News, news};
pub use peer::{Error, Peer, Pq};
pub use server::{Accepted, Server};
pub use svids::{Rotation, Svids};
