//! What can be set about carrying calls.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use types::ServiceName;

use crate::error::Error;

/// Most tunnels of one node.
const TUNNELS_MAX: usize = 256;
/// Most threads that carry calls.
const WORKERS_MAX: usize = 64;
/// Slow readers that one connection holds data for until all its calls wait, once much waits in its worker.
const WINDOWS_PER_CONNECTION: u32 = 16;

/// A local port whose connections go to a service as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Where callers on this machine connect.
    pub listen: SocketAddr,
    /// Which service they reach.
    pub service: ServiceName,
}

/// What can be set about carrying calls. `Config::default()` is what ships.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where callers on this machine connect, in the clear (h2c). Default `127.0.0.1:7480`. A loopback
    /// address: callers elsewhere cannot be attested. Port 0 lets the system choose.
    pub outbound: SocketAddr,
    /// A Unix socket for the same, which works from any network namespace. Default none. gRPC-core sends the
    /// path of such a socket as `:authority`, which is no authority: its callers set the channel option
    /// `grpc.default_authority` to the service.
    pub socket: Option<PathBuf>,
    /// Where other nodes and stock clients connect, over mutual TLS. Default `[::]:7450`.
    pub inbound: SocketAddr,
    /// Local ports that go to a service as bytes, at most 256. Default none.
    pub tunnels: Vec<Tunnel>,
    /// How post-quantum connections to other nodes must be. Default `Require`. Inbound takes stock clients
    /// and always prefers.
    pub pq: tls::Pq,
    /// How calls are routed.
    pub route: route::Config,
    /// Most connections at once, each of outbound, inbound and tunnels. Default 1,024, from 8 to 65,536. More
    /// are closed at once. One user of this machine has a quarter of outbound at most, root and the user who runs
    /// the node excepted. A hostile member can make this node hold 16 stream windows a connection, and
    /// 32 MiB for each worker beside these.
    pub connections_max: u32,
    /// Most calls at once on one connection. Default 1,000, from 1 to 10,000. More wait at the caller.
    pub streams_max: u32,
    /// Most bytes of one call's headers. Default 32 KiB, from 4 KiB to 1 MiB.
    pub header_bytes_max: u32,
    /// Bytes of one body that may wait for a slow reader. Default 256 KiB, from 64 KiB to 16 MiB. More is
    /// faster over long distances; a whole connection holds 16 times as much once 32 MiB wait in its worker.
    pub window_bytes: u32,
    /// Threads that carry calls. Default one for each processor, from 1 to 64. Fewer leave processors to the services
    /// of this machine, and join more calls in one system call.
    pub workers: usize,
    /// How long a receiver may leave the piece of a body unread that it is sent. Default 5 min, from 1 s to 1 h. Then
    /// its call is reset.
    pub unread_timeout: Duration,
    /// How long the other end of a connection may take nothing of what it is sent, and how long it may take over a
    /// frame. Default 30 s, from 1 s to 1 h. Then the connection is closed.
    pub stuck_timeout: Duration,
    /// How long a connection may take to be made, and again how long until its other end has let this one in.
    /// Default 1 s, from 50 ms to 1 min.
    pub connect_timeout: Duration,
    /// How often the port of a node is tried that is reached over the mesh because its port is not. Default 30 s, from
    /// 100 ms to 1 h. Shorter goes back to the direct way sooner, and costs a packet each time.
    pub direct_retry: Duration,
    /// How often a connection to another node is asked for a sign of life while calls are in flight. Default
    /// 1 s, from 100 ms to 1 min.
    pub ping_interval: Duration,
    /// How long that sign may take; then all calls on the connection are lost. Default 1 s, from 100 ms to
    /// 1 min. Shorter finds cut paths sooner and loses calls on bad networks.
    pub ping_timeout: Duration,
    /// How long a connection to another node may stay without a call. Default 5 min, from 1 s to 1 h.
    pub idle_timeout: Duration,
    /// How long calls may take to end when the node stops. Default 10 s, from 0 to 5 min.
    pub drain_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            outbound: SocketAddr::from((Ipv4Addr::LOCALHOST, 7480)),
            socket: None,
            inbound: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 7450)),
            tunnels: Vec::new(),
            pq: tls::Pq::Require,
            route: route::Config::default(),
            connections_max: 1024,
            streams_max: 1000,
            header_bytes_max: 32 << 10,
            window_bytes: 256 << 10,
            workers: std::thread::available_parallelism().map_or(1, |n| n.get().min(WORKERS_MAX)),
            unread_timeout: Duration::from_secs(300),
            stuck_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(1),
            direct_retry: Duration::from_secs(30),
            ping_interval: Duration::from_secs(1),
            ping_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(300),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

impl Config {
    /// Bytes of all bodies on one connection that may wait for slow readers.
    const fn connection_window(&self) -> u32 {
        self.window_bytes * WINDOWS_PER_CONNECTION
    }

    /// How HTTP/2 is spoken.
    pub(crate) fn wire(&self) -> wire::Config {
        wire::Config {
            streams_max: self.streams_max,
            streams_assumed: self.streams_max,
            stream_window: self.window_bytes,
            connection_window: self.connection_window(),
            header_list_max: self.header_bytes_max,
            ..wire::Config::default()
        }
    }

    /// Refuses what is out of bounds.
    ///
    /// # Errors
    /// [`Error::Bounds`] or [`Error::Route`], naming the field.
    pub fn check(&self) -> Result<(), Error> {
        self.route.check()?;
        let (ms, secs) = (Duration::from_millis, Duration::from_secs);
        let is_local = |address: &SocketAddr| address.ip().is_loopback();
        let (sign, long) = (ms(100)..=secs(60), secs(1)..=secs(3600));
        let rules = [
            (is_local(&self.outbound), "proxy.outbound", "a loopback address, such as 127.0.0.1:7480"),
            (
                self.tunnels.len() <= TUNNELS_MAX && self.tunnels.iter().all(|it| is_local(&it.listen)),
                "outbound.listen",
                "a loopback address, for at most 256 of them",
            ),
            ((8..=65_536).contains(&self.connections_max), "connections_max", "8 to 65,536"),
            ((1..=10_000).contains(&self.streams_max), "streams_max", "1 to 10,000"),
            ((4 << 10..=1 << 20).contains(&self.header_bytes_max), "header_bytes_max", "4 KiB to 1 MiB"),
            ((64 << 10..=16 << 20).contains(&self.window_bytes), "window_bytes", "64 KiB to 16 MiB"),
            ((1..=WORKERS_MAX).contains(&self.workers), "proxy.workers", "1 to 64"),
            (long.contains(&self.unread_timeout), "unread_timeout", "1 s to 1 h"),
            (long.contains(&self.stuck_timeout), "stuck_timeout", "1 s to 1 h"),
            ((ms(50)..=secs(60)).contains(&self.connect_timeout), "connect_timeout", "50 ms to 1 min"),
            ((ms(100)..=secs(3600)).contains(&self.direct_retry), "direct_retry", "100 ms to 1 h"),
            (sign.contains(&self.ping_interval), "ping_interval", "100 ms to 1 min"),
            (sign.contains(&self.ping_timeout), "ping_timeout", "100 ms to 1 min"),
            (long.contains(&self.idle_timeout), "idle_timeout", "1 s to 1 h"),
            (self.drain_timeout <= secs(300), "drain_timeout", "0 to 5 min"),
        ];
        match rules.into_iter().find(|(is_kept, ..)| !is_kept) {
            Some((_, field, bounds)) => Err(Error::Bounds { field, bounds }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bound_is_kept_and_named() {
        #[track_caller]
        fn check(set: fn(&mut Config), expected: Option<&str>) {
            let mut config = Config::default();
            set(&mut config);
            let found = match config.check() {
                Ok(()) => None,
                Err(Error::Bounds { field, .. }) => Some(field),
                Err(other) => panic!("{other}"),
            };
            assert_eq!(found, expected);
        }
        let tunnel = |listen: &str| Tunnel {
            listen: listen.parse().expect("an address"),
            service: "db".parse().expect("a name"),
        };
        check(|_| {}, None);
        assert!(Config { tunnels: vec![tunnel("127.0.0.1:5432")], ..Config::default() }.check().is_ok());
        assert!(Config { tunnels: vec![tunnel("0.0.0.0:5432")], ..Config::default() }.check().is_err());
        check(|config| config.outbound.set_ip(Ipv4Addr::UNSPECIFIED.into()), Some("proxy.outbound"));
        check(|config| config.connections_max = 1, Some("connections_max"));
        check(|config| config.streams_max = 0, Some("streams_max"));
        check(|config| config.header_bytes_max = 1, Some("header_bytes_max"));
        check(|config| config.window_bytes = u32::MAX, Some("window_bytes"));
        check(|config| config.workers = 0, Some("proxy.workers"));
        check(|config| config.unread_timeout = Duration::ZERO, Some("unread_timeout"));
        check(|config| config.stuck_timeout = Duration::ZERO, Some("stuck_timeout"));
        check(|config| config.connect_timeout = Duration::ZERO, Some("connect_timeout"));
        check(|config| config.direct_retry = Duration::ZERO, Some("direct_retry"));
        check(|config| config.ping_interval = Duration::ZERO, Some("ping_interval"));
        check(|config| config.ping_timeout = Duration::MAX, Some("ping_timeout"));
        check(|config| config.idle_timeout = Duration::ZERO, Some("idle_timeout"));
        check(|config| config.drain_timeout = Duration::MAX, Some("drain_timeout"));
    }
}
