//! Randomness from the operating system, for shells to hand to cores.

use aws_lc_rs::rand;

use identity::soft_keys::Secret;
use types::KeySlot;
use types::key::Keys;

/// `N` random bytes.
///
/// # Panics
/// If the operating system has no randomness to give: nothing may go on then.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    rand::fill(&mut out).expect("the operating system gives randomness");
    out
}

/// A secret that makes a key in `slot`.
pub fn secret(slot: KeySlot) -> Secret {
    loop {
        let secret = Secret::new(bytes());
        // One in 2^32 is no P-256 scalar: draw again.
        if identity::SoftKeys::new([(slot, &secret)]).is_ok_and(|keys| keys.public(slot).is_ok()) {
            return secret;
        }
    }
}
