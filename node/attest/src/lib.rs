//! Which process owns a socket: who calls over TCP, who is at the other end of a Unix socket, who listens.
//!
//! The kernel is asked for the exact connection (`sock_diag`, Documentation: man 7 sock_diag), which tells the
//! user, the inode and the control group of whoever *made* the socket; which program holds it is read from
//! /proc. Nothing is decided here: what an owner may do is the proxy's business, and which service it is
//! follows from selectors that an operator wrote. Linux only.

mod attestor;
mod error;
mod owner;
mod selector;

mod cgroup;
mod diag;
mod process;

#[doc(hidden)]
pub mod fuzz;

pub use attestor::Attestor;
pub use error::Error;
pub use owner::Owner;
pub use selector::{Malformed, Selector};

#[cfg(test)]
mod tests;
