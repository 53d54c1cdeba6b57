//! Rooms and the versions of their tables.
//!
//! A version is the number of migrations that were run, kept per room in table `rooms`. The store's own
//! tables are a room too.

use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use crate::error::Error;

/// A user of the store and the history of its tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Its one word, under which its keys and its version are kept.
    pub name: &'static str,
    /// SQL that brings its tables from each version to the next, oldest first. What was released is never
    /// changed, only followed by more. Empty for a room that is content with keys and values.
    pub migrations: &'static [&'static str],
}

/// The store's own tables: keys and values, events, cursors.
pub(crate) const OWN: Room = Room {
    name: "store",
    migrations: &["
        CREATE TABLE kv (
            room TEXT NOT NULL,
            key BLOB NOT NULL,
            value BLOB NOT NULL,
            PRIMARY KEY (room, key)
        ) STRICT;
        -- AUTOINCREMENT: a sequence number is never used again, not even after the newest event was pruned.
        CREATE TABLE events (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            id BLOB NOT NULL,
            kind TEXT NOT NULL,
            source TEXT NOT NULL,
            subject TEXT NOT NULL,
            time_ms INTEGER NOT NULL,
            priority INTEGER NOT NULL,
            data TEXT NOT NULL
        ) STRICT;
        CREATE INDEX events_by_priority ON events (priority);
        CREATE TABLE cursors (consumer TEXT PRIMARY KEY, seq INTEGER NOT NULL) STRICT;
    "],
};

/// Brings the tables of all `rooms` to the versions that this release knows, or changes nothing at all.
pub(crate) fn migrate(path: &Path, connection: &mut Connection, rooms: &[Room]) -> Result<(), Error> {
    let failed = |room: &'static str, version: u32, source: rusqlite::Error| {
        let source = Arc::new(source);
        Error::of_disk(path, &source).unwrap_or(Error::Migration { room, version, source })
    };
    let begin = connection.transaction_with_behavior(TransactionBehavior::Immediate);
    let transaction = begin.map_err(|error| failed(OWN.name, 0, error))?;
    for room in rooms {
        let found = version(&transaction, room).map_err(|error| failed(room.name, 0, error))?;
        let known = u32::try_from(room.migrations.len()).expect("nobody writes 2^32 migrations");
        if found > known {
            return Err(Error::Newer { room: room.name, found, known });
        }
        for (sql, version) in room.migrations.iter().zip(1u32..).skip(found as usize) {
            let run = transaction.execute_batch(sql).and_then(|()| record(&transaction, room, version));
            run.map_err(|error| failed(room.name, version, error))?;
        }
    }
    transaction.commit().map_err(|error| failed(OWN.name, 0, error))
}

fn version(connection: &Connection, room: &Room) -> rusqlite::Result<u32> {
    let sql = "SELECT version FROM rooms WHERE name = ?1";
    Ok(connection.query_row(sql, [room.name], |row| row.get(0)).optional()?.unwrap_or(0))
}

fn record(connection: &Connection, room: &Room, version: u32) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO rooms (name, version) VALUES (?1, ?2)";
    connection.execute(sql, (room.name, version)).map(drop)
}
