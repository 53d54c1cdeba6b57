//! Why a connection ends, and why something cannot be sent.

use crate::code::Code;
use crate::flood::Flood;
use crate::hpack;

/// The connection is over: the peer broke a rule, or does too much of something. GOAWAY was written already; what
/// is in the output is to be sent, and the connection closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A rule that concerns the whole connection was broken.
    #[error("the peer broke HTTP/2: {rule} ({code})")]
    Protocol {
        /// What the peer was told.
        code: Code,
        /// What is not so.
        rule: &'static str,
    },
    /// A header block cannot be decoded.
    #[error("the peer broke HTTP/2 (COMPRESSION_ERROR)")]
    Compression(#[from] hpack::Error),
    /// More of something than any honest peer sends.
    #[error("the peer floods this end with {0}")]
    Flood(Flood),
}

impl Error {
    pub(crate) const fn protocol(rule: &'static str) -> Self {
        Self::Protocol { code: Code::PROTOCOL_ERROR, rule }
    }

    pub(crate) const fn frame_size(rule: &'static str) -> Self {
        Self::Protocol { code: Code::FRAME_SIZE_ERROR, rule }
    }

    pub(crate) const fn flow_control(rule: &'static str) -> Self {
        Self::Protocol { code: Code::FLOW_CONTROL_ERROR, rule }
    }

    /// What the peer is told.
    pub const fn code(&self) -> Code {
        match self {
            Self::Protocol { code, .. } => *code,
            Self::Compression(_) => Code::COMPRESSION_ERROR,
            Self::Flood(_) => Code::ENHANCE_YOUR_CALM,
        }
    }
}

/// Something was not sent; nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The stream was reset, or ended in both directions.
    #[error("the stream is over")]
    Gone,
    /// This end has ended the stream.
    #[error("this end has ended the stream already")]
    Ended,
    /// The peer takes no more streams at once: wait for one to end.
    #[error("the peer takes no more streams at once")]
    Full,
    /// The connection takes no new stream any more: the peer or this end said GOAWAY, ids are used up, the peer
    /// broke a rule, or this end is the server.
    #[error("the connection takes no new streams")]
    Closed,
}
