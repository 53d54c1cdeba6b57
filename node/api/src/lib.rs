//! What operators and workloads ask of a node, by gRPC.
//!
//! Decides who may ask what, and nothing else: what the node knows and does comes through [`Node`]. It listens
//! on a TCP port, where members and operators show certificates and newcomers join, and on a Unix socket,
//! where the kernel says who calls.

pub mod config;
pub mod error;
pub mod metrics;
pub mod node;

pub mod refusal;
pub mod roles;

mod convert;
mod watching;

mod identity_service;
mod mesh_service;
mod service_service;

mod gate;
mod origin;

mod connection;
mod joining;
mod places;
pub mod server;
mod socket;

pub use config::Config;
pub use error::Error;
pub use metrics::{Count, Counts};
pub use node::Node;
pub use server::Server;
