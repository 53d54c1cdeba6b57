//! Reading: a few connections of their own, which the writer never blocks and which never block it.
//!
//! Each read sees one state of the database, with whole commits only.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension};
use tokio::sync::Semaphore;
use tokio::task;

use crate::change::value_bytes;
use crate::error::Error;
use crate::file;

/// Most bytes that one read answers.
pub const READ_BYTES_MAX: usize = 64 << 20;
/// Most events that one read answers.
pub const EVENTS_PER_READ_MAX: usize = 1000;
/// Reads at the same time; more wait.
const READERS_MAX: usize = 2;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// The connections for reading.
pub(crate) struct Readers {
    path: PathBuf,
    places: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, places: Arc::new(Semaphore::new(READERS_MAX)), idle: Mutex::default() }
    }

    /// Reads off the reactor, since the disk may be slow.
    pub(crate) async fn read<T: Send + 'static>(
        self: Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, Error> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| Error::Closed)?;
        let reading = task::spawn_blocking(move || {
            let answer = self.read_now(read);
            drop(place);
            answer
        });
        match reading.await {
            Ok(answer) => answer,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(Error::Closed),
            },
        }
    }

    fn read_now<T>(&self, read: impl FnOnce(&Connection) -> Result<T, ReadError>) -> Result<T, Error> {
        let idle = self.idle.lock().expect("nobody panics while holding it").pop();
        let connection = match idle {
            Some(connection) => connection,
            None => file::open_reader(&self.path).map_err(|error| self.failed(error.into()))?,
        };
        let answer = read(&connection).map_err(|error| self.failed(error))?;
        self.idle.lock().expect("nobody panics while holding it").push(connection);
        Ok(answer)
    }

    fn failed(&self, error: ReadError) -> Error {
        match error {
            ReadError::TooLarge { bytes } => {
                Error::TooLarge { what: "read", bytes, bytes_max: READ_BYTES_MAX }
            }
            ReadError::Sql(source) => {
                let source = Arc::new(source);
                match Error::of_disk(&self.path, &source) {
                    Some(Error::Write { path, source }) => Error::Read { path, source },
                    Some(error) => error,
                    None => Error::Refused { source },
                }
            }
        }
    }

    /// Ends reading; reads in progress are answered.
    pub(crate) fn close(&self) {
        self.places.close();
        self.idle.lock().expect("nobody panics while holding it").clear();
    }
}

/// Why a read failed.
pub(crate) enum ReadError {
    /// The answer has more than [`READ_BYTES_MAX`].
    TooLarge { bytes: usize },
    /// The database's own.
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for ReadError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

/// The value of a room's key.
pub(crate) fn get(connection: &Connection, room: &str, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
    let mut statement = connection.prepare_cached("SELECT value FROM kv WHERE room = ?1 AND key = ?2")?;
    Ok(statement.query_row((room, key), |row| row.get(0)).optional()?)
}

/// The keys of a room that begin with `prefix`, in their order, with their values.
pub(crate) fn scan(connection: &Connection, room: &str, prefix: &[u8]) -> Result<Vec<Pair>, ReadError> {
    let mut statement =
        connection.prepare_cached("SELECT key, value FROM kv WHERE room = ?1 AND key >= ?2 ORDER BY key")?;
    let mut rows = statement.query((room, prefix))?;
    let mut found = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let key: Vec<u8> = row.get(0)?;
        if !key.starts_with(prefix) {
            break;
        }
        let value: Vec<u8> = row.get(1)?;
        bytes = within(bytes + key.len() + value.len())?;
        found.push((key, value));
    }
    Ok(found)
}

/// The rows that a statement of a room on its own tables gives.
pub(crate) fn query(
    connection: &Connection,
    sql: &str,
    params: Vec<Value>,
) -> Result<Vec<Vec<Value>>, ReadError> {
    let mut statement = connection.prepare_cached(sql)?;
    let n_columns = statement.column_count();
    let mut rows = statement.query(rusqlite::params_from_iter(params))?;
    let mut found = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let values = (0..n_columns).map(|column| row.get(column)).collect::<Result<Vec<Value>, _>>()?;
        bytes = within(bytes + values.iter().map(value_bytes).sum::<usize>())?;
        found.push(values);
    }
    Ok(found)
}

fn within(bytes: usize) -> Result<usize, ReadError> {
    if bytes > READ_BYTES_MAX { Err(ReadError::TooLarge { bytes }) } else { Ok(bytes) }
}
