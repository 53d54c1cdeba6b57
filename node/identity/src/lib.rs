//! x
pub mod author;
pub mod keyset;
pub mod members;
pub mod scope;
pub mod soft_keys;
pub mod statement;
mod view;
pub use keyset::{AuthorityId, KeySet, SignerId};
pub use members::{Members, Merged};
pub use scope::Scope;
pub use soft_keys::SoftKeys;
pub use statement::{Member, Operator, Role, Signed, Statement};
