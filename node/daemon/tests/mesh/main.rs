//! Nodes as people run them: real processes, real invitations, stock gRPC clients and services.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod asleep;
mod audit;
mod stories;
mod town;
