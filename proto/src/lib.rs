//! The wire contract of the mesh, generated from the `.proto` files beside this crate.
//!
//! `identity::v1` here is package `sagemesh.identity.v1`, and so on. The comments stand in the `.proto`
//! files. Nothing is checked here: each room turns messages into its own types as they enter.

#[allow(missing_docs, unreachable_pub, reason = "generated; documented in the .proto files")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/all.rs"));
}

pub use generated::sagemesh::*;
pub use prost::{DecodeError, Message, Name};
