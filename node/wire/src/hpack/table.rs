//! The static table (RFC 7541, appendix A), and the dynamic one of a decoder (section 2.3.2).

use std::collections::VecDeque;

use super::fields::{Field, offset};
use super::{FIELD_OVERHEAD, Name};

/// Entries of the static table; the dynamic one begins after them.
pub(super) const N_STATIC: usize = 61;

/// Names and values, from index 1.
#[rustfmt::skip]
pub(super) static STATIC: [(&str, &str); N_STATIC] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""),
    ("cache-control", ""), ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""),
    ("content-length", ""), ("content-location", ""), ("content-range", ""), ("content-type", ""),
    ("cookie", ""), ("date", ""), ("etag", ""), ("expect", ""), ("expires", ""), ("from", ""), ("host", ""),
    ("if-match", ""), ("if-modified-since", ""), ("if-none-match", ""), ("if-range", ""),
    ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""), ("location", ""), ("max-forwards", ""),
    ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""), ("referer", ""), ("refresh", ""),
    ("retry-after", ""), ("server", ""), ("set-cookie", ""), ("strict-transport-security", ""),
    ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""), ("www-authenticate", ""),
];

/// What is known of the names of the static table.
static STATIC_NAMES: [Name; N_STATIC] = {
    let mut names = [Name::Unknown; N_STATIC];
    let mut at = 0;
    while at < N_STATIC {
        names[at] = Name::of_const(STATIC[at].0.as_bytes());
        at += 1;
    }
    names
};

/// The fewest dead bytes for which the arena is moved together.
const SLACK: usize = 256;

/// What a field was found to be when it was decoded first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traits {
    pub(super) name: Name,
    /// Whether its name must not be.
    pub(super) is_name_flawed: bool,
    /// Whether its value must not be.
    pub(super) is_value_flawed: bool,
}

/// One entry of either table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'a> {
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) traits: Traits,
}

/// A dynamic table. Its entries lie one after the other in an arena whose front dies away.
#[derive(Debug, Default)]
pub(super) struct Table {
    bytes: Vec<u8>,
    /// The newest is the last.
    entries: VecDeque<Kept>,
    /// How far `bytes` was moved to the front in all, modulo 2³².
    moved: u32,
    /// By the measure of RFC 7541, section 4.1.
    size: usize,
    size_max: usize,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    /// Where its name begins, `moved` included. Its value follows.
    at: u32,
    name_len: u32,
    value_len: u32,
    traits: Traits,
}

impl Kept {
    fn len(&self) -> usize {
        self.name_len as usize + self.value_len as usize
    }
}

impl Table {
    /// An empty table.
    pub(super) fn new(size_max: usize) -> Self {
        Self { size_max, ..Self::default() }
    }

    /// The most that it may hold.
    pub(super) const fn size_max(&self) -> usize {
        self.size_max
    }

    /// The entry of either table that has this index.
    pub(super) fn get(&self, idx: usize) -> Option<Found<'_>> {
        if let Some(entry) = idx.checked_sub(1).and_then(|at| STATIC.get(at)) {
            let name = STATIC_NAMES[idx - 1];
            let traits = Traits { name, is_name_flawed: false, is_value_flawed: false };
            return Some(Found { name: entry.0.as_bytes(), value: entry.1.as_bytes(), traits });
        }
        let back = idx.checked_sub(N_STATIC + 1)?;
        let kept = self.entries.get(self.entries.len().checked_sub(back + 1)?)?;
        let start = kept.at.wrapping_sub(self.moved) as usize;
        let value = start + kept.name_len as usize;
        Some(Found {
            name: &self.bytes[start..value],
            value: &self.bytes[value..start + kept.len()],
            traits: kept.traits,
        })
    }

    /// Adds an entry, and drops old ones until there is room. One that is larger than the table empties it.
    pub(super) fn insert(&mut self, field: Field<'_>, traits: Traits) {
        let len = field.name.len() + field.value.len();
        let size = len + FIELD_OVERHEAD;
        self.evict(self.size_max.saturating_sub(size));
        if size > self.size_max {
            return;
        }
        self.make_room(len);
        let at = offset(self.bytes.len()).wrapping_add(self.moved);
        self.bytes.extend_from_slice(field.name);
        self.bytes.extend_from_slice(field.value);
        let (name_len, value_len) = (offset(field.name.len()), offset(field.value.len()));
        self.entries.push_back(Kept { at, name_len, value_len, traits });
        self.size += size;
    }

    /// Sets the most that the table may hold, and drops what is too much.
    pub(super) fn resize(&mut self, size_max: usize) {
        self.size_max = size_max;
        self.evict(size_max);
    }

    /// Bytes of memory that it holds.
    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Kept>()
    }

    /// Gives back the memory that it does not need now.
    pub(super) fn shrink(&mut self) {
        self.drop_dead();
        self.bytes.shrink_to_fit();
        self.entries.shrink_to_fit();
    }

    fn evict(&mut self, size_max: usize) {
        while self.size > size_max
            && let Some(oldest) = self.entries.pop_front()
        {
            self.size -= oldest.len() + FIELD_OVERHEAD;
        }
    }

    /// Moves what lives to the front if the arena would grow though half of it is dead.
    fn make_room(&mut self, len: usize) {
        let n_dead = self.n_dead();
        if self.bytes.len() + len > self.bytes.capacity() && n_dead >= SLACK.max(self.bytes.len() / 2) {
            self.drop_dead();
        }
    }

    fn n_dead(&self) -> usize {
        self.entries.front().map_or(self.bytes.len(), |kept| kept.at.wrapping_sub(self.moved) as usize)
    }

    fn drop_dead(&mut self) {
        let n_dead = self.n_dead();
        self.bytes.drain(..n_dead);
        self.moved = self.moved.wrapping_add(offset(n_dead));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_know_their_place_in_the_static_table() {
        for (at, (text, _)) in STATIC.iter().enumerate() {
            let name = Name::of(text.as_bytes());
            assert_eq!(STATIC_NAMES[at], name);
            if name != Name::Unknown {
                let first = STATIC.iter().position(|(it, _)| it == text).map(|at| at + 1);
                assert_eq!(first, Some(usize::from(name.static_idx())), "{text}");
            }
        }
    }

    #[test]
    fn a_table_that_turns_over_keeps_its_memory() {
        let mut table = Table::new(4096);
        let traits = Traits { name: Name::Unknown, is_name_flawed: false, is_value_flawed: false };
        for n in 0..100_000_u32 {
            let value = n.to_string().repeat(1 + n as usize % 60);
            let field =
                Field { name: b"n", value: value.as_bytes(), known: Name::Unknown, is_never_indexed: false };
            table.insert(field, traits);
            assert_eq!(table.get(N_STATIC + 1).map(|it| it.value), Some(value.as_bytes()));
        }
        assert!(table.memory() < 16 << 10, "{}", table.memory());
        assert!(table.size <= 4096);
    }
}
