//! What is set on sockets, and how the Unix socket is held.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixListener, UnixStream};

use crate::error::Error;

/// After how long a connection that others made is given up when nobody acknowledges anything on it.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(20);

/// How long a connection may be idle until its other end is asked for a sign of life.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Makes the kernel send at once, and give up `stream` after `silence_max` without a sign of its other end
/// (`TCP_USER_TIMEOUT`, tcp(7), RFC 5482).
pub(crate) fn prepare(stream: &TcpStream, silence_max: Duration) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    let probes = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(Duration::from_secs(1));
    socket.set_tcp_keepalive(&probes)?;
    socket.set_tcp_user_timeout(Some(silence_max))
}

/// Holds the Unix socket, open to every user: who calls is attested. A file that a node left behind is
/// replaced; one on which somebody answers is not, nor is one that is no socket.
pub(crate) async fn listen(path: &Path) -> Result<UnixListener, Error> {
    let failed = |source| Error::Socket { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {
            // Anything else, such as a full queue, means that somebody is there.
            let is_left = |err: &io::Error| err.kind() == io::ErrorKind::ConnectionRefused;
            if !UnixStream::connect(path).await.is_err_and(|err| is_left(&err)) {
                return Err(Error::SocketTaken(path.to_owned()));
            }
            std::fs::remove_file(path).map_err(failed)?;
        }
        Ok(_) => return Err(failed(io::ErrorKind::AlreadyExists.into())),
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        Err(err) => return Err(failed(err)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(failed)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_left_behind_is_replaced_and_one_in_use_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("proxy.sock");
        let first = listen(&path).await.expect("a socket");
        assert_eq!(std::fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o666);
        assert!(matches!(listen(&path).await, Err(Error::SocketTaken(_))));
        drop(first);
        drop(listen(&path).await.expect("nobody answers"));
        std::fs::remove_file(&path).expect("it is there");
        std::fs::write(&path, "precious").expect("a file");
        assert!(matches!(listen(&path).await, Err(Error::Socket { .. })));
        assert_eq!(std::fs::read(&path).expect("still there"), b"precious");
    }
}
