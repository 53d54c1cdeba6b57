//! Tasks that outlive whoever started them: connections that are being made, and bridges. The room holds
//! them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::metrics::{Count, Counts};

/// Such tasks. Those that panicked are counted when the next one starts or all stop.
pub(crate) struct Tasks {
    running: Mutex<JoinSet<()>>,
    runtime: Handle,
    counts: Arc<Counts>,
}

impl Tasks {
    /// Must be called within the runtime that tasks are to run on.
    pub(crate) fn new(counts: Arc<Counts>) -> Self {
        Self { running: Mutex::default(), runtime: Handle::current(), counts }
    }

    /// Starts a task, from any thread.
    pub(crate) fn start(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(ended) = running.try_join_next() {
            if ended.is_err_and(|err| err.is_panic()) {
                self.counts.add(Count::ConnectionPanicked);
            }
        }
        running.spawn_on(task, &self.runtime);
    }

    /// Waits until all have ended by themselves, and ends those that have not in time.
    pub(crate) async fn finish(&self, within: Duration) {
        let mut running = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        let all = async { while running.join_next().await.is_some() {} };
        if timeout(within, all).await.is_err() {
            running.shutdown().await;
        }
    }

    /// Ends all of them.
    pub(crate) async fn stop(&self) {
        let mut running = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        running.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_counted_and_harms_no_other() {
        let counts: Arc<Counts> = Arc::default();
        let tasks = Tasks::new(Arc::clone(&counts));
        tasks.start(async { panic!("on purpose") });
        while counts.of(Count::ConnectionPanicked) == 0 {
            tokio::task::yield_now().await;
            tasks.start(async {});
        }
        tasks.stop().await;
        assert_eq!(counts.of(Count::ConnectionPanicked), 1);
    }
}
