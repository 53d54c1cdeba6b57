//! How the API is kept.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tls::Pq;

use crate::error::Error;

/// The port of the API, where newcomers join as well.
pub const PORT: u16 = 7443;
/// Most bytes of a message that a caller sends, compressed or not.
pub const MESSAGE_LEN_MAX: usize = 1 << 20;
/// Most bytes of the headers of one call.
pub const HEADERS_LEN_MAX: u32 = 16 << 10;
/// Longest time that a call takes until it answers; streams go on after that.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a connection may stay without a call.
pub const FIRST_CALL_WITHIN: Duration = Duration::from_secs(60);
/// Handshakes at a time, so that strangers take no place of those who are known.
pub const HANDSHAKES_MAX: usize = 64;
/// Newcomers that join at a time.
pub const JOINERS_MAX: usize = 16;
/// How long a newcomer may take to ask, and to take its reply.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How the API is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where members, operators and newcomers connect. Default `[::]:7443`, which takes IPv4 as well.
    pub listen: SocketAddr,
    /// The Unix socket for this machine. Default `/run/sagemesh/api.sock`. Anybody may connect, since roles
    /// decide what may be asked: its mode is 0666, and its directory is made with 0755.
    pub socket: PathBuf,
    /// The group whose members are admins on the socket, by `/etc/group`. Default `sagemesh`. Root, and the
    /// user who runs the node, are so in any case.
    pub group: String,
    /// How post-quantum connections to the port must be. Default `prefer`, which lets stock clients in.
    pub pq: Pq,
    /// Connections at a time, on each of the two. Default 256, from 4 to 65,536; more take memory. On the socket
    /// callers who are no admin have three quarters of them at most, and one user a quarter.
    pub connections_max: usize,
    /// Calls at a time on one connection. Default 64, from 1 to 4,096.
    pub streams_max: u32,
    /// How often a silent connection is asked for a sign. Default 30 s, from 1 s to 1 h; half of it later it is
    /// closed.
    pub keepalive: Duration,
    /// How long calls may go on once the node stops. Default 5 s, up to 5 min.
    pub drain: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)),
            socket: PathBuf::from("/run/sagemesh/api.sock"),
            group: "sagemesh".to_owned(),
            pq: Pq::Prefer,
            connections_max: 256,
            streams_max: 64,
            keepalive: Duration::from_secs(30),
            drain: Duration::from_secs(5),
        }
    }
}

impl Config {
    /// Checks every bound.
    ///
    /// # Errors
    /// [`Error::Config`], naming the field.
    pub fn check(&self) -> Result<(), Error> {
        let second = Duration::from_secs(1);
        let wrong = [
            (
                !self.socket.is_absolute(),
                "the path of the API's socket must be absolute: set `run` to an absolute path",
            ),
            (
                !(4..=65_536).contains(&self.connections_max),
                "connections_max of the API goes from 4 to 65,536",
            ),
            (!(1..=4_096).contains(&self.streams_max), "streams_max of the API goes from 1 to 4,096"),
            (
                !(second..=3600 * second).contains(&self.keepalive),
                "keepalive of the API goes from 1 s to 1 h",
            ),
            (self.drain > 300 * second, "drain of the API goes up to 5 min"),
        ];
        match wrong.into_iter().find(|(is_wrong, _)| *is_wrong) {
            Some((_, what)) => Err(Error::Config(what)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_and_what_is_out_of_bounds_is_named() {
        assert!(Config::default().check().is_ok());
        let config = Config { streams_max: 0, ..Config::default() };
        assert!(config.check().expect_err("no streams").to_string().contains("streams_max"));
        let config = Config { socket: "api.sock".into(), ..Config::default() };
        assert!(config.check().expect_err("a relative path").to_string().contains("`run`"));
    }
}
