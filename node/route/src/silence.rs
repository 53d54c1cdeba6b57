//! For how long an endpoint has owed answers and given none.
//!
//! A slow call says little: it may be long by nature. An endpoint that answers nothing says much. So only calls
//! are counted that began after its last answer; those that were under way at that answer are merely slow.

use std::time::{Duration, Instant};

/// What an endpoint owes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Silence {
    /// When it began to owe without pause. INVARIANT: present if and only if `owed` is not 0.
    since: Option<Instant>,
    owed: u32,
    /// How many answers it has given.
    epoch: u64,
}

impl Silence {
    /// A call is sent; the answer is to be handed to [`Silence::settle`].
    pub(crate) fn sent(&mut self, now: Instant) -> u64 {
        self.since.get_or_insert(now);
        self.owed = self.owed.saturating_add(1);
        self.epoch
    }

    /// An answer came, whatever it says.
    pub(crate) fn heard(&mut self) {
        self.since = None;
        self.owed = 0;
        self.epoch += 1;
    }

    /// A call is owed no more though it was not answered. Calls that timed out stay owed.
    pub(crate) fn settle(&mut self, epoch: u64) {
        if epoch == self.epoch {
            self.owed = self.owed.saturating_sub(1);
        }
        if self.owed == 0 {
            self.since = None;
        }
    }

    /// Whether an answer has come since a call began.
    pub(crate) fn is_heard_since(&self, epoch: u64) -> bool {
        epoch != self.epoch
    }

    /// How long it has been silent.
    pub(crate) fn at(&self, now: Instant) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_ends_silence_and_slow_calls_do_not_begin_it() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut silence = Silence::default();
        let slow = silence.sent(start);
        silence.sent(start + ms(1));
        silence.heard();
        assert_eq!(silence.at(start + ms(500)), ms(0), "the slow call was under way at the answer");
        let young = silence.sent(start + ms(500));
        silence.settle(slow);
        assert_eq!(silence.at(start + ms(510)), ms(10));
        silence.settle(young);
        assert_eq!(silence.at(start + ms(520)), ms(0), "nothing is owed");
        assert!(silence.is_heard_since(slow) && !silence.is_heard_since(young));
    }
}
