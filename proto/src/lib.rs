//! The wire contract of the mesh, generated from the `.proto` files beside this crate.
//!
//! `identity::v1` here is package `sagemesh.identity.v1`, and so on. The comments stand in the `.proto`
//! files. Nothing is checked here: each room turns messages into its own types as they enter.

#[allow(missing_docs, unreachable_pub, reason = "generated; documented in the .proto files")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/all.rs"));
}

/// All `.proto` files compiled, as an encoded `google.protobuf.FileDescriptorSet`: for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

pub use generated::sagemesh::*;
pub use generated::{google, grpc};
pub use prost::{DecodeError, Message, Name};
