//! Events in the database: their rows, how long they are kept, and how far each consumer has read.

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row};
use types::Timestamp;
use types::event::{Event, EventId, Priority};

use crate::change::Change;
use crate::config::Config;
use crate::error::Error;

/// Most bytes of one event's data as JSON: what CloudEvents 1.0, "Size Limits", has every carrier forward.
pub const EVENT_BYTES_MAX: usize = 64 << 10;

/// Where an event stands in the order of their commits. Never used twice; pruned events leave gaps.
/// The default is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl Seq {
    fn as_sql(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    fn from_sql(seq: i64) -> Self {
        Self(u64::try_from(seq).unwrap_or(0))
    }
}

/// An event and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Where it stands.
    pub seq: Seq,
    /// What happened.
    pub event: Event,
}

/// An event on its way to the writer, its data already text.
pub(crate) struct Entry {
    event: Event,
    data: String,
}

impl Entry {
    pub(crate) fn new(mut event: Event) -> Result<Self, Error> {
        let data = event.data.take().to_string();
        let bytes = data.len() + event.kind.len() + event.source.len() + event.subject.len();
        if bytes > EVENT_BYTES_MAX {
            return Err(Error::TooLarge { what: "event", bytes, bytes_max: EVENT_BYTES_MAX });
        }
        Ok(Self { event, data })
    }

    pub(crate) fn priority(&self) -> Priority {
        self.event.priority
    }

    /// Bytes it takes in memory and, roughly, on disk.
    pub(crate) fn bytes(&self) -> usize {
        let Event { kind, source, subject, .. } = &self.event;
        size_of::<Self>() + self.data.len() + kind.len() + source.len() + subject.len()
    }

    /// Adds its row within the transaction that is open on `connection`.
    pub(crate) fn insert(&self, connection: &Connection) -> rusqlite::Result<()> {
        let Event { id, kind, source, subject, time, priority, data: _ } = &self.event;
        let time_ms = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        connection
            .prepare_cached(
                "INSERT INTO events (id, kind, source, subject, time_ms, priority, data)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute((id.0, kind, source, subject, time_ms, number(*priority), &self.data))?;
        Ok(())
    }
}

/// How many rows there are of what is not kept for ever.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    n_info: u64,
    n_notice: u64,
}

impl Kept {
    pub(crate) fn count(connection: &Connection) -> rusqlite::Result<Self> {
        let sql = "SELECT count(*) FROM events WHERE priority = ?1";
        let count =
            |priority| connection.query_row(sql, [number(priority)], |row| row.get(0)).map(i64::unsigned_abs);
        Ok(Self { n_info: count(Priority::Info)?, n_notice: count(Priority::Notice)? })
    }

    pub(crate) fn add(&mut self, priority: Priority) {
        match priority {
            Priority::Info => self.n_info += 1,
            Priority::Notice => self.n_notice += 1,
            Priority::Audit => {}
        }
    }

    /// Removes the oldest rows beyond the bounds of `config`.
    pub(crate) fn prune(&mut self, connection: &Connection, config: &Config) -> rusqlite::Result<()> {
        prune(connection, Priority::Info, &mut self.n_info, config.info_rows_max)?;
        prune(connection, Priority::Notice, &mut self.n_notice, config.notice_rows_max)
    }
}

fn prune(connection: &Connection, priority: Priority, n: &mut u64, n_max: u32) -> rusqlite::Result<()> {
    let n_over = n.saturating_sub(u64::from(n_max));
    if n_over > 0 {
        connection
            .prepare_cached(
                "DELETE FROM events WHERE seq IN
                 (SELECT seq FROM events WHERE priority = ?1 ORDER BY seq LIMIT ?2)",
            )?
            .execute((number(priority), i64::try_from(n_over).unwrap_or(i64::MAX)))?;
        *n -= n_over;
    }
    Ok(())
}

/// The events after `cursor`, oldest first, at most `n_max`.
pub(crate) fn after(connection: &Connection, cursor: Seq, n_max: usize) -> rusqlite::Result<Vec<Stored>> {
    let mut statement = connection.prepare_cached(
        "SELECT seq, id, kind, source, subject, time_ms, priority, data FROM events
         WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    )?;
    let n_max = i64::try_from(n_max).unwrap_or(i64::MAX);
    statement.query_map((cursor.as_sql(), n_max), stored)?.collect()
}

fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    let data: String = row.get(7)?;
    let data = serde_json::from_str(&data)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(7, Type::Text, Box::new(error)))?;
    let priority = row.get(6)?;
    let event = Event {
        id: EventId(row.get(1)?),
        kind: row.get(2)?,
        source: row.get(3)?,
        subject: row.get(4)?,
        time: Timestamp::from_millis(row.get::<_, i64>(5)?.unsigned_abs()),
        priority: named(priority).ok_or(rusqlite::Error::IntegralValueOutOfRange(6, priority))?,
        data,
    };
    Ok(Stored { seq: Seq::from_sql(row.get(0)?), event })
}

/// How far `consumer` has read.
pub(crate) fn cursor(connection: &Connection, consumer: &str) -> rusqlite::Result<Seq> {
    let mut statement = connection.prepare_cached("SELECT seq FROM cursors WHERE consumer = ?1")?;
    let seq: Option<i64> = statement.query_row([consumer], |row| row.get(0)).optional()?;
    Ok(seq.map_or(Seq::default(), Seq::from_sql))
}

/// What sets how far `consumer` has read.
pub(crate) fn set_cursor(consumer: &str, seq: Seq) -> Change {
    Change::Execute {
        sql: "INSERT OR REPLACE INTO cursors (consumer, seq) VALUES (?1, ?2)",
        params: vec![consumer.to_owned().into(), seq.as_sql().into()],
    }
}

/// The number that stands for a priority in the database; never changed.
const fn number(priority: Priority) -> i64 {
    match priority {
        Priority::Info => 0,
        Priority::Notice => 1,
        Priority::Audit => 2,
    }
}

const fn named(number: i64) -> Option<Priority> {
    match number {
        0 => Some(Priority::Info),
        1 => Some(Priority::Notice),
        2 => Some(Priority::Audit),
        _ => None,
    }
}
