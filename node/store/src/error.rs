//! What can go wrong with the store, and what the operator can do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::ErrorCode;

/// The store could not be opened, read or written. Sources are shared, since one failed transaction fails
/// every commit in it.
#[derive(Clone, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields are")]
pub enum Error {
    /// Nothing was opened.
    #[error("`{field}` is out of bounds: set it from {bounds}")]
    Bounds { field: &'static str, bounds: &'static str },
    /// Nothing was opened.
    #[error(
        "failed to use `{dir}` as the state directory: let the user that runs sagemesh write there, or set \
         `state` to another"
    )]
    Directory { dir: PathBuf, source: Arc<io::Error> },
    /// Nothing was opened.
    #[error("others may write into the state directory `{dir}`: run `chmod go-w {dir}`")]
    Exposed { dir: PathBuf },
    /// Nothing was opened.
    #[error(
        "another sagemesh uses the state directory `{dir}`: stop it first, or set `state` to another directory"
    )]
    Locked { dir: PathBuf },
    /// What was opened was closed again.
    #[error("failed to start the store's thread: raise the limit on threads, see `ulimit -u`")]
    Thread { source: Arc<io::Error> },
    /// Nothing was changed by us, and nothing was made in its place.
    #[error(
        "`{path}` is damaged or no store of sagemesh ({found}): restore it from a backup, or move it and the \
         files that begin with its name aside and join the mesh again"
    )]
    Damaged { path: PathBuf, found: String },
    /// Nothing was changed.
    #[error(
        "the tables of `{room}` have version {found}, and this release knows {known}: start the newer release \
         that wrote them, or restore the backup made before it"
    )]
    Newer { room: &'static str, found: u32, known: u32 },
    /// All tables of all rooms are as they were before.
    #[error(
        "failed to bring the tables of `{room}` to version {version}: go back to the release used before, and \
         report this"
    )]
    Migration { room: &'static str, version: u32, source: Arc<rusqlite::Error> },
    /// Nothing was opened.
    #[error("failed to open `{path}`: see that its user and its file system let sagemesh read and write it")]
    Open { path: PathBuf, source: Arc<rusqlite::Error> },
    /// Nothing was opened.
    #[error(
        "the file system of `{path}` cannot hold a write-ahead log: set `state` to a directory on a local disk"
    )]
    NoLog { path: PathBuf },
    /// A durable commit was not made; a batched one is kept and tried again.
    #[error("no space is left for `{path}`: free some on its file system; the store then goes on by itself")]
    Full { path: PathBuf, source: Arc<rusqlite::Error> },
    /// A durable commit was not made, or if the machine dies now perhaps was, whole; a batched one is kept
    /// and tried again.
    #[error("failed to write to `{path}`: check its disk with `dmesg`; the store goes on once writing works")]
    Write { path: PathBuf, source: Arc<rusqlite::Error> },
    /// As for `Write`.
    #[error("another program writes to `{path}` and does not end: close what has it open, such as sqlite3")]
    Busy { path: PathBuf, source: Arc<rusqlite::Error> },
    /// Nothing of this commit was written; others are not affected.
    #[error(
        "the database refused a statement of this commit: this is a bug of the room that made it, report it"
    )]
    Refused { source: Arc<rusqlite::Error> },
    /// Nothing of this commit was written.
    #[error("a {what} of {bytes} bytes is too large, {bytes_max} are allowed: divide it")]
    TooLarge { what: &'static str, bytes: usize, bytes_max: usize },
    /// Nothing was changed.
    #[error("failed to read from `{path}`: check its disk with `dmesg`")]
    Read { path: PathBuf, source: Arc<rusqlite::Error> },
    /// Nothing was changed.
    #[error("the store is closed: the node is stopping")]
    Closed,
}

impl Error {
    /// The error if `source` is the disk's or the file's fault; `None` if it is the statement's.
    pub(crate) fn of_disk(path: &Path, source: &Arc<rusqlite::Error>) -> Option<Self> {
        let (path, source) = (path.to_path_buf(), Arc::clone(source));
        // No room for its shared memory, which SQLite does not call a full disk.
        if source.sqlite_error()?.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE {
            return Some(Self::Full { path, source });
        }
        match source.sqlite_error_code()? {
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
                Some(Self::Damaged { path, found: source.to_string() })
            }
            ErrorCode::DiskFull => Some(Self::Full { path, source }),
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Some(Self::Busy { path, source }),
            ErrorCode::CannotOpen
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::InternalMalfunction
            | ErrorCode::NoLargeFileSupport
            | ErrorCode::OperationAborted
            | ErrorCode::OperationInterrupted
            | ErrorCode::OutOfMemory
            | ErrorCode::PermissionDenied
            | ErrorCode::ReadOnly
            | ErrorCode::SystemIoFailure => Some(Self::Write { path, source }),
            _ => None,
        }
    }
}
