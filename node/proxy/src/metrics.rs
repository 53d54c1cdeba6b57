//! What the room counts. The daemon reads it and exports it; a label is never a peer or an address.

use std::sync::atomic::{AtomicU64, Ordering};

use types::Reason;
use wire::Flood;

macro_rules! counts {
    ($($(#[doc = $doc:literal])+ $name:ident = $metric:literal, $error:literal;)+) => {
        /// Something that is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Count {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Count {
            /// All of them, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// What it is, for people.
            pub fn help(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_start(),)+ }
            }

            /// The metric's name, and its `error.type` label, empty where nothing failed.
            pub const fn metric(self) -> (&'static str, &'static str) {
                match self { $(Self::$name => ($metric, $error),)+ }
            }
        }
    };
}

counts! {
    /// Connections of callers on this machine.
    OutboundConnection = "sagemesh.proxy.outbound.connections", "";
    /// Connections of other nodes and stock clients that were let in.
    InboundConnection = "sagemesh.proxy.inbound.connections", "";
    /// Connections of other nodes and stock clients that were refused by who they are or whom they mean.
    InboundRefused = "sagemesh.proxy.inbound.connections", "refused";
    /// Connections of other nodes and stock clients that failed before they said who they are.
    InboundFailed = "sagemesh.proxy.inbound.connections", "failed";
    /// Of the connections that were let in, those over mesh links.
    InboundByMesh = "sagemesh.proxy.inbound.by_mesh", "";
    /// Connections made to other nodes.
    UpstreamConnection = "sagemesh.proxy.upstream.connections", "";
    /// Connections to other nodes that could not be made.
    UpstreamFailed = "sagemesh.proxy.upstream.connections", "failed";
    /// Of the connections made to other nodes, those over mesh links.
    UpstreamByMesh = "sagemesh.proxy.upstream.by_mesh", "";
    /// Connections to other nodes given up because they fell silent.
    UpstreamSilent = "sagemesh.proxy.upstream.connections", "silent";
    /// Connections cut because their peer no longer counts.
    ConnectionCut = "sagemesh.proxy.connections", "cut";
    /// Connections closed at once because there were too many.
    ConnectionShed = "sagemesh.proxy.connections", "shed";
    /// Connections closed because their other end took nothing, or left what it had begun to say half said.
    ConnectionStuck = "sagemesh.proxy.connections", "stuck";
    /// Connections that ended because handling them panicked.
    ConnectionPanicked = "sagemesh.proxy.connections", "panicked";
    /// Calls of callers on this machine.
    OutboundCall = "sagemesh.proxy.outbound.calls", "";
    /// Calls for services on this machine.
    InboundCall = "sagemesh.proxy.inbound.calls", "";
    /// Calls reset because their receiver left what it was sent unread.
    CallUnread = "sagemesh.proxy.calls", "unread";
    /// Attempts beyond the first of a call.
    CallRetried = "sagemesh.proxy.retries", "";
    /// Tunnels opened by callers on this machine.
    OutboundTunnel = "sagemesh.proxy.outbound.tunnels", "";
    /// Tunnels to services on this machine.
    InboundTunnel = "sagemesh.proxy.inbound.tunnels", "";
    /// Edges beyond as many as are counted.
    EdgeShed = "sagemesh.proxy.edges", "shed";
}

/// What the counter of connections that were ended for a flood is called, and its `error.type` label; its `flood`
/// label is the flood's name.
pub const FLOODS: (&str, &str) = ("sagemesh.proxy.connections", "flood");

/// What the counter of frames that are a flood if too many come is called; its `flood` label is the flood's name.
/// A connection's are added every few seconds and at its end.
pub const FRAMES: &str = "sagemesh.proxy.frames";

/// What the counter of refusals is called; its `error.type` label is the reason's code.
pub const REFUSALS: &str = "sagemesh.proxy.refusals";

/// The figures, from zero at the start of the room.
#[derive(Debug)]
pub(crate) struct Counts {
    counts: [AtomicU64; Count::ALL.len()],
    refused: [AtomicU64; Reason::ALL.len()],
    floods: [AtomicU64; Flood::ALL.len()],
    frames: [AtomicU64; Flood::ALL.len()],
}

impl Default for Counts {
    fn default() -> Self {
        let zero = |_| AtomicU64::new(0);
        Self {
            counts: std::array::from_fn(zero),
            refused: std::array::from_fn(zero),
            floods: std::array::from_fn(zero),
            frames: std::array::from_fn(zero),
        }
    }
}

impl Counts {
    pub(crate) fn add(&self, count: Count) {
        self.counts[count as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn of(&self, count: Count) -> u64 {
        self.counts[count as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn refuse(&self, reason: Reason) {
        self.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self, reason: Reason) -> u64 {
        self.refused[reason as usize].load(Ordering::Relaxed)
    }

    /// Counts a connection that was ended for a flood.
    pub(crate) fn flood(&self, flood: Flood) {
        self.floods[flood as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn floods(&self, flood: Flood) -> u64 {
        self.floods[flood as usize].load(Ordering::Relaxed)
    }

    /// Adds what a connection has counted.
    pub(crate) fn add_frames(&self, counted: &wire::Counts) {
        for flood in Flood::ALL {
            match counted.of(flood) {
                0 => {}
                n => drop(self.frames[flood as usize].fetch_add(n, Ordering::Relaxed)),
            }
        }
    }

    pub(crate) fn frames(&self, flood: Flood) -> u64 {
        self.frames[flood as usize].load(Ordering::Relaxed)
    }
}
