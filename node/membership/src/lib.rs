//! Who is alive, and what each node says of itself.
//!
//! Liveness is SWIM (Das, Gupta, Motivala 2002) with Lifeguard (Dadgar, Phillips, Currey 2018) over mesh
//! streams, where loss is delay; state is one signed record a node, spread by pushed digests and by the
//! anti-entropy of van Renesse, Dumitriu, Gough and Thomas (2008). The ring of neighbours is that of Rapid
//! (Suresh et al. 2018, section 4.1). docs/adr/0004-membership.md says why each.
//!
//! A core: no socket, task, clock or randomness of its own. It follows the peers that it is told are
//! admitted; who may admit a member is not its business, and it never decides whom to trust.

mod config;

mod charge;
mod record;
mod wire;

mod member;
mod ring;

mod exchange;
mod gossip;
mod health;
mod own;
mod probe;
mod suspicion;

mod core;

#[cfg(test)]
mod testing;

pub use crate::config::Config;
pub use crate::core::{Effect, Input, Membership, Outbox};
pub use crate::member::{Liveness, MEMBERS_MAX, ShortId};
pub use crate::record::{ENTRIES_MAX, Entry, KEY_LEN_MAX, RECORD_LEN_MAX, Record, Stamp, VALUE_LEN_MAX};
pub use crate::wire::PACKET_LEN_MAX;
