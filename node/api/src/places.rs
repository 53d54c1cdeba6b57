//! Places on the Unix socket: anybody may connect there, and nobody shall keep admins out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Places for connections. Callers who are no admin have three quarters of them at most, and one user a quarter:
/// the rest is the admins'.
#[derive(Debug)]
pub(crate) struct Places {
    n_max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    n_admins: usize,
    /// Of each user who is no admin; those with none are left out.
    others: BTreeMap<u32, usize>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    /// Absent for an admin.
    uid: Option<u32>,
}

impl Places {
    /// Places for `n_max` connections, 4 at least.
    pub(crate) fn new(n_max: usize) -> Arc<Self> {
        Arc::new(Self { n_max, taken: Mutex::default() })
    }

    /// A place for a connection of user `uid`, or of an admin where there is none.
    pub(crate) fn take(self: &Arc<Self>, uid: Option<u32>) -> Option<Place> {
        let mut taken = self.lock();
        let n_others = taken.others.values().sum::<usize>();
        if taken.n_admins + n_others >= self.n_max {
            return None;
        }
        match uid {
            None => taken.n_admins += 1,
            Some(uid) => {
                let n_own = taken.others.get(&uid).copied().unwrap_or_default();
                if n_others >= self.n_max * 3 / 4 || n_own >= self.n_max / 4 {
                    return None;
                }
                taken.others.insert(uid, n_own + 1);
            }
        }
        Some(Place { places: Arc::clone(self), uid })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        let Some(uid) = self.uid else {
            taken.n_admins -= 1;
            return;
        };
        if let Some(n_own) = taken.others.get_mut(&uid) {
            *n_own -= 1;
            if *n_own == 0 {
                taken.others.remove(&uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_user_keeps_others_out_and_nobody_admins() {
        let places = Places::new(8);
        let mut held: Vec<_> = [1, 1, 2, 2, 3, 3].iter().map(|uid| places.take(Some(*uid))).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(places.take(Some(4)).is_none(), "three quarters are taken");
        held.pop();
        assert!(places.take(Some(2)).is_none(), "a quarter is taken");
        held.push(places.take(Some(4)));
        held.extend([places.take(None), places.take(None)]);
        assert!(held.iter().all(Option::is_some) && places.take(None).is_none());
        held.clear();
        assert!(places.lock().others.is_empty() && places.take(None).is_some());
    }
}
