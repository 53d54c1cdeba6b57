//! Nodes on one network that know no address of each other, and what mDNS does about it. As root only.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod lan;
mod stories;
