//! What constant fields were encoded to.

use super::fields::{Entry, Fields};
use super::name::Class;

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

/// Most kinds of lists for which a guess is kept: requests, answers, trailers.
const N_GUESSES: usize = 8;

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
    /// Which one was found last for lists that begin with the same name.
    guesses: [u8; N_GUESSES],
}

#[derive(Debug, Default)]
struct Block {
    hash: u64,
    /// How often the table had changed when it was encoded.
    n_changes: u64,
    /// The fields: name, length and value of each.
    key: Vec<u8>,
    /// Those before the first that is not constant, as they lay in their list, and the arena up to their end. Lists
    /// that begin alike are compared faster.
    lead: Vec<Entry>,
    lead_bytes: Vec<u8>,
    /// How much of `key` is theirs.
    lead_key_len: usize,
    encoded: Vec<u8>,
}

impl Blocks {
    /// What the constant fields of a list were encoded to, and which they are, if they are those of the last list
    /// of its kind. `fields` are no more than [`FIELDS_MAX`].
    pub(super) fn guess(&self, fields: &Fields, n_changes: u64) -> Option<(&[u8], u64)> {
        let guess = self.guesses[place(fields)?];
        let block = self.blocks.get(usize::from(guess)).filter(|block| block.n_changes == n_changes)?;
        Some((&block.encoded, block.find_in(fields)?))
    }

    /// What these fields were encoded to with a table that has not changed since.
    pub(super) fn find(&mut self, fields: &Fields, picked: Picked, n_changes: u64) -> Option<&[u8]> {
        let is_it = |block: &Block| block.hash == picked.hash && block.n_changes == n_changes;
        let at = self.blocks.iter().position(is_it)?;
        if self.blocks[at].find_in(fields) != Some(picked.bits) {
            return None;
        }
        if let (Some(place), Ok(at)) = (place(fields), u8::try_from(at)) {
            self.guesses[place] = at;
        }
        Some(&self.blocks[at].encoded)
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
        block.keep_lead(fields);
        block.encoded.clear();
        block.encoded.extend_from_slice(encoded);
    }

    /// Bytes of memory that it holds.
    pub(super) fn memory(&self) -> usize {
        let bytes = |it: &Block| it.key.capacity() + it.encoded.capacity() + it.lead_bytes.capacity();
        let entries: usize = self.blocks.iter().map(|it| it.lead.capacity()).sum();
        let inside = self.blocks.iter().map(bytes).sum::<usize>() + entries * size_of::<Entry>();
        self.blocks.capacity() * size_of::<Block>() + inside
    }
}

impl Block {
    fn keep_lead(&mut self, fields: &Fields) {
        let is_constant = |entry: &&Entry| entry.name.class() == Class::Constant;
        self.lead.clear();
        self.lead.extend(fields.entries.iter().take_while(is_constant));
        let end = |it: &Entry| (it.start + it.name_len + it.value_len) as usize;
        let len = self.lead.iter().map(end).max().unwrap_or(0);
        if len > KEY_LEN_MAX {
            self.lead.clear();
        }
        let len = if self.lead.is_empty() { 0 } else { len };
        self.lead_bytes.clear();
        self.lead_bytes.extend_from_slice(&fields.bytes[..len]);
        self.lead_key_len = self.lead.iter().map(|it| 3 + it.value_len as usize).sum();
    }

    /// The constant fields of a list, one bit each, if they are those that the block stands for.
    fn find_in(&self, fields: &Fields) -> Option<u64> {
        let (mut key, mut bits, n_lead) = (self.key.as_slice(), 0, self.lead.len());
        let has_lead = fields.entries.get(..n_lead) == Some(&self.lead)
            && fields.bytes.get(..self.lead_bytes.len()) == Some(&self.lead_bytes);
        let n_same = if has_lead { n_lead } else { 0 };
        if has_lead {
            key = key.get(self.lead_key_len..)?;
            bits = if n_lead < FIELDS_MAX { (1 << n_lead) - 1 } else { u64::MAX };
        }
        for (at, entry) in fields.entries.iter().enumerate().skip(n_same) {
            if entry.name.class() != Class::Constant {
                continue;
            }
            let (first, rest) = key.split_first_chunk::<3>()?;
            let (value, rest) = rest.split_at_checked(entry.value_len as usize)?;
            if *first != head(entry) || value != fields.field(entry).value || entry.is_never_indexed {
                return None;
            }
            key = rest;
            bits |= 1 << at;
        }
        key.is_empty().then_some(bits)
    }
}

/// Where the guess for lists of this kind is kept.
fn place(fields: &Fields) -> Option<usize> {
    fields.entries.first().map(|entry| entry.name as usize % N_GUESSES)
}

/// The name and the length of a value that a key has room for.
fn head(entry: &Entry) -> [u8; 3] {
    let [low, high, ..] = entry.value_len.to_le_bytes();
    [entry.name as u8, low, high]
}
