//! All workers: who gets a connection, and how they start and stop.

use std::any::Any;
use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{Builder, JoinHandle};

use mio::Poll;
use tokio::sync::mpsc;

use types::EdgeKey;
use types::call::CallStats;

use crate::edges::Edges;
use crate::metrics::Counts;
use crate::room::Shared;

use super::inbox::{Inbox, Newcomer};
use super::worker::Worker;

/// Where all workers are told things.
pub(crate) struct Crew {
    pub(super) inboxes: Vec<Arc<Inbox>>,
}

impl Crew {
    /// The inboxes of `n` workers, and what these wait by.
    ///
    /// # Errors
    /// The system has no more files.
    pub(crate) fn new(n: usize, counts: &Arc<Counts>) -> io::Result<(Self, Vec<Poll>)> {
        let polls = (0..n).map(|_| Poll::new()).collect::<io::Result<Vec<_>>>()?;
        let inbox = |poll| Inbox::new(poll, Edges::new(Arc::clone(counts))).map(Arc::new);
        let inboxes = polls.iter().map(inbox).collect::<io::Result<_>>()?;
        Ok((Self { inboxes }, polls))
    }

    /// Has a connection served by the worker that serves the fewest.
    pub(crate) fn adopt(&self, newcomer: Newcomer) {
        let Some(inbox) = self.inboxes.iter().min_by_key(|inbox| inbox.load()) else { return };
        inbox.n_connections.fetch_add(1, Ordering::Relaxed);
        inbox.tell(|letters| letters.newcomers.push(newcomer));
    }

    /// Calls that all carry, and streams of all their connections, as of the last time that each looked after them.
    pub(crate) fn open(&self) -> (usize, usize) {
        let of = |inbox: &Arc<Inbox>| {
            (inbox.n_calls.load(Ordering::Relaxed), inbox.n_streams.load(Ordering::Relaxed))
        };
        self.inboxes.iter().map(of).fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1))
    }

    /// Has connections closed that were cut.
    pub(crate) fn recheck(&self) {
        self.inboxes.iter().for_each(|inbox| inbox.tell(|letters| letters.recheck = true));
    }

    /// Has no more calls taken.
    pub(crate) fn drain(&self) {
        self.inboxes.iter().for_each(|inbox| inbox.tell(|letters| letters.drain = true));
    }

    /// What workers counted since the last time, by edge. Each has its own.
    pub(crate) fn take_edges(&self) -> impl Iterator<Item = (EdgeKey, CallStats)> {
        self.inboxes.iter().flat_map(|inbox| inbox.edges.take())
    }

    fn stop(&self) {
        self.inboxes.iter().for_each(|inbox| inbox.tell(|letters| letters.stop = true));
    }
}

/// The threads of all workers. Dropped, they are stopped.
pub(crate) struct Working {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Says when one has ended: it sends nothing.
    ended: mpsc::Receiver<()>,
}

impl Working {
    /// Starts all workers.
    ///
    /// # Panics
    /// If the system has no thread for one: then no call could be carried.
    pub(crate) fn start(shared: &Arc<Shared>, polls: Vec<Poll>) -> Self {
        let (told, ended) = mpsc::channel(polls.len().max(1));
        let threads = polls.into_iter().zip(&shared.crew.inboxes).enumerate().map(|(n, (poll, inbox))| {
            let (shared, inbox) = (Arc::clone(shared), Arc::clone(inbox));
            let farewell = Farewell(told.clone());
            let thread = Builder::new().name(format!("proxy-{n}"));
            let thread = thread.spawn(move || {
                let _farewell = farewell;
                Worker::new(shared, inbox, poll).run();
            });
            thread.expect("the system has threads")
        });
        let threads = threads.collect();
        Self { shared: Arc::clone(shared), threads, ended }
    }

    /// Waits until a worker ends, which none does by itself.
    pub(crate) async fn ended(&mut self) {
        self.ended.recv().await;
    }

    /// Stops all workers and waits for them, which takes no longer than a turn of theirs.
    ///
    /// # Panics
    /// If a worker did.
    pub(crate) fn stop(&mut self) {
        if let Some(panicked) = self.join() {
            resume_unwind(panicked);
        }
    }

    fn join(&mut self) -> Option<Box<dyn Any + Send>> {
        self.shared.crew.stop();
        let mut panicked = None;
        for thread in self.threads.drain(..) {
            panicked = thread.join().err().or(panicked);
        }
        panicked
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        // A panic is told by `stop`.
        drop(self.join());
    }
}

/// Tells that a worker has ended, however it did.
struct Farewell(mpsc::Sender<()>);

impl Drop for Farewell {
    fn drop(&mut self) {
        // There is room for all.
        let _ = self.0.try_send(());
    }
}
