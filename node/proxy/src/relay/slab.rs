//! Things by key: found at once, and never mistaken for what was in their place before.

/// Names one thing in a [`Slab`], and never another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    idx: u32,
    /// 0 is nobody's.
    generation: u32,
}

impl Key {
    /// As a number that is not 0.
    pub(crate) const fn to_bits(self) -> u64 {
        (self.generation as u64) << 32 | self.idx as u64
    }

    /// The key that a number was made of. Any number is a key, most of nothing.
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of a number")]
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self { idx: bits as u32, generation: (bits >> 32) as u32 }
    }
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    /// Of a free slot: the next one.
    next: u32,
    value: Option<T>,
}

/// Things by key.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: u32,
    n: usize,
    /// Above the generation of all things that were given up with their slots.
    first_generation: u32,
}

const NONE: u32 = u32::MAX;

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: NONE, n: 0, first_generation: 1 }
    }
}

impl<T> Slab<T> {
    /// How many there are.
    pub(crate) const fn len(&self) -> usize {
        self.n
    }

    pub(crate) fn insert(&mut self, value: T) -> Key {
        self.n += 1;
        let idx = self.free;
        if let Some(slot) = self.slots.get_mut(idx as usize) {
            self.free = slot.next;
            slot.value = Some(value);
            return Key { idx, generation: slot.generation };
        }
        let idx = u32::try_from(self.slots.len()).expect("memory ends before the numbers do");
        let generation = self.first_generation;
        self.slots.push(Slot { generation, next: NONE, value: Some(value) });
        Key { idx, generation }
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slots.get(key.idx as usize).filter(|slot| slot.generation == key.generation)?;
        slot.value.as_ref()
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.idx as usize).filter(|slot| slot.generation == key.generation)?;
        slot.value.as_mut()
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.idx as usize).filter(|slot| slot.generation == key.generation)?;
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1).max(1);
        slot.next = self.free;
        self.free = key.idx;
        self.n -= 1;
        Some(value)
    }

    /// All of them, in no order that means anything.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slots.iter().zip(0..).filter_map(|(slot, idx)| {
            let key = Key { idx, generation: slot.generation };
            Some((key, slot.value.as_ref()?))
        })
    }

    /// The keys of those for which `is_it` says yes.
    pub(crate) fn keys(&self, is_it: impl Fn(&T) -> bool) -> Vec<Key> {
        self.iter().filter(|(_, value)| is_it(value)).map(|(key, _)| key).collect()
    }

    /// Gives memory back, if nothing is held.
    pub(crate) fn shrink(&mut self) {
        if self.n == 0 {
            let highest = self.slots.iter().map(|slot| slot.generation).max();
            self.first_generation = highest.unwrap_or_default().max(self.first_generation);
            (self.slots, self.free) = (Vec::new(), NONE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_outlives_its_thing_and_names_no_other() {
        let mut slab = Slab::default();
        let first = slab.insert('a');
        assert_eq!((slab.get(first), Key::from_bits(first.to_bits())), (Some(&'a'), first));
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b');
        assert_eq!((slab.remove(first), slab.get(first), slab.get(second)), (None, None, Some(&'b')));
        assert_eq!(slab.keys(|_| true), [second]);
        slab.remove(second);
        slab.shrink();
        let third = slab.insert('c');
        assert!(slab.get(first).is_none() && slab.get(second).is_none() && slab.get(third).is_some());
        assert!(slab.get(Key::from_bits(0)).is_none() && slab.len() == 1);
    }
}
