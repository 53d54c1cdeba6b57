//! What can be set about routing.

use std::time::Duration;

/// How calls are routed. `Config::default()` is what ships.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long a call may take that names no deadline. Default 15 s, from 100 ms to 1 h.
    pub timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(15) }
    }
}
