//! A queue of events by time: a wheel of milliseconds, and a heap for what lies beyond it.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Milliseconds that the wheel covers.
const SLOTS: u64 = 1 << 15;

/// Events in the order of their time in µs, and of their insertion where that is the same.
pub(crate) struct Wheel<E> {
    slots: Vec<Vec<Timed<E>>>,
    /// What is due in the millisecond of the cursor.
    current: BinaryHeap<Timed<E>>,
    /// What lies beyond the wheel.
    far: BinaryHeap<Timed<E>>,
    cursor_ms: u64,
    seq: u64,
}

struct Timed<E> {
    at_us: u64,
    seq: u64,
    event: E,
}

impl<E> Wheel<E> {
    pub(crate) fn new() -> Self {
        let slots = (0..SLOTS).map(|_| Vec::new()).collect();
        Self { slots, current: BinaryHeap::new(), far: BinaryHeap::new(), cursor_ms: 0, seq: 0 }
    }

    /// Adds an event; one in the past is due at once.
    pub(crate) fn push(&mut self, at_us: u64, event: E) {
        self.seq += 1;
        self.place(Timed { at_us, seq: self.seq, event });
    }

    /// Takes the next event that is due before `end_us`.
    pub(crate) fn pop_before(&mut self, end_us: u64) -> Option<(u64, E)> {
        loop {
            if let Some(next) = self.current.peek() {
                if next.at_us >= end_us {
                    return None;
                }
                return self.current.pop().map(|next| (next.at_us, next.event));
            }
            if (self.cursor_ms + 1) * 1000 > end_us {
                return None;
            }
            self.cursor_ms += 1;
            let slot = &mut self.slots[(self.cursor_ms % SLOTS) as usize];
            self.current.extend(slot.drain(..));
            while self.far.peek().is_some_and(|next| next.at_us / 1000 < self.cursor_ms + SLOTS) {
                let next = self.far.pop().expect("it was just seen");
                self.place(next);
            }
        }
    }

    fn place(&mut self, timed: Timed<E>) {
        let ms = timed.at_us / 1000;
        if ms <= self.cursor_ms {
            self.current.push(timed);
        } else if ms < self.cursor_ms + SLOTS {
            self.slots[(ms % SLOTS) as usize].push(timed);
        } else {
            self.far.push(timed);
        }
    }
}

impl<E> Ord for Timed<E> {
    /// The earliest is the greatest, as `BinaryHeap` gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at_us, other.seq).cmp(&(self.at_us, self.seq))
    }
}

impl<E> PartialOrd for Timed<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Timed<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<E> Eq for Timed<E> {}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn events_come_in_order_of_time_and_then_of_insertion() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut wheel = Wheel::new();
        let mut expected = Vec::new();
        for n in 0..5000_u64 {
            let at_us = rng.random_range(0..200_000_000_u64) / 500 * 500;
            wheel.push(at_us, n);
            expected.push((at_us, n));
        }
        expected.sort_unstable();
        let mut seen = Vec::new();
        for end_us in [1, 70_000_500, 70_000_501, 200_000_001] {
            while let Some(next) = wheel.pop_before(end_us) {
                assert!(next.0 < end_us);
                seen.push(next);
            }
        }
        assert_eq!(seen, expected);
    }
}
