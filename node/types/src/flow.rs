//! One TCP connection as the probe saw it.
//!
//! A figure that its source cannot give is absent, never zero.

use std::net::SocketAddr;
use std::time::Duration;

use crate::time::Timestamp;

/// Names one connection on one machine for as long as the machine runs: the kernel's socket cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(pub u64);

/// Which side of the connection this machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// It opened the connection.
    Outbound,
    /// It accepted the connection.
    Inbound,
}

/// Where the connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It is established; figures are those so far.
    Open,
    /// Both sides ended it in order.
    Closed,
    /// One side reset it.
    Reset,
    /// It never came to be.
    Refused,
}

/// The protocol that the first segment showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/2 with prior knowledge: the preface of RFC 9113 §3.4.
    Http2,
    /// HTTP/1.x: a request line.
    Http1,
    /// A TLS ClientHello, RFC 8446 §4.1.2.
    Tls,
    /// None of these.
    Unknown,
}

/// The process that owns the local socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Process id in the probe's pid namespace.
    pub pid: Option<u32>,
    /// User id of the socket's creator.
    pub uid: Option<u32>,
    /// cgroup v2 id of the socket's creator.
    pub cgroup: Option<u64>,
    /// Name of the command, at most 15 bytes (`TASK_COMM_LEN` less its NUL).
    pub command: Option<Box<str>>,
}

/// One TCP connection, or one so far.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowRecord {
    /// Names the connection on this machine.
    pub id: FlowId,
    /// When it was established.
    pub started: Timestamp,
    /// How long it lasted until `phase` was reached or seen.
    pub lasted: Duration,
    /// Where it stands.
    pub phase: Phase,
    /// Which side this machine is.
    pub direction: Direction,
    /// This machine's end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Inode of the network namespace.
    pub netns: Option<u32>,
    /// Who owns the local end.
    pub owner: Owner,
    /// Payload bytes sent, retransmissions not counted.
    pub sent_bytes: Option<u64>,
    /// Payload bytes received.
    pub received_bytes: Option<u64>,
    /// Segments retransmitted.
    pub retransmits: Option<u32>,
    /// Smoothed round-trip time.
    pub rtt: Option<Duration>,
    /// What the first segment showed.
    pub protocol: Option<Protocol>,
}
