//! What a node keeps on disk: one SQLite database, written by one thread, in transactions that hold what
//! changed and the events that tell of it, so that neither is ever seen without the other.
//!
//! What must be durable is on disk before [`Handle::commit`] returns; the rest is gathered for up to
//! [`Config::commit_delay`] and written at once, which is kind to SD cards. Knows nothing of what the rooms
//! keep, and delivers events to nobody: sinks read them with [`Handle::events_after`].
//! Follows <https://sqlite.org/wal.html> and <https://sqlite.org/atomiccommit.html>.

mod change;
mod config;
mod error;
mod event;
mod file;
mod queue;
mod read;
mod room;
mod store;
mod writer;

pub use change::{Change, Durability};
pub use config::Config;
pub use error::Error;
pub use event::{EVENT_BYTES_MAX, Seq, Stored};
pub use queue::COMMIT_BYTES_MAX;
pub use read::{EVENTS_PER_READ_MAX, Pair, READ_BYTES_MAX};
pub use room::Room;
pub use rusqlite::types::Value;
pub use store::{Counts, Handle, Store};
