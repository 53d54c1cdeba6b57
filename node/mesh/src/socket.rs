//! What is set on every socket, so that the kernel ends links to peers that fell silent.
//!
//! `TCP_USER_TIMEOUT` ends a connection whose data, or whose keepalive probes, nobody acknowledged for so long
//! (tcp(7), RFC 5482). A peer whose kernel still answers while its process hangs is found by `membership`.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Bytes that the kernel takes before it can send them (`TCP_NOTSENT_LOWAT`, tcp(7)). Streams take turns only until
/// then: more, and a probe waits behind all that a large body has put there.
const UNSENT_MAX: u32 = 128 << 10;

/// Makes the kernel give up `stream` after `silence_max` without a sign of the peer.
pub(crate) fn prepare(stream: &TcpStream, silence_max: Duration) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    // Whole seconds, and at least one: the kernel knows no less.
    let second = Duration::from_secs(1);
    let probes = TcpKeepalive::new().with_time((silence_max / 3).max(second)).with_interval(second);
    socket.set_tcp_keepalive(&probes)?;
    socket.set_tcp_notsent_lowat(UNSENT_MAX)?;
    socket.set_tcp_user_timeout(Some(silence_max))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_prepared_socket_does_not_wait_for_ever() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("a connection");
        let silence_max = Duration::from_secs(9);
        prepare(&stream, silence_max).expect("options that Linux knows");
        let socket = SockRef::from(&stream);
        assert_eq!(socket.tcp_user_timeout().expect("set"), Some(silence_max));
        assert_eq!(socket.tcp_keepalive_time().expect("set"), Duration::from_secs(3));
        assert_eq!(socket.tcp_keepalive_interval().expect("set"), Duration::from_secs(1));
        assert_eq!(socket.tcp_notsent_lowat().expect("set"), UNSENT_MAX);
        assert!(socket.keepalive().expect("set") && socket.tcp_nodelay().expect("set"));
    }
}
