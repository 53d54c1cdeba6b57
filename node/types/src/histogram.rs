//! A small histogram of durations with bounded relative error, to be merged across workers and nodes.

use std::time::Duration;

/// Buckets for each doubling: a value is known to within 1/8 of itself.
const STEPS: usize = 8;
/// Doublings covered: 2^34 µs is more than four hours.
const DOUBLINGS: usize = 34;
const BUCKETS: usize = STEPS * (DOUBLINGS - 2);

/// Counts of durations in microseconds, in log-linear buckets. Values above the last bucket count in it.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u32; BUCKETS]>,
    n: u64,
    sum_us: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: Box::new([0; BUCKETS]), n: 0, sum_us: 0 }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, value: Duration) {
        let us = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        let count = &mut self.counts[bucket(us)];
        *count = count.saturating_add(1);
        self.n += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts.iter()) {
            *mine = mine.saturating_add(*theirs);
        }
        self.n += other.n;
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    /// How many durations were counted.
    pub const fn len(&self) -> u64 {
        self.n
    }

    /// Whether none was counted.
    pub const fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// The mean; `None` if nothing was counted.
    pub fn mean(&self) -> Option<Duration> {
        self.sum_us.checked_div(self.n).map(Duration::from_micros)
    }

    /// The upper bound of the bucket that holds the `q` quantile (0 to 1); `None` if nothing was counted.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        if self.is_empty() {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 1..=n")]
        let rank = ((q.clamp(0.0, 1.0) * self.n as f64).ceil() as u64).clamp(1, self.n);
        let mut seen = 0;
        let reaches = |count: &u32| {
            seen += u64::from(*count);
            seen >= rank
        };
        let idx = self.counts.iter().position(reaches).unwrap_or(BUCKETS - 1);
        Some(Duration::from_micros(upper_us(idx)))
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "n={} p50={:?} p99={:?}", self.n, self.quantile(0.5), self.quantile(0.99))
    }
}

/// The bucket of a value: the first `STEPS` are exact, then `STEPS` for each doubling.
fn bucket(us: u64) -> usize {
    if us < STEPS as u64 {
        return usize::try_from(us).unwrap_or(0);
    }
    let doubling = us.ilog2() as usize;
    let step = usize::try_from(us >> (doubling - 3)).unwrap_or(0) & (STEPS - 1);
    (STEPS * (doubling - 2) + step).min(BUCKETS - 1)
}

/// The largest value of a bucket, in microseconds.
fn upper_us(idx: usize) -> u64 {
    if idx < STEPS {
        return idx as u64;
    }
    let (doubling, step) = (idx / STEPS + 2, idx % STEPS);
    ((STEPS + step + 1) as u64 * (1 << (doubling - 3))) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_quantile_is_within_an_eighth(us in 0u64..(1 << 33)) {
            let mut histogram = Histogram::default();
            histogram.record(Duration::from_micros(us));
            let read = u64::try_from(histogram.quantile(0.5).expect("one value").as_micros()).expect("34 bits");
            prop_assert!(read >= us && read <= us + us / 8 + 1, "{us} read as {read}");
        }

        #[test]
        fn merging_is_counting_together(a in proptest::collection::vec(0u64..1 << 40, 0..50), b in proptest::collection::vec(0u64..1 << 40, 0..50)) {
            let count = |values: &[u64]| {
                let mut histogram = Histogram::default();
                for us in values {
                    histogram.record(Duration::from_micros(*us));
                }
                histogram
            };
            let mut merged = count(&a);
            merged.merge(&count(&b));
            prop_assert_eq!(merged, count(&[a, b].concat()));
        }
    }

    #[test]
    fn nothing_counted_has_no_quantile_and_the_largest_value_has_a_bucket() {
        assert_eq!(Histogram::default().quantile(0.5), None);
        let mut histogram = Histogram::default();
        histogram.record(Duration::MAX);
        assert_eq!(histogram.len(), 1);
        assert!(histogram.quantile(1.0).is_some());
    }
}
