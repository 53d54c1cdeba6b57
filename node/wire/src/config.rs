//! What can be set about a connection.

use crate::flood::{Flood, Limit};
use crate::frame;

/// What can be set about a connection. `Config::default()` is what ships. Shared by many connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Most streams at once that the peer may open, if this end is the server. Default 1,000, from 1 to 65,536.
    /// More are refused with REFUSED_STREAM, which clients try again.
    pub streams_max: u32,
    /// Most streams at once that this end opens before the peer has said how many it takes. Default 100, from 1 to
    /// 65,536.
    pub streams_assumed: u32,
    /// Bytes that the peer may send on one stream until some are released. Default 256 KiB, from 65,535 to
    /// 2³¹ − 1. More is faster over long distances.
    pub stream_window: u32,
    /// Bytes that the peer may send on all streams until some are released, or lent. Default 4 MiB, from 65,535 to
    /// 2³¹ − 1.
    pub connection_window: u32,
    /// The longest frame that this end takes. Default 16,384, from there to 65,536. The caller's input must hold
    /// one.
    pub frame_max: u32,
    /// What a list of fields may count for (RFC 9113, section 6.5.2). Default 32 KiB, from 4 KiB to 1 MiB. A
    /// request with more can be refused politely; four times as much in one block ends the connection.
    pub header_list_max: u32,
    /// Most CONTINUATION frames of one block. Default 16, from 0 to 1,024.
    pub continuations_max: u32,
    /// What the table that decodes the peer's fields may hold. Default 4,096, from 0 to 65,536.
    pub decoder_table: u32,
    /// What the table that encodes this end's fields may hold, if the peer allows it. Default 4,096, from 0 to
    /// 65,536. What does not fit is written out on each call.
    pub encoder_table: u32,
    /// How much of what costs the peer little is too much.
    pub floods: Floods,
    /// Keeps a peer from foreseeing which streams are found slowly if it opens them together: to be drawn at random.
    /// Default 0.
    pub seed: u64,
}

/// A budget for each [`Flood`] that has one. The defaults are far above what gRPC sends under load, since each also
/// grows with useful frames. Lower ones end honest connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Floods {
    /// Default 10,000 at once and 1,000 a second, and one more for each stream that ended as it should.
    pub resets: Limit,
    /// Default 10,000 at once and 1,000 a second. (gRPC measures bandwidth with a ping each round trip.)
    pub pings: Limit,
    /// Default 100 at once and 10 a second.
    pub settings: Limit,
    /// Default 20,000 at once and 10,000 a second.
    pub window_updates: Limit,
    /// Default 1,000 at once and 100 a second.
    pub priorities: Limit,
    /// Default 1,000 at once and 100 a second.
    pub empty_data: Limit,
    /// Default 1,000 at once and 100 a second.
    pub unknown: Limit,
    /// Default 20,000 at once and 10,000 a second: what is on its way when a stream is reset.
    pub strays: Limit,
    /// Default 100 at once and 10 a second.
    pub header_lists: Limit,
    /// Default 1,000 at once and 100 a second.
    pub interim: Limit,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            streams_max: 1000,
            streams_assumed: 100,
            stream_window: 256 << 10,
            connection_window: 4 << 20,
            frame_max: frame::LEN_MIN,
            header_list_max: 32 << 10,
            continuations_max: 16,
            decoder_table: 4096,
            encoder_table: 4096,
            floods: Floods::default(),
            seed: 0,
        }
    }
}

impl Default for Floods {
    fn default() -> Self {
        let limit = |burst, per_second| Limit { burst, per_second };
        Self {
            resets: limit(10_000, 1000),
            pings: limit(10_000, 1000),
            settings: limit(100, 10),
            window_updates: limit(20_000, 10_000),
            priorities: limit(1000, 100),
            empty_data: limit(1000, 100),
            unknown: limit(1000, 100),
            strays: limit(20_000, 10_000),
            header_lists: limit(100, 10),
            interim: limit(1000, 100),
        }
    }
}

impl Floods {
    /// The budget of one kind. Pieces of a header block are bounded by [`Config::continuations_max`].
    pub(crate) const fn limit(&self, flood: Flood) -> Limit {
        match flood {
            Flood::Resets => self.resets,
            Flood::Pings => self.pings,
            Flood::Settings => self.settings,
            Flood::WindowUpdates => self.window_updates,
            Flood::Priorities => self.priorities,
            Flood::EmptyData => self.empty_data,
            Flood::Unknown => self.unknown,
            Flood::Strays => self.strays,
            Flood::HeaderLists => self.header_lists,
            Flood::Interim => self.interim,
            Flood::Continuations => Limit { burst: 0, per_second: 0 },
        }
    }
}

/// A setting cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` is out of bounds: set it from {least} to {most}")]
pub struct Bounds {
    /// The field.
    pub field: &'static str,
    /// The least that it may be.
    pub least: u32,
    /// The most.
    pub most: u32,
}

impl Config {
    /// Refuses what is out of bounds.
    ///
    /// # Errors
    /// [`Bounds`], naming the field.
    pub fn check(&self) -> Result<(), Bounds> {
        let rules = [
            ("wire.streams_max", self.streams_max, 1, 1 << 16),
            ("wire.streams_assumed", self.streams_assumed, 1, 1 << 16),
            ("wire.stream_window", self.stream_window, 65_535, frame::WINDOW_MAX),
            ("wire.connection_window", self.connection_window, 65_535, frame::WINDOW_MAX),
            ("wire.frame_max", self.frame_max, frame::LEN_MIN, 1 << 16),
            ("wire.header_list_max", self.header_list_max, 4 << 10, 1 << 20),
            ("wire.continuations_max", self.continuations_max, 0, 1024),
            ("wire.decoder_table", self.decoder_table, 0, 1 << 16),
            ("wire.encoder_table", self.encoder_table, 0, 1 << 16),
        ];
        match rules.into_iter().find(|(_, value, least, most)| !(least..=most).contains(&value)) {
            Some((field, _, least, most)) => Err(Bounds { field, least, most }),
            None => Ok(()),
        }
    }
}
