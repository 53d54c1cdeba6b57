//! The store as others hold it: [`Store`] owns it, [`Handle`]s use it.

use std::convert::Infallible;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::error;
use types::event::{Event, Priority};

use crate::change::{Change, Durability};
use crate::config::Config;
use crate::error::Error;
use crate::event::{self, Entry, Seq, Stored};
use crate::queue::{Commit, Queue};
use crate::read::{self, EVENTS_PER_READ_MAX, Pair, Readers};
use crate::room::{self, OWN, Room};
use crate::writer::{Counters, Writer};
use crate::{Value, file};

/// The open store: it owns the writer and the right to the directory. Dropping it closes it as
/// [`Store::close`] does, and blocks for that long.
pub struct Store {
    handle: Handle,
    writer: Option<thread::JoinHandle<Result<(), Error>>>,
    ended: oneshot::Receiver<Infallible>,
    /// Held until the writer has ended; the kernel lets go of it even when the process is killed.
    _lock: File,
}

impl Store {
    /// Opens the database in `config.dir`, makes it if there is none, and brings the tables of `rooms` up to
    /// date. Blocks: the whole database is checked.
    ///
    /// # Errors
    /// As each variant of [`Error`] says. What a refusal leaves behind is at most an empty database where none
    /// was.
    pub fn open(config: &Config, rooms: &[Room]) -> Result<Self, Error> {
        config.check()?;
        let lock = file::lock(&config.dir)?;
        let (path, mut connection) = file::open(&config.dir)?;
        room::migrate(&path, &mut connection, &[&[OWN], rooms].concat())?;

        let counters = Arc::new(Counters::default());
        let writer = Writer::new(config.clone(), path.clone(), connection, Arc::clone(&counters))?;
        let (queue, receiver) = Queue::new(config.queue_bytes);
        let (alive, ended) = oneshot::channel();
        let work = move || {
            let _alive = alive;
            writer.run(&receiver)
        };
        let writer = thread::Builder::new()
            .name("store-writer".into())
            .spawn(work)
            .map_err(|source| Error::Thread { source: Arc::new(source) })?;
        let readers = Arc::new(Readers::new(path));
        let handle = Handle { queue: Arc::new(queue), readers, counters };
        Ok(Self { handle, writer: Some(writer), ended, _lock: lock })
    }

    /// A way to use it; clones are cheap. All answer [`Error::Closed`] once the store is closed.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Returns once `shutdown` is cancelled and all that was committed is written.
    ///
    /// # Errors
    /// If the last batched commits could not be written.
    ///
    /// # Panics
    /// If the writer panicked.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), Error> {
        tokio::select! {
            () = shutdown.cancelled() => {}
            _ = &mut self.ended => {}
        }
        self.close().await
    }

    /// Takes no more commits, writes those it took, and lets go of the directory.
    ///
    /// # Errors
    /// If the last batched commits could not be written.
    ///
    /// # Panics
    /// If the writer panicked.
    pub async fn close(mut self) -> Result<(), Error> {
        self.handle.close();
        if !self.ended.is_terminated() {
            let _ = (&mut self.ended).await;
        }
        self.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn join(&mut self) -> thread::Result<Result<(), Error>> {
        self.writer.take().map_or(Ok(Ok(())), thread::JoinHandle::join)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.handle.close();
        match self.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => error!(error = &error as &dyn std::error::Error, "failed to close the store"),
            // The panic was printed when it happened, and a second one here would abort.
            Err(_) => error!("the store's writer panicked"),
        }
    }
}

/// What the store has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Transactions written; each synced the disk once.
    pub n_transactions: u64,
    /// Transactions that failed as a whole, as on a full disk.
    pub n_failures: u64,
    /// Batched commits that were given up since the database refused a statement.
    pub n_refused: u64,
    /// Events of priority `Info` that were shed since the queue was full.
    pub n_shed: u64,
}

/// A way to use the store.
#[derive(Clone)]
pub struct Handle {
    queue: Arc<Queue>,
    readers: Arc<Readers>,
    counters: Arc<Counters>,
}

impl Handle {
    /// Makes all `changes` and tells all `events`, or nothing. Commits are made in the order in which they
    /// were taken.
    ///
    /// A durable commit is on disk when this returns, and so is every commit before it; an empty one only
    /// waits for those. A commit with an event of priority `Audit` is always durable. A batched commit is in
    /// the queue when this returns. If the queue is full it waits for room, but a batched commit of nothing
    /// but `Info` events is shed and counted. Dropping the future makes the commit or does not, whole.
    ///
    /// # Errors
    /// As the variants of [`Error`] say.
    pub async fn commit(
        &self,
        durability: Durability,
        changes: Vec<Change>,
        events: Vec<Event>,
    ) -> Result<(), Error> {
        let events = events.into_iter().map(Entry::new).collect::<Result<Vec<_>, _>>()?;
        let is_audit = events.iter().any(|entry| entry.priority() == Priority::Audit);
        if durability == Durability::Batched && !is_audit {
            return self.queue.push(Commit { changes, events, reply: None }).await;
        }
        let (reply, outcome) = oneshot::channel();
        self.queue.push(Commit { changes, events, reply: Some(reply) }).await?;
        outcome.await.map_err(|_| Error::Closed)?
    }

    /// The value of `key` of `room`, as far as it is on disk.
    ///
    /// # Errors
    /// As the variants of [`Error`] say.
    pub async fn get(&self, room: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let key = key.to_vec();
        self.readers().read(move |connection| read::get(connection, room, &key)).await
    }

    /// The keys of `room` that begin with `prefix`, with their values, in the order of the keys' bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`] beyond [`READ_BYTES_MAX`](crate::READ_BYTES_MAX); others as the variants say.
    pub async fn scan(&self, room: &'static str, prefix: &[u8]) -> Result<Vec<Pair>, Error> {
        let prefix = prefix.to_vec();
        self.readers().read(move |connection| read::scan(connection, room, &prefix)).await
    }

    /// The rows of a statement on tables that a room's migrations made.
    ///
    /// # Errors
    /// [`Error::TooLarge`] beyond [`READ_BYTES_MAX`](crate::READ_BYTES_MAX); others as the variants say.
    pub async fn query(&self, sql: &'static str, params: Vec<Value>) -> Result<Vec<Vec<Value>>, Error> {
        self.readers().read(move |connection| read::query(connection, sql, params)).await
    }

    /// The events after `cursor`, oldest first: at most `n_max`, and never more than
    /// [`EVENTS_PER_READ_MAX`].
    ///
    /// # Errors
    /// As the variants of [`Error`] say.
    pub async fn events_after(&self, cursor: Seq, n_max: usize) -> Result<Vec<Stored>, Error> {
        let n_max = n_max.min(EVENTS_PER_READ_MAX);
        self.readers().read(move |connection| Ok(event::after(connection, cursor, n_max)?)).await
    }

    /// The last event that `consumer` is done with.
    ///
    /// # Errors
    /// As the variants of [`Error`] say.
    pub async fn cursor(&self, consumer: &str) -> Result<Seq, Error> {
        let consumer = consumer.to_owned();
        self.readers().read(move |connection| Ok(event::cursor(connection, &consumer)?)).await
    }

    /// Notes that `consumer` is done with all events up to `seq`. Batched: after a crash it may be given
    /// some events again.
    ///
    /// # Errors
    /// As the variants of [`Error`] say.
    pub async fn set_cursor(&self, consumer: &str, seq: Seq) -> Result<(), Error> {
        self.commit(Durability::Batched, vec![event::set_cursor(consumer, seq)], Vec::new()).await
    }

    /// What the store has done since it was opened.
    pub fn counts(&self) -> Counts {
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            n_transactions: load(&self.counters.n_transactions),
            n_failures: load(&self.counters.n_failures),
            n_refused: load(&self.counters.n_refused),
            n_shed: self.queue.n_shed(),
        }
    }

    fn readers(&self) -> Arc<Readers> {
        Arc::clone(&self.readers)
    }

    fn close(&self) {
        self.queue.close();
        self.readers.close();
    }
}
