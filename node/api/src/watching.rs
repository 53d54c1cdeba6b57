//! Lists that are sent whole, once at first and again when they changed. A reader that is slow gets the latest
//! and misses what was between: nothing queues up.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use futures::stream::unfold;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use types::Reason;

use crate::refusal;

/// The least time between two lists.
pub(crate) const WATCH_EVERY: Duration = Duration::from_millis(500);

/// What a call answers that goes on.
pub(crate) type Lists<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

enum State {
    First,
    Sent(Instant),
    Over,
}

/// What `list` holds, now and after each change, until `stop`.
pub(crate) fn latest<T, M>(
    list: watch::Receiver<Arc<T>>,
    stop: CancellationToken,
    convert: fn(&T) -> M,
) -> Lists<M>
where
    T: Send + Sync + 'static,
    M: Send + 'static,
{
    Box::pin(unfold((list, stop, State::First), move |(mut list, stop, state)| async move {
        match state {
            State::First => {}
            State::Sent(at) => {
                let changed = async {
                    list.changed().await.ok()?;
                    sleep_until(at + WATCH_EVERY).await;
                    Some(())
                };
                let is_going_on = tokio::select! {
                    changed = changed => changed.is_some(),
                    () = stop.cancelled() => false,
                };
                if !is_going_on {
                    let refusal = Reason::NotServing.because("the node is shutting down");
                    return Some((Err(refusal::status(&refusal)), (list, stop, State::Over)));
                }
            }
            State::Over => return None,
        }
        let message = convert(&Arc::clone(&list.borrow_and_update()));
        Some((Ok(message), (list, stop, State::Sent(Instant::now()))))
    }))
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use tonic::Code;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_changes_is_one_list_and_the_latest() {
        let sender = watch::Sender::new(Arc::new(0));
        let stop = CancellationToken::new();
        let mut lists = latest(sender.subscribe(), stop.clone(), |n: &i32| *n);
        assert_eq!(lists.next().await.map(Result::ok), Some(Some(0)));
        let start = Instant::now();
        for n in 1..=100 {
            sender.send_replace(Arc::new(n));
        }
        assert_eq!(lists.next().await.map(Result::ok), Some(Some(100)));
        assert!(start.elapsed() >= WATCH_EVERY);
        sender.send_replace(Arc::new(7));
        tokio::time::sleep(10 * WATCH_EVERY).await;
        let late = Instant::now();
        assert_eq!(lists.next().await.map(Result::ok), Some(Some(7)));
        assert!(late.elapsed() < WATCH_EVERY, "a change after a pause is told at once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_stops_ends_its_lists_with_a_reason() {
        let sender = watch::Sender::new(Arc::new(0));
        let stop = CancellationToken::new();
        let mut lists = latest(sender.subscribe(), stop.clone(), |n: &i32| *n);
        assert!(lists.next().await.is_some_and(|it| it.is_ok()));
        stop.cancel();
        let ended = lists.next().await.expect("a last word").expect_err("a refusal");
        assert_eq!(ended.code(), Code::Unavailable);
        assert!(lists.next().await.is_none());
    }
}
