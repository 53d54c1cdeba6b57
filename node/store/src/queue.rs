//! What waits for the writer: bounded by bytes, in the order of arrival.
//!
//! A commit of nothing but `Info` events is shed and counted when there is no room; every other waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot};
use types::event::Priority;

use crate::change::Change;
use crate::error::Error;
use crate::event::Entry;

/// Most bytes of one commit, its events included.
pub const COMMIT_BYTES_MAX: usize = 4 << 20;

/// A commit before it has its place in the queue.
pub(crate) struct Commit {
    pub(crate) changes: Vec<Change>,
    pub(crate) events: Vec<Entry>,
    /// Tells the outcome to whoever waits for it; `None` for a batched commit.
    pub(crate) reply: Option<oneshot::Sender<Result<(), Error>>>,
}

impl Commit {
    fn bytes(&self) -> usize {
        let changes: usize = self.changes.iter().map(Change::bytes).sum();
        let events: usize = self.events.iter().map(Entry::bytes).sum();
        size_of::<Pending>() + changes + events
    }

    fn may_be_shed(&self) -> bool {
        self.reply.is_none()
            && self.changes.is_empty()
            && self.events.iter().all(|entry| entry.priority() == Priority::Info)
    }
}

/// A commit in the queue; it holds its place until it is dropped.
pub(crate) struct Pending {
    pub(crate) commit: Commit,
    place: OwnedSemaphorePermit,
}

impl Pending {
    pub(crate) fn bytes(&self) -> usize {
        self.place.num_permits()
    }
}

/// The end of the queue into which commits are put.
pub(crate) struct Queue {
    /// One permit a byte.
    places: Arc<Semaphore>,
    // INVARIANT: what was sent is received, since the writer ends only when the sender is gone.
    sender: Mutex<Option<Sender<Pending>>>,
    n_shed: AtomicU64,
}

impl Queue {
    pub(crate) fn new(bytes_max: usize) -> (Self, Receiver<Pending>) {
        let (sender, receiver) = mpsc::channel();
        let places = Arc::new(Semaphore::new(bytes_max));
        (Self { places, sender: Mutex::new(Some(sender)), n_shed: AtomicU64::new(0) }, receiver)
    }

    /// Events shed so far.
    pub(crate) fn n_shed(&self) -> u64 {
        self.n_shed.load(Ordering::Relaxed)
    }

    /// Puts a commit into the queue, or sheds it. Dropping the future before it is ready puts nothing in.
    pub(crate) async fn push(&self, commit: Commit) -> Result<(), Error> {
        let bytes = commit.bytes();
        if bytes > COMMIT_BYTES_MAX {
            return Err(Error::TooLarge { what: "commit", bytes, bytes_max: COMMIT_BYTES_MAX });
        }
        let n_places = u32::try_from(bytes).expect("COMMIT_BYTES_MAX fits");
        let places = Arc::clone(&self.places);
        let place = if commit.may_be_shed() {
            match places.try_acquire_many_owned(n_places) {
                Ok(place) => place,
                Err(TryAcquireError::NoPermits) => {
                    self.n_shed.fetch_add(commit.events.len() as u64, Ordering::Relaxed);
                    return Ok(());
                }
                Err(TryAcquireError::Closed) => return Err(Error::Closed),
            }
        } else {
            places.acquire_many_owned(n_places).await.map_err(|_| Error::Closed)?
        };
        let sender = self.sender.lock().expect("nobody panics while holding it");
        let sender = sender.as_ref().ok_or(Error::Closed)?;
        sender.send(Pending { commit, place }).map_err(|_| Error::Closed)
    }

    /// Takes no more. The writer ends once it has written what is in the queue.
    pub(crate) fn close(&self) {
        self.places.close();
        self.sender.lock().expect("nobody panics while holding it").take();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use types::Timestamp;
    use types::event::{Event, EventId};

    use super::*;

    fn commit_of(priority: Priority) -> Commit {
        let event = Event {
            id: EventId([7; 16]),
            kind: "test.thing.happened.v1".into(),
            source: "spiffe://pi.home.mesh/node".into(),
            subject: String::new(),
            time: Timestamp::from_secs(1),
            priority,
            data: "x".repeat(600).into(),
        };
        let entry = Entry::new(event).expect("a small event");
        Commit { changes: Vec::new(), events: vec![entry], reply: None }
    }

    fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_full_queue_sheds_info_and_lets_notice_and_audit_wait() {
        let (queue, receiver) = Queue::new(1200);
        let push = |priority| queue.push(commit_of(priority));
        assert!(matches!(poll(pin!(push(Priority::Info))), Poll::Ready(Ok(()))));
        assert_eq!(queue.n_shed(), 0);
        assert!(matches!(poll(pin!(push(Priority::Info))), Poll::Ready(Ok(()))));
        assert_eq!(queue.n_shed(), 1);

        let mut notice = pin!(push(Priority::Notice));
        assert!(poll(notice.as_mut()).is_pending());
        drop(receiver.try_recv().expect("the first commit"));
        assert!(matches!(poll(notice), Poll::Ready(Ok(()))));

        let mut audit = pin!(push(Priority::Audit));
        assert!(poll(audit.as_mut()).is_pending());
        drop(receiver.try_recv().expect("the notice"));
        assert!(matches!(poll(audit), Poll::Ready(Ok(()))));
        assert_eq!(queue.n_shed(), 1);
    }

    #[test]
    fn a_closed_queue_hands_out_what_it_took_and_takes_no_more() {
        let (queue, receiver) = Queue::new(1200);
        assert!(matches!(poll(pin!(queue.push(commit_of(Priority::Notice)))), Poll::Ready(Ok(()))));
        let mut waiting = pin!(queue.push(commit_of(Priority::Notice)));
        assert!(poll(waiting.as_mut()).is_pending());
        queue.close();
        assert!(matches!(poll(waiting), Poll::Ready(Err(Error::Closed))));
        assert!(matches!(poll(pin!(queue.push(commit_of(Priority::Info)))), Poll::Ready(Err(Error::Closed))));
        assert_eq!(receiver.iter().count(), 1, "and then the channel ends");
    }
}
