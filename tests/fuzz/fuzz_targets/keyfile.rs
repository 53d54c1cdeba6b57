//! Key files: what is read holds each key once, and at least one.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;

use identity::SoftKeys;
use tls::keyfile;
use types::KeySlot;

fuzz_target!(init: sagemesh_fuzz::seed::write([seed()]), |bytes: &[u8]| {
    let Ok(secrets) = keyfile::parse(bytes) else { return };
    let slots: BTreeSet<_> = secrets.iter().map(|(slot, _)| *slot).collect();
    assert!(!slots.is_empty() && slots.len() == secrets.len());
    let _ = SoftKeys::new(secrets.iter().map(|(slot, secret)| (*slot, secret)));
});

fn seed() -> String {
    let line = |slot: &KeySlot| format!("{} {}\n", slot.name(), "07".repeat(32));
    format!("{}\n{}", keyfile::HEADER, KeySlot::ALL.iter().map(line).collect::<String>())
}
