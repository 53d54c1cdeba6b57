//! Connections that calls share: one sticky connection between the same two ends, and a second while the
//! first is full, or bodies fill its window. Never shared across identities.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use route::Endpoint;
use tracing::info;
use types::{Reason, Refusal, ServiceName, SpiffeId};

use crate::dial::{To, dial};
use crate::metrics::Count;
use crate::outbound::{Caller, target};

use super::call::Side;
use super::conn::Kind;
use super::inbox::Reply;
use super::slab::Key;
use super::worker::{Due, Worker};

/// Most connections between the same two ends. Calls beyond their streams wait.
const LINKS_MAX: usize = 2;
/// How long no further connection is made after one could not be, as long as there is one.
const DIAL_PAUSE: Duration = Duration::from_secs(1);
/// How many connections in a row may end before a call was sent on them.
const FUTILE_MAX: u32 = 3;

/// Who calls whom, and where.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum LaneId {
    /// A service of this node calls one of another.
    Node { caller: ServiceName, target: SpiffeId, address: SocketAddr },
    /// Somebody calls a service on this machine.
    Backend { caller: SpiffeId, address: SocketAddr },
}

/// The same, with what a connection is made by.
pub(super) enum LaneTo {
    Node { caller: Arc<Caller>, endpoint: Arc<Endpoint> },
    Backend { caller: SpiffeId, address: SocketAddr },
}

/// Connections between the same two ends.
pub(super) struct Lane {
    pub(super) to: LaneTo,
    /// Those that take calls.
    pub(super) links: Vec<Key>,
    /// Whether one is being made.
    pub(super) is_dialing: bool,
    /// Calls that wait for room. Some may have been sent or ended since.
    pub(super) waiting: VecDeque<Key>,
    n_futile: u32,
    /// When one more connection may be made, if one could not be.
    grows_at: Option<Instant>,
    /// The turn in which `links` were last seen to be current.
    seen_at: Option<Instant>,
}

impl LaneTo {
    fn id(&self) -> LaneId {
        match self {
            Self::Node { caller, endpoint } => LaneId::Node {
                caller: caller.service.clone(),
                target: target(&endpoint.id),
                address: endpoint.address,
            },
            Self::Backend { caller, address } => {
                LaneId::Backend { caller: caller.clone(), address: *address }
            }
        }
    }
}

impl Lane {
    /// Whether one more connection may be made, or waited for.
    fn may_grow(&self, now: Instant) -> bool {
        let n = self.links.len();
        n == 0 || (n < LINKS_MAX && self.grows_at.is_none_or(|at| at <= now))
    }

    /// Whether nobody would miss it.
    pub(super) fn is_unused(&self) -> bool {
        self.links.is_empty() && !self.is_dialing && self.waiting.is_empty()
    }
}

impl Worker {
    /// The lane between two ends.
    pub(super) fn lane(&mut self, to: LaneTo) -> Key {
        let id = to.id();
        if let Some(key) = self.lane_ids.get(&id)
            && let Some(lane) = self.lanes.get_mut(*key)
        {
            // Its certificates may have been replaced.
            (lane.to, lane.seen_at) = (to, None);
            return *key;
        }
        let lane = Lane {
            to,
            links: Vec::new(),
            is_dialing: false,
            waiting: VecDeque::new(),
            n_futile: 0,
            grows_at: None,
            seen_at: None,
        };
        let key = self.lanes.insert(lane);
        self.lane_ids.insert(id, key);
        key
    }

    /// Forgets lanes that nobody uses.
    pub(super) fn sweep_lanes(&mut self) {
        for key in self.lanes.keys(Lane::is_unused) {
            if let Some(lane) = self.lanes.remove(key) {
                self.lane_ids.remove(&lane.to.id());
            }
        }
        self.lanes.shrink();
    }

    /// Sends a call by a lane, or has it wait for room there.
    pub(super) fn place(&mut self, key: Key, lane_key: Key) {
        self.freshen(lane_key);
        if let Some(link) = self.link_with_room(lane_key) {
            let is_trial = match self.calls.get(key).map(|call| &call.side) {
                Some(Side::Out(out)) => out.attempt.as_ref().is_some_and(|attempt| attempt.is_trial),
                _ => false,
            };
            if is_trial {
                // Its node may be gone, and the connection not know it yet.
                self.wait(key, lane_key);
                return self.await_sign(key, link);
            }
            if self.send_on(key, link) {
                return;
            }
        }
        let n_calls = self.calls.len();
        let Some(lane) = self.lanes.get_mut(lane_key) else { return };
        if lane.waiting.len() > n_calls {
            // Those who stopped waiting.
            let calls = &self.calls;
            lane.waiting.retain(|it| calls.get(*it).is_some_and(|call| call.waits_on == Some(lane_key)));
        }
        lane.waiting.push_back(key);
        self.wait(key, lane_key);
        self.grow(lane_key);
    }

    /// Notes that a call waits, and for how long it may.
    fn wait(&mut self, key: Key, lane: Key) {
        let Some(call) = self.calls.get_mut(key) else { return };
        call.waits_on = Some(lane);
        let Side::Out(out) = &call.side else { return };
        let Some(attempt) = &out.attempt else { return };
        // One that only shows whether an endpoint is back leaves half of its time to another endpoint: a node that was
        // cut off gives no sign for as long as many calls have.
        let left = attempt.deadline.saturating_duration_since(self.now.mono);
        let until = if attempt.is_trial { attempt.deadline - left / 2 } else { attempt.deadline };
        let timer = self.wheel.insert(until, Due::Call(key));
        if let Some(before) = call.timer.replace(timer) {
            self.wheel.cancel(before);
        }
    }

    /// Has one more connection made, unless there are as many as there may be.
    fn grow(&mut self, key: Key) {
        let now = self.now.mono;
        let Some(lane) = self.lanes.get_mut(key) else { return };
        if lane.is_dialing || !lane.may_grow(now) {
            return;
        }
        lane.is_dialing = true;
        let to = match &lane.to {
            LaneTo::Node { caller, endpoint } => To::Node(Box::new(caller.far(endpoint))),
            LaneTo::Backend { address, .. } => To::Backend(*address),
        };
        let reply = Reply { inbox: Arc::clone(&self.inbox), lane: Some(key) };
        self.shared.tasks.start(dial(to, Arc::clone(&self.shared.ground), reply));
    }

    /// A connection on which one more call can be sent. One whose window is used up is none, as long as another may be made.
    fn link_with_room(&mut self, key: Key) -> Option<Key> {
        let lane = self.lanes.get(key)?;
        let conns = &self.conns.slab;
        let with_room = |link: &&Key| conns.get(**link).is_some_and(|conn| conn.wire.has_room());
        let is_starved = |link: &&Key| conns.get(**link).is_some_and(|conn| conn.wire.is_starved());
        let mut links = lane.links.iter().filter(with_room);
        let free = links.clone().find(|link| !is_starved(link));
        free.or_else(|| links.next().filter(|_| !lane.may_grow(self.now.mono))).copied()
    }

    /// Sends calls that wait for room, as far as there is some.
    pub(super) fn serve_waiting(&mut self, key: Key) {
        while let Some(lane) = self.lanes.get_mut(key)
            && let Some(call) = lane.waiting.front().copied()
        {
            if self.calls.get(call).is_none_or(|call| call.waits_on != Some(key)) {
                lane.waiting.pop_front();
                continue;
            }
            let sent = self.link_with_room(key).is_some_and(|link| self.send_on(call, link));
            if !sent {
                return self.grow(key);
            }
            if let Some(lane) = self.lanes.get_mut(key) {
                lane.waiting.pop_front();
            }
        }
    }

    /// Lets connections go that new calls may not use: both ends' certificates have to be the current ones as far as
    /// this end knows, and there must be no better way.
    fn freshen(&mut self, key: Key) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        if lane.seen_at == Some(self.now.mono) {
            return;
        }
        lane.seen_at = Some(self.now.mono);
        let LaneTo::Node { caller, .. } = &lane.to else { return };
        let own = caller.svids.borrow();
        let is_stale = |link: &Key| match self.conns.slab.get(*link).map(|conn| &conn.kind) {
            Some(Kind::Upstream(upstream)) => upstream.far.as_ref().is_some_and(|far| {
                let is_current = Arc::ptr_eq(&far.own, &own) && far.not_after > self.now.wall;
                !is_current || far.end.is_outdated()
            }),
            _ => true,
        };
        let stale: Vec<Key> = lane.links.iter().copied().filter(is_stale).collect();
        drop(own);
        for link in stale {
            self.retire(link);
        }
    }

    /// Takes note that no connection could be made.
    pub(super) fn dial_failed(&mut self, key: Key, refusal: &Refusal) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        lane.is_dialing = false;
        if let LaneTo::Node { endpoint, .. } = &lane.to {
            self.shared.ground.counts.add(Count::UpstreamFailed);
            info!(
                sagemesh.target = %target(&endpoint.id),
                network.peer.address = %endpoint.address,
                error.type = refusal.reason.code(),
                error = %refusal,
                "failed to connect"
            );
        }
        if lane.links.is_empty() {
            return self.fail_waiting(key, refusal);
        }
        lane.grows_at = Some(self.now.mono + DIAL_PAUSE);
        self.serve_waiting(key);
    }

    /// Takes note that a connection takes no calls any more.
    pub(super) fn link_ended(&mut self, key: Key, link: Key) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        lane.links.retain(|it| *it != link);
        if lane.waiting.is_empty() {
            return;
        }
        lane.n_futile += 1;
        if lane.n_futile < FUTILE_MAX {
            return self.grow(key);
        }
        lane.n_futile = 0;
        let why = "connections to the endpoint end as soon as they are made";
        self.fail_waiting(key, &Reason::EndpointUnreachable.because(why));
    }

    /// Takes note that a call was sent.
    pub(super) fn link_used(&mut self, key: Key) {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.n_futile = 0;
        }
    }

    fn fail_waiting(&mut self, key: Key, refusal: &Refusal) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        for call in std::mem::take(&mut lane.waiting) {
            let near = self.calls.get(call).filter(|call| call.waits_on == Some(key)).map(|call| call.near.0);
            if let Some(near) = near {
                // One that panics takes none of the others along.
                self.guarded(near, |worker| worker.attempt_failed(call, refusal.clone(), true));
            }
        }
    }
}
