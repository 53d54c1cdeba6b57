//! What the API can fail of.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The API does not run. Nothing listens.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A bound of the configuration is out of range.
    #[error("{0}")]
    Config(&'static str),
    /// The port cannot be had.
    #[error(
        "failed to listen on {address}: stop whoever holds that port (`ss -ltnp` names it), or set api.listen"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The socket cannot be made.
    #[error(
        "failed to listen on {}: run as a user who may write there, or set `run`", path.display()
    )]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process answers on the socket.
    #[error("another node listens on {}: stop it, or set `run`", .0.display())]
    Taken(PathBuf),
    /// Something else lies where the socket shall be.
    #[error("{} is there already and no socket: move it away, or set `run`", .0.display())]
    Foreign(PathBuf),
    /// The descriptors built into the program cannot be read.
    #[error("failed to set up reflection: report this")]
    Reflection(#[source] Box<tonic_reflection::server::Error>),
}
