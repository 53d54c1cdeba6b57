//! Tests with the real cryptography and real peers.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may fail where it stands; its modules share")]

mod api;
mod chaos;
mod gossip;
mod hostile;
mod join;
mod mesh;
mod proxy;
mod reference;
mod stock;
mod tls;
mod town;
mod verify;
mod world;
