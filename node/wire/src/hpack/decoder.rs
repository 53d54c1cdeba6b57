//! Header blocks in, fields out.

use super::fields::{Entry, Fields, offset};
use super::literal::{is_name, is_value, read_number, read_string};
use super::recent::{Recent, Strings};
use super::table::{Table, Traits};
use super::{Error, FIELD_OVERHEAD, Field, Name};

/// Whether a list of fields was as short as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// All fields are there.
    Whole,
    /// The list is longer. The decoder goes on, what was filled in is not to be used.
    TooLong,
}

/// The receiving half of one connection's compression.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// The most that the other end may set the table's size to.
    limit: usize,
    /// Whether the next block must set the size, since the limit fell below it.
    must_resize: bool,
    /// How often the table changed.
    n_changes: u64,
    recent: Option<Box<Recent>>,
    strings: Option<Box<Strings>>,
}

impl Decoder {
    /// A decoder whose table may be set to `limit` bytes by the other end, and holds 4,096 until then. It allocates nothing until the table has an entry.
    pub fn new(limit: usize) -> Self {
        Self {
            table: Table::new(limit.min(crate::settings::TABLE_SIZE as usize)),
            limit,
            must_resize: false,
            n_changes: 0,
            recent: None,
            strings: None,
        }
    }

    /// Changes what the table may grow to, once the other end has acknowledged it.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        if self.table.size_max() > limit {
            self.must_resize = true;
            // No block is what it was before the size is set.
            self.n_changes += 1;
        }
    }

    /// Decodes one whole block in the place of what `fields` had. Stops filling them in, and goes on decoding, when
    /// they count for more than `size_max` (see [`Fields::size`]).
    ///
    /// # Errors
    /// If the block is broken. The decoder is of no use then.
    pub fn decode(&mut self, block: &[u8], size_max: usize, fields: &mut Fields) -> Result<Fit, Error> {
        fields.clear();
        let n_changes = self.n_changes;
        if let Some(recent) = &mut self.recent
            && recent.load(block, n_changes, size_max, fields)
        {
            return Ok(Fit::Whole);
        }
        let fit = self.read(block, size_max, fields)?;
        if self.n_changes == n_changes && fit == Fit::Whole {
            self.recent.get_or_insert_default().offer(block, n_changes, fields);
        }
        Ok(fit)
    }

    /// Keeps what the reader made of the fields of the last block, to be seen in [`Fields`] when the same block comes
    /// again. Does nothing for blocks that are not kept.
    pub(crate) fn keep_verdict(&mut self, verdict: u64) {
        if let Some(recent) = &mut self.recent {
            recent.keep_verdict(verdict);
        }
    }

    /// Bytes of memory that it holds.
    pub fn memory(&self) -> usize {
        let strings = self.strings.as_deref().map_or(0, Strings::memory);
        self.table.memory() + self.recent.as_deref().map_or(0, Recent::memory) + strings
    }

    /// Gives back the memory that it can do without while nothing comes.
    pub fn shrink(&mut self) {
        (self.recent, self.strings) = (None, None);
        self.table.shrink();
    }

    fn read(&mut self, block: &[u8], size_max: usize, fields: &mut Fields) -> Result<Fit, Error> {
        let mut input = self.read_sizes(block)?;
        let mut room = Room { left: size_max, fit: Fit::Whole };
        while let Some(&first) = input.first() {
            if first & 0x80 != 0 {
                let found = self.table.get(read_number(&mut input, 7)?).ok_or(Error::Index)?;
                if room.takes(found.bytes.len()) {
                    let start = offset(fields.bytes.len());
                    fields.bytes.extend_from_slice(found.bytes);
                    fields.entries.push(Entry {
                        start,
                        name_len: offset(found.name_len),
                        value_len: offset(found.bytes.len() - found.name_len),
                        name: found.traits.name,
                        is_never_indexed: false,
                    });
                    fields.is_flawed |= found.traits.is_name_flawed | found.traits.is_value_flawed;
                }
            } else if first & 0x40 != 0 {
                self.read_literal(&mut input, 6, Keep::InTable, &mut room, fields)?;
            } else if first & 0x20 != 0 {
                // Sizes come before the first field.
                return Err(Error::SizeUpdate);
            } else {
                let keep = if first & 0x10 != 0 { Keep::Nowhere } else { Keep::Anywhere };
                self.read_literal(&mut input, 4, keep, &mut room, fields)?;
            }
        }
        Ok(room.fit)
    }

    /// Reads the sizes that a block begins with.
    fn read_sizes<'a>(&mut self, mut input: &'a [u8]) -> Result<&'a [u8], Error> {
        while let Some(first) = input.first()
            && first & 0xe0 == 0x20
        {
            let size = read_number(&mut input, 5)?;
            if size > self.limit {
                return Err(Error::SizeUpdate);
            }
            self.table.resize(size);
            self.must_resize = false;
            self.n_changes += 1;
        }
        if self.must_resize { Err(Error::SizeUpdate) } else { Ok(input) }
    }

    fn read_literal(
        &mut self,
        input: &mut &[u8],
        prefix: u32,
        keep: Keep,
        room: &mut Room,
        fields: &mut Fields,
    ) -> Result<(), Error> {
        let start = fields.bytes.len();
        let mut traits = match read_number(input, prefix)? {
            0 => {
                read_string(input, &mut self.strings, &mut fields.bytes)?;
                let bytes = &fields.bytes[start..];
                let name = Name::of(bytes);
                let is_name_flawed = name == Name::Unknown && !is_name(bytes);
                Traits { name, is_name_flawed, is_value_flawed: false }
            }
            idx => {
                let found = self.table.get(idx).ok_or(Error::Index)?;
                fields.bytes.extend_from_slice(found.name());
                found.traits
            }
        };
        let name_len = fields.bytes.len() - start;
        let value_len = read_string(input, &mut self.strings, &mut fields.bytes)?;
        let (name, value) = fields.bytes[start..].split_at(name_len);
        traits.is_value_flawed = !is_value(traits.name, value);
        if keep == Keep::InTable {
            self.table.insert(Field { name, value, known: traits.name, is_never_indexed: false }, traits);
            self.n_changes += 1;
        }
        if room.takes(name_len + value_len) {
            fields.entries.push(Entry {
                start: offset(start),
                name_len: offset(name_len),
                value_len: offset(value_len),
                name: traits.name,
                is_never_indexed: keep == Keep::Nowhere,
            });
            fields.is_flawed |= traits.is_name_flawed | traits.is_value_flawed;
        } else {
            fields.bytes.truncate(start);
        }
        Ok(())
    }
}

/// Where a literal may be kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// In this table, from now on.
    InTable,
    /// Not in this one.
    Anywhere,
    /// In none, ever.
    Nowhere,
}

/// What the list may still count for.
struct Room {
    left: usize,
    fit: Fit,
}

impl Room {
    /// Makes room for a field of `len` bytes. Once one did not fit, none does.
    fn takes(&mut self, len: usize) -> bool {
        let left = self.left.checked_sub(len + FIELD_OVERHEAD);
        if left.is_none() {
            self.fit = Fit::TooLong;
        }
        self.left = left.unwrap_or(0);
        self.fit == Fit::Whole
    }
}
