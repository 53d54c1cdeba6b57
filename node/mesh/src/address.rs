//! Between libp2p's names of peers and places, and ours.

use std::net::{IpAddr, SocketAddr};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use types::PeerId;

/// Our peer id as libp2p's.
pub(crate) fn to_libp2p(peer: PeerId) -> libp2p::PeerId {
    libp2p::PeerId::from_bytes(&peer.to_multihash()).expect("libp2p reads what it writes")
}

/// libp2p's peer id as ours; `None` if it is not that of an Ed25519 key.
pub(crate) fn from_libp2p(peer: &libp2p::PeerId) -> Option<PeerId> {
    PeerId::from_multihash(&peer.to_bytes()).ok()
}

/// A TCP address as libp2p writes it.
pub(crate) fn multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Tcp(address.port()))
}

/// The TCP address, and the peer that is expected there; `None` if it is anything else.
pub(crate) fn place(address: &Multiaddr) -> Option<(SocketAddr, Option<PeerId>)> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::from(ip),
        Protocol::Ip6(ip) => IpAddr::from(ip),
        _ => return None,
    };
    let Protocol::Tcp(port) = parts.next()? else { return None };
    let peer = match parts.next() {
        None => None,
        Some(Protocol::P2p(peer)) => Some(from_libp2p(&peer)?),
        Some(_) => return None,
    };
    parts.next().is_none().then_some((SocketAddr::new(ip, port), peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_the_way_through_libp2p() {
        let peer = PeerId([7; 32]);
        for address in ["127.0.0.1:7400", "[::1]:1"] {
            let address: SocketAddr = address.parse().expect("an address");
            assert_eq!(place(&multiaddr(address)), Some((address, None)));
            let named = multiaddr(address).with(Protocol::P2p(to_libp2p(peer)));
            assert_eq!(place(&named), Some((address, Some(peer))));
        }
        assert_eq!(place(&"/ip4/1.2.3.4/udp/5".parse().expect("an address")), None);
        assert_eq!(place(&"/dns4/pi/tcp/5".parse().expect("an address")), None);
        assert_eq!(place(&Multiaddr::empty()), None);
    }
}
