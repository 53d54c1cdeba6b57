//! What can be set about routing.

use std::time::Duration;

use crate::calls::CALLS_MAX;
use crate::error::Error;

/// How calls are routed. `Config::default()` is what ships.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long a call may take that names no deadline. Default 15 s, from 100 ms to 1 h.
    pub timeout: Duration,
    /// How long a bad latency is remembered: it fades by a factor of e in this time. Default 10 s, from 100 ms
    /// to 5 min. Longer keeps calls away from slow endpoints for longer, and brings them back later.
    pub decay: Duration,
    /// The least time after which an endpoint that answers nothing is held to be stalled. Default 20 ms, from
    /// 1 ms to 10 s. Shorter loses fewer calls when a node vanishes, and shuns endpoints that only pause.
    pub stall_min: Duration,
    /// How many times its usual latency an endpoint may be silent before it is stalled. Default 4, from 2 to
    /// 100.
    pub stall_factor: u32,
    /// When a stalled endpoint is tried with a call, at first; doubled by each failure up to `eject_max` and
    /// jittered. Default 1 s, from 100 ms to 1 min. Such a call may fail, so shorter costs calls.
    pub stall_retry: Duration,
    /// For how long an endpoint is ejected that could not be reached, broke the connection or keeps failing, at
    /// first; doubled by each failure after it and jittered. Default 500 ms, from 10 ms to 1 min.
    pub eject_min: Duration,
    /// The longest such time. Default 30 s, from `eject_min` to 1 h.
    pub eject_max: Duration,
    /// After how many failures in a row an endpoint is ejected: statuses UNKNOWN, DEADLINE_EXCEEDED, INTERNAL,
    /// UNAVAILABLE and DATA_LOSS. Default 5, from 1 to 1,000.
    pub eject_failures: u32,
    /// How many of a service's healthy endpoints failures must leave, in per cent, rounded up. Default 50, from
    /// 0 to 100; 100 ejects none for its failures. Endpoints that cannot be reached are ejected regardless.
    pub healthy_floor_percent: u8,
    /// How often one call is sent at most, the first time included. Default 3, from 1 to 10; 1 repeats nothing.
    /// Only what reached no server is sent again.
    pub attempts_max: u32,
    /// How many calls may be sent again, in per cent of a service's calls over 10 s. Default 20, from 0 to 100.
    pub retry_percent: u8,
    /// How many more may be sent again each second. Default 10, from 0 to 10,000.
    pub retry_rate: u32,
    /// Most calls that wait for an answer of one endpoint. Default 1,024, from 1 to `service_calls_max`. Lower
    /// protects slow servers.
    pub endpoint_calls_max: u32,
    /// Most calls that wait for an answer of one service. Default 8,192, from 1 to 65,536.
    pub service_calls_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(15),
            decay: Duration::from_secs(10),
            stall_min: Duration::from_millis(20),
            stall_factor: 4,
            stall_retry: Duration::from_secs(1),
            eject_min: Duration::from_millis(500),
            eject_max: Duration::from_secs(30),
            eject_failures: 5,
            healthy_floor_percent: 50,
            attempts_max: 3,
            retry_percent: 20,
            retry_rate: 10,
            endpoint_calls_max: 1024,
            service_calls_max: 8192,
        }
    }
}

impl Config {
    /// Refuses what is out of bounds.
    ///
    /// # Errors
    /// [`Error::Bounds`], naming the field.
    pub fn check(&self) -> Result<(), Error> {
        let (ms, secs) = (Duration::from_millis, Duration::from_secs);
        let calls_max = self.service_calls_max;
        let rules = [
            ((ms(100)..=secs(3600)).contains(&self.timeout), "route.timeout", "100 ms to 1 h"),
            ((ms(100)..=secs(300)).contains(&self.decay), "route.decay", "100 ms to 5 min"),
            ((ms(1)..=secs(10)).contains(&self.stall_min), "route.stall_min", "1 ms to 10 s"),
            ((2..=100).contains(&self.stall_factor), "route.stall_factor", "2 to 100"),
            ((ms(100)..=secs(60)).contains(&self.stall_retry), "route.stall_retry", "100 ms to 1 min"),
            ((ms(10)..=secs(60)).contains(&self.eject_min), "route.eject_min", "10 ms to 1 min"),
            ((self.eject_min..=secs(3600)).contains(&self.eject_max), "route.eject_max", "eject_min to 1 h"),
            ((1..=1000).contains(&self.eject_failures), "route.eject_failures", "1 to 1,000"),
            (self.healthy_floor_percent <= 100, "route.healthy_floor_percent", "0 to 100"),
            ((1..=10).contains(&self.attempts_max), "route.attempts_max", "1 to 10"),
            (self.retry_percent <= 100, "route.retry_percent", "0 to 100"),
            (self.retry_rate <= 10_000, "route.retry_rate", "0 to 10,000"),
            ((1..=CALLS_MAX).contains(&calls_max), "route.service_calls_max", "1 to 65,536"),
            (
                (1..=calls_max).contains(&self.endpoint_calls_max),
                "route.endpoint_calls_max",
                "1 to service_calls_max",
            ),
        ];
        match rules.into_iter().find(|(is_kept, ..)| !is_kept) {
            Some((_, field, bounds)) => Err(Error::Bounds { field, bounds }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bound_is_kept_and_named() {
        #[track_caller]
        fn check(set: fn(&mut Config), expected: Option<&str>) {
            let mut config = Config::default();
            set(&mut config);
            let found = match config.check() {
                Ok(()) => None,
                Err(Error::Bounds { field, .. }) => Some(field),
                Err(other) => panic!("{other}"),
            };
            assert_eq!(found, expected);
        }
        check(|_| {}, None);
        check(|config| config.timeout = Duration::ZERO, Some("route.timeout"));
        check(|config| config.decay = Duration::ZERO, Some("route.decay"));
        check(|config| config.stall_min = Duration::ZERO, Some("route.stall_min"));
        check(|config| config.stall_factor = 1, Some("route.stall_factor"));
        check(|config| config.stall_retry = Duration::from_secs(61), Some("route.stall_retry"));
        check(|config| config.eject_min = Duration::ZERO, Some("route.eject_min"));
        check(|config| config.eject_max = Duration::from_millis(1), Some("route.eject_max"));
        check(|config| config.eject_failures = 0, Some("route.eject_failures"));
        check(|config| config.healthy_floor_percent = 101, Some("route.healthy_floor_percent"));
        check(|config| config.attempts_max = 0, Some("route.attempts_max"));
        check(|config| config.retry_percent = 101, Some("route.retry_percent"));
        check(|config| config.retry_rate = 10_001, Some("route.retry_rate"));
        check(|config| config.service_calls_max = 0, Some("route.service_calls_max"));
        check(|config| config.service_calls_max = 65_537, Some("route.service_calls_max"));
        check(|config| config.endpoint_calls_max = 0, Some("route.endpoint_calls_max"));
        check(|config| config.service_calls_max = 100, Some("route.endpoint_calls_max"));
    }
}
