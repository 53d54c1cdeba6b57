//! What constant fields were encoded to.

use super::fields::{Entry, Fields};

/// Most blocks that one encoder keeps.
const N_BLOCKS: usize = 32;
/// Most bytes of fields that are kept with their block.
const KEY_LEN_MAX: usize = 2048;
/// Most fields of a list for which a [`Picked`] can be made.
pub(super) const FIELDS_MAX: usize = 64;

/// Some fields of a list, one bit each, and a hash that few others share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Picked {
    pub(super) bits: u64,
    pub(super) hash: u64,
}

impl Picked {
    /// None of the fields.
    pub(super) const fn none() -> Self {
        Self { bits: 0, hash: 0 }
    }

    /// Adds the field at a place below [`FIELDS_MAX`].
    pub(super) fn add(&mut self, at: usize, entry: &Entry, value: &[u8]) {
        self.bits |= 1 << at;
        self.hash = mix(self.hash, hash(entry, value));
    }

    /// The fields, in order.
    pub(super) fn of(self, fields: &Fields) -> impl Iterator<Item = &Entry> {
        let mut left = self.bits;
        std::iter::from_fn(move || {
            let at = left.trailing_zeros() as usize;
            left &= left.wrapping_sub(1);
            fields.entries.get(at)
        })
    }
}

/// A hash of a field whose name is known. It looks at the beginning, the middle and the end of the value.
pub(super) fn hash(entry: &Entry, value: &[u8]) -> u64 {
    let head = u64::from(entry.value_len) << 8 | entry.name as u64;
    let mut hash = mix(0, head);
    if let (Some(first), Some(last)) = (value.first_chunk::<8>(), value.last_chunk::<8>()) {
        let middle = (value.len() - 8) / 2;
        let middle = value[middle..].first_chunk::<8>().unwrap_or(first);
        for chunk in [first, middle, last] {
            hash = mix(hash, u64::from_le_bytes(*chunk));
        }
        return hash;
    }
    value.iter().fold(hash, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte))
}

fn mix(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Encoded blocks, by the constant fields that they stand for.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    blocks: Vec<Block>,
    /// Which one is replaced next.
    next: usize,
}

#[derive(Debug, Default)]
struct Block {
    hash: u64,
    /// How often the table had changed when it was encoded.
    n_changes: u64,
    /// The fields: name, length and value of each.
    key: Vec<u8>,
    encoded: Vec<u8>,
}

impl Blocks {
    /// What these fields were encoded to with a table that has not changed since.
    pub(super) fn find(&self, fields: &Fields, picked: Picked, n_changes: u64) -> Option<&[u8]> {
        let is_it = |block: &&Block| block.hash == picked.hash && block.n_changes == n_changes;
        let block = self.blocks.iter().find(is_it)?;
        block.is_of(fields, picked).then_some(&block.encoded)
    }

    /// Keeps what these fields were encoded to.
    pub(super) fn keep(&mut self, fields: &Fields, picked: Picked, n_changes: u64, encoded: &[u8]) {
        let key_len = picked.of(fields).map(|entry| 3 + entry.value_len as usize).sum::<usize>();
        if key_len > KEY_LEN_MAX {
            return;
        }
        let at = match self.blocks.iter().position(|block| block.hash == picked.hash) {
            Some(at) => at,
            None if self.blocks.len() < N_BLOCKS => {
                self.blocks.push(Block::default());
                self.blocks.len() - 1
            }
            None => {
                self.next = (self.next + 1) % N_BLOCKS;
                self.next
            }
        };
        let Some(block) = self.blocks.get_mut(at) else { return };
        block.hash = picked.hash;
        block.n_changes = n_changes;
        block.key.clear();
        for entry in picked.of(fields) {
            block.key.extend_from_slice(&head(entry));
            block.key.extend_from_slice(fields.field(entry).value);
        }
        block.encoded.clear();
        block.encoded.extend_from_slice(encoded);
    }

    /// Bytes of memory that it holds.
    pub(super) fn memory(&self) -> usize {
        let inside: usize = self.blocks.iter().map(|it| it.key.capacity() + it.encoded.capacity()).sum();
        self.blocks.capacity() * size_of::<Block>() + inside
    }
}

impl Block {
    fn is_of(&self, fields: &Fields, picked: Picked) -> bool {
        let mut key = self.key.as_slice();
        for entry in picked.of(fields) {
            let Some((first, rest)) = key.split_first_chunk::<3>() else { return false };
            let Some((value, rest)) = rest.split_at_checked(entry.value_len as usize) else { return false };
            if *first != head(entry) || value != fields.field(entry).value {
                return false;
            }
            key = rest;
        }
        key.is_empty()
    }
}

/// The name and the length of a value that a key has room for.
fn head(entry: &Entry) -> [u8; 3] {
    let [low, high, ..] = entry.value_len.to_le_bytes();
    [entry.name as u8, low, high]
}
