//! Where a node says that it can be reached. A hint: who answers there is known by its identity alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proto::Message;
use proto::mesh::v1;

/// The key in a node's record.
pub const KEY: &str = "mesh/reach";
/// Most addresses of one node.
pub const HOSTS_MAX: usize = 8;

/// Where one node can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Addresses of the machine, the likeliest first.
    pub hosts: Vec<IpAddr>,
    /// Port of node links.
    pub mesh: u16,
    /// Port where services are called; 0 if that is over links alone, or not at all.
    pub inbound: u16,
    /// Port of the API.
    pub api: u16,
}

impl Reach {
    /// As it stands in a record.
    pub fn to_bytes(&self) -> Vec<u8> {
        let octets = |host: &IpAddr| match host {
            IpAddr::V4(it) => it.octets().to_vec(),
            IpAddr::V6(it) => it.octets().to_vec(),
        };
        v1::Reach {
            hosts: self.hosts.iter().take(HOSTS_MAX).map(octets).collect(),
            mesh: self.mesh.into(),
            inbound: self.inbound.into(),
            api: self.api.into(),
        }
        .encode_to_vec()
    }

    /// Reads it; `None` if it is malformed. Addresses that name no one machine are left out.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let wire = v1::Reach::decode(bytes).ok()?;
        let host = |octets: &Vec<u8>| {
            let v4 = <[u8; 4]>::try_from(&octets[..]).map(|it| IpAddr::V4(Ipv4Addr::from(it)));
            v4.or_else(|_| <[u8; 16]>::try_from(&octets[..]).map(|it| IpAddr::V6(Ipv6Addr::from(it)))).ok()
        };
        Some(Self {
            hosts: wire.hosts.iter().take(HOSTS_MAX).filter_map(host).filter(is_one_machine).collect(),
            mesh: wire.mesh.try_into().ok()?,
            inbound: wire.inbound.try_into().ok()?,
            api: wire.api.try_into().ok()?,
        })
    }

    /// Where node links are accepted.
    pub fn links(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let is_set = self.mesh != 0;
        self.hosts.iter().filter(move |_| is_set).map(|host| SocketAddr::new(*host, self.mesh))
    }
}

/// Whether an address can be one machine's.
pub fn is_one_machine(host: &IpAddr) -> bool {
    !host.is_unspecified() && !host.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read_and_the_rest_left_out() {
        let reach = Reach {
            hosts: vec![[192, 0, 2, 1].into(), Ipv6Addr::LOCALHOST.into()],
            mesh: 7400,
            inbound: 7450,
            api: 7443,
        };
        assert_eq!(Reach::from_bytes(&reach.to_bytes()), Some(reach.clone()));
        let hosts = vec![Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into(), [224, 0, 0, 1].into()];
        let odd = Reach { hosts, ..reach };
        assert_eq!(Reach::from_bytes(&odd.to_bytes()).map(|it| it.hosts.len()), Some(1));
        let port = v1::Reach { mesh: 70_000, ..v1::Reach::default() };
        assert_eq!(Reach::from_bytes(&port.encode_to_vec()), None);
        assert_eq!(Reach::from_bytes(b"\xff"), None);
    }
}
