//! How many calls of a service may be sent again, after Finagle's `RetryBudget`.
//!
//! Calls earn the right to a fraction of a retry, and so does time. What was earned fades, so that a budget
//! saved up in good times does not feed a storm in bad ones.

use std::time::{Duration, Instant};

use crate::config::Config;

/// How long what was earned lasts.
const FADING: Duration = Duration::from_secs(10);

/// The retries that a service may still make.
#[derive(Debug)]
pub(crate) struct Budget {
    tokens: f64,
    at: Instant,
}

impl Budget {
    pub(crate) fn new(now: Instant, config: &Config) -> Self {
        Self { tokens: idle(config), at: now }
    }

    /// A call came.
    pub(crate) fn earn(&mut self, now: Instant, config: &Config) {
        self.fade(now, config);
        self.tokens += f64::from(config.retry_percent) / 100.0;
    }

    /// Whether a call may be sent again, which is then paid for.
    pub(crate) fn spend(&mut self, now: Instant, config: &Config) -> bool {
        self.fade(now, config);
        let can_pay = self.tokens >= 1.0;
        if can_pay {
            self.tokens -= 1.0;
        }
        can_pay
    }

    /// `tokens' = rate - tokens / FADING`: at a steady rate of calls it settles at what 10 s earn.
    fn fade(&mut self, now: Instant, config: &Config) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        let idle = idle(config);
        self.tokens = idle + (self.tokens - idle) * (-elapsed / FADING.as_secs_f64()).exp();
        self.at = self.at.max(now);
    }
}

/// What time alone earns.
fn idle(config: &Config) -> f64 {
    f64::from(config.retry_rate) * FADING.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `asked` retries are granted, spread evenly over `time`, beside `calls` calls.
    fn granted(budget: &mut Budget, start: Instant, time: Duration, calls: u32, asked: u32) -> u32 {
        let config = Config::default();
        let mut granted = 0;
        for step in 0..asked {
            let now = start + time * step / asked;
            for _ in 0..calls / asked {
                budget.earn(now, &config);
            }
            granted += u32::from(budget.spend(now, &config));
        }
        granted
    }

    #[test]
    fn a_storm_gets_what_is_saved_and_then_a_fifth_of_the_calls_and_ten_a_second() {
        let start = Instant::now();
        let mut budget = Budget::new(start, &Config::default());
        assert_eq!(granted(&mut budget, start, Duration::ZERO, 0, 1000), 100);
        let secs = Duration::from_secs(10);
        let of_10_s = granted(&mut budget, start, secs, 10_000, 10_000);
        assert!((2000..=2200).contains(&of_10_s), "{of_10_s}");
    }

    #[test]
    fn what_is_saved_has_a_bound() {
        let start = Instant::now();
        let config = Config::default();
        let mut budget = Budget::new(start, &config);
        for _ in 0..100_000 {
            budget.earn(start, &config);
        }
        let later = start + Duration::from_secs(100);
        assert!((100..=101).contains(&granted(&mut budget, later, Duration::ZERO, 0, 1000)));
    }
}
