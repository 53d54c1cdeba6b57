//! The streams of one connection: found by id or by handle, without an allocation a stream.

use crate::frame::WINDOW_MAX;

/// No place.
const NONE: u32 = u32::MAX;
/// Chains of the index when it has the first stream.
const INDEX_MIN: usize = 8;
/// How many streams are remembered as reset by this end.
const RESETS_MAX: usize = 256;

/// A stream of one connection. Stays what it is when the stream is over: no other stream gets the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stream {
    slot: u32,
    id: u32,
}

impl Stream {
    /// The id that both ends know it by.
    pub const fn id(self) -> u32 {
        self.id
    }

    /// The handle as a number, to be another stream's token.
    pub const fn to_bits(self) -> u64 {
        (self.slot as u64) << 32 | self.id as u64
    }

    /// The handle that a number was made of. Any number is a handle, most of streams that are not.
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of a number")]
    pub const fn from_bits(bits: u64) -> Self {
        Self { slot: (bits >> 32) as u32, id: bits as u32 }
    }
}

/// What has happened on a stream.
pub(crate) mod state {
    /// This end sent END_STREAM.
    pub(crate) const LOCAL_ENDED: u8 = 1;
    /// The peer sent END_STREAM.
    pub(crate) const REMOTE_ENDED: u8 = 2;
    /// The peer sent the headers of its message; interim answers do not count.
    pub(crate) const REMOTE_HEAD: u8 = 4;
    /// There is something to send that no window was open for.
    pub(crate) const BLOCKED: u8 = 8;
    /// It stands in the line of those to be told of an open window.
    pub(crate) const IN_LINE: u8 = 16;
    /// The request was HEAD, so that the answer has no body whatever it says.
    pub(crate) const IS_HEAD: u8 = 32;
}

/// One stream: 64 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    /// 0 while the slot is free.
    id: u32,
    /// Neighbours in line; `next` also chains free slots.
    next: u32,
    previous: u32,
    /// The next slot in the same chain of the index.
    chain: u32,
    pub(crate) state: u8,
    pub(crate) send_window: i32,
    pub(crate) receive_window: u32,
    /// Bytes that were released and not given back to the peer yet.
    pub(crate) released: u32,
    /// When it was blocked, or last got something sent since.
    pub(crate) blocked_ms: u32,
    pub(crate) token: u64,
    /// What `content-length` says is still to come.
    pub(crate) length_left: Option<u64>,
}

impl Slot {
    pub(crate) fn new(token: u64, send_window: i32, receive_window: u32) -> Self {
        Self {
            id: 0,
            next: NONE,
            previous: NONE,
            chain: NONE,
            state: 0,
            send_window,
            receive_window,
            released: 0,
            blocked_ms: 0,
            token,
            length_left: None,
        }
    }

    pub(crate) const fn is(&self, state: u8) -> bool {
        self.state & state == state
    }
}

/// All streams that are not over, and who is to be told of open windows.
#[derive(Debug)]
pub(crate) struct Streams {
    slots: Vec<Slot>,
    /// The first free slot.
    free: u32,
    /// Slots by id, in at least as many chains as there are streams.
    index: Vec<u32>,
    seed: u64,
    n: usize,
    line_first: u32,
    line_last: u32,
    /// Streams that this end reset before the peer had ended them; the oldest is overwritten.
    resets: Vec<u32>,
    resets_next: usize,
    /// The highest stream that fell out of `resets`.
    forgotten: u32,
}

impl Streams {
    /// `seed` says which ids share chains.
    pub(crate) const fn new(seed: u64) -> Self {
        Self {
            slots: Vec::new(),
            free: NONE,
            index: Vec::new(),
            seed,
            n: 0,
            line_first: NONE,
            line_last: NONE,
            resets: Vec::new(),
            resets_next: 0,
            forgotten: 0,
        }
    }

    /// How many there are.
    pub(crate) const fn len(&self) -> usize {
        self.n
    }

    /// Adds a stream whose id no other has or had.
    pub(crate) fn insert(&mut self, id: u32, slot: Slot) -> Stream {
        debug_assert!(id != 0 && self.find(id).is_none());
        if self.n == self.index.len() {
            self.grow();
        }
        let slot = Slot { id, ..slot };
        let at = self.free;
        let at = match self.slots.get_mut(at as usize) {
            Some(free) => {
                self.free = free.next;
                *free = slot;
                at
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
            }
        };
        self.enter(id, at);
        self.n += 1;
        Stream { slot: at, id }
    }

    /// The stream with this id.
    pub(crate) fn find(&self, id: u32) -> Option<Stream> {
        if self.index.is_empty() {
            return None;
        }
        let mut slot = self.index[self.home(id)];
        loop {
            let it = self.slots.get(slot as usize)?;
            if it.id == id {
                return Some(Stream { slot, id });
            }
            slot = it.chain;
        }
    }

    /// A stream that is not over.
    pub(crate) fn get(&self, stream: Stream) -> Option<&Slot> {
        self.slots.get(stream.slot as usize).filter(|slot| slot.id == stream.id && stream.id != 0)
    }

    /// A stream that is not over.
    pub(crate) fn get_mut(&mut self, stream: Stream) -> Option<&mut Slot> {
        self.slots.get_mut(stream.slot as usize).filter(|slot| slot.id == stream.id && stream.id != 0)
    }

    /// Takes a stream out, and says what it was.
    pub(crate) fn remove(&mut self, stream: Stream) -> Option<Slot> {
        self.leave_line(stream);
        let free = self.free;
        let slot = self.get_mut(stream)?;
        let was = *slot;
        slot.id = 0;
        slot.next = free;
        self.free = stream.slot;
        self.exit(stream);
        self.n -= 1;
        Some(was)
    }

    /// The first stream from a slot on for which `is_it` says yes, and the slot after it.
    pub(crate) fn search(&self, from: u32, is_it: impl Fn(&Slot, u32) -> bool) -> Option<(Stream, u32)> {
        let slots = self.slots.get(from as usize..)?;
        let at = slots.iter().position(|slot| slot.id != 0 && is_it(slot, slot.id))?;
        let slot = from + u32::try_from(at).unwrap_or(NONE);
        Some((Stream { slot, id: slots[at].id }, slot + 1))
    }

    /// Changes the window of every stream by the same, as SETTINGS demand, and lines up those that waited for it.
    /// False if a window gets too large.
    pub(crate) fn shift_windows(&mut self, by: i64) -> bool {
        for at in 0..self.slots.len() {
            let slot = &mut self.slots[at];
            if slot.id == 0 {
                continue;
            }
            let window = i64::from(slot.send_window) + by;
            let Ok(window) = i32::try_from(window) else { return false };
            slot.send_window = window;
            if window > 0 && slot.is(state::BLOCKED) {
                let stream = Stream { slot: u32::try_from(at).unwrap_or(NONE), id: slot.id };
                self.line_up(stream);
            }
        }
        true
    }

    /// Puts a stream at the end of the line, unless it stands in it.
    pub(crate) fn line_up(&mut self, stream: Stream) {
        let last = self.line_last;
        let Some(slot) = self.get_mut(stream) else { return };
        if slot.is(state::IN_LINE) {
            return;
        }
        slot.state |= state::IN_LINE;
        (slot.previous, slot.next) = (last, NONE);
        match self.slots.get_mut(last as usize) {
            Some(before) => before.next = stream.slot,
            None => self.line_first = stream.slot,
        }
        self.line_last = stream.slot;
    }

    /// Takes a stream out of the line, if it stands in it.
    pub(crate) fn leave_line(&mut self, stream: Stream) {
        let Some(slot) = self.get_mut(stream) else { return };
        if !slot.is(state::IN_LINE) {
            return;
        }
        slot.state &= !state::IN_LINE;
        let (previous, next) = (slot.previous, slot.next);
        match self.slots.get_mut(previous as usize) {
            Some(before) => before.next = next,
            None => self.line_first = next,
        }
        match self.slots.get_mut(next as usize) {
            Some(after) => after.previous = previous,
            None => self.line_last = previous,
        }
    }

    /// Whether anyone stands in line.
    pub(crate) const fn has_line(&self) -> bool {
        self.line_first != NONE
    }

    /// Takes the first out of the line.
    pub(crate) fn next_in_line(&mut self) -> Option<Stream> {
        let slot = self.line_first;
        let stream = Stream { slot, id: self.slots.get(slot as usize)?.id };
        self.leave_line(stream);
        Some(stream)
    }

    /// Remembers that this end reset a stream whose frames may still come.
    pub(crate) fn remember_reset(&mut self, id: u32) {
        if self.resets.len() < RESETS_MAX {
            self.resets.push(id);
            return;
        }
        let forgotten = std::mem::replace(&mut self.resets[self.resets_next], id);
        self.forgotten = self.forgotten.max(forgotten);
        self.resets_next = (self.resets_next + 1) % RESETS_MAX;
    }

    /// Whether frames of a stream that is over may be what was on its way when this end reset it. Of old streams
    /// that is not known any more, and assumed.
    pub(crate) fn was_reset(&self, id: u32) -> bool {
        id <= self.forgotten || self.resets.contains(&id)
    }

    /// Bytes of memory that they hold.
    pub(crate) fn memory(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>() + (self.index.capacity() + self.resets.capacity()) * 4
    }

    /// Gives back the memory of streams that are over, if all are.
    pub(crate) fn shrink(&mut self) {
        if self.n == 0 {
            (self.slots, self.index, self.free) = (Vec::new(), Vec::new(), NONE);
        }
    }

    fn grow(&mut self) {
        let len = (self.index.len() * 2).max(INDEX_MIN);
        self.index.clear();
        self.index.resize(len, NONE);
        for at in 0..self.slots.len() {
            let id = self.slots[at].id;
            if id != 0 {
                self.enter(id, u32::try_from(at).unwrap_or(NONE));
            }
        }
    }

    /// The chain of the index, which is not empty, that holds an id. Ids of one connection follow each other, and so do
    /// their chains; those that are far apart lie as the seed says (with the finalizer of MurmurHash3), so that nobody
    /// fills one chain on purpose.
    fn home(&self, id: u32) -> usize {
        let (n, mask) = ((id >> 1) as usize, self.index.len() - 1);
        let mut far = u64::from(id >> 1 >> mask.count_ones()) ^ self.seed;
        for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
            far = (far ^ far >> 33).wrapping_mul(factor);
        }
        n.wrapping_add((far >> 32) as usize) & mask
    }

    fn enter(&mut self, id: u32, slot: u32) {
        let at = self.home(id);
        self.slots[slot as usize].chain = std::mem::replace(&mut self.index[at], slot);
    }

    fn exit(&mut self, stream: Stream) {
        let after = self.slots[stream.slot as usize].chain;
        let at = self.home(stream.id);
        let mut slot = self.index[at];
        if slot == stream.slot {
            self.index[at] = after;
            return;
        }
        while let Some(before) = self.slots.get_mut(slot as usize) {
            slot = before.chain;
            if slot == stream.slot {
                before.chain = after;
            }
        }
    }
}

/// A window after an update. None if it gets too large.
pub(crate) fn widened(window: i32, by: u32) -> Option<i32> {
    let window = i64::from(window) + i64::from(by);
    if window > i64::from(WINDOW_MAX) { None } else { i32::try_from(window).ok() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn streams_are_found_as_in_a_map(steps in proptest::collection::vec((0..4_u8, 0..200_u32), 0..400)) {
            let (mut streams, mut model, mut line) = (Streams::new(7), BTreeMap::new(), Vec::new());
            for (step, n) in steps {
                let id = n * 2 + 1;
                match (step, model.get(&id).copied()) {
                    (0 | 1, None) => {
                        model.insert(id, streams.insert(id, Slot::new(u64::from(id), 1, 1)));
                    }
                    (2, Some(stream)) => {
                        prop_assert_eq!(streams.remove(stream).map(|slot| slot.token), Some(u64::from(id)));
                        prop_assert!(streams.get(stream).is_none() && streams.remove(stream).is_none());
                        model.remove(&id);
                        line.retain(|it| *it != stream);
                    }
                    (3, Some(stream)) => {
                        streams.line_up(stream);
                        if !line.contains(&stream) {
                            line.push(stream);
                        }
                    }
                    _ => {}
                }
                prop_assert_eq!(streams.len(), model.len());
                prop_assert_eq!(streams.find(id), model.get(&id).copied());
            }
            for (id, stream) in model {
                prop_assert_eq!(streams.find(id), Some(stream));
                prop_assert_eq!(Stream::from_bits(stream.to_bits()), stream);
            }
            let told: Vec<_> = std::iter::from_fn(|| streams.next_in_line()).collect();
            prop_assert_eq!(told, line);
        }
    }

    #[test]
    fn ids_far_apart_do_not_share_a_chain_on_purpose() {
        for stride in [1, 2, 1024, 2048, 4096, 1 << 20] {
            let mut streams = Streams::new(0x5eed);
            for n in 0..1000_u32 {
                streams.insert(n * stride * 2 + 1, Slot::new(0, 1, 1));
            }
            let len = |mut slot: u32| {
                let next = || {
                    let it = streams.slots.get(slot as usize)?;
                    slot = it.chain;
                    Some(())
                };
                std::iter::from_fn(next).count()
            };
            let longest = streams.index.iter().map(|first| len(*first)).max();
            assert!(longest <= Some(12), "{stride}: {longest:?}");
        }
    }

    #[test]
    fn a_slot_is_small() {
        assert!(size_of::<Slot>() <= 64, "{}", size_of::<Slot>());
    }

    #[test]
    fn resets_that_fell_out_of_memory_are_assumed() {
        let mut streams = Streams::new(0);
        for id in (101..101 + 2 * 300).step_by(2) {
            streams.remember_reset(id);
        }
        assert!(streams.was_reset(101) && streams.was_reset(699) && streams.was_reset(1));
        assert!(!streams.was_reset(701));
    }
}
