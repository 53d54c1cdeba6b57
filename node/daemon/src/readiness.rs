//! Whether the node serves: each room holds a guard until it first can.

use std::collections::BTreeSet;

use tokio::sync::watch;

/// Which rooms are not ready yet. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Readiness(watch::Sender<BTreeSet<&'static str>>);

/// Held by a room that is not ready; dropping it says that it is.
#[derive(Debug)]
pub struct Guard {
    room: &'static str,
    waits: watch::Sender<BTreeSet<&'static str>>,
}

impl Readiness {
    /// Nobody waits yet.
    pub fn new() -> Self {
        Self(watch::Sender::new(BTreeSet::new()))
    }

    /// Has the node wait for a room. Names are those of rooms, so they are few.
    pub fn wait_for(&self, room: &'static str) -> Guard {
        self.0.send_modify(|waits| {
            waits.insert(room);
        });
        Guard { room, waits: self.0.clone() }
    }

    /// Which rooms are not ready, now and in future.
    pub fn pending(&self) -> watch::Receiver<BTreeSet<&'static str>> {
        self.0.subscribe()
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.waits.send_modify(|waits| {
            waits.remove(self.room);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_once_every_room_is() {
        let readiness = Readiness::new();
        let (mesh, api) = (readiness.wait_for("mesh"), readiness.wait_for("api"));
        let pending = readiness.pending();
        drop(mesh);
        assert_eq!(*pending.borrow(), BTreeSet::from(["api"]));
        drop(api);
        assert!(pending.borrow().is_empty());
    }
}
