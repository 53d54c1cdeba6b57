//! Memory that is used again: buffers of bytes and lists of fields.

use wire::hpack::Fields;

/// Most of each kind that wait to be used again.
const HELD_MAX: usize = 1024;
/// Larger buffers are given back to the system.
const BUFFER_BYTES_MAX: usize = 256 << 10;
/// As are larger lists.
const FIELDS_BYTES_MAX: usize = 16 << 10;

/// Things of one kind.
#[derive(Debug)]
struct Shelf<T> {
    things: Vec<T>,
    /// The fewest that there were since the last look: nobody needed those.
    n_least: usize,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self { things: Vec::new(), n_least: 0 }
    }
}

impl<T> Shelf<T> {
    fn take(&mut self) -> Option<T> {
        let thing = self.things.pop();
        self.n_least = self.n_least.min(self.things.len());
        thing
    }

    fn put(&mut self, thing: T) {
        if self.things.len() < HELD_MAX {
            self.things.push(thing);
        }
    }

    fn shrink(&mut self) {
        self.things.truncate(self.things.len() - self.n_least);
        self.things.shrink_to_fit();
        self.n_least = self.things.len();
    }
}

/// What waits to be used again.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    buffers: Shelf<Vec<u8>>,
    fields: Shelf<Fields>,
}

impl Pools {
    /// An empty buffer, of the pool's if it has one.
    pub(crate) fn buffer(&mut self) -> Vec<u8> {
        self.buffers.take().unwrap_or_default()
    }

    pub(crate) fn take_back(&mut self, mut buffer: Vec<u8>) {
        if (1..=BUFFER_BYTES_MAX).contains(&buffer.capacity()) {
            buffer.clear();
            self.buffers.put(buffer);
        }
    }

    /// An empty list of fields, of the pool's if it has one.
    pub(crate) fn fields(&mut self) -> Fields {
        self.fields.take().unwrap_or_default()
    }

    pub(crate) fn take_back_fields(&mut self, mut fields: Fields) {
        if (1..=FIELDS_BYTES_MAX).contains(&fields.memory()) {
            fields.clear();
            self.fields.put(fields);
        }
    }

    /// Gives back what nobody needed since this was last called.
    pub(crate) fn shrink(&mut self) {
        self.buffers.shrink();
        self.fields.shrink();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_needs_is_given_back() {
        let mut pools = Pools::default();
        let held: Vec<Vec<u8>> = (0..10).map(|_| Vec::with_capacity(100)).collect();
        held.into_iter().for_each(|it| pools.take_back(it));
        pools.take_back(Vec::with_capacity(BUFFER_BYTES_MAX * 2));
        pools.take_back(Vec::new());
        assert_eq!(pools.buffers.things.len(), 10);
        pools.shrink();
        let (one, two) = (pools.buffer(), pools.buffer());
        pools.take_back(one);
        pools.take_back(two);
        pools.shrink();
        assert_eq!(pools.buffers.things.len(), 2);
        assert_eq!(pools.buffer().capacity(), 100);
    }
}
