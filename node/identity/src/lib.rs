//! Who belongs to the mesh, who vouches for whom, and the certificates that follow.
//!
//! Each node is the authority of its own SPIFFE trust domain; the mesh is a signed map of members. This room
//! computes, from signed statements alone and the same on every node, who is a member ([`Members`]), issues
//! SVIDs ([`svid`]), verifies those of others ([`verify()`]), and admits newcomers ([`join`]). It does no IO:
//! files and sockets are `tls` and the shells above it. Who is alive is `membership`'s business.

pub mod soft_keys;

pub mod keyset;
pub mod scope;
pub mod statement;

pub mod author;
pub mod members;
mod view;

pub mod authority;
mod der;
pub mod svid;
pub mod verify;

pub mod join;
pub mod sync;
pub mod token;

#[cfg(test)]
mod testing;

pub use keyset::{AuthorityId, KeySet, SignerId};
pub use members::{Members, Merged};
pub use scope::Scope;
pub use soft_keys::SoftKeys;
pub use statement::{Member, Operator, Role, Signed, SignedRecord, Statement};
pub use verify::{Caller, Who, verify};
