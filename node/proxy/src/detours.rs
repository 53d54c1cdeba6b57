//! Nodes whose ports cannot be reached from here and that are reached over their mesh links: remembered, so that no
//! call waits for a port again, and their ports tried now and then, so that the direct way is taken when it is open.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::info;

use types::TrustDomain;

use crate::dial::Ground;
use crate::way;

/// Most nodes that are remembered. To others ports are dialled each time, which costs a quarter of a second.
const DETOURS_MAX: usize = 4096;
/// Ports that are tried at the same time.
const TRIED_MAX: usize = 16;
/// How long a node is remembered that nothing goes to.
const UNUSED_MAX: Duration = Duration::from_secs(600);

/// A way over the mesh that is taken since the direct one is shut. Connections that take it hold it.
#[derive(Debug, Default)]
pub(crate) struct Detour {
    is_over: AtomicBool,
}

impl Detour {
    /// Whether the direct way is open again.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

/// A node, and the port at which it is not reached.
pub(crate) type Place = (TrustDomain, SocketAddr);

struct Taken<T> {
    detour: Arc<Detour>,
    /// How the port is tried.
    by: T,
    used_at: Instant,
}

/// All detours.
pub(crate) struct Detours<T>(Mutex<BTreeMap<Place, Taken<T>>>);

impl<T> Default for Detours<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Detours<T> {
    fn taken(&self) -> MutexGuard<'_, BTreeMap<Place, Taken<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The detour to a node, if its port was found shut.
    pub(crate) fn of(&self, place: &Place) -> Option<Arc<Detour>> {
        let mut taken = self.taken();
        let taken = taken.get_mut(place)?;
        taken.used_at = Instant::now();
        Some(Arc::clone(&taken.detour))
    }

    /// Remembers that a node is reached over the mesh and not at its port, for a reason. `None` if there are too many.
    pub(crate) fn begin(&self, place: Place, by: &T, why: &str) -> Option<Arc<Detour>> {
        let mut taken = self.taken();
        let n_taken = taken.len();
        let found = match taken.entry(place) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if n_taken >= DETOURS_MAX => return None,
            Entry::Vacant(entry) => {
                let (node, address) = entry.key();
                info!(
                    sagemesh.node = %node,
                    network.peer.address = %address,
                    error = why,
                    "reaching a node over the mesh: its inbound port cannot be reached from here"
                );
                entry.insert(Taken { detour: Arc::default(), by: by.clone(), used_at: Instant::now() })
            }
        };
        found.used_at = Instant::now();
        Some(Arc::clone(&found.detour))
    }

    /// The nodes that are reached so, and their ports.
    pub(crate) fn places(&self) -> Vec<Place> {
        self.taken().keys().cloned().collect()
    }

    /// Forgets a node whose port was reached, and has its connections replaced.
    pub(crate) fn end(&self, place: &Place) {
        if let Some(taken) = self.taken().remove(place) {
            taken.detour.is_over.store(true, Ordering::Relaxed);
            info!(sagemesh.node = %place.0, network.peer.address = %place.1, "reaching a node directly again");
        }
    }

    /// Those whose ports are to be tried. Forgets those that nothing goes by.
    fn to_try(&self, now: Instant) -> Vec<(Place, T)> {
        let mut taken = self.taken();
        taken.retain(|_, taken| {
            let is_held = Arc::strong_count(&taken.detour) > 1;
            is_held || now.saturating_duration_since(taken.used_at) < UNUSED_MAX
        });
        taken.iter().map(|(place, taken)| (place.clone(), taken.by.clone())).collect()
    }
}

/// Tries the ports now and then, until `shutdown`.
pub(crate) async fn watch(ground: Arc<Ground>, shutdown: CancellationToken) {
    let mut rounds = interval(ground.config.direct_retry);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watching = async {
        loop {
            rounds.tick().await;
            let tried = ground.detours.to_try(Instant::now()).into_iter().map(|(place, far)| {
                let ground = &ground;
                async move {
                    // It is let go at once: who needs one makes it.
                    if way::direct(&far, ground).await.is_ok() {
                        ground.detours.end(&place);
                    }
                }
            });
            futures::stream::iter(tried).buffer_unordered(TRIED_MAX).collect::<()>().await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = watching => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(port: u16) -> Place {
        ("nas.home.mesh".parse().expect("a name"), SocketAddr::from(([192, 0, 2, 1], port)))
    }

    #[test]
    fn a_detour_ends_for_all_who_take_it() {
        let detours = Detours::default();
        assert!(detours.of(&place(1)).is_none());
        let first = detours.begin(place(1), &(), "no answer").expect("room");
        let again = detours.begin(place(1), &(), "no answer").expect("room");
        let known = detours.of(&place(1)).expect("remembered");
        assert!(Arc::ptr_eq(&first, &again) && Arc::ptr_eq(&first, &known) && !first.is_over());
        // Another port of the node may be open.
        assert!(detours.of(&place(2)).is_none());
        detours.end(&place(1));
        assert!(first.is_over() && detours.of(&place(1)).is_none());
        assert!(!detours.begin(place(1), &(), "shut again").expect("room").is_over());
    }

    #[test]
    fn as_many_are_remembered_as_there_is_room_for() {
        let detours = Detours::default();
        let n = (0..u16::MAX).filter(|port| detours.begin(place(*port), &(), "").is_some()).count();
        assert_eq!((n, detours.places().len()), (DETOURS_MAX, DETOURS_MAX));
    }

    #[test]
    fn a_node_that_nothing_goes_to_is_forgotten() {
        let detours = Detours::default();
        let held = detours.begin(place(1), &(), "");
        drop(detours.begin(place(2), &(), ""));
        let now = Instant::now();
        assert_eq!(detours.to_try(now).len(), 2);
        assert_eq!(detours.to_try(now + 2 * UNUSED_MAX), [(place(1), ())]);
        drop(held);
        assert!(detours.to_try(now + 2 * UNUSED_MAX).is_empty());
    }
}
