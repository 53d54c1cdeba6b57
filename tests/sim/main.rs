//! Simulations of whole meshes; a failure prints its seed.

mod liars;
mod liveness;
mod state;

/// Runs a story once per seed; a failure names the seed.
fn for_seeds(seeds: std::ops::RangeInclusive<u64>, story: impl Fn(u64)) {
    for seed in seeds {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| story(seed)));
        assert!(outcome.is_ok(), "failed with seed {seed}");
    }
}
