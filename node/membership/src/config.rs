//! What can be set, and what ships.
//!
//! Users set none of it: the bounds are a contract with whoever builds the core.

use std::time::Duration;

/// How the core behaves. `Config::default()` is what ships and what simulations measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// From one probe to the next, times the local health. Default 500 ms. Less finds crashes sooner and
    /// sends more.
    pub probe_interval: Duration,
    /// How long a direct ping may take before others are asked to try, times the local health. Default
    /// 500 ms. Must exceed an ordinary round trip by far.
    pub ping_timeout: Duration,
    /// How long a probe may take in all before its target is accused, times the local health. Default
    /// 1,500 ms; at least twice `ping_timeout`.
    pub probe_timeout: Duration,
    /// How many peers are asked to ping for us. Default 3.
    pub helpers: usize,
    /// Up to this many members everyone probes everyone; beyond it, ring neighbours only. Default 150.
    pub full_mesh_max: usize,
    /// How many rings a node stands in; it has two neighbours on each. Default 6, 1 to 16. More rings spread
    /// news more surely and send more.
    pub rings: usize,
    /// On how many of those rings a node passes on what others began; its own news goes round all of them.
    /// Default 3, 2 to `rings`.
    pub few_rings: usize,
    /// The least time that a suspect has to answer is this many probe intervals times log10 of the members
    /// (Lifeguard's alpha). Default 3. More forgives longer stalls and finds crashes later.
    pub suspicion_alpha: u32,
    /// The most time is this many times the least (Lifeguard's beta). Default 6.
    pub suspicion_beta: u32,
    /// How many further accusers bring the time down to the least (Lifeguard's K). Default 3, at most 7.
    pub confirmations: usize,
    /// How long accusations and answers to them wait for company. Default 50 ms.
    pub urgent_delay: Duration,
    /// How long digests wait for company. Default 450 ms. Less spreads news sooner and sends more.
    pub digest_delay: Duration,
    /// The even pace of signatures on changes of the own record: one in this time. Default 5 s.
    pub sign_interval: Duration,
    /// How many changes may be signed at once after a quiet time. Default 4, at least 1. More spreads rare
    /// changes sooner and lets a node that flaps send more.
    pub sign_burst: u32,
    /// Least time from one exchange with a random peer to the next. Default 10 s; more by itself in meshes of
    /// many hundreds.
    pub exchange_interval: Duration,
    /// From one attempt to reach a member that is dead or was never seen to the next. Default 2 s.
    pub retry_interval: Duration,
    /// How long the record of a dead member is kept. Default 6 h. Its incarnation is kept for as long as it
    /// is admitted, so that nothing old can revive it.
    pub dead_kept: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            probe_interval: Duration::from_millis(500),
            ping_timeout: Duration::from_millis(500),
            probe_timeout: Duration::from_millis(1500),
            helpers: 3,
            full_mesh_max: 150,
            rings: 6,
            few_rings: 3,
            suspicion_alpha: 3,
            suspicion_beta: 6,
            confirmations: 3,
            urgent_delay: Duration::from_millis(50),
            digest_delay: Duration::from_millis(450),
            sign_interval: Duration::from_secs(5),
            sign_burst: 4,
            exchange_interval: Duration::from_secs(10),
            retry_interval: Duration::from_secs(2),
            dead_kept: Duration::from_secs(6 * 3600),
        }
    }
}

impl Config {
    /// Refuses what is out of bounds.
    ///
    /// # Errors
    /// The field.
    pub fn check(&self) -> Result<(), &'static str> {
        let rules = [
            (!self.probe_interval.is_zero(), "probe_interval"),
            (!self.ping_timeout.is_zero(), "ping_timeout"),
            (self.probe_timeout >= self.ping_timeout.saturating_mul(2), "probe_timeout"),
            ((1..=16).contains(&self.rings), "rings"),
            (self.few_rings >= 2.min(self.rings) && self.few_rings <= self.rings, "few_rings"),
            (self.suspicion_alpha >= 1, "suspicion_alpha"),
            (self.suspicion_beta >= 1, "suspicion_beta"),
            (self.confirmations <= 7, "confirmations"),
            (!self.sign_interval.is_zero(), "sign_interval"),
            (self.sign_burst >= 1, "sign_burst"),
            (!self.exchange_interval.is_zero(), "exchange_interval"),
            (!self.retry_interval.is_zero(), "retry_interval"),
        ];
        match rules.into_iter().find(|(is_kept, _)| !is_kept) {
            Some((_, field)) => Err(field),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_and_what_is_out_of_bounds_is_named() {
        #[track_caller]
        fn check(set: fn(&mut Config), expected: Result<(), &str>) {
            let mut config = Config::default();
            set(&mut config);
            assert_eq!(config.check(), expected);
        }
        check(|_| {}, Ok(()));
        check(|config| config.sign_burst = 0, Err("sign_burst"));
        check(|config| config.rings = 17, Err("rings"));
        check(|config| config.few_rings = 1, Err("few_rings"));
        check(|config| config.few_rings = 7, Err("few_rings"));
        check(|config| config.confirmations = 8, Err("confirmations"));
        check(|config| config.probe_timeout = config.ping_timeout, Err("probe_timeout"));
    }
}
