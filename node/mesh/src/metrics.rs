//! What the room counts. The daemon reads it and exports it; a label is never a peer or an address.

use std::sync::atomic::{AtomicU64, Ordering};

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
    /// Links made.
    LinkMade = "sagemesh.mesh.links", "";
    /// Links ended, for whatever reason.
    LinkEnded = "sagemesh.mesh.links_ended", "";
    /// Connections refused by who the peer is, by this side.
    LinkRefused = "sagemesh.mesh.links", "refused";
    /// Connections that failed otherwise before they were links, or that a bound kept out.
    LinkFailed = "sagemesh.mesh.links", "failed";
    /// Links cut because their peer no longer counts.
    LinkCut = "sagemesh.mesh.links", "cut";
    /// Links closed because there was another to the same peer.
    LinkDoubled = "sagemesh.mesh.links", "doubled";
    /// Tasks of a connection that panicked.
    LinkPanicked = "sagemesh.mesh.links", "panicked";
    /// Streams that peers began to open.
    StreamOffered = "sagemesh.mesh.streams", "";
    /// Streams of peers that were handed to a room.
    StreamAccepted = "sagemesh.mesh.streams_accepted", "";
    /// Streams refused because a limit of their protocol or of their peer was reached.
    StreamRefused = "sagemesh.mesh.streams", "full";
    /// Streams dropped before they named a protocol, because too many did so at once.
    StreamDropped = "sagemesh.mesh.streams", "flood";
    /// Streams that no room took in time.
    StreamExpired = "sagemesh.mesh.streams", "expired";
    /// Events that the owner was too slow to take.
    EventShed = "sagemesh.mesh.events", "shed";
    /// Packets of gossip to peers that read too slowly.
    PacketShed = "sagemesh.mesh.packets", "shed";
    /// Hints beyond as many as are kept.
    HintShed = "sagemesh.mesh.hints", "shed";
    /// Addresses that mDNS found for nodes of this mesh that were not linked.
    MdnsFound = "sagemesh.mesh.mdns", "";
    /// Addresses, or whole nodes, that mDNS heard beyond as many as are looked at.
    MdnsShed = "sagemesh.mesh.mdns", "shed";
    /// Packets of mDNS that could not be sent, and sockets that failed.
    MdnsFailed = "sagemesh.mesh.mdns", "failed";
    /// Announcements of nodes of other meshes.
    MdnsForeign = "sagemesh.mesh.mdns", "foreign";
}

/// The figures, from zero at the start of the room.
#[derive(Debug, Default)]
pub(crate) struct Counts([AtomicU64; Count::ALL.len()]);

impl Counts {
    pub(crate) fn add(&self, count: Count) {
        self.0[count as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn of(&self, count: Count) -> u64 {
        self.0[count as usize].load(Ordering::Relaxed)
    }
}
