//! What can fail before calls are carried.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The proxy could not be set up. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field is out of bounds.
    #[error("`{field}` is out of bounds: set it to {bounds}")]
    Bounds {
        /// The field.
        field: &'static str,
        /// What it may be.
        bounds: &'static str,
    },
    /// A field of routing is out of bounds.
    #[error(transparent)]
    Route(#[from] route::Error),
    /// A port cannot be had.
    #[error("failed to listen on {address}: see that no other program does, or set {field}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The field that names it.
        field: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The Unix socket cannot be had.
    #[error("failed to listen on {}: see that its folder exists and can be written, or set `run`", path.display())]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another program answers on the Unix socket.
    #[error("another program listens on {}: stop it, or set `run`", .0.display())]
    SocketTaken(PathBuf),
    /// The event loops cannot be made.
    #[error("failed to make event loops: see that more files may be open, or set `proxy.workers` to less")]
    Workers(#[source] io::Error),
    /// Callers cannot be told apart.
    #[error("failed to prepare for telling who calls")]
    Attest(#[from] attest::Error),
}
