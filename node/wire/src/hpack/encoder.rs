//! Fields in, header blocks out.
//!
//! Which fields get into the dynamic table follows from their names: those that are the same on most calls, once
//! they have come twice. The table is filled and never evicts, so that indices stay what they are and whole blocks
//! can be used again.

use super::blocks::{Blocks, FIELDS_MAX, Picked, hash};
use super::fields::{Entry, Fields, offset};
use super::literal::{write_number, write_short_string, write_string};
use super::name::{Class, NAMES, Name};
use super::table::N_STATIC;
use super::{FIELD_OVERHEAD, Field};

/// Most entries of the dynamic table: as many as fit into 4,096 bytes.
const ENTRIES_MAX: usize = 128;
/// The longest value that is kept only for the sake of its name.
const NAMING_LEN_MAX: usize = 64;
/// How many fields and blocks are remembered as having come once.
const N_SEEN: usize = 32;

/// Literal with incremental indexing, and the bits of its prefix (RFC 7541, section 6.2).
const INDEXED: (u8, u32) = (0x40, 6);
/// Literal without indexing.
const PLAIN: (u8, u32) = (0x00, 4);
/// Literal that is never indexed.
const NEVER: (u8, u32) = (0x10, 4);

/// The sending half of one connection's compression.
#[derive(Debug)]
pub struct Encoder {
    /// What the table may hold.
    size_max: usize,
    /// What it may hold at most, whatever the other end allows.
    cap: usize,
    /// What it holds, by the measure of RFC 7541, section 4.1.
    size: usize,
    /// The least size since the last block, if the next one has to announce a size.
    announce: Option<usize>,
    entries: Vec<Kept>,
    values: Vec<u8>,
    /// The number of an entry with each name, 0 if there is none.
    named: [u8; NAMES],
    /// Hashes of what came once, the last of them.
    seen: [u32; N_SEEN],
    /// Which of them is forgotten next.
    seen_next: usize,
    /// How often the table changed.
    n_changes: u64,
    blocks: Blocks,
}

#[derive(Debug)]
struct Kept {
    hash: u64,
    name: Name,
    at: u32,
    len: u32,
}

impl Encoder {
    /// An encoder whose table holds `cap` bytes at most, however much the other end allows. Until it is told
    /// otherwise the other end allows 4,096.
    pub fn new(cap: usize) -> Self {
        let size_max = cap.min(crate::settings::TABLE_SIZE as usize);
        Self {
            size_max,
            cap,
            size: 0,
            announce: (size_max != crate::settings::TABLE_SIZE as usize).then_some(size_max),
            entries: Vec::new(),
            values: Vec::new(),
            named: [0; NAMES],
            seen: [0; N_SEEN],
            seen_next: 0,
            n_changes: 0,
            blocks: Blocks::default(),
        }
    }

    /// Takes note of what the other end allows the table to hold.
    pub fn set_limit(&mut self, limit: usize) {
        let size_max = limit.min(self.cap);
        if size_max == self.size_max {
            return;
        }
        let mut least = size_max;
        if self.size > size_max {
            // Everything goes: what stayed would have other indices than the blocks that were kept.
            least = 0;
            self.size = 0;
            self.entries.clear();
            self.values.clear();
            self.named = [0; NAMES];
            self.n_changes += 1;
        }
        self.announce = Some(self.announce.map_or(least, |before| before.min(least)));
        self.size_max = size_max;
    }

    /// Encodes a list as one block to the end of `out`. Constant fields come before the others, in their order;
    /// the others in theirs.
    pub fn encode(&mut self, fields: &Fields, out: &mut Vec<u8>) {
        self.announce(out);
        let Some(constant) = pick(fields) else {
            for entry in &fields.entries {
                self.write(entry, fields.field(entry), out);
            }
            return;
        };
        match self.blocks.find(fields, constant, self.n_changes) {
            Some(block) => out.extend_from_slice(block),
            None => {
                let (start, n_changes) = (out.len(), self.n_changes);
                for entry in constant.of(fields) {
                    self.write_constant(entry, fields.field(entry), out);
                }
                if self.n_changes == n_changes && self.has_seen(constant.hash) {
                    self.blocks.keep(fields, constant, n_changes, &out[start..]);
                }
            }
        }
        let all = if fields.len() == FIELDS_MAX { u64::MAX } else { (1 << fields.len()) - 1 };
        let rest = Picked { bits: all & !constant.bits, hash: 0 };
        for entry in rest.of(fields) {
            self.write(entry, fields.field(entry), out);
        }
    }

    /// Bytes of memory that it holds.
    pub fn memory(&self) -> usize {
        self.blocks.memory() + self.values.capacity() + self.entries.capacity() * size_of::<Kept>()
    }

    /// Gives back the memory that it can do without while nothing is sent.
    pub fn shrink(&mut self) {
        self.blocks = Blocks::default();
        self.values.shrink_to_fit();
        self.entries.shrink_to_fit();
    }

    fn announce(&mut self, out: &mut Vec<u8>) {
        let Some(least) = self.announce.take() else { return };
        if least < self.size_max {
            write_number(0x20, 5, least, out);
        }
        write_number(0x20, 5, self.size_max, out);
    }

    fn write(&mut self, entry: &Entry, field: Field<'_>, out: &mut Vec<u8>) {
        let class = entry.name.class();
        if entry.is_never_indexed || class == Class::Secret {
            return self.write_literal(NEVER, field, out);
        }
        if class == Class::Constant {
            return self.write_constant(entry, field, out);
        }
        let is_naming = entry.name != Name::Unknown
            && entry.name.static_idx() == 0
            && self.named[entry.name as usize] == 0
            && field.value.len() <= NAMING_LEN_MAX
            && self.has_room(field)
            && self.has_seen((entry.name as u64) << 33);
        if is_naming {
            return self.insert(hash(entry, field.value), field, out);
        }
        self.write_literal(PLAIN, field, out);
    }

    fn write_constant(&mut self, entry: &Entry, field: Field<'_>, out: &mut Vec<u8>) {
        if let Some(idx) = static_idx(entry.name, field.value) {
            return write_number(0x80, 7, idx, out);
        }
        let hash = hash(entry, field.value);
        let is_it = |kept: &Kept| {
            kept.hash == hash
                && kept.name == entry.name
                && self.values.get(kept.at as usize..(kept.at + kept.len) as usize) == Some(field.value)
        };
        if let Some(at) = self.entries.iter().position(is_it) {
            return write_number(0x80, 7, self.idx(at), out);
        }
        if self.has_room(field) && self.has_seen(hash) {
            return self.insert(hash, field, out);
        }
        self.write_literal(PLAIN, field, out);
    }

    /// Writes a field and keeps it in the table.
    fn insert(&mut self, hash: u64, field: Field<'_>, out: &mut Vec<u8>) {
        match self.name_idx(field.known) {
            0 => {
                out.push(INDEXED.0);
                write_short_string(field.name, out);
            }
            idx => write_number(INDEXED.0, INDEXED.1, idx, out),
        }
        write_short_string(field.value, out);
        self.size += field.name.len() + field.value.len() + FIELD_OVERHEAD;
        self.n_changes += 1;
        let (at, len) = (offset(self.values.len()), offset(field.value.len()));
        self.values.extend_from_slice(field.value);
        self.entries.push(Kept { hash, name: field.known, at, len });
        self.named[field.known as usize] = u8::try_from(self.entries.len()).unwrap_or(0);
    }

    fn write_literal(&self, (first, prefix): (u8, u32), field: Field<'_>, out: &mut Vec<u8>) {
        match self.name_idx(field.known) {
            0 => {
                out.push(first);
                write_string(field.name, out);
            }
            idx => write_number(first, prefix, idx, out),
        }
        write_string(field.value, out);
    }

    /// The index of an entry with this name, 0 if there is none.
    fn name_idx(&self, name: Name) -> usize {
        match (name.static_idx(), self.named[name as usize]) {
            (0, 0) => 0,
            (0, number) => self.idx(usize::from(number) - 1),
            (idx, _) => usize::from(idx),
        }
    }

    /// The index of the entry that was the `at`-th to come.
    fn idx(&self, at: usize) -> usize {
        N_STATIC + self.entries.len() - at
    }

    /// Whether the table has room for a field, and a share left for it: no field takes a quarter of the table,
    /// and paths leave a quarter of it to others.
    fn has_room(&self, field: Field<'_>) -> bool {
        let size = field.name.len() + field.value.len() + FIELD_OVERHEAD;
        let quarter = self.size_max / 4;
        let size_max = if field.known == Name::Path { self.size_max - quarter } else { self.size_max };
        size <= quarter && self.size + size <= size_max && self.entries.len() < ENTRIES_MAX
    }

    /// Whether this came before, not long ago.
    fn has_seen(&mut self, hash: u64) -> bool {
        let tag = (hash >> 32) as u32 | 1;
        if self.seen.contains(&tag) {
            return true;
        }
        self.seen_next = (self.seen_next + 1) % N_SEEN;
        self.seen[self.seen_next] = tag;
        false
    }
}

/// The constant fields of a list. None if there are too many fields, or if the order of fields of one name
/// could change.
fn pick(fields: &Fields) -> Option<Picked> {
    if fields.len() > FIELDS_MAX {
        return None;
    }
    let mut picked = Picked::none();
    for (at, entry) in fields.entries.iter().enumerate() {
        if entry.name.class() == Class::Constant {
            if entry.is_never_indexed {
                return None;
            }
            picked.add(at, entry, fields.field(entry).value);
        }
    }
    Some(picked)
}

/// The entry of the static table that has this name and this value.
fn static_idx(name: Name, value: &[u8]) -> Option<usize> {
    Some(match (name, value) {
        (Name::Method, b"GET") => 2,
        (Name::Method, b"POST") => 3,
        (Name::Path, b"/") => 4,
        (Name::Path, b"/index.html") => 5,
        (Name::Scheme, b"http") => 6,
        (Name::Scheme, b"https") => 7,
        (Name::Status, b"200") => 8,
        (Name::Status, b"204") => 9,
        (Name::Status, b"206") => 10,
        (Name::Status, b"304") => 11,
        (Name::Status, b"400") => 12,
        (Name::Status, b"404") => 13,
        (Name::Status, b"500") => 14,
        (Name::AcceptEncoding, b"gzip, deflate") => 16,
        _ => return None,
    })
}
