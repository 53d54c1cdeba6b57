//! The hot path: threads that carry calls between connections that others have made and attested.
//!
//! Each worker is a thread with an event loop of its own, and owns the connections that were handed to it, the calls
//! on them, and the connections to services that those calls go by; nothing of these is shared. In one turn it reads
//! what came, does what follows, and at the end writes to each connection once. Nothing here waits for anything but
//! the next turn. `wire` knows HTTP/2; what a call means is here.

mod conn;
mod inbox;
mod io;
mod pool;
mod slab;
mod timer;

mod call;
mod lane;

mod worker;

mod download;
mod end;
mod guest;
mod near;
mod upkeep;
mod upload;
mod upstream;

mod crew;

pub(crate) mod rig;

#[cfg(test)]
mod tests;

pub(crate) use self::crew::{Crew, Working};
pub(crate) use self::inbox::{Newcomer, Reply};
pub(crate) use self::io::Socket;
