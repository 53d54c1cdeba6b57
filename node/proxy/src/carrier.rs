//! What TLS goes over: a connection, or one end of a bridge to a stream of a link. Both are sockets.

use std::io;

use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;

use crate::relay::Socket;

/// A socket, while tokio has it: a connection, or the end of a bridge.
pub(crate) type Carrier = Either<TcpStream, UnixStream>;

/// Takes it from tokio.
///
/// # Errors
/// The system refuses.
pub(crate) fn into_socket(carrier: Carrier) -> io::Result<Socket> {
    match carrier {
        Either::Left(stream) => stream.into_std().map(Socket::Tcp),
        Either::Right(stream) => stream.into_std().map(Socket::Unix),
    }
}
