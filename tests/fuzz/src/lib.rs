//! What fuzz targets share: keys whose every signature holds, a mesh to be hostile to, ends of connections, edits, and
//! seeds.
//!
//! Keys and wall time are constants, so that a failing input fails again; only P-256 signatures differ from run
//! to run, and with them the seeds that are leaves.

pub mod edit;
pub mod end;
pub mod keys;
pub mod mesh;
pub mod seed;

pub use edit::Edit;
pub use keys::Lenient;
pub use mesh::Mesh;
