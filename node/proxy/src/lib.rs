//! Carries calls between services over mutual TLS.
//!
//! A shell: callers on this machine connect in the clear and are attested; `route` picks an endpoint; the call
//! goes there over a pooled HTTP/2 connection between the two services' SVIDs; the other node's proxy
//! authorises it and hands it to the local service. Bodies are never looked at and never held back beyond
//! what flow control allows. HTTP/1.1 and other TCP go through tunnels, as bytes. Connections are accepted, attested,
//! secured and made by tokio; the calls on them are carried by the threads of `relay`. Where a node's port cannot be
//! reached, they go over the mesh link to it, by streams that the mesh lends.

pub mod health;

mod config;
mod error;
mod metrics;
mod table;

mod handle;
mod room;

mod doors;
mod inbound;
mod outbound;
mod tunnel;

mod bridge;
mod carrier;
mod detours;
mod dial;
mod links;
mod relay;
mod way;

mod connections;
mod edges;
mod headers;
mod refusal;
mod routes;
mod shares;
mod socket;
mod tasks;
mod trace;

#[doc(hidden)]
pub mod fuzz;

pub use crate::config::{Config, Tunnel};
pub use crate::connections::{ConnectionView, Direction};
pub use crate::error::Error;
pub use crate::handle::Handle;
pub use crate::links::{Bytes, Lent, LinkStream, Links};
pub use crate::metrics::{Count, FLOODS, FRAMES, REFUSALS};
pub use crate::room::Proxy;
pub use crate::table::{Backend, Local, Protocol, Table};
pub use crate::way::Way;

pub use wire::Flood;
