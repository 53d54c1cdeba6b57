//! What can be set, and what ships.
//!
//! The bounds in the comments are the daemon's to check where it reads what users write.

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
    /// Time between two signatures on changes of the own record, over time: three may follow each other at once.
    /// Default 5 s.
    pub sign_interval: Duration,
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
            exchange_interval: Duration::from_secs(10),
            retry_interval: Duration::from_secs(2),
            dead_kept: Duration::from_secs(6 * 3600),
        }
    }
}
