//! How much this node trusts itself (Lifeguard, section IV.A).

use std::time::Duration;

/// Highest score (Lifeguard's S).
const SCORE_MAX: u32 = 8;

/// The local health multiplier: 0 is well; each step slows this node's probes by one more interval, so that
/// a starved node asks more patiently before it accuses.
#[derive(Debug, Default)]
pub(crate) struct Health {
    score: u32,
}

impl Health {
    /// Something suggests that this node is slow.
    pub(crate) fn worsen(&mut self, by: u32) {
        self.score = self.score.saturating_add(by).min(SCORE_MAX);
    }

    /// A probe of this node's went well.
    pub(crate) fn improve(&mut self) {
        self.score = self.score.saturating_sub(1);
    }

    /// `time` as long as this node had better wait.
    pub(crate) fn scale(&self, time: Duration) -> Duration {
        time * (self.score + 1)
    }

    /// The score: 0 is well, 8 is worst.
    pub(crate) fn score(&self) -> u32 {
        self.score
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_stays_within_its_bounds() {
        let mut health = Health::default();
        health.improve();
        assert_eq!(health.scale(Duration::from_secs(1)), Duration::from_secs(1));
        health.worsen(3);
        health.worsen(u32::MAX);
        assert_eq!(health.scale(Duration::from_secs(1)), Duration::from_secs(9));
        health.improve();
        assert_eq!(health.score(), 7);
    }
}
