//! How many connections one user of this machine may hold, so that none keeps others out.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

/// Connections of each user. Root's, and those of the user who runs the node, are not counted.
#[derive(Debug)]
pub(crate) struct Shares {
    n_max: usize,
    own_uid: u32,
    /// Those with none are left out.
    held: Mutex<BTreeMap<u32, usize>>,
}

/// One connection of a user, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Arc<Shares>,
    /// Absent where it is not counted.
    uid: Option<u32>,
}

impl Shares {
    /// A quarter of `connections_max` for each user.
    pub(crate) fn new(connections_max: usize) -> Arc<Self> {
        // Where /proc does not say who runs the node, only root is not counted.
        let own_uid = std::fs::metadata("/proc/self").map_or(0, |it| it.uid());
        Arc::new(Self { n_max: (connections_max / 4).max(1), own_uid, held: Mutex::default() })
    }

    /// A place for a connection of `uid`, unless it holds as many as it may.
    pub(crate) fn take(self: &Arc<Self>, uid: u32) -> Option<Share> {
        if uid == 0 || uid == self.own_uid {
            return Some(Share { shares: Arc::clone(self), uid: None });
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let n_held = held.get(&uid).copied().unwrap_or_default();
        if n_held >= self.n_max {
            return None;
        }
        held.insert(uid, n_held + 1);
        Some(Share { shares: Arc::clone(self), uid: Some(uid) })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some(uid) = self.uid else { return };
        let mut held = self.shares.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n_held) = held.get_mut(&uid) {
            *n_held -= 1;
            if *n_held == 0 {
                held.remove(&uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_quarter_and_leaves_the_rest_to_others() {
        let shares = Arc::new(Shares { n_max: 2, own_uid: 7, held: Mutex::default() });
        let mut held = vec![shares.take(1), shares.take(1), shares.take(2)];
        assert!(held.iter().all(Option::is_some) && shares.take(1).is_none());
        held.extend((0..10).flat_map(|_| [shares.take(0), shares.take(7)]));
        assert!(held.iter().all(Option::is_some));
        held.remove(0);
        assert!(shares.take(1).is_some());
        held.clear();
        assert!(shares.held.lock().expect("not poisoned").is_empty());
    }
}
