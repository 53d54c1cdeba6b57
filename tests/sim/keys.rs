//! Keys for the simulator: a short mix instead of a signature, so that 1,000 nodes are quick.
//!
//! Anyone could compute them; liars in simulations do not, and real signatures are node/types' to test.

use types::key::Unavailable;
use types::{Algorithm, KeySlot, Keys, PeerId, PublicKey};

/// The keys of one simulated node.
pub struct SimKeys(PublicKey);

impl SimKeys {
    /// The keys of node `idx`.
    pub fn new(idx: usize) -> Self {
        Self(PublicKey::new(Algorithm::Ed25519, &peer(idx).0).expect("32 bytes"))
    }
}

/// The peer id of node `idx`: looks random, and its last four bytes tell the index.
pub fn peer(idx: usize) -> PeerId {
    let mut bytes = [0; 32];
    for (n, chunk) in bytes.chunks_exact_mut(8).enumerate() {
        chunk.copy_from_slice(&mix(idx as u64 * 4 + n as u64 + 1).to_be_bytes());
    }
    bytes[28..].copy_from_slice(&u32::try_from(idx).expect("few nodes").to_be_bytes());
    PeerId(bytes)
}

/// The index of the node with this peer id.
pub(crate) fn idx(peer: PeerId) -> usize {
    u32::from_be_bytes([peer.0[28], peer.0[29], peer.0[30], peer.0[31]]) as usize
}

impl Keys for SimKeys {
    fn public(&self, _: KeySlot) -> Result<&PublicKey, Unavailable> {
        Ok(&self.0)
    }

    fn sign(&self, slot: KeySlot, message: &[u8]) -> Result<Vec<u8>, Unavailable> {
        match slot {
            KeySlot::Node => Ok(tag(&self.0, message).to_vec()),
            _ => Err(Unavailable(slot)),
        }
    }

    fn verify(&self, key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
        tag(key, message)[..] == *signature
    }
}

/// 64 bytes, as long as an Ed25519 signature.
fn tag(key: &PublicKey, message: &[u8]) -> [u8; 64] {
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for part in [key.as_bytes(), message] {
        for chunk in part.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            state = mix(state ^ u64::from_le_bytes(word));
        }
        state = mix(state ^ part.len() as u64);
    }
    let mut out = [0; 64];
    for (n, chunk) in out.chunks_exact_mut(8).enumerate() {
        chunk.copy_from_slice(&mix(state.wrapping_add(n as u64)).to_le_bytes());
    }
    out
}

/// The finaliser of splitmix64.
pub(crate) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
