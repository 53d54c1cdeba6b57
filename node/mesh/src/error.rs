//! What can fail.

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;

use types::{PeerId, Refusal};

use crate::protocol::Protocol;

/// Links could not be set up, or a stream was not opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was started.
    #[error("`{field}` is out of bounds: set it to {bounds}")]
    Bounds {
        /// The field.
        field: &'static str,
        /// What it may be.
        bounds: &'static str,
    },
    /// Nothing was started.
    #[error("failed to listen on {address}: see that no other program does, or set mesh.listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Nothing was started.
    #[error("this node has no member record that counts: join the mesh with `sagemesh join`")]
    NotAMember,
    /// Nothing was opened.
    #[error("no link to {0}: see `sagemesh peers`")]
    Unlinked(PeerId),
    /// Nothing was opened.
    #[error("{0} streams to that peer are open already: close some, or raise mesh.peer_streams_max")]
    Busy(u16),
    /// Nothing was opened: the peer has as many streams of the protocol as it takes.
    #[error("the peer takes no more streams of {0}: try again later")]
    Full(Protocol),
    /// Nothing was opened: the peer does not serve the protocol.
    #[error("the peer does not serve {0}: compare the releases of both nodes")]
    Unsupported(Protocol),
    /// Nothing was opened: the peer was too slow.
    #[error("the peer did not open a stream of {0} in time: look at its load")]
    Timeout(Protocol),
    /// The link ended while the stream was being opened.
    #[error("lost the link while opening a stream of {0}: try again")]
    Lost(Protocol),
    /// The protocol is served already; that goes on.
    #[error("{0} is accepted already: this is a bug, report it")]
    Taken(Protocol),
    /// The node is stopping.
    #[error("the mesh is closed: the node is stopping")]
    Closed,
}

/// The refusal among an error's causes, at whatever depth libp2p has wrapped it.
pub(crate) fn refusal<'a>(err: &'a (dyn StdError + 'static)) -> Option<&'a Refusal> {
    let mut next = Some(err);
    while let Some(err) = next {
        if let Some(refusal) = err.downcast_ref::<Refusal>() {
            return Some(refusal);
        }
        // The source of an `io::Error` is its inner error's source; the inner error itself would be skipped.
        let inner = err.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = inner.map(|inner| inner as &(dyn StdError + 'static)).or_else(|| err.source());
    }
    None
}

#[cfg(test)]
mod tests {
    use types::Reason;

    use super::*;

    #[test]
    fn a_refusal_is_found_however_deep_it_lies() {
        let refused = tls::Error::from(Reason::MemberRevoked.because("gone"));
        let nested = io::Error::other(io::Error::other(refused));
        assert_eq!(refusal(&nested).map(|it| it.reason), Some(Reason::MemberRevoked));
        assert!(refusal(&io::Error::other("no reason")).is_none());
    }
}
