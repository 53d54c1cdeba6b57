//! What a worker does beside carrying calls: it reads its letters, looks at who takes too long, and gives memory back.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::debug;
use types::Reason;
use wire::Code;

use crate::headers::client_cert;
use crate::metrics::Count;

use super::conn::{Guest, Kind, Near};
use super::inbox::{Letters, Newcomer};
use super::io::Io;
use super::slab::Key;
use super::worker::{Broken, Due, PANICKED, Worker};

/// How often all connections are looked at.
pub(super) const EVERY: Duration = Duration::from_secs(5);
/// How long the other end may take to say that it speaks HTTP/2, and a connection stays whose owner is no service:
/// until its calls were refused.
const PROBATION: Duration = Duration::from_secs(10);

impl Worker {
    /// Does what others told. False if that was to stop.
    pub(super) fn read_letters(&mut self) -> bool {
        let Letters { newcomers, made, recheck, drain, stop } = self.inbox.take();
        if stop {
            return false;
        }
        for newcomer in newcomers {
            self.guarded_new(
                |worker| worker.welcome(newcomer),
                |worker| {
                    worker.inbox.n_connections.fetch_sub(1, Ordering::Relaxed);
                },
            );
        }
        for (lane, made) in made {
            self.guarded_new(
                |worker| worker.on_made(lane, made),
                |worker| worker.dial_failed(lane, &Reason::EndpointUnreachable.because(PANICKED)),
            );
        }
        if recheck {
            let is_cut =
                |conn: &super::conn::Conn| conn.listed().is_some_and(|it| it.open.cut.is_cancelled());
            for key in self.conns.slab.keys(is_cut) {
                self.guarded(key, |worker| worker.close(key, &Broken::Because("it was cut")));
            }
        }
        if drain {
            self.is_draining = true;
            for key in self.conns.slab.keys(|conn| !matches!(conn.kind, Kind::Upstream(_))) {
                self.guarded(key, |worker| worker.part_with(key));
            }
        }
        true
    }

    /// Has no more calls come by a connection.
    fn part_with(&mut self, key: Key) {
        let Some(conn) = self.conns.touch(key) else { return };
        conn.wire.leave(&mut conn.out);
        // Who has not begun hears no more.
        conn.is_over |= !conn.wire.is_ready();
    }

    fn welcome(&mut self, newcomer: Newcomer) {
        if self.is_draining {
            self.inbox.n_connections.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let (io, kind) = match newcomer {
            Newcomer::Near { socket, owner, share, permit } => {
                let near = Near {
                    owner,
                    seen: None,
                    named: None,
                    lanes: Vec::new(),
                    _share: share,
                    _permit: permit,
                };
                (Io::new(socket, None), Kind::Near(Box::new(near)))
            }
            Newcomer::Guest { socket, tls, guest, listed, permit } => {
                let client_cert = client_cert(&guest.peer.own, &guest.peer.caller.id).into_bytes();
                let guest = Guest {
                    guest,
                    listed,
                    seen: None,
                    named: None,
                    client_cert,
                    edge: None,
                    lane: None,
                    _permit: permit,
                };
                (Io::new(socket, tls.map(|tls| *tls)), Kind::Guest(Box::new(guest)))
            }
        };
        if let Some(key) = self.adopt(io, wire::Role::Server, kind) {
            self.watch(key, self.now.mono + PROBATION);
            #[cfg(test)]
            assert!(!self.is_odd(key), "on purpose");
        }
    }

    /// Whether a connection is one that a test has made to break this end.
    #[cfg(test)]
    fn is_odd(&mut self, key: Key) -> bool {
        let Some(Kind::Near(near)) = self.conns.get_mut(key).map(|conn| &conn.kind) else { return false };
        near.owner.as_ref().is_err_and(|refusal| refusal.reason == Reason::RequestMalformed)
    }

    /// Does what is due.
    pub(super) fn expired(&mut self, due: Due) {
        match due {
            Due::Call(call) => {
                let near = self.calls.get(call).map(|call| call.near.0);
                if let Some(near) = near {
                    self.guarded(near, |worker| worker.call_expired(call));
                }
            }
            Due::Conn(key) => self.guarded(key, |worker| worker.conn_expired(key)),
            Due::Upkeep => {
                self.upkeep();
                self.wheel.insert(self.now.mono + EVERY, Due::Upkeep);
            }
        }
    }

    fn conn_expired(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.timer = None;
        let why = match &conn.kind {
            Kind::Upstream(_) => return self.upstream_expired(key),
            _ if !conn.wire.is_ready() => {
                self.shared.ground.counts.add(Count::ConnectionStuck);
                "it did not say in time that it speaks HTTP/2"
            }
            Kind::Near(near) => match &near.owner {
                Ok(owner) if self.table.caller(owner).is_ok() => return,
                _ => "its owner is no service",
            },
            Kind::Guest(_) => return,
        };
        self.close(key, &Broken::Because(why));
    }

    /// Looks at all connections, and gives memory back.
    fn upkeep(&mut self) {
        let n_streams = self.conns.slab.iter().map(|(_, conn)| conn.wire.n_streams()).sum();
        self.inbox.n_streams.store(n_streams, Ordering::Relaxed);
        self.inbox.n_calls.store(self.calls.len(), Ordering::Relaxed);
        for key in self.conns.slab.keys(|_| true) {
            self.guarded(key, |worker| worker.inspect(key));
        }
        self.sweep_lanes();
        self.pools.shrink();
        self.calls.shrink();
        self.wheel.shrink();
        self.conns.slab.shrink();
        self.ready.shrink_to(1024);
        self.conns.dirty.shrink_to(1024);
    }

    /// Ends what takes too long on one connection.
    fn inspect(&mut self, key: Key) {
        let now = self.now.mono;
        let config = &self.shared.ground.config;
        let Some(conn) = self.conns.touch(key) else { return };
        self.shared.ground.counts.add_frames(&conn.wire.take_counts());
        if conn.wire.n_streams() == 0 {
            conn.wire.shrink();
            conn.waiting = Vec::new();
        }
        if conn.out.is_empty() {
            self.pools.take_back(std::mem::take(&mut conn.out));
        }
        let is_half = !conn.rest.is_empty() || conn.wire.is_amid_block();
        let rest = is_half.then(|| *conn.rest_since.get_or_insert(now));
        let blocked = conn.is_blocked.then(|| *conn.blocked_since.get_or_insert(now));
        let since = [rest, blocked].into_iter().flatten().min();
        if since.is_some_and(|since| now.saturating_duration_since(since) > config.stuck_timeout) {
            self.shared.ground.counts.add(Count::ConnectionStuck);
            return self.close(key, &Broken::Because("its other end is stuck"));
        }
        let stalled: Vec<_> = conn.wire.stalled(now, config.unread_timeout).collect();
        let is_upstream = conn.upstream().is_some();
        for (stream, token) in stalled {
            self.shared.ground.counts.add(Count::CallUnread);
            debug!("reset a call whose receiver reads nothing");
            let Some(conn) = self.conns.touch(key) else { return };
            conn.wire.reset(stream, Code::CANCEL, &mut conn.out);
            let call = Key::from_bits(token);
            match is_upstream {
                true => self.lost(call, "it reads nothing of the request"),
                false => self.cancel(call),
            }
        }
    }
}
