//! The calls in flight, by their tickets.

use std::sync::Arc;
use std::time::Instant;

use crate::call::Ticket;
use crate::endpoint::Endpoint;

/// Most calls in flight on one node.
pub const CALLS_MAX: u32 = 65_536;

/// One call in flight.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) began: Instant,
    /// How many answers the endpoint had given by then.
    pub(crate) epoch: u64,
}

#[derive(Debug)]
struct Slot {
    /// Counts the calls that the slot has held, so that an old ticket fits none.
    generation: u32,
    call: Option<Call>,
}

/// The calls in flight. Slots are used again, so that a call allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Calls {
    /// Keeps a call; `None` if [`CALLS_MAX`] are in flight.
    pub(crate) fn insert(&mut self, call: Call) -> Option<Ticket> {
        if let Some(slot) = self.free.pop() {
            let held = &mut self.slots[slot as usize];
            held.call = Some(call);
            return Some(Ticket { slot, generation: held.generation });
        }
        let slot = u32::try_from(self.slots.len()).ok().filter(|slot| *slot < CALLS_MAX)?;
        self.slots.push(Slot { generation: 0, call: Some(call) });
        Some(Ticket { slot, generation: 0 })
    }

    /// Takes out a call; `None` if it is not in flight.
    pub(crate) fn remove(&mut self, ticket: Ticket) -> Option<Call> {
        let slot = self.slots.get_mut(ticket.slot as usize)?;
        let call = slot.call.take_if(|_| slot.generation == ticket.generation)?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(ticket.slot);
        Some(call)
    }

    /// Whether no more calls can be kept.
    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty() && self.slots.len() >= CALLS_MAX as usize
    }

    /// How many are in flight.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
