//! A worker: its event loop, and how a connection is read, written and ended.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use tokio::sync::watch;
use tracing::{debug, error};
use types::{Now, ServiceName};
use wire::hpack::Fields;
use wire::{Event, Message};

use crate::metrics::Count;
use crate::outbound::Caller;
use crate::refusal::Refusals;
use crate::room::Shared;
use crate::table::Table;

use super::call::Call;
use super::conn::{Conn, Conns, Kind, UNREAD_MAX};
use super::inbox::{Inbox, WAKE};
use super::io::{Fill, Input, Io};
use super::lane::{Lane, LaneId};
use super::pool::Pools;
use super::slab::{Key, Slab};
use super::timer::Wheel;

/// Most events of one turn.
const EVENTS_MAX: usize = 1024;
/// Why a connection ended that made this end panic.
pub(super) const PANICKED: &str = "handling it panicked";

/// Something that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// A call's time is over.
    Call(Key),
    /// A connection is to be looked at.
    Conn(Key),
    /// So is the worker.
    Upkeep,
}

/// One event loop, with all that it owns.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) poll: Poll,
    pub(super) now: Now,
    pub(super) conns: Conns,
    pub(super) calls: Slab<Call>,
    pub(super) lanes: Slab<Lane>,
    pub(super) lane_ids: HashMap<LaneId, Key>,
    pub(super) wheel: Wheel<Due>,
    pub(super) pools: Pools,
    pub(super) refusals: Refusals,
    pub(super) wire: Arc<wire::Config>,
    pub(super) table: Arc<Table>,
    tables: watch::Receiver<Arc<Table>>,
    /// The services that call, by the table.
    pub(super) callers: HashMap<ServiceName, Arc<Caller>>,
    /// Connections to be read in the next turn.
    pub(super) ready: Vec<Key>,
    /// What a turn finds to be due.
    due: Vec<Due>,
    input: Input,
    fields: Fields,
    pub(super) is_draining: bool,
    /// The connection that was taken over last.
    adopted: Option<Key>,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("its other end has ended it")]
    Ended,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Wire(#[from] wire::Error),
    #[error("{0}")]
    Because(&'static str),
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, inbox: Arc<Inbox>, poll: Poll) -> Self {
        let mut tables = shared.table.clone();
        let table = Arc::clone(&tables.borrow_and_update());
        let now = Now::read();
        let seed = RandomState::new().build_hasher().finish();
        let wire = Arc::new(wire::Config { seed, ..shared.ground.config.wire() });
        let mut wheel = Wheel::new(now.mono);
        wheel.insert(now.mono + super::upkeep::EVERY, Due::Upkeep);
        Self {
            shared,
            inbox,
            poll,
            now,
            conns: Conns::default(),
            calls: Slab::default(),
            lanes: Slab::default(),
            lane_ids: HashMap::new(),
            wheel,
            pools: Pools::default(),
            refusals: Refusals::default(),
            wire,
            table,
            tables,
            callers: HashMap::new(),
            ready: Vec::new(),
            due: Vec::new(),
            input: Input::new(),
            fields: Fields::new(),
            is_draining: false,
            adopted: None,
        }
    }

    /// Carries calls until it is told to stop.
    ///
    /// # Panics
    /// If the system cannot tell what happens on connections.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_MAX);
        loop {
            let wait =
                if self.ready.is_empty() { self.wheel.next(self.now.mono) } else { Some(Duration::ZERO) };
            match self.poll.poll(&mut events, wait) {
                Ok(()) => {}
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                Err(err) => panic!("failed to wait for connections: {err}"),
            }
            if !self.act(Now::read(), &events) {
                return;
            }
        }
    }

    /// Does what follows from what happened. False if that was to stop.
    pub(super) fn act(&mut self, now: Now, events: &Events) -> bool {
        self.now = now;
        self.follow_table();
        let ready = std::mem::take(&mut self.ready);
        for key in &ready {
            self.turn(*key);
        }
        let mut has_letters = false;
        for event in events {
            if event.token() == WAKE {
                has_letters = true;
                continue;
            }
            let key = Key::from_bits(event.token().0 as u64);
            if event.is_writable() && self.conns.get_mut(key).is_some_and(|conn| conn.is_blocked) {
                self.conns.touch(key);
            }
            let is_hung = event.is_read_closed() || event.is_error();
            if is_hung && let Some(conn) = self.conns.get_mut(key) {
                conn.is_hung = true;
            }
            if is_hung || event.is_readable() {
                self.turn(key);
            }
        }
        if has_letters && !self.read_letters() {
            return false;
        }
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(self.now.mono, &mut due);
        for due in due.drain(..) {
            self.expired(due);
        }
        self.due = due;
        self.settle_all();
        true
    }

    fn follow_table(&mut self) {
        if self.tables.has_changed().unwrap_or(false) {
            self.table = Arc::clone(&self.tables.borrow_and_update());
            self.callers.clear();
        }
    }

    /// Takes over a connection.
    pub(super) fn adopt(&mut self, io: Io, role: wire::Role, kind: Kind) -> Option<Key> {
        let mut out = self.pools.buffer();
        let wire = wire::Conn::new(role, Arc::clone(&self.wire), self.now.mono, &mut out);
        let fd = io.fd();
        let key = self.conns.slab.insert(Conn::new(io, wire, out, kind));
        self.adopted = Some(key);
        let token = Token(usize::try_from(key.to_bits()).expect("a word has 64 bits"));
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(err) = self.poll.registry().register(&mut SourceFd(&fd), token, interest) {
            self.close(key, &err.into());
            return None;
        }
        // What came with the handshake is in no socket any more.
        self.ready_again(key);
        self.conns.touch(key);
        Some(key)
    }

    /// Has a connection read in the next turn.
    pub(super) fn ready_again(&mut self, key: Key) {
        if let Some(conn) = self.conns.get_mut(key)
            && !std::mem::replace(&mut conn.is_ready, true)
        {
            self.ready.push(key);
        }
    }

    /// Does something on behalf of one connection, which ends if that panics.
    pub(super) fn guarded(&mut self, key: Key, act: impl FnOnce(&mut Self)) {
        if self.panics(act) {
            self.close(key, &Broken::Because(PANICKED));
        }
    }

    /// Takes over a connection. If that panics, the connection ends; `undo` says what to do if it was none yet.
    pub(super) fn guarded_new(&mut self, act: impl FnOnce(&mut Self), undo: impl FnOnce(&mut Self)) {
        self.adopted = None;
        if self.panics(act) {
            match self.adopted.take() {
                Some(key) => self.close(key, &Broken::Because(PANICKED)),
                None => undo(self),
            }
        }
    }

    fn panics(&mut self, act: impl FnOnce(&mut Self)) -> bool {
        let is_panic = catch_unwind(AssertUnwindSafe(|| act(self))).is_err();
        if is_panic {
            self.shared.ground.counts.add(Count::ConnectionPanicked);
            error!("a connection was ended since handling it panicked");
        }
        is_panic
    }

    /// Reads a connection once, and does what follows.
    fn turn(&mut self, key: Key) {
        self.guarded(key, |worker| {
            let (mut input, mut fields) =
                (std::mem::take(&mut worker.input), std::mem::take(&mut worker.fields));
            if input.is_empty() {
                // It was lost in a panic.
                input = Input::new();
            }
            let read = worker.read(key, &mut input, &mut fields);
            (worker.input, worker.fields) = (input, fields);
            if let Err(err) = read {
                worker.close(key, &err);
            }
        });
    }

    fn read(&mut self, key: Key, input: &mut Input, fields: &mut Fields) -> Result<(), Broken> {
        let Some(conn) = self.conns.touch(key) else { return Ok(()) };
        conn.is_ready = false;
        conn.is_paused = conn.is_choked();
        if conn.is_paused || conn.is_over {
            return Ok(());
        }
        input.begin(&conn.rest);
        let n_before = conn.rest.len();
        let fill = conn.io.fill(input)?;
        let has_read = input.bytes().len() > n_before;
        if has_read {
            conn.n_reads = conn.n_reads.wrapping_add(1);
        }
        let mut bytes = input.bytes();
        loop {
            let Some(conn) = self.conns.get_mut(key) else { return Ok(()) };
            match conn.wire.receive(self.now.mono, &mut bytes, fields, &mut conn.out) {
                Ok(Some(event)) => self.on_event(key, event, fields),
                Ok(None) => break,
                Err(err) => {
                    conn.is_over = true;
                    if let wire::Error::Flood(flood) = err {
                        self.shared.ground.counts.flood(flood);
                    }
                    debug!(error = %err, "a connection broke a rule");
                    self.lose_calls(key, &Broken::Wire(err));
                    return Ok(());
                }
            }
        }
        let Some(conn) = self.conns.get_mut(key) else { return Ok(()) };
        if conn.rest.capacity() == 0 && !bytes.is_empty() {
            conn.rest = self.pools.buffer();
        }
        if bytes.len() < input.bytes().len() {
            conn.rest_since = None;
        }
        conn.rest.clear();
        conn.rest.extend_from_slice(bytes);
        if bytes.is_empty() {
            self.pools.take_back(std::mem::take(&mut conn.rest));
        }
        let is_hung = conn.is_hung;
        if has_read && conn.upstream().is_some_and(|it| !it.awaiting.is_empty()) {
            self.gave_sign(key);
        }
        match fill {
            Fill::More => self.ready_again(key),
            // The system says but once that the end came, maybe together with what was read now.
            Fill::Drained if is_hung && has_read => self.ready_again(key),
            Fill::Drained => {}
            Fill::Ended => return Err(Broken::Ended),
        }
        Ok(())
    }

    fn on_event(&mut self, key: Key, event: Event<'_>, fields: &mut Fields) {
        let is_near = match self.conns.get_mut(key) {
            Some(conn) => conn.upstream().is_none(),
            None => return,
        };
        match event {
            Event::Data { stream, token, bytes, is_end } => {
                self.conns.came(bytes.len());
                match is_near {
                    true => self.on_upload(key, stream, token, bytes, is_end),
                    false => self.on_download(key, stream, token, bytes, is_end),
                }
            }
            Event::Headers { stream, token, message, is_end } => match (is_near, message) {
                (true, Message::Request) => self.on_request(key, stream, is_end, fields),
                (true, _) => self.on_request_trailers(token, fields),
                (false, Message::Interim { .. }) => self.on_interim(token, fields),
                (false, Message::Trailers) => self.on_trailers(token, fields),
                (false, _) => self.on_head(token, is_end, fields),
            },
            Event::TooLarge { stream, .. } => self.on_too_large(key, stream),
            Event::WindowOpened { token, .. } => match is_near {
                true => self.download_on(Key::from_bits(token)),
                false => self.upload_on(Key::from_bits(token)),
            },
            Event::Reset { token, code, cause, .. } => match is_near {
                true => self.cancel(Key::from_bits(token)),
                false => self.on_reset(token, code, cause),
            },
            Event::Pong(payload) if !is_near => self.on_pong(key, payload),
            // Rooms that SETTINGS open are looked for when the turn ends, as are those that GOAWAY closes.
            Event::Settings | Event::GoAway { .. } | Event::Pong(_) => {}
        }
    }

    /// Looks at all connections that were changed in this turn.
    fn settle_all(&mut self) {
        while let Some(key) = self.conns.next_dirty() {
            self.guarded(key, |worker| worker.settle(key));
        }
    }

    /// Writes what a connection is owed, and ends it if it is time.
    fn settle(&mut self, key: Key) {
        let may_lend = self.conns.n_unread <= UNREAD_MAX;
        let Some(conn) = self.conns.get_mut(key) else { return };
        if may_lend && conn.wire.is_pressed() {
            conn.wire.lend(&mut conn.out);
        }
        if let Some(listed) = conn.listed() {
            listed.open.set_calls(conn.wire.n_streams());
        }
        let n_before = conn.sent;
        let whole = match conn.io.flush(&conn.out, &mut conn.sent) {
            Ok(whole) => whole,
            Err(err) => return self.close(key, &err.into()),
        };
        conn.is_blocked = !whole;
        match whole {
            true => {
                (conn.sent, conn.blocked_since) = (0, None);
                // Its memory stays with it until it is idle: to get it anew each turn costs much.
                conn.out.clear();
            }
            false if conn.sent > n_before => conn.blocked_since = None,
            false => {}
        }
        if conn.is_relieved() {
            let (waiting, is_paused) = (std::mem::take(&mut conn.waiting), conn.is_paused);
            for call in waiting {
                self.upload_on(call);
                self.download_on(call);
            }
            if is_paused {
                self.ready_again(key);
            }
        }
        let Some(conn) = self.conns.get_mut(key) else { return };
        let is_drained = conn.wire.is_drained();
        if whole && conn.out.is_empty() && (conn.is_over || is_drained) {
            return self.close(key, &Broken::Because("it was let go"));
        }
        if conn.upstream().is_some() {
            self.settle_upstream(key);
        }
    }

    /// Ends a connection at once.
    pub(super) fn close(&mut self, key: Key, why: &Broken) {
        self.lose_calls(key, why);
        let Some(mut conn) = self.conns.remove(key) else { return };
        if let Some(timer) = conn.timer.take() {
            self.wheel.cancel(timer);
        }
        if let Some(listed) = conn.listed() {
            listed.open.set_calls(0);
        }
        self.shared.ground.counts.add_frames(&conn.wire.take_counts());
        conn.io.close();
        debug!(error = %why, "a connection ended");
        for buffer in [std::mem::take(&mut conn.out), std::mem::take(&mut conn.rest)] {
            self.pools.take_back(buffer);
        }
        match conn.kind {
            Kind::Near(_) | Kind::Guest(_) => {
                self.inbox.n_connections.fetch_sub(1, Ordering::Relaxed);
            }
            Kind::Upstream(upstream) => self.lose_upstream(key, *upstream, why),
        }
    }

    /// Sets when a connection is to be looked at.
    pub(super) fn watch(&mut self, key: Key, at: Instant) {
        let Some(conn) = self.conns.slab.get_mut(key) else { return };
        let timer = self.wheel.insert(at, Due::Conn(key));
        if let Some(before) = conn.timer.replace(timer) {
            self.wheel.cancel(before);
        }
    }
}
