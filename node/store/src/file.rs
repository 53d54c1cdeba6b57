//! The database's file: who may see it, who holds it, and whether it is sound.
//!
//! A new database is made whole under another name and then renamed. So an empty file, or a log without its
//! database, is damage and never a beginning, and is refused instead of being filled anew.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::error::Error;

/// Stands in the header of each of our databases (`PRAGMA application_id`): "Sage".
const APPLICATION_ID: i32 = 0x5361_6765;
/// How long to wait for another program, such as sqlite3, to end its transaction.
const BUSY_MAX: Duration = Duration::from_secs(5);
/// Bytes to which the write-ahead log is cut back after it has grown beyond them.
const LOG_BYTES_KEPT: u32 = 8 << 20;

/// Makes the directory if it is missing and takes it for this process for as long as the file is held.
pub(crate) fn lock(dir: &Path) -> Result<File, Error> {
    let failed = |source| Error::Directory { dir: dir.to_path_buf(), source: Arc::new(source) };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    if fs::metadata(dir).map_err(failed)?.permissions().mode() & 0o022 != 0 {
        return Err(Error::Exposed { dir: dir.to_path_buf() });
    }
    let file = create(&dir.join("store.lock"), false).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { dir: dir.to_path_buf() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Opens the database in `dir` for writing, and makes it if it was never there. The caller holds the lock.
pub(crate) fn open(dir: &Path) -> Result<(PathBuf, Connection), Error> {
    let path = dir.join("store.db");
    let has_log = dir.join("store.db-wal").exists();
    match fs::metadata(&path) {
        Ok(data) if data.len() == 0 => return Err(damaged(&path, "it is empty")),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound && has_log => {
            return Err(damaged(&path, "it is missing, and store.db-wal is there"));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => found(dir, &path)?,
        Err(error) => {
            return Err(Error::Directory { dir: dir.to_path_buf(), source: Arc::new(error) });
        }
    }
    let connection = connect(&path)?;
    Ok((path, connection))
}

/// Opens the database for reading.
pub(crate) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_MAX)?;
    Ok(connection)
}

/// Makes an empty database of ours at `path`.
fn found(dir: &Path, path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Directory { dir: dir.to_path_buf(), source: Arc::new(source) };
    let draft = dir.join("store.db.new");
    // What an attempt that was cut off has left holds nothing yet.
    for leftover in [draft.clone(), dir.join("store.db.new-journal")] {
        match fs::remove_file(&leftover) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
    }
    create(&draft, true).map_err(failed)?;
    fill(&draft).map_err(|error| at_open(&draft, error))?;
    let sync = |path: &Path| File::open(path)?.sync_all();
    sync(&draft).and_then(|()| fs::rename(&draft, path)).and_then(|()| sync(dir)).map_err(failed)
}

fn fill(draft: &Path) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(draft, flags)?;
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    connection
        .execute_batch("CREATE TABLE rooms (name TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT")?;
    connection.close().map_err(|(_, error)| error)
}

/// Opens what is at `path`, after seeing that it is ours and sound.
fn connect(path: &Path) -> Result<Connection, Error> {
    let failed = |error| at_open(path, error);
    // No SQLITE_OPEN_CREATE: a file that vanished meanwhile is not made anew.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY_MAX).map_err(failed)?;
    let id: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(failed)?;
    if id != APPLICATION_ID {
        return Err(damaged(path, "it is a database of another program"));
    }
    let verdict: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
    if verdict != "ok" {
        // A headline with the database's name stands before what was found.
        return Err(damaged(path, verdict.lines().last().unwrap_or_default()));
    }
    configure(path, &connection)?;
    Ok(connection)
}

fn configure(path: &Path, connection: &Connection) -> Result<(), Error> {
    let failed = |error| at_open(path, error);
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0)).map_err(failed)?;
    if mode != "wal" {
        return Err(Error::NoLog { path: path.to_path_buf() });
    }
    // FULL syncs the log at each commit. Batched commits share one, so they need no weaker setting.
    connection.pragma_update(None, "synchronous", "full").map_err(failed)?;
    connection.pragma_update_and_check(None, "journal_size_limit", LOG_BYTES_KEPT, |_| Ok(())).map_err(failed)
}

fn create(path: &Path, must_be_new: bool) -> io::Result<File> {
    // SQLite gives its log and its shared memory the mode of the database.
    OpenOptions::new().write(true).create(true).create_new(must_be_new).truncate(false).mode(0o600).open(path)
}

fn at_open(path: &Path, error: rusqlite::Error) -> Error {
    let source = Arc::new(error);
    match Error::of_disk(path, &source) {
        Some(Error::Write { path, source }) => Error::Open { path, source },
        Some(error) => error,
        None => Error::Open { path: path.to_path_buf(), source },
    }
}

fn damaged(path: &Path, found: &str) -> Error {
    Error::Damaged { path: path.to_path_buf(), found: found.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_synced_to_the_disk() {
        let dir = tempfile::tempdir().expect("a writable /tmp");
        let (_, connection) = open(dir.path()).expect("a new database");
        let synchronous: i32 =
            connection.pragma_query_value(None, "synchronous", |row| row.get(0)).expect("a pragma");
        assert_eq!(synchronous, 2, "2 is FULL");
    }

    #[test]
    fn a_database_without_a_log_is_refused() {
        let connection = Connection::open_in_memory().expect("memory");
        let error = configure(Path::new("store.db"), &connection).expect_err("memory has no log");
        assert!(matches!(error, Error::NoLog { .. }), "{error}");
    }
}
