//! Blocks that were decoded lately, by their bytes.

use super::Fields;
use super::fields::Entry;

/// The longest block that is worth keeping. Long ones have fields that differ from call to call.
const BLOCK_LEN_MAX: usize = 256;
/// Most blocks that are kept: requests for a few methods, or answers and trailers.
const N_BLOCKS: usize = 8;

/// Blocks that were decoded lately. A block that comes once is not kept.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// By the hash of their bytes.
    blocks: [Option<Box<Block>>; N_BLOCKS],
    /// Of the last block of each place that was not kept.
    candidates: [u64; N_BLOCKS],
}

#[derive(Debug, Default)]
struct Block {
    /// How often the table had changed when it was decoded.
    n_changes: u64,
    raw: Vec<u8>,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    is_flawed: bool,
    /// The fields' size as a list.
    size: usize,
}

impl Recent {
    /// Fills `fields` if this block was decoded already, to no more than `size_max`, with a table that has not
    /// changed since.
    pub(super) fn load(&self, raw: &[u8], n_changes: u64, size_max: usize, fields: &mut Fields) -> bool {
        let Some(block) = place(raw).and_then(|(at, _)| self.blocks[at].as_deref()) else { return false };
        if block.n_changes != n_changes || block.raw != raw || block.size > size_max {
            return false;
        }
        fields.bytes.extend_from_slice(&block.bytes);
        fields.entries.extend_from_slice(&block.entries);
        fields.is_flawed = block.is_flawed;
        true
    }

    /// Keeps a block and the fields it was decoded to, if it came before.
    pub(super) fn offer(&mut self, raw: &[u8], n_changes: u64, fields: &Fields) {
        let Some((at, hash)) = place(raw) else { return };
        if self.candidates[at] != hash {
            self.candidates[at] = hash;
            return;
        }
        let block = self.blocks[at].get_or_insert_default();
        block.raw.clear();
        block.raw.extend_from_slice(raw);
        block.bytes.clone_from(&fields.bytes);
        block.entries.clone_from(&fields.entries);
        block.is_flawed = fields.is_flawed;
        block.size = fields.size();
        block.n_changes = n_changes;
    }

    /// Bytes of memory that it holds.
    pub(super) fn memory(&self) -> usize {
        let of = |block: &Block| {
            size_of::<Block>()
                + block.raw.capacity()
                + block.bytes.capacity()
                + block.entries.capacity() * size_of::<Entry>()
        };
        size_of::<Self>() + self.blocks.iter().flatten().map(|block| of(block)).sum::<usize>()
    }
}

/// Where a block would be kept, and its hash; none if it is not worth it.
fn place(raw: &[u8]) -> Option<(usize, u64)> {
    if raw.len() > BLOCK_LEN_MAX {
        return None;
    }
    let (chunks, rest) = raw.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let mut hash = raw.len() as u64;
    for chunk in chunks.iter().chain([&last]) {
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(*chunk)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    Some(((hash >> 61) as usize, hash | 1))
}
