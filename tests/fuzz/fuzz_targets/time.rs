//! Timestamps of any value: printing and arithmetic never panic and never turn back.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;

use types::Timestamp;

fuzz_target!(|input: (u64, u64, u64, u32)| {
    let (a, b, secs, nanos) = input;
    let by = Duration::new(secs, nanos % 1_000_000_000);
    for at in [Timestamp::from_millis(a), Timestamp::from_secs(a)] {
        assert!(!at.to_string().is_empty());
        assert!(at - by <= at && at <= at + by);
        assert!((at - by) + by >= at || at.since(at - by) < by);
        let other = Timestamp::from_millis(b);
        assert!(at.since(other).is_zero() || other.since(at).is_zero());
        assert_eq!(other + at.since(other), at.max(other));
    }
});
