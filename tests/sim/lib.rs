//! A seeded simulation of a mesh in virtual time: many cores, one thread, one clock.
//!
//! What lies between nodes is modelled as what they get in reality: streams. Loss is delay, a late message
//! holds up all behind it, connections stall or break, a crash is silence, and a process that does not run
//! finds its messages waiting. The same seed gives the same run.

mod wheel;

mod keys;
mod net;

mod mesh;
mod sage;

pub use keys::{SimKeys, peer};
pub use mesh::{Action, Event, Mesh, Node, Seen, Verdict};
pub use net::{MESSAGE_OVERHEAD_BYTES, Weather};
pub use sage::{Sage, mesh, mesh_of};
