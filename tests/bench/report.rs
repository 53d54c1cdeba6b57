//! Figures: a line each for people, all of them as JSON at the end.

use std::sync::Mutex;
use std::thread;
use std::time::Instant;

/// The figures so far.
pub(crate) struct Report {
    figures: Vec<(String, f64)>,
    started: Instant,
}

impl Report {
    pub(crate) fn new() -> Self {
        println!("{:<58} {:>12}  note", "figure", "value");
        Self { figures: Vec::new(), started: Instant::now() }
    }

    /// Notes one figure.
    pub(crate) fn figure(&mut self, key: &str, value: f64, note: &str) {
        println!("{key:<58} {value:>12.3}  {note}");
        self.figures.push((key.to_owned(), value));
    }

    /// Prints the line for programs.
    pub(crate) fn finish(self) {
        println!("(took {:.0} s)", self.started.elapsed().as_secs_f64());
        let figures: Vec<_> =
            self.figures.iter().map(|(key, value)| format!("\"{key}\": {value:.4}")).collect();
        println!("RESULT {{{}}}", figures.join(", "));
    }
}

/// The value that a share `p` of `sorted` does not exceed (nearest rank); 0 of nothing.
pub(crate) fn percentile(sorted: &[f64], p: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the length")]
    let rank = (p * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// Seconds of µs.
pub(crate) fn secs(us: u64) -> f64 {
    us as f64 / 1e6
}

/// What `run` makes of each seed, in their order. Seeds share nothing, so each core takes the next one.
pub(crate) fn for_each_seed<T: Send>(
    seeds: impl Iterator<Item = u64> + Send,
    run: impl Fn(u64) -> T + Sync,
) -> Vec<T> {
    let seeds = Mutex::new(seeds);
    let done = Mutex::new(Vec::new());
    let worker = || {
        loop {
            let Some(seed) = seeds.lock().expect("no worker panics with the lock held").next() else {
                return;
            };
            let outcome = run(seed);
            done.lock().expect("no worker panics with the lock held").push((seed, outcome));
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(worker);
        }
    });
    let mut done = done.into_inner().expect("all workers have ended");
    done.sort_by_key(|(seed, _)| *seed);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}
