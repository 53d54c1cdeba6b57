//! Connections that calls are sent over: how they are proven, watched, and given up.
//!
//! One counts as made once its other end has answered a first PING. In TLS 1.3 a client that is refused sees its
//! handshake succeed; so does one that connects to a port where nothing but the kernel answers. Whatever fails before
//! has sent no call.

use tracing::info;
use types::Refusal;

use crate::dial::{Made, unreachable};
use crate::metrics::Count;

use super::conn::{Far, Kind, Upstream, Watch};
use super::io::Io;
use super::slab::Key;
use super::worker::{Broken, Worker};

/// Most calls of one connection that are cancelled beyond those that end as they should. Then another is made: many
/// callers share it, and the other end takes so many resets for a flood of one.
const CANCELLED_MAX: u32 = 5000;
/// What PINGs say.
const PING: u64 = u64::from_be_bytes(*b"sm-alive");

impl Worker {
    /// Takes over what came of making a connection.
    pub(super) fn on_made(&mut self, lane_key: Key, made: Result<Made, Refusal>) {
        #[cfg(test)]
        assert!(lane_key != Key::from_bits(0), "on purpose");
        let made = match made {
            Ok(made) => made,
            Err(refusal) => return self.dial_failed(lane_key, &refusal),
        };
        if self.lanes.get(lane_key).is_none() {
            return;
        }
        let far = made.far.map(|(peer, own)| Far {
            not_after: own.not_after.min(peer.caller.not_after),
            edge: self.inbox.edges.of(own.id.clone(), peer.caller.id.clone()),
            own,
            listed: None,
            peer: Some(peer),
            end: made.end.clone(),
        });
        let upstream = Upstream {
            lane: lane_key,
            address: made.end.address,
            is_proven: false,
            is_retired: false,
            far,
            n_cancelled: 0,
            awaiting: Vec::new(),
            watch: Watch::Proof,
            n_reads_seen: 0,
        };
        let io = Io::new(made.socket, made.tls);
        let Some(key) = self.adopt(io, wire::Role::Client, Kind::Upstream(Box::new(upstream))) else {
            return;
        };
        if let Some(conn) = self.conns.touch(key) {
            conn.wire.ping(PING, &mut conn.out);
        }
        self.watch(key, self.now.mono + self.shared.ground.config.connect_timeout);
    }

    /// Takes note that the other end answered a PING.
    pub(super) fn on_pong(&mut self, key: Key, payload: u64) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Some(upstream) = conn.upstream().filter(|it| payload == PING && !it.is_proven) else { return };
        upstream.is_proven = true;
        upstream.watch = Watch::Idle;
        let lane_key = upstream.lane;
        if let Some(far) = &mut upstream.far
            && let Some(peer) = far.peer.take()
        {
            far.listed = Some(self.shared.ground.list_made(peer, far.end.clone()));
        }
        self.watch(key, self.now.mono + self.shared.ground.config.idle_timeout);
        if let Some(lane) = self.lanes.get_mut(lane_key) {
            lane.is_dialing = false;
            lane.links.push(key);
        }
        self.serve_waiting(lane_key);
    }

    /// Takes note that a call was sent over a connection: it is watched from now on.
    pub(super) fn watch_busy(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let n_reads = conn.n_reads;
        let Some(upstream) = conn.upstream().filter(|it| it.watch == Watch::Idle) else { return };
        (upstream.watch, upstream.n_reads_seen) = (Watch::Busy, n_reads);
        self.watch(key, self.now.mono + self.shared.ground.config.ping_interval);
    }

    /// Looks at a connection whose timer is due.
    pub(super) fn upstream_expired(&mut self, key: Key) {
        let Some(conn) = self.conns.touch(key) else { return };
        let config = &self.shared.ground.config;
        let (n_reads, n_streams) = (conn.n_reads, conn.wire.n_streams());
        let Some(upstream) = conn.upstream() else { return };
        let is_silent = std::mem::replace(&mut upstream.n_reads_seen, n_reads) == n_reads;
        let is_needed = n_streams > 0 || !upstream.awaiting.is_empty();
        let after = match upstream.watch {
            Watch::Proof => {
                let why = Broken::Because("it accepts connections and does not answer");
                return self.close(key, &why);
            }
            Watch::Idle => return self.retire(key),
            Watch::Sign if is_silent && is_needed => {
                let address = upstream.address;
                self.shared.ground.counts.add(Count::UpstreamSilent);
                info!(network.peer.address = %address, "gave up a connection that fell silent");
                return self.close(key, &Broken::Because("it fell silent"));
            }
            _ if !is_needed && upstream.is_retired => return,
            _ if !is_needed => {
                upstream.watch = Watch::Idle;
                config.idle_timeout
            }
            // Servers that are not ours may take pings for an attack.
            Watch::Busy if is_silent && upstream.far.is_some() => {
                upstream.watch = Watch::Sign;
                conn.wire.ping(PING, &mut conn.out);
                config.ping_timeout
            }
            Watch::Busy | Watch::Sign => {
                upstream.watch = Watch::Busy;
                config.ping_interval
            }
        };
        self.watch(key, self.now.mono + after);
    }

    /// Has a call sent once a connection gives a sign of life.
    pub(super) fn await_sign(&mut self, call: Key, key: Key) {
        let after = self.shared.ground.config.ping_timeout;
        let Some(conn) = self.conns.touch(key) else { return };
        conn.wire.ping(PING, &mut conn.out);
        let n_reads = conn.n_reads;
        let Some(upstream) = conn.upstream() else { return };
        upstream.awaiting.push(call);
        if upstream.watch != Watch::Sign {
            (upstream.watch, upstream.n_reads_seen) = (Watch::Sign, n_reads);
            self.watch(key, self.now.mono + after);
        }
    }

    /// Sends the calls that waited for a sign of life.
    pub(super) fn gave_sign(&mut self, key: Key) {
        let Some(upstream) = self.conns.get_mut(key).and_then(|conn| conn.upstream()) else { return };
        let lane_key = upstream.lane;
        for call in std::mem::take(&mut upstream.awaiting) {
            if self.calls.get(call).is_none_or(|call| call.waits_on != Some(lane_key)) {
                continue;
            }
            if !self.send_on(call, key)
                && let Some(lane) = self.lanes.get_mut(lane_key)
            {
                lane.waiting.push_back(call);
            }
        }
    }

    /// Lets a connection go after the calls that it carries.
    pub(super) fn retire(&mut self, key: Key) {
        let Some(conn) = self.conns.touch(key) else { return };
        conn.wire.leave(&mut conn.out);
        let Some(upstream) = conn.upstream() else { return };
        upstream.is_retired = true;
        let lane = upstream.lane;
        self.link_ended(lane, key);
    }

    /// Looks at a connection when a turn ends.
    pub(super) fn settle_upstream(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let is_closing = conn.wire.is_closing();
        let Some(upstream) = conn.upstream() else { return };
        let lane = upstream.lane;
        match (upstream.is_proven, upstream.is_retired) {
            (false, _) if is_closing => {
                return self.close(key, &Broken::Because("it goes away at once"));
            }
            (true, false) if is_closing || upstream.n_cancelled >= CANCELLED_MAX => return self.retire(key),
            (true, false) => {}
            _ => return,
        }
        if self.lanes.get(lane).is_some_and(|lane| !lane.waiting.is_empty()) {
            self.serve_waiting(lane);
        }
    }

    /// Takes note that a connection is over.
    pub(super) fn lose_upstream(&mut self, key: Key, upstream: Upstream, why: &Broken) {
        if !upstream.is_proven {
            let why = match why {
                Broken::Because(why) => (*why).to_owned(),
                err => format!("it does not let this node in, or speaks no HTTP/2: {err}"),
            };
            return self.dial_failed(upstream.lane, &unreachable(upstream.address, &why));
        }
        if !upstream.is_retired {
            self.link_ended(upstream.lane, key);
        }
        let refusal = unreachable(upstream.address, "the connection broke");
        for call in upstream.awaiting {
            if self.calls.get(call).is_some_and(|call| call.waits_on == Some(upstream.lane)) {
                self.attempt_failed(call, refusal.clone(), true);
            }
        }
    }

    /// The lane of a guest to its service, if it may use that still.
    pub(super) fn backend_of(&mut self, near: Key) -> Option<Key> {
        let Some(Kind::Guest(guest)) = self.conns.get_mut(near).map(|conn| &conn.kind) else { return None };
        let address = guest.seen.as_ref()?.1.as_ref().ok()?.address;
        Some(self.lane_to(near, address))
    }
}
