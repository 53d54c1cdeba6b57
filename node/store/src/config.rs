//! What can be set about the store.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::Error;
use crate::queue::COMMIT_BYTES_MAX;

/// What can be set about the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Directory of the database; made with mode 0700 if it is missing. Default `/var/lib/sagemesh`. It
    /// should lie on a local disk: SQLite's write-ahead log does not work over a network.
    pub dir: PathBuf,
    /// How long a batched commit may wait before it is written. Default 1 s, from 1 ms to 10 s. Longer
    /// spares flash memory; what a crash can lose of batched commits is as long.
    pub commit_delay: Duration,
    /// Memory for commits that wait to be written, in bytes. Default 8 MiB, from 8 MiB to 256 MiB. More
    /// sheds fewer events of priority `Info` while the disk is slow or full.
    pub queue_bytes: usize,
    /// Rows of events of priority `Info` that are kept; the oldest go first. Default 50,000, from 100 to
    /// 10,000,000. A row takes about as much as its JSON form.
    pub info_rows_max: u32,
    /// The same for priority `Notice`, counted apart so that a flood of `Info` pushes no `Notice` out. Rows of
    /// priority `Audit` are kept for ever.
    pub notice_rows_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("/var/lib/sagemesh"),
            commit_delay: Duration::from_secs(1),
            queue_bytes: 8 << 20,
            info_rows_max: 50_000,
            notice_rows_max: 50_000,
        }
    }
}

impl Config {
    /// Refuses what is out of bounds.
    ///
    /// # Errors
    /// [`Error::Bounds`], with the field and its bounds.
    pub fn check(&self) -> Result<(), Error> {
        let rows = 100..=10_000_000;
        let refuse = |field, bounds| Err(Error::Bounds { field, bounds });
        if !(Duration::from_millis(1)..=Duration::from_secs(10)).contains(&self.commit_delay) {
            return refuse("store.commit_delay", "1 ms to 10 s");
        }
        if !(2 * COMMIT_BYTES_MAX..=256 << 20).contains(&self.queue_bytes) {
            return refuse("store.queue_bytes", "8 MiB to 256 MiB");
        }
        if !rows.contains(&self.info_rows_max) {
            return refuse("store.info_rows_max", "100 to 10,000,000");
        }
        if !rows.contains(&self.notice_rows_max) {
            return refuse("store.notice_rows_max", "100 to 10,000,000");
        }
        Ok(())
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
            let found = config.check().err().map(|error| error.to_string());
            assert_eq!(found.as_deref(), expected);
        }
        check(|_| {}, None);
        check(
            |config| config.commit_delay = Duration::ZERO,
            Some("`store.commit_delay` is out of bounds: set it from 1 ms to 10 s"),
        );
        check(
            |config| config.queue_bytes = 1,
            Some("`store.queue_bytes` is out of bounds: set it from 8 MiB to 256 MiB"),
        );
        check(
            |config| config.info_rows_max = 0,
            Some("`store.info_rows_max` is out of bounds: set it from 100 to 10,000,000"),
        );
        check(
            |config| config.notice_rows_max = u32::MAX,
            Some("`store.notice_rows_max` is out of bounds: set it from 100 to 10,000,000"),
        );
    }
}
