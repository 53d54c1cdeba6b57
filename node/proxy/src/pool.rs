//! Connections that calls share: one sticky connection between the same two ends, and a second while the
//! first is full. Never shared across identities.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use types::{Reason, Refusal, ServiceName, SpiffeId};

use crate::link::{Ground, Lease, State, To, run};
use crate::tasks::Tasks;

/// Most connections between the same two ends. Calls beyond their streams wait.
const LINKS_MAX: usize = 2;
/// How often a call is tried on connections that end just as it comes.
const TRIES_MAX: usize = 3;
/// How many pairs of ends are looked through for those that nobody uses, at most so often.
const LANES_MIN: usize = 64;

/// Connections between the same two ends.
#[derive(Default)]
pub(crate) struct Lane(Mutex<Vec<watch::Receiver<State>>>);

/// Who calls whom, and where.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// The calling service on this node.
    pub(crate) caller: ServiceName,
    /// The service that is called.
    pub(crate) target: SpiffeId,
    /// Where.
    pub(crate) address: SocketAddr,
}

/// Connections to services on other nodes.
pub(crate) struct Pool {
    lanes: Mutex<(HashMap<Key, Arc<Lane>>, usize)>,
}

impl Default for Pool {
    fn default() -> Self {
        Self { lanes: Mutex::new((HashMap::new(), LANES_MIN)) }
    }
}

impl Pool {
    /// The connections between two ends.
    pub(crate) fn lane(&self, key: Key) -> Arc<Lane> {
        let mut held = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let (lanes, swept_at) = &mut *held;
        if let Some(lane) = lanes.get(&key) {
            return Arc::clone(lane);
        }
        if lanes.len() >= *swept_at {
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1 || lane.is_used());
            *swept_at = (lanes.len() * 2).max(LANES_MIN);
        }
        Arc::clone(lanes.entry(key).or_default())
    }
}

impl Lane {
    /// A place for a call on one of the connections, or on a new one.
    ///
    /// # Errors
    /// Why no connection could be made.
    pub(crate) async fn lease(&self, to: &To, ground: &Arc<Ground>, tasks: &Tasks) -> Result<Lease, Refusal> {
        for _ in 0..TRIES_MAX {
            let mut slot = self.pick(to, ground, tasks);
            let settled = slot.wait_for(|state| !matches!(state, State::Dialing)).await;
            match settled.map(|state| state.clone()) {
                Ok(State::Open(link)) => {
                    if let Some(lease) = link.enter() {
                        return Ok(lease);
                    }
                }
                Ok(State::Ended(Some(refusal))) => return Err(refusal),
                Ok(State::Ended(None) | State::Dialing) => {}
                Err(_) => return Err(Reason::NotServing.because("the node is stopping")),
            }
        }
        Err(Reason::EndpointUnreachable.because("connections to the endpoint end as soon as they are made"))
    }

    fn pick(&self, to: &To, ground: &Arc<Ground>, tasks: &Tasks) -> watch::Receiver<State> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|slot| is_live(slot) && open(slot).is_none_or(|link| link.is_current(to)));
        let has_room = |slot: &&watch::Receiver<State>| open(slot).is_none_or(|link| link.has_room());
        if let Some(slot) = slots.iter().find(has_room) {
            return slot.clone();
        }
        if slots.len() < LINKS_MAX {
            let (state, slot) = watch::channel(State::Dialing);
            tasks.start(run(to.clone(), Arc::clone(ground), state));
            slots.push(slot.clone());
            return slot;
        }
        let least = slots.iter().min_by_key(|slot| open(slot).map_or(0, |link| link.n_calls()));
        least.cloned().expect("there are as many as there may be")
    }

    fn is_used(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().any(is_live)
    }
}

fn is_live(slot: &watch::Receiver<State>) -> bool {
    !matches!(&*slot.borrow(), State::Ended(_)) && slot.has_changed().is_ok()
}

fn open(slot: &watch::Receiver<State>) -> Option<Arc<crate::link::Link>> {
    match &*slot.borrow() {
        State::Open(link) => Some(Arc::clone(link)),
        State::Dialing | State::Ended(_) => None,
    }
}
