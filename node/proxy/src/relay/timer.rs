//! When what is due: a wheel on which setting and cancelling cost the same however much is on it.
//!
//! (Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", scheme 6.) What lies more than a turn ahead is
//! passed over once a turn. Nothing is due early; it may be a tick late.

use std::time::{Duration, Instant};

/// How finely time is told, in milliseconds.
const TICK_MS: u64 = 4;
/// Places of the wheel: a turn takes 16 s, which is more than the deadline of most calls.
const PLACES: usize = 4096;
const WORDS: usize = PLACES / 64;
const _: () = assert!(WORDS == u64::BITS as usize, "one word tells which words are used");
const NONE: u32 = u32::MAX;

/// Something that is on the wheel, until it is due or cancelled. It must not be cancelled after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timer {
    entry: u32,
    generation: u32,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    /// Neighbours in its place; `next` also chains free entries.
    next: u32,
    previous: u32,
    at_tick: u64,
    what: Option<T>,
}

/// What is due when.
#[derive(Debug)]
pub(crate) struct Wheel<T> {
    started: Instant,
    /// Ticks that are over.
    now_tick: u64,
    places: Vec<u32>,
    /// Places in which there is something, and words of those that are not 0.
    used: [u64; WORDS],
    used_words: u64,
    entries: Vec<Entry<T>>,
    free: u32,
    n: usize,
}

impl<T> Wheel<T> {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            started: now,
            now_tick: 0,
            places: vec![NONE; PLACES],
            used: [0; WORDS],
            used_words: 0,
            entries: Vec::new(),
            free: NONE,
            n: 0,
        }
    }

    /// How much is on it.
    pub(crate) const fn len(&self) -> usize {
        self.n
    }

    /// Puts something on the wheel.
    pub(crate) fn insert(&mut self, at: Instant, what: T) -> Timer {
        let ms = u64::try_from(at.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX);
        let at_tick = (ms / TICK_MS + 1).max(self.now_tick + 1);
        let place = place(at_tick);
        let next = self.places[place];
        let entry = match self.entries.get_mut(self.free as usize) {
            Some(free) => {
                let entry = std::mem::replace(&mut self.free, free.next);
                (free.next, free.previous, free.at_tick, free.what) = (next, NONE, at_tick, Some(what));
                entry
            }
            None => {
                self.entries.push(Entry { generation: 0, next, previous: NONE, at_tick, what: Some(what) });
                u32::try_from(self.entries.len() - 1).expect("memory ends before the numbers do")
            }
        };
        if let Some(next) = self.entries.get_mut(next as usize) {
            next.previous = entry;
        }
        self.places[place] = entry;
        self.used[place / 64] |= 1 << (place % 64);
        self.used_words |= 1 << (place / 64);
        self.n += 1;
        Timer { entry, generation: self.entries[entry as usize].generation }
    }

    /// Takes something off the wheel. Does nothing if it was due already.
    pub(crate) fn cancel(&mut self, timer: Timer) -> Option<T> {
        let entry = self.entries.get(timer.entry as usize)?;
        if entry.generation != timer.generation || entry.what.is_none() {
            return None;
        }
        self.take(timer.entry)
    }

    /// Takes off what is due by `now`.
    pub(crate) fn expire(&mut self, now: Instant, due: &mut Vec<T>) {
        let ms = u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX);
        let tick = ms / TICK_MS;
        if self.n == 0 {
            self.now_tick = self.now_tick.max(tick);
            return;
        }
        // More than a turn sees every place once, which is enough.
        let from = self.now_tick.max(tick.saturating_sub(PLACES as u64));
        for passed in from + 1..=tick {
            let place = place(passed);
            if self.used[place / 64] & 1 << (place % 64) == 0 {
                continue;
            }
            let mut entry = self.places[place];
            while let Some(it) = self.entries.get(entry as usize) {
                let (next, is_due) = (it.next, it.at_tick <= tick);
                if is_due {
                    due.extend(self.take(entry));
                }
                entry = next;
            }
        }
        self.now_tick = self.now_tick.max(tick);
    }

    /// How long until something may be due; none if nothing is on the wheel.
    pub(crate) fn next(&self, now: Instant) -> Option<Duration> {
        if self.n == 0 {
            return None;
        }
        let first = place(self.now_tick + 1);
        let (word, bit) = (first / 64, first % 64);
        let here = self.used[word] & u64::MAX << bit;
        let place = match here {
            // In the words after this one, and then in what this one has before `first`.
            0 => {
                let after = self.used_words.rotate_right(u32::try_from(word).unwrap_or(0)) & !1;
                let word = (word + after.trailing_zeros() as usize) % WORDS;
                word * 64 + self.used[word].trailing_zeros() as usize
            }
            here => word * 64 + here.trailing_zeros() as usize,
        };
        let ahead = (place + PLACES - first) % PLACES;
        let at = self.started + Duration::from_millis((self.now_tick + 1 + ahead as u64) * TICK_MS);
        Some(at.saturating_duration_since(now))
    }

    /// Gives memory back, if nothing is on the wheel.
    pub(crate) fn shrink(&mut self) {
        if self.n == 0 && self.entries.capacity() > PLACES {
            // Generations begin anew: nobody holds a timer that was not due.
            (self.entries, self.free) = (Vec::new(), NONE);
        }
    }

    fn take(&mut self, idx: u32) -> Option<T> {
        let free = self.free;
        let entry = self.entries.get_mut(idx as usize)?;
        let what = entry.what.take();
        let (next, previous, place) = (entry.next, entry.previous, place(entry.at_tick));
        entry.generation = entry.generation.wrapping_add(1);
        entry.next = free;
        self.free = idx;
        self.n -= 1;
        if let Some(next) = self.entries.get_mut(next as usize) {
            next.previous = previous;
        }
        match self.entries.get_mut(previous as usize) {
            Some(previous) => previous.next = next,
            None => {
                self.places[place] = next;
                if next == NONE {
                    self.used[place / 64] &= !(1 << (place % 64));
                    if self.used[place / 64] == 0 {
                        self.used_words &= !(1 << (place / 64));
                    }
                }
            }
        }
        what
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a place is a small number")]
const fn place(tick: u64) -> usize {
    (tick % PLACES as u64) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn all_is_due_once_in_time_and_what_was_cancelled_never(
            steps in proptest::collection::vec((0..3_u8, 0..40_000_u64), 1..200),
        ) {
            let started = Instant::now();
            let mut wheel = Wheel::new(started);
            let (mut now_ms, mut held) = (0_u64, Vec::new());
            for (n, (step, ms)) in steps.into_iter().enumerate() {
                let at = |ms| started + Duration::from_millis(ms);
                match step {
                    0 => held.push((n, now_ms + ms, wheel.insert(at(now_ms + ms), n))),
                    1 if !held.is_empty() => {
                        let (n, _, timer) = held.swap_remove(n % held.len());
                        prop_assert_eq!(wheel.cancel(timer), Some(n));
                        prop_assert_eq!(wheel.cancel(timer), None);
                    }
                    _ => {
                        let next = wheel.next(at(now_ms));
                        prop_assert_eq!(next.is_some(), !held.is_empty());
                        let least = held.iter().map(|(_, ms, _)| *ms).min();
                        if let (Some(next), Some(least)) = (next, least) {
                            prop_assert!(now_ms as u128 + next.as_millis() <= u128::from(least.max(now_ms) + TICK_MS));
                        }
                        now_ms += ms;
                        let mut due = Vec::new();
                        wheel.expire(at(now_ms), &mut due);
                        for n in due {
                            let place = held.iter().position(|it| it.0 == n);
                            let (_, ms, _) = held.swap_remove(place.expect("due once"));
                            prop_assert!(ms <= now_ms, "never early");
                        }
                        prop_assert!(held.iter().all(|it| it.1 + TICK_MS > now_ms), "a tick late at most");
                    }
                }
            }
        }
    }
}
