//! What a commit can change.

use rusqlite::Connection;
use rusqlite::types::Value;

/// When a commit is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Before [`Handle::commit`](crate::Handle::commit) returns: membership, plans, audit.
    Durable,
    /// Within [`Config::commit_delay`](crate::Config::commit_delay), later while the disk is full.
    Batched,
}

/// One change of a commit.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Sets a key of a room to a value.
    Put {
        /// Whose key it is; rooms do not see each other's.
        room: &'static str,
        /// The key.
        key: Vec<u8>,
        /// The value, which replaces any before.
        value: Vec<u8>,
    },
    /// Removes a key of a room, if it is there.
    Delete {
        /// Whose key it is.
        room: &'static str,
        /// The key.
        key: Vec<u8>,
    },
    /// Runs one statement on tables that the room's migrations made.
    Execute {
        /// The statement, with `?1`, `?2` … for `params`.
        sql: &'static str,
        /// Its parameters, in order.
        params: Vec<Value>,
    },
}

impl Change {
    /// Bytes it takes in memory and, roughly, on disk.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Put { key, value, .. } => key.len() + value.len(),
                Self::Delete { key, .. } => key.len(),
                Self::Execute { params, .. } => params.iter().map(value_bytes).sum(),
            }
    }

    /// Makes the change within the transaction that is open on `connection`.
    pub(crate) fn apply(&self, connection: &Connection) -> rusqlite::Result<()> {
        match self {
            Self::Put { room, key, value } => connection
                .prepare_cached("INSERT OR REPLACE INTO kv (room, key, value) VALUES (?1, ?2, ?3)")?
                .execute((room, key, value))?,
            Self::Delete { room, key } => connection
                .prepare_cached("DELETE FROM kv WHERE room = ?1 AND key = ?2")?
                .execute((room, key))?,
            Self::Execute { sql, params } => {
                connection.prepare_cached(sql)?.execute(rusqlite::params_from_iter(params))?
            }
        };
        Ok(())
    }
}

/// Bytes that a value takes in memory.
pub(crate) fn value_bytes(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::Text(text) => text.len(),
            Value::Blob(blob) => blob.len(),
            Value::Null | Value::Integer(_) | Value::Real(_) => 0,
        }
}
