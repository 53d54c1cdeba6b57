//! Speaks and listens on one link.
//!
//! The socket is bound to the group, not to all addresses: packets that are meant for another responder of the
//! machine stay that one's. Nothing is ever sent to a single host, so nobody can be flooded by way of this node.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use tls::random;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::advice;
use super::card::{Card, Found, Heard, Stay};
use super::mates::Mates;
use super::voice::{Say, Voice};
use super::wires::Wire;
use crate::metrics::Count;
use types::chain;

const PORT: u16 = 5353;
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
/// The longest packet (RFC 6762 §17).
const PACKET_LEN_MAX: usize = 9000;
/// Most packets that are read in a second. The kernel drops what it cannot hold beyond that.
const PACKETS_MAX: u32 = 200;
const SECOND: Duration = Duration::from_secs(1);
/// How long sending may take.
const SEND_MAX: Duration = Duration::from_millis(200);

/// What hears and speaks on one wire.
pub(super) struct Ear {
    wire: Wire,
    socket: UdpSocket,
    group: SocketAddr,
    card: Arc<Card>,
    mates: Mates,
    voice: Voice,
    rng: ChaCha8Rng,
    found: mpsc::Sender<Found>,
    /// Packets that may still be read in the second that began then.
    budget: (Instant, u32),
    has_warned: bool,
}

impl Ear {
    /// Joins the group on a wire.
    pub(super) fn open(
        wire: Wire,
        card: Arc<Card>,
        mates: Mates,
        found: mpsc::Sender<Found>,
    ) -> io::Result<Self> {
        let (socket, group) = open(&wire)?;
        let (now, mut rng) = (Instant::now(), ChaCha8Rng::from_seed(random::bytes()));
        let voice = Voice::new(now, &mut rng);
        let budget = (now, PACKETS_MAX);
        Ok(Self { wire, socket, group, card, mates, voice, rng, found, budget, has_warned: false })
    }

    /// Speaks and listens until `stop`, and says then that this node leaves. Ends by itself if the wire does.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut buffer = vec![0; PACKET_LEN_MAX];
        loop {
            let is_hearing = self.is_hearing(Instant::now());
            let due =
                if is_hearing { self.voice.due() } else { self.voice.due().min(self.budget.0 + SECOND) };
            tokio::select! {
                () = stop.cancelled() => break,
                got = self.socket.recv_from(&mut buffer), if is_hearing => match got {
                    Ok((len, from)) => self.hear(&buffer[..len], from),
                    Err(err) => return self.warn(&err),
                },
                () = sleep_until(due.into()) => {
                    let (now, is_missing) = (Instant::now(), self.mates.is_missing());
                    match self.voice.next(now, is_missing, &mut self.rng) {
                        Some(Say::Announcement) => self.announce(Stay::Here).await,
                        Some(Say::Question) => self.send(&self.card.question()).await,
                        None => {}
                    }
                }
            }
        }
        self.announce(Stay::Leaving).await;
    }

    /// Whether more may be read in this second.
    fn is_hearing(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.budget.0) >= SECOND {
            self.budget = (now, PACKETS_MAX);
        }
        self.budget.1 > 0
    }

    fn hear(&mut self, bytes: &[u8], from: SocketAddr) {
        self.budget.1 -= 1;
        // Others are asked by plain resolvers; they get no answer (RFC 6762 §6.7, §11).
        if from.port() != PORT || !self.wire.holds(from.ip()) {
            return;
        }
        let now = Instant::now();
        match self.card.read(bytes) {
            Heard::AskedForAll => {
                self.voice.asked(now, &mut self.rng);
                self.voice.overheard(now, &mut self.rng);
            }
            Heard::Asked => self.voice.asked(now, &mut self.rng),
            Heard::Nodes(nodes) => nodes.into_iter().for_each(|found| self.tell(found)),
            Heard::Nothing => {}
        }
    }

    /// Hands on what concerns this mesh, with the addresses that lie on this wire.
    fn tell(&self, mut found: Found) {
        if found.mesh != self.card.mesh {
            return self.mates.count(Count::MdnsForeign);
        }
        found.hosts.retain(|host| self.wire.is_neighbour(*host));
        if !found.hosts.is_empty() && self.found.try_send(found).is_err() {
            self.mates.count(Count::MdnsShed);
        }
    }

    async fn announce(&mut self, stay: Stay) {
        let packet = self.card.announcement(self.wire.port, &self.wire.hosts, stay);
        self.send(&packet).await;
    }

    async fn send(&mut self, packet: &[u8]) {
        let sent = timeout(SEND_MAX, self.socket.send_to(packet, self.group)).await;
        match sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(_) => self.has_warned = false,
            Err(err) => self.warn(&err),
        }
    }

    /// Counts a failure, and tells it once until it works again.
    fn warn(&mut self, err: &io::Error) {
        self.mates.count(Count::MdnsFailed);
        if !std::mem::replace(&mut self.has_warned, true) {
            let (name, advice) = (&self.wire.name, advice(err.kind()));
            warn!(network.interface.name = name, error = chain(err), "failed to use mDNS: {advice}");
        }
    }
}

fn open(wire: &Wire) -> io::Result<(UdpSocket, SocketAddr)> {
    let v4 = wire.hosts.iter().find_map(|it| if let IpAddr::V4(it) = it { Some(*it) } else { None });
    let (domain, group) = match v4 {
        Some(_) => (Domain::IPV4, SocketAddr::from((GROUP_V4, PORT))),
        None => (Domain::IPV6, SocketAddrV6::new(GROUP_V6, PORT, 0, wire.index).into()),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // As every responder does, so that there can be several on one machine.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    match v4 {
        Some(own) => {
            socket.bind(&group.into())?;
            socket.set_multicast_all_v4(false)?;
            socket.set_multicast_ttl_v4(255)?;
            socket.set_multicast_if_v4(&own)?;
            socket.join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(wire.index))?;
        }
        None => {
            socket.set_only_v6(true)?;
            socket.bind(&group.into())?;
            socket.set_multicast_all_v6(false)?;
            socket.set_multicast_hops_v6(255)?;
            socket.set_multicast_if_v6(wire.index)?;
            socket.join_multicast_v6(&GROUP_V6, wire.index)?;
        }
    }
    Ok((UdpSocket::from_std(socket.into())?, group))
}
