//! What can fail.

use std::io;

/// A socket's owner could not be asked for. Nothing is known, so nobody may be believed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel could not be asked.
    #[error("failed to ask the kernel about a socket: see that its module `tcp_diag` is loaded or built in")]
    Ask(#[source] io::Error),
    /// The kernel does not know a socket that is there.
    #[error("the kernel tells nothing about sockets: load its module with `modprobe tcp_diag`")]
    Unsupported,
    /// The kernel's answer does not make sense.
    #[error("failed to read the kernel's answer about a socket ({0}): this is a bug, report it")]
    Answer(String),
    /// Too many others are being looked up.
    #[error("too many sockets are being looked up: try again, or open fewer connections at a time")]
    Busy,
}
