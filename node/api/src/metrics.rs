//! What the room counts. The daemon reads it and exports it; a label is never a caller or an address.

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
    /// Connections of callers who are known.
    Connected = "sagemesh.api.connections", "";
    /// Connections whose handshake failed, or whose peer was refused.
    ConnectionRefused = "sagemesh.api.connections", "refused";
    /// Connections that a bound kept out.
    ConnectionShed = "sagemesh.api.connections", "full";
    /// Connections closed because their caller no longer holds.
    ConnectionCut = "sagemesh.api.connections", "cut";
    /// Connections closed because a task of theirs panicked.
    ConnectionPanicked = "sagemesh.api.connections", "panicked";
    /// Calls that a role allowed.
    Called = "sagemesh.api.calls", "";
    /// Calls that no role allowed.
    CallRefused = "sagemesh.api.calls", "refused";
    /// Calls that did not answer in time.
    CallTimedOut = "sagemesh.api.calls", "timeout";
    /// Newcomers that got a record.
    Joined = "sagemesh.api.joins", "";
    /// Newcomers that were refused, or broke off.
    JoinRefused = "sagemesh.api.joins", "refused";
    /// Newcomers that a bound kept out.
    JoinShed = "sagemesh.api.joins", "full";
}

/// The figures, from zero at the start of the room.
#[derive(Debug, Default)]
pub struct Counts([AtomicU64; Count::ALL.len()]);

impl Counts {
    /// How often something has happened.
    pub fn of(&self, count: Count) -> u64 {
        self.0[count as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, count: Count) {
        self.0[count as usize].fetch_add(1, Ordering::Relaxed);
    }
}
