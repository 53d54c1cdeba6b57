//! What is learnt of an endpoint's latency.
//!
//! The peak-EWMA of Finagle (`com.twitter.finagle.loadbalancer.PeakEwma`): a worse sample counts at once, a
//! better one by the time since the last, and with no samples at all the estimate fades, so that calls come
//! back and find out. Beside it a smoothed latency (RFC 6298, section 2, alpha = 1/8), which says what is usual.

use std::time::{Duration, Instant};

/// Weight of a new sample in what is usual.
const ALPHA: f64 = 0.125;

/// The estimates, in seconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latency {
    peak: Option<(f64, Instant)>,
    usual: Option<f64>,
}

impl Latency {
    /// A call was answered.
    pub(crate) fn observe(&mut self, now: Instant, sample: Duration, decay: Duration) {
        let sample = sample.as_secs_f64();
        let usual = self.usual.unwrap_or(sample);
        self.usual = Some(usual + ALPHA * (sample - usual));
        let peak = match self.peak {
            Some((peak, at)) if sample < peak => {
                let weight = fading(at, now, decay);
                peak * weight + sample * (1.0 - weight)
            }
            _ => sample,
        };
        self.peak = Some((peak, now));
    }

    /// A call would have taken at least so long.
    pub(crate) fn worsen(&mut self, now: Instant, least: Duration, decay: Duration) {
        let least = least.as_secs_f64();
        if self.peak(now, decay).is_none_or(|peak| peak < least) {
            self.peak = Some((least, now));
        }
    }

    /// Forgets the worst, so that the next sample counts alone. What is usual stays.
    pub(crate) fn forgive(&mut self) {
        self.peak = None;
    }

    /// Whether there was a sample.
    pub(crate) fn is_known(&self) -> bool {
        self.peak.is_some()
    }

    /// What is to be expected, in seconds; `None` before the first sample.
    pub(crate) fn peak(&self, now: Instant, decay: Duration) -> Option<f64> {
        self.peak.map(|(peak, at)| peak * fading(at, now, decay))
    }

    /// What is usual, in seconds; `None` before the first answer.
    pub(crate) fn usual(&self) -> Option<f64> {
        self.usual
    }
}

fn fading(at: Instant, now: Instant, decay: Duration) -> f64 {
    match now.saturating_duration_since(at) {
        Duration::ZERO => 1.0,
        age => (-age.as_secs_f64() / decay.as_secs_f64()).exp(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECAY: Duration = Duration::from_secs(10);

    #[track_caller]
    fn check(found: Option<f64>, expected_ms: f64) {
        let found = found.expect("a sample") * 1000.0;
        assert!((found - expected_ms).abs() < 0.01 * expected_ms, "{found} ms, not {expected_ms} ms");
    }

    #[test]
    fn worse_counts_at_once_and_fades() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut latency = Latency::default();
        assert_eq!(latency.peak(start, DECAY), None);
        latency.observe(start, ms(5), DECAY);
        latency.observe(start, ms(100), DECAY);
        check(latency.peak(start, DECAY), 100.0);
        check(latency.usual(), 16.875);
        check(latency.peak(start + DECAY, DECAY), 36.788);
        latency.observe(start + DECAY, ms(5), DECAY);
        check(latency.peak(start + DECAY, DECAY), 39.949);
        latency.worsen(start + DECAY, ms(1), DECAY);
        check(latency.peak(start + DECAY, DECAY), 39.949);
        latency.worsen(start + DECAY, ms(1000), DECAY);
        check(latency.peak(start + DECAY, DECAY), 1000.0);
        // A clock that seems to go back changes nothing.
        check(latency.peak(start, DECAY), 1000.0);
    }
}
