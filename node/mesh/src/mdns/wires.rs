//! On which of the machine's interfaces mDNS is spoken, and what is said there.
//!
//! Where the mesh does not listen, nothing is said. Loopback and point-to-point interfaces have no neighbours
//! to find. An interface with IPv4 is spoken to over IPv4, others over IPv6.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use if_addrs::{IfAddr, Interface};

use super::card::HOSTS_MAX;

/// Most interfaces, the first by name. A host of containers has a bridge for each of their networks.
pub(super) const WIRES_MAX: usize = 16;

/// One interface with what this node has there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wire {
    pub(super) name: String,
    pub(super) index: u32,
    /// Port of node links.
    pub(super) port: u16,
    /// Addresses where they are accepted, IPv4 first.
    pub(super) hosts: Vec<IpAddr>,
    /// All networks of the interface, as an address and the length of its prefix.
    networks: Vec<(IpAddr, u8)>,
}

impl Wire {
    /// Whether `address` belongs to a neighbour: it lies in a network of the interface, and is not this node's.
    pub(super) fn is_neighbour(&self, address: IpAddr) -> bool {
        let is_one = !address.is_multicast() && !address.is_unspecified() && !address.is_loopback();
        is_one && self.holds(address) && !self.networks.iter().any(|(own, _)| *own == address)
    }

    /// Whether a packet from `address` can have come from this link (RFC 6762 §11).
    pub(super) fn holds(&self, address: IpAddr) -> bool {
        let is_link_local = matches!(address, IpAddr::V6(it) if it.is_unicast_link_local());
        is_link_local || self.networks.iter().any(|(own, len)| is_same(*own, address, *len))
    }
}

/// The wires of a node that listens on `listen`, by name, and how many were left out.
pub(super) fn wires(interfaces: &[Interface], listen: &[SocketAddr]) -> (BTreeMap<String, Wire>, usize) {
    let mut wires = BTreeMap::new();
    let is_loopback = |name: &str| interfaces.iter().any(|it| it.name == name && it.is_loopback());
    let is_fit = |it: &&Interface| it.is_oper_up() && !it.is_p2p() && !is_loopback(&it.name);
    for interface in interfaces.iter().filter(is_fit) {
        let Some(index) = interface.index else { continue };
        let wire = wires.entry(interface.name.clone()).or_insert_with(|| Wire {
            name: interface.name.clone(),
            index,
            port: 0,
            hosts: Vec::new(),
            networks: Vec::new(),
        });
        wire.networks.push(match &interface.addr {
            IfAddr::V4(it) => (it.ip.into(), it.prefixlen),
            IfAddr::V6(it) => (it.ip.into(), it.prefixlen),
        });
    }
    for wire in wires.values_mut() {
        wire.networks.sort_unstable();
        let own = wire.networks.iter().map(|(address, _)| *address);
        let at = |address: IpAddr| Some((address, port_at(listen, address)?));
        let reached: Vec<_> = own.filter(|it| is_dialled(*it)).filter_map(at).collect();
        // A service has one port: that of the first address, if they differ.
        let Some((_, port)) = reached.first() else { continue };
        wire.port = *port;
        let hosts = reached.iter().filter(|(_, it)| it == port).map(|(address, _)| *address);
        wire.hosts = hosts.take(HOSTS_MAX).collect();
    }
    wires.retain(|_, wire| !wire.hosts.is_empty());
    let n_left_out = wires.len().saturating_sub(WIRES_MAX);
    (wires.into_iter().take(WIRES_MAX).collect(), n_left_out)
}

/// Links are not dialled at addresses that need an interface beside them.
const fn is_dialled(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(it) => !it.is_unicast_link_local(),
    }
}

/// The port of the listener that takes connections to `address`; one on `[::]` takes all.
fn port_at(listen: &[SocketAddr], address: IpAddr) -> Option<u16> {
    let takes = |it: &&SocketAddr| {
        it.ip() == address || it.ip().is_unspecified() && (it.is_ipv6() || address.is_ipv4())
    };
    listen.iter().find(takes).map(SocketAddr::port)
}

fn is_same(one: IpAddr, other: IpAddr, prefix_len: u8) -> bool {
    let is_equal = |one: u128, other: u128, len: u32| {
        let rest = len.saturating_sub(prefix_len.into());
        one.checked_shr(rest) == other.checked_shr(rest)
    };
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => is_equal(u32::from(one).into(), u32::from(other).into(), 32),
        (IpAddr::V6(one), IpAddr::V6(other)) => is_equal(one.into(), other.into(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use if_addrs::{IfOperStatus, Ifv4Addr, Ifv6Addr};

    use super::*;

    fn interface(name: &str, address: &str, prefixlen: u8) -> Interface {
        let addr = match address.parse().expect("an address") {
            IpAddr::V4(ip) => IfAddr::V4(Ifv4Addr { ip, netmask: ip, prefixlen, broadcast: None }),
            IpAddr::V6(ip) => IfAddr::V6(Ifv6Addr { ip, netmask: ip, prefixlen, broadcast: None }),
        };
        let index = Some(u32::try_from(name.len()).expect("short"));
        Interface { name: name.to_owned(), addr, index, oper_status: IfOperStatus::Up, is_p2p: false }
    }

    fn machine() -> Vec<Interface> {
        vec![
            interface("lo", "127.0.0.1", 8),
            interface("lo", "10.9.9.9", 32),
            interface("eth0", "192.0.2.7", 24),
            interface("eth0", "2001:db8::7", 64),
            interface("eth0", "fe80::7", 64),
            interface("wlan0", "10.0.0.7", 8),
            interface("veth1", "fe80::8", 64),
            Interface { is_p2p: true, ..interface("wg0", "10.5.0.1", 24) },
            Interface { oper_status: IfOperStatus::Unknown, ..interface("eth1", "10.6.0.1", 24) },
        ]
    }

    #[test]
    fn nothing_is_said_where_nobody_listens() {
        #[track_caller]
        fn check(listen: &[&str], expected: &[(&str, u16, &[&str])]) {
            let listen: Vec<_> = listen.iter().map(|it| it.parse().expect("an address")).collect();
            let (found, n_left_out) = wires(&machine(), &listen);
            let found: Vec<_> = found.into_values().map(|it| (it.name, it.port, it.hosts)).collect();
            let host = |it: &&str| it.parse().expect("an address");
            let expected: Vec<_> = expected
                .iter()
                .map(|(name, port, hosts)| ((*name).to_owned(), *port, hosts.iter().map(host).collect()))
                .collect::<Vec<(String, u16, Vec<IpAddr>)>>();
            assert_eq!((found, n_left_out), (expected, 0));
        }
        let all: &[_] = &[("eth0", 7400, &["192.0.2.7", "2001:db8::7"][..]), ("wlan0", 7400, &["10.0.0.7"])];
        check(&["[::]:7400"], all);
        check(&["0.0.0.0:7400"], &[("eth0", 7400, &["192.0.2.7"]), ("wlan0", 7400, &["10.0.0.7"])]);
        check(&["192.0.2.7:1"], &[("eth0", 1, &["192.0.2.7"])]);
        check(&["[2001:db8::7]:1", "127.0.0.1:2"], &[("eth0", 1, &["2001:db8::7"])]);
        check(&["127.0.0.1:7400"], &[]);
        check(&["192.0.2.7:1", "[2001:db8::7]:2"], &[("eth0", 1, &["192.0.2.7"])]);
    }

    #[test]
    fn neighbours_are_on_the_link() {
        let (wires, _) = wires(&machine(), &["[::]:7400".parse().expect("an address")]);
        let is_neighbour = |address: &str| wires["eth0"].is_neighbour(address.parse().expect("an address"));
        for address in ["192.0.2.1", "192.0.2.254", "2001:db8::1"] {
            assert!(is_neighbour(address), "{address}");
        }
        for address in
            ["192.0.2.7", "192.0.3.1", "10.0.0.1", "2001:db8:0:1::1", "224.0.0.1", "127.0.0.1", "0.0.0.0"]
        {
            assert!(!is_neighbour(address), "{address}");
        }
        assert!(wires["wlan0"].is_neighbour([10, 200, 0, 1].into()));
    }

    #[test]
    fn interfaces_are_bounded() {
        let many: Vec<_> =
            (0..40).map(|n| interface(&format!("br{n:02}"), &format!("10.{n}.0.1"), 16)).collect();
        let (wires, n_left_out) = wires(&many, &["0.0.0.0:1".parse().expect("an address")]);
        assert_eq!((wires.len(), n_left_out), (WIRES_MAX, 40 - WIRES_MAX));
    }
}
