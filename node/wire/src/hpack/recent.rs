//! Blocks and strings that were decoded lately, by their bytes.

use super::fields::Entry;
use super::{Error, Fields, huffman};

/// The longest block that is worth keeping. Long ones have fields that differ from call to call.
const BLOCK_LEN_MAX: usize = 256;
/// Most bytes of fields that are kept with their block: a short one may refer to much.
const FIELDS_LEN_MAX: usize = 2048;
/// Most blocks that are kept: requests for a few methods, or answers and trailers.
const N_BLOCKS: usize = 8;

/// Blocks that were decoded lately. A block that comes once is not kept.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// By the hash of their bytes.
    blocks: [Option<Box<Block>>; N_BLOCKS],
    /// Of the last block of each place that was not kept.
    candidates: [u64; N_BLOCKS],
    /// Which one was loaded last, if that was the last that happened.
    loaded: Option<usize>,
}

#[derive(Debug, Default)]
struct Block {
    /// How often the table had changed when it was decoded.
    n_changes: u64,
    raw: Vec<u8>,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    is_flawed: bool,
    verdict: u64,
    /// The fields' size as a list.
    size: usize,
}

impl Recent {
    /// Fills `fields` if this block was decoded already, to no more than `size_max`, with a table that has not
    /// changed since.
    pub(super) fn load(&mut self, raw: &[u8], n_changes: u64, size_max: usize, fields: &mut Fields) -> bool {
        self.loaded = None;
        let Some((at, _)) = place(raw) else { return false };
        let Some(block) = self.blocks[at].as_deref() else { return false };
        if block.n_changes != n_changes || block.raw != raw || block.size > size_max {
            return false;
        }
        fields.bytes.extend_from_slice(&block.bytes);
        fields.entries.extend_from_slice(&block.entries);
        fields.is_flawed = block.is_flawed;
        fields.verdict = block.verdict;
        self.loaded = Some(at);
        true
    }

    /// Keeps what the reader made of the block that was loaded last.
    pub(super) fn keep_verdict(&mut self, verdict: u64) {
        if let Some(block) = self.loaded.and_then(|at| self.blocks[at].as_deref_mut()) {
            block.verdict = verdict;
        }
    }

    /// Keeps a block and the fields it was decoded to, if it came before.
    pub(super) fn offer(&mut self, raw: &[u8], n_changes: u64, fields: &Fields) {
        let Some((at, hash)) = place(raw).filter(|_| fields.bytes.len() <= FIELDS_LEN_MAX) else { return };
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
        block.verdict = 0;
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

/// Strings that are worth keeping, by their bytes: tokens, which come with each call and must be in no table. What is
/// short, as are trace ids, is decoded as fast.
const STRING_LEN: std::ops::RangeInclusive<usize> = 64..=1024;
/// Most strings that are kept.
const N_STRINGS: usize = 4;

/// Long strings of Huffman's code that were decoded last.
#[derive(Debug, Default)]
pub(super) struct Strings {
    /// Encoded and decoded, by their last byte but one: the last is partly padding.
    kept: [(Vec<u8>, Vec<u8>); N_STRINGS],
}

impl Strings {
    /// Decodes a string to the end of `out`.
    ///
    /// # Errors
    /// [`Error::Huffman`]; what `out` then ends with is of no use.
    pub(super) fn decode(kept: &mut Option<Box<Self>>, raw: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        if !STRING_LEN.contains(&raw.len()) {
            return huffman::decode(raw, out);
        }
        let at = usize::from(raw[raw.len() - 2]) % N_STRINGS;
        let (encoded, decoded) = &mut kept.get_or_insert_default().kept[at];
        if encoded == raw {
            out.extend_from_slice(decoded);
            return Ok(());
        }
        let start = out.len();
        huffman::decode(raw, out)?;
        encoded.clear();
        encoded.extend_from_slice(raw);
        decoded.clear();
        decoded.extend_from_slice(&out[start..]);
        Ok(())
    }

    /// Bytes of memory that it holds.
    pub(super) fn memory(&self) -> usize {
        let inside = self.kept.iter().map(|(encoded, decoded)| encoded.capacity() + decoded.capacity());
        size_of::<Self>() + inside.sum::<usize>()
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
