//! The one thread that writes.
//!
//! It gathers batched commits until the first of them is due, their bytes fill half the queue, or a durable
//! commit comes, and writes all in one transaction: one sync of the disk for many. When that fails as a whole,
//! durable commits are refused and batched ones are kept, so a full disk is pressure on the queue and no loss.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use rusqlite::{Connection, TransactionBehavior};
use tracing::{debug, error, info};

use crate::config::Config;
use crate::error::Error;
use crate::event::Kept;
use crate::queue::{Commit, Pending};

/// What the writer has done.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) n_transactions: AtomicU64,
    pub(crate) n_failures: AtomicU64,
    pub(crate) n_refused: AtomicU64,
}

/// The one thread that writes.
pub(crate) struct Writer {
    config: Config,
    path: PathBuf,
    connection: Connection,
    kept: Kept,
    counters: Arc<Counters>,
    is_failing: bool,
}

impl Writer {
    pub(crate) fn new(
        config: Config,
        path: PathBuf,
        connection: Connection,
        counters: Arc<Counters>,
    ) -> Result<Self, Error> {
        let kept = Kept::count(&connection)
            .map_err(|error| Error::Read { path: path.clone(), source: Arc::new(error) })?;
        Ok(Self { config, path, connection, kept, counters, is_failing: false })
    }

    /// Writes what comes until the queue is closed and empty.
    ///
    /// # Errors
    /// If the last batched commits could not be written: they are lost.
    pub(crate) fn run(mut self, queue: &Receiver<Pending>) -> Result<(), Error> {
        let mut pending: Vec<Pending> = Vec::new();
        let mut pending_bytes = 0;
        let mut due: Option<Instant> = None;
        loop {
            let received = match due {
                Some(due) => queue.recv_timeout(due.saturating_duration_since(Instant::now())),
                None => queue.recv().map_err(RecvTimeoutError::from),
            };
            match received {
                Ok(commit) => {
                    let is_durable = commit.commit.reply.is_some();
                    pending_bytes += commit.bytes();
                    pending.push(commit);
                    let now = Instant::now();
                    let due = *due.get_or_insert(now + self.config.commit_delay);
                    let is_half = pending_bytes >= self.config.queue_bytes / 2 && !self.is_failing;
                    if !is_durable && !is_half && now < due {
                        continue;
                    }
                    // What else is waiting shares the sync of the disk. The queue's bound ends this.
                    pending.extend(queue.try_iter());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.finish(pending),
            }
            // Whether it failed was logged and counted; what stays in `pending` is tried again when due.
            let _ = self.write(&mut pending);
            pending_bytes = pending.iter().map(Pending::bytes).sum();
            due = (!pending.is_empty()).then(|| Instant::now() + self.config.commit_delay);
        }
    }

    /// Writes all that is pending in one transaction, and leaves there what is to be tried again.
    fn write(&mut self, pending: &mut Vec<Pending>) -> Result<(), Error> {
        match self.transact(pending) {
            Ok(outcomes) => {
                self.counters.n_transactions.fetch_add(1, Ordering::Relaxed);
                if std::mem::take(&mut self.is_failing) {
                    info!(file.path = %self.path.display(), "store writes again");
                }
                for (done, outcome) in pending.drain(..).zip(outcomes) {
                    self.settle(done.commit, outcome);
                }
                Ok(())
            }
            Err(source) => {
                let source = Arc::new(source);
                let error = Error::of_disk(&self.path, &source).unwrap_or(Error::Refused { source });
                self.counters.n_failures.fetch_add(1, Ordering::Relaxed);
                if !std::mem::replace(&mut self.is_failing, true) {
                    error!(error = &error as &dyn std::error::Error, "failed to write to the store");
                }
                for done in pending.extract_if(.., |waiting| waiting.commit.reply.is_some()) {
                    self.settle(done.commit, Err(error.clone()));
                }
                Err(error)
            }
        }
    }

    fn settle(&self, commit: Commit, outcome: Result<(), Error>) {
        match (commit.reply, outcome) {
            // A caller that waits no longer has dropped the other end.
            (Some(reply), outcome) => drop(reply.send(outcome)),
            (None, Ok(())) => {}
            (None, Err(error)) => {
                self.counters.n_refused.fetch_add(1, Ordering::Relaxed);
                error!(error = &error as &dyn std::error::Error, "batched commit was refused");
            }
        }
    }

    /// Runs all in one transaction; the outcomes are those of each commit alone.
    fn transact(&mut self, pending: &[Pending]) -> rusqlite::Result<Vec<Result<(), Error>>> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut kept = self.kept;
        let mut outcomes = Vec::with_capacity(pending.len());
        for Pending { commit, .. } in pending {
            transaction.prepare_cached("SAVEPOINT one")?.execute([])?;
            match apply(&transaction, commit) {
                Ok(()) => {
                    commit.events.iter().for_each(|entry| kept.add(entry.priority()));
                    outcomes.push(Ok(()));
                }
                Err(source) => {
                    let source = Arc::new(source);
                    if Error::of_disk(&self.path, &source).is_some() {
                        return Err(Arc::into_inner(source).expect("its only clone was dropped"));
                    }
                    transaction.prepare_cached("ROLLBACK TO one")?.execute([])?;
                    outcomes.push(Err(Error::Refused { source }));
                }
            }
            transaction.prepare_cached("RELEASE one")?.execute([])?;
        }
        kept.prune(&transaction, &self.config)?;
        transaction.commit()?;
        self.kept = kept;
        Ok(outcomes)
    }

    fn finish(mut self, mut pending: Vec<Pending>) -> Result<(), Error> {
        if !pending.is_empty()
            && let Err(error) = self.write(&mut pending)
        {
            error!(commits = pending.len(), "lost the last batched commits");
            return Err(error);
        }
        // Without the log a copy of the one file is a whole backup. If it fails, the log stays and is read
        // at the next start.
        let fold = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        if let Err(error) = fold.and_then(|()| self.connection.close().map_err(|(_, error)| error)) {
            debug!(error = &error as &dyn std::error::Error, "failed to fold the log into the database");
        }
        Ok(())
    }
}

fn apply(connection: &Connection, commit: &Commit) -> rusqlite::Result<()> {
    for change in &commit.changes {
        change.apply(connection)?;
    }
    for entry in &commit.events {
        entry.insert(connection)?;
    }
    Ok(())
}
