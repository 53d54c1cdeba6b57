//! One connection: its state, and what can be asked of it. What comes is in `receive`, what goes in `send`.

mod blocks;
mod control;
mod data;
mod receive;
mod send;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::error::Error;
use crate::flood::{Budgets, Counts, Flood};
use crate::frame;
use crate::hpack::{Decoder, Encoder};
use crate::settings::{self, Settings, WINDOW};
use crate::streams::{Stream, Streams, state};

pub use self::receive::{Cause, Event, Message};

use self::blocks::Partial;
use self::data::Incoming;

/// Which end of a connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one that opens streams.
    Client,
    /// The one that answers.
    Server,
}

/// The protocol state of one connection. It owns no bytes of the peer's but half a header block: what it could not
/// use yet stays in the caller's input.
#[derive(Debug)]
pub struct Conn {
    config: Arc<Config>,
    role: Role,
    /// What milliseconds are counted from.
    started: Instant,
    opening: Opening,
    /// Why it is over.
    failed: Option<Error>,
    streams: Streams,
    decoder: Decoder,
    encoder: Encoder,
    /// What the peer takes.
    peer: Settings,
    /// A header block of which more is to come.
    partial: Option<Box<Partial>>,
    /// The DATA frame that is being read.
    incoming: Incoming,
    send_window: i32,
    receive_window: u32,
    /// Bytes that were released and not given back to the peer yet.
    released: u32,
    /// Bytes that the caller was given and has not released.
    held: u32,
    /// As many of these were given back to the peer beforehand, as far as the connection's window goes.
    lent: u32,
    /// The highest stream that the peer opened.
    last_peer: u32,
    /// The stream that this end opens next.
    next_id: u32,
    leaving: Leaving,
    /// The highest stream that the peer still answers; it takes no new ones.
    peer_last: Option<u32>,
    /// From which slot on streams are to be told that the peer will not answer them.
    sweep: Option<u32>,
    budgets: Budgets,
}

/// How far the peer has come with what it must say first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    /// So many bytes of the preface came.
    Preface(u8),
    /// SETTINGS are next.
    Settings,
    Done,
}

/// How far this end has come with taking leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// It said so, and waits for the PING behind it, since streams may be on their way.
    Asked,
    /// It has named the last stream that it answers.
    Told(u32),
}

impl Conn {
    /// A new connection. Writes what this end says first. It allocates when there are streams and fields, not before.
    /// `config` keeps its bounds.
    pub fn new(role: Role, config: Arc<Config>, now: Instant, out: &mut Vec<u8>) -> Self {
        debug_assert_eq!(config.check(), Ok(()));
        if role == Role::Client {
            out.extend_from_slice(frame::PREFACE);
        }
        settings::write(&config, role == Role::Client, out);
        if config.connection_window > WINDOW {
            frame::write_window_update(0, config.connection_window - WINDOW, out);
        }
        Self {
            role,
            started: now,
            opening: if role == Role::Server { Opening::Preface(0) } else { Opening::Settings },
            failed: None,
            streams: Streams::new(config.seed),
            // Until the peer has seen this end's SETTINGS it may use a table of the usual size.
            decoder: Decoder::new(settings::TABLE_SIZE.max(config.decoder_table) as usize),
            encoder: Encoder::new(config.encoder_table as usize),
            peer: Settings::assumed(&config),
            partial: None,
            incoming: Incoming::default(),
            send_window: WINDOW.cast_signed(),
            receive_window: config.connection_window,
            released: 0,
            held: 0,
            lent: 0,
            last_peer: 0,
            next_id: 1,
            leaving: Leaving::No,
            peer_last: None,
            sweep: None,
            budgets: Budgets::new(&Flood::ALL.map(|flood| config.floods.limit(flood))),
            config,
        }
    }

    /// Which end this is.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// Streams that are not over.
    pub const fn n_streams(&self) -> usize {
        self.streams.len()
    }

    /// Whether [`Conn::open`] would open a stream now.
    pub fn has_room(&self) -> bool {
        self.check_room().is_ok()
    }

    /// Whether the connection's window is used up: the body of a new stream would wait for those of others.
    pub const fn is_starved(&self) -> bool {
        self.send_window <= 0
    }

    /// Whether new streams are out of the question from now on, on either side.
    pub const fn is_closing(&self) -> bool {
        self.failed.is_some() || self.peer_last.is_some() || !matches!(self.leaving, Leaving::No)
    }

    /// Whether this end has taken leave and all streams are over: the connection can be closed.
    pub const fn is_drained(&self) -> bool {
        self.streams.len() == 0 && matches!(self.leaving, Leaving::Told(_))
    }

    /// Whether the peer has said its SETTINGS.
    pub fn is_ready(&self) -> bool {
        self.opening == Opening::Done
    }

    /// Whether a header block has begun and not ended: it is kept until its rest comes.
    pub const fn is_amid_block(&self) -> bool {
        self.partial.is_some()
    }

    /// Whether a stream is not over.
    pub fn is_open(&self, stream: Stream) -> bool {
        self.streams.get(stream).is_some()
    }

    /// What the caller attached to a stream that is not over.
    pub fn token(&self, stream: Stream) -> Option<u64> {
        self.streams.get(stream).map(|slot| slot.token)
    }

    /// Attaches something to a stream, which comes with its events from now on.
    pub fn set_token(&mut self, stream: Stream, token: u64) {
        if let Some(slot) = self.streams.get_mut(stream) {
            slot.token = token;
        }
    }

    /// What the fields of one message may count for if the peer is to take them (see [`crate::hpack::Fields::size`]).
    pub const fn header_list_max(&self) -> u32 {
        self.peer.header_list_max
    }

    /// Bytes that the caller was given and has not released.
    pub const fn n_held(&self) -> u32 {
        self.held
    }

    /// Whether so much was not released that streams may soon wait for others: a case for [`Conn::lend`]. A quarter of
    /// the window, since another half may be released and not given back yet.
    pub fn is_pressed(&self) -> bool {
        self.held - self.lent > self.config.connection_window / 4
    }

    /// How much of what may be a flood came since this was asked last.
    pub fn take_counts(&mut self) -> Counts {
        self.budgets.take_counts()
    }

    /// Streams for which the caller has something to send and has got no byte sent for `longer`, with their tokens:
    /// the peer opens no window. It looks at every stream; to be asked every few seconds.
    pub fn stalled(&self, now: Instant, longer: Duration) -> impl Iterator<Item = (Stream, u64)> {
        let now_ms = self.millis(now);
        let longer_ms = u32::try_from(longer.as_millis()).unwrap_or(u32::MAX);
        let mut from = 0;
        std::iter::from_fn(move || {
            let is_stalled = |slot: &crate::streams::Slot, _| {
                slot.is(state::BLOCKED) && now_ms.saturating_sub(slot.blocked_ms) > longer_ms
            };
            let (stream, after) = self.streams.search(from, is_stalled)?;
            from = after;
            Some((stream, self.token(stream)?))
        })
    }

    /// Bytes of memory that it holds, itself included.
    pub fn memory(&self) -> usize {
        let partial = self.partial.as_deref().map_or(0, Partial::memory);
        size_of::<Self>() + self.streams.memory() + self.decoder.memory() + self.encoder.memory() + partial
    }

    /// Gives back memory that it can do without while nothing happens: caches, and the places of streams if all are
    /// over. What comes next costs a little more.
    pub fn shrink(&mut self) {
        self.streams.shrink();
        self.decoder.shrink();
        self.encoder.shrink();
    }

    fn millis(&self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.started);
        u32::try_from(since.as_secs().saturating_mul(1000).saturating_add(since.subsec_millis().into()))
            .unwrap_or(u32::MAX)
    }

    /// Takes one from a budget.
    fn spend(&mut self, flood: Flood, now: Instant) -> Result<(), Error> {
        self.budgets.take(flood, self.millis(now), self.config.floods.limit(flood))
    }

    /// Whether nobody has opened this stream yet, or nobody can.
    const fn is_idle(&self, id: u32) -> bool {
        match self.role {
            Role::Server => id.is_multiple_of(2) || id > self.last_peer,
            Role::Client => id.is_multiple_of(2) || id >= self.next_id,
        }
    }

    /// Takes note that one end ended a stream; it is over if the other has, too.
    fn end(&mut self, stream: Stream, which: u8) {
        let Some(slot) = self.streams.get_mut(stream) else { return };
        slot.state |= which;
        if slot.is(state::LOCAL_ENDED | state::REMOTE_ENDED) {
            self.streams.remove(stream);
            self.budgets.ended();
        }
    }
}

#[cfg(test)]
mod cost_tests;
#[cfg(test)]
mod flood_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod window_tests;
