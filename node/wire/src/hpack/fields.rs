//! A list of fields, as slices of one arena.

use super::{FIELD_OVERHEAD, Name};

/// A list of fields that its owner empties and fills again without allocating.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    /// Names and values, and what is left of those that were replaced.
    pub(super) bytes: Vec<u8>,
    pub(super) entries: Vec<Entry>,
    /// Whether a name or a value that was decoded has bytes that it must not have.
    pub(crate) is_flawed: bool,
}

/// Where one field lies. Its value follows its name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) start: u32,
    pub(super) name_len: u32,
    pub(super) value_len: u32,
    pub(super) name: Name,
    pub(super) is_never_indexed: bool,
}

/// One field of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its name, in lower case.
    pub name: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
    /// Its name, if it is one that is known.
    pub known: Name,
    /// Whether no table may ever hold it (RFC 7541, section 7.1.3).
    pub is_never_indexed: bool,
}

impl Fields {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Empties the list and keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
        self.is_flawed = false;
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The field at a place.
    pub fn get(&self, idx: usize) -> Option<Field<'_>> {
        self.entries.get(idx).map(|entry| self.field(entry))
    }

    /// All fields, in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Field<'_>> {
        self.entries.iter().map(|entry| self.field(entry))
    }

    /// The place of the first field of that name. [`Name::Unknown`] finds the first that is not known.
    pub fn find(&self, name: Name) -> Option<usize> {
        self.entries.iter().position(|entry| entry.name == name)
    }

    /// The value of the first field of that name.
    pub fn value(&self, name: Name) -> Option<&[u8]> {
        let entry = self.entries.iter().find(|entry| entry.name == name)?;
        Some(self.field(entry).value)
    }

    /// Adds a field. Pseudo-header fields come first. The name is in lower case, and neither has bytes that
    /// RFC 9113, section 8.2.1 excludes; that is the caller's to see to.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        self.add(name, value, Name::of(name), false);
    }

    /// Adds a field whose name is known.
    pub fn push_known(&mut self, name: Name, value: &[u8]) {
        self.add(name.text().as_bytes(), value, name, false);
    }

    /// Adds a field that no table may ever hold.
    pub fn push_never_indexed(&mut self, name: &[u8], value: &[u8]) {
        self.add(name, value, Name::of(name), true);
    }

    /// Gives the field at a place another value. Does nothing if there is none.
    pub fn set(&mut self, idx: usize, value: &[u8]) {
        let Some(entry) = self.entries.get_mut(idx) else { return };
        let from = entry.start as usize;
        entry.start = offset(self.bytes.len());
        entry.value_len = offset(value.len());
        self.bytes.extend_from_within(from..from + entry.name_len as usize);
        self.bytes.extend_from_slice(value);
    }

    /// Takes out the field at a place. Does nothing if there is none.
    pub fn remove(&mut self, idx: usize) {
        if idx < self.entries.len() {
            self.entries.remove(idx);
        }
    }

    /// Takes out all fields for which `keep` says no.
    pub fn retain(&mut self, mut keep: impl FnMut(Field<'_>) -> bool) {
        let bytes = &self.bytes;
        self.entries.retain(|entry| keep(field(bytes, entry)));
    }

    /// What the list counts for against SETTINGS_MAX_HEADER_LIST_SIZE.
    pub fn size(&self) -> usize {
        let sizes = self.entries.iter().map(|it| (it.name_len + it.value_len) as usize + FIELD_OVERHEAD);
        sizes.sum()
    }

    /// Bytes of memory that the list holds.
    pub fn memory(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    fn add(&mut self, name: &[u8], value: &[u8], known: Name, is_never_indexed: bool) {
        let start = offset(self.bytes.len());
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        let (name_len, value_len) = (offset(name.len()), offset(value.len()));
        self.entries.push(Entry { start, name_len, value_len, name: known, is_never_indexed });
    }

    pub(super) fn field(&self, entry: &Entry) -> Field<'_> {
        field(&self.bytes, entry)
    }
}

fn field<'a>(bytes: &'a [u8], entry: &Entry) -> Field<'a> {
    let value = entry.start as usize + entry.name_len as usize;
    Field {
        name: &bytes[entry.start as usize..value],
        value: &bytes[value..value + entry.value_len as usize],
        known: entry.name,
        is_never_indexed: entry.is_never_indexed,
    }
}

/// A place in an arena. Arenas are far below 4 GiB: a list that is decoded is bounded, and one that is written
/// comes from code.
pub(super) fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
