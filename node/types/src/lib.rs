//! The words that every room shares, so that no room has to import another to speak of a node, a key, a
//! flow, a refusal or a moment.
//!
//! Holds no rule of any room and does no IO; it depends on nothing of ours.

mod chain;
pub mod time;

pub mod name;
pub mod spiffe;

pub mod digest;
pub mod key;
pub mod peer;

pub mod envelope;
pub mod reason;

pub mod call;
pub mod edge;
pub mod event;
pub mod flow;
pub mod histogram;

pub use chain::chain;
pub use digest::Digest;
pub use edge::{EdgeKey, Party};
pub use envelope::Envelope;
pub use key::{Algorithm, KeySlot, Keys, PublicKey};
pub use name::{MeshName, NodeName, ServiceName, TrustDomain};
pub use peer::PeerId;
pub use reason::{Reason, Refusal};
pub use spiffe::{SpiffeId, Workload};
pub use time::{Now, Timestamp};
