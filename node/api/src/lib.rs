//! What operators and workloads ask of a node, by gRPC.
//!
//! Decides who may ask what, and nothing else: what the node knows and does comes through [`Node`].

pub mod node;

pub use node::Node;
