//! What is said over mDNS of a node, and how it is read: DNS-SD (RFC 6763) in the packets of RFC 6762.
//!
//! One packet holds all that there is to know of a node, so nothing is kept of what others said. Names are
//! digests of the node's key, so there is nothing to probe for (RFC 6762 §8.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use simple_dns::rdata::{PTR, RData, SRV, TXT};
use simple_dns::{CLASS, Name, OPCODE, Packet, PacketFlag, QTYPE, Question, RCODE, ResourceRecord, TYPE};

use types::{Digest, PeerId};

/// The service.
const SERVICE: &str = "_sagemesh._tcp.local";
/// Where browsers ask which services there are (RFC 6763 §9).
const ALL_SERVICES: &str = "_services._dns-sd._udp.local";
/// Lives of records that name a host, and of others, in seconds (RFC 6762 §10).
const HOST_TTL: u32 = 120;
const OTHER_TTL: u32 = 4500;
/// Hexadecimal digits of the digests that name a mesh and a node.
const DIGITS: usize = 16;
/// Most entries of a packet, of all kinds. One with more is not read.
const ENTRIES_MAX: usize = 128;
/// Most nodes that are read from one packet, and addresses of each. Ours hold one node.
const NODES_MAX: usize = 4;
pub(super) const HOSTS_MAX: usize = 4;

/// What this node says of itself on every link.
#[derive(Clone, Debug)]
pub(super) struct Card {
    /// Tells apart meshes on one link, and does not tell their names.
    pub(super) mesh: String,
    peer: PeerId,
    instance: String,
    host: String,
}

/// Whether a node is here to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stay {
    Here,
    Leaving,
}

/// What a packet says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Somebody asks for nodes and has not heard of this one.
    AskedForAll,
    /// Somebody asks for something else that this node answers.
    Asked,
    /// Where nodes are.
    Nodes(Vec<Found>),
    /// Nothing for this node.
    Nothing,
}

/// A node that was announced. Nothing of it is true until it has proved its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) mesh: String,
    pub(super) peer: PeerId,
    pub(super) port: u16,
    pub(super) hosts: Vec<IpAddr>,
}

impl Card {
    /// The card of `peer` in the mesh whose first root has the digest `root`.
    pub(super) fn new(root: &Digest, peer: PeerId) -> Self {
        let mut mesh = Digest::of(&[b"sagemesh mdns mesh", root.as_bytes()]).to_string();
        let mut label = Digest::of(&[b"sagemesh mdns node", root.as_bytes(), &peer.0]).to_string();
        mesh.truncate(DIGITS);
        label.truncate(DIGITS);
        Self { mesh, peer, instance: format!("{label}.{SERVICE}"), host: format!("{label}.local") }
    }

    /// All that is to be known of this node: said when it comes, when it is asked and when it leaves.
    pub(super) fn announcement(&self, port: u16, hosts: &[IpAddr], stay: Stay) -> Vec<u8> {
        let mut packet = Packet::new_reply(0);
        packet.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
        let (instance, host) = (name(&self.instance), name(&self.host));
        let mesh = format!("mesh={}", self.mesh);
        let id = format!("id={}", self.peer);
        let text = TXT::new().with_string(&mesh).and_then(|it| it.with_string(&id));
        let srv = SRV { priority: 0, weight: 0, port, target: host.clone() };
        let mut add = |name: &Name<'_>, ttl, is_unique, data| {
            let ttl = if stay == Stay::Here { ttl } else { 0 };
            let record = ResourceRecord::new(name.clone().into_owned(), CLASS::IN, ttl, data);
            packet.answers.push(record.with_cache_flush(is_unique));
        };
        add(&name(SERVICE), OTHER_TTL, false, RData::PTR(PTR(instance.clone())));
        add(&name(ALL_SERVICES), OTHER_TTL, false, RData::PTR(PTR(name(SERVICE))));
        add(&instance, HOST_TTL, true, RData::SRV(srv));
        add(&instance, OTHER_TTL, true, RData::TXT(text.expect("short texts")));
        for address in hosts.iter().take(HOSTS_MAX) {
            let data = match *address {
                IpAddr::V4(it) => RData::A(it.into()),
                IpAddr::V6(it) => RData::AAAA(it.into()),
            };
            add(&host, HOST_TTL, true, data);
        }
        bytes(&packet)
    }

    /// Asks who is there. It names this node as known, so that this node does not answer itself.
    pub(super) fn question(&self) -> Vec<u8> {
        let mut packet = Packet::new_query(0);
        packet.questions.push(Question::new(name(SERVICE), TYPE::PTR.into(), CLASS::IN.into(), false));
        let known = RData::PTR(PTR(name(&self.instance)));
        packet.answers.push(ResourceRecord::new(name(SERVICE), CLASS::IN, OTHER_TTL, known));
        bytes(&packet)
    }

    /// Reads a packet of whoever sent it.
    pub(super) fn read(&self, bytes: &[u8]) -> Heard {
        if n_entries(bytes).is_none_or(|n| n > ENTRIES_MAX) {
            return Heard::Nothing;
        }
        let Ok(packet) = Packet::parse(bytes) else { return Heard::Nothing };
        if packet.opcode() != OPCODE::StandardQuery || packet.rcode() != RCODE::NoError {
            return Heard::Nothing;
        }
        if packet.has_flags(PacketFlag::RESPONSE) { nodes(&packet) } else { self.asked(&packet) }
    }

    fn asked(&self, packet: &Packet<'_>) -> Heard {
        let (service, instance) = (name(SERVICE), name(&self.instance));
        let is_known = |it: &ResourceRecord<'_>| {
            let is_this = matches!(&it.rdata, RData::PTR(PTR(alias)) if *alias == instance);
            is_this && it.name == service && it.ttl >= OTHER_TTL / 2
        };
        let mut heard = Heard::Nothing;
        for question in &packet.questions {
            let asks = |of: &str, kinds: &[TYPE]| {
                let is_kind = |kind: &TYPE| question.qtype == QTYPE::TYPE(*kind);
                question.qname == name(of) && (question.qtype == QTYPE::ANY || kinds.iter().any(is_kind))
            };
            if asks(SERVICE, &[TYPE::PTR]) {
                if !packet.answers.iter().any(is_known) {
                    return Heard::AskedForAll;
                }
            } else if asks(ALL_SERVICES, &[TYPE::PTR])
                || asks(&self.instance, &[TYPE::SRV, TYPE::TXT])
                || asks(&self.host, &[TYPE::A, TYPE::AAAA])
            {
                heard = Heard::Asked;
            }
        }
        heard
    }
}

fn nodes(packet: &Packet<'_>) -> Heard {
    let service = name(SERVICE);
    let all = packet.answers.iter().chain(&packet.additional_records);
    let records: Vec<_> = all.filter(|it| it.class == CLASS::IN && it.ttl > 0).collect();
    let node = |it: &&ResourceRecord<'_>| {
        let RData::SRV(srv) = &it.rdata else { return None };
        if srv.port == 0 || !it.name.is_subdomain_of(&service) {
            return None;
        }
        let texts = records.iter().filter(|other| other.name == it.name);
        let text = texts.clone().find_map(|other| match &other.rdata {
            RData::TXT(text) => Some(text),
            _ => None,
        })?;
        let hosts = records.iter().filter(|other| other.name == srv.target).filter_map(|it| host(&it.rdata));
        Some(Found {
            mesh: value(text, "mesh").filter(|it| it.len() == DIGITS)?.to_owned(),
            peer: value(text, "id")?.parse().ok()?,
            port: srv.port,
            hosts: hosts.take(HOSTS_MAX).collect(),
        })
    };
    let found: Vec<_> = records.iter().filter_map(node).take(NODES_MAX).collect();
    if found.is_empty() { Heard::Nothing } else { Heard::Nodes(found) }
}

fn host(data: &RData<'_>) -> Option<IpAddr> {
    match data {
        RData::A(it) => Some(Ipv4Addr::from(it.address).into()),
        RData::AAAA(it) => Some(Ipv6Addr::from(it.address).into()),
        _ => None,
    }
}

fn value<'a>(text: &'a TXT<'_>, key: &str) -> Option<&'a str> {
    let (_, value) = text.iter_raw().find(|(it, _)| it.eq_ignore_ascii_case(key.as_bytes()))?;
    std::str::from_utf8(value?).ok()
}

/// How many entries a packet claims to hold: the parser makes room for them before it looks.
fn n_entries(bytes: &[u8]) -> Option<usize> {
    let counts = bytes.get(4..12)?.chunks_exact(2);
    Some(counts.map(|it| usize::from(u16::from_be_bytes([it[0], it[1]]))).sum())
}

/// A name of ours: it needs no check and no escape.
fn name(text: &str) -> Name<'_> {
    Name::new_unchecked(text)
}

fn bytes(packet: &Packet<'_>) -> Vec<u8> {
    packet.build_bytes_vec_compressed().expect("names of ours are short")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PI: PeerId = PeerId([1; 32]);
    const TV: PeerId = PeerId([2; 32]);

    fn card(peer: PeerId) -> Card {
        Card::new(&Digest([7; 32]), peer)
    }

    fn hosts() -> Vec<IpAddr> {
        vec![[192, 0, 2, 1].into(), "2001:db8::1".parse().expect("an address")]
    }

    #[test]
    fn what_one_node_says_the_other_reads() {
        let said = card(PI).announcement(7400, &hosts(), Stay::Here);
        let found = Found { mesh: card(TV).mesh, peer: PI, port: 7400, hosts: hosts() };
        assert_eq!(card(TV).read(&said), Heard::Nodes(vec![found]));
        assert!(said.len() < 400, "{} bytes", said.len());
        let gone = card(PI).announcement(7400, &hosts(), Stay::Leaving);
        assert_eq!(card(TV).read(&gone), Heard::Nothing, "who leaves is not sought");
    }

    #[test]
    fn meshes_are_told_apart_and_not_named() {
        let other = Card::new(&Digest([8; 32]), PI);
        assert_ne!(other.mesh, card(PI).mesh);
        assert_ne!(other.instance, card(PI).instance);
        assert_eq!(other.mesh.len(), DIGITS);
        assert_ne!(other.mesh, Digest([8; 32]).to_string()[..DIGITS]);
    }

    #[test]
    fn all_but_who_asks_are_asked() {
        let asked = card(PI).question();
        assert_eq!(card(PI).read(&asked), Heard::Nothing);
        assert_eq!(card(TV).read(&asked), Heard::AskedForAll);
        assert!(asked.len() < 80, "{} bytes", asked.len());
    }

    #[test]
    fn browsers_are_answered() {
        #[track_caller]
        fn check(of: &str, kind: QTYPE, expected: &Heard) {
            let mut packet = Packet::new_query(7);
            packet.questions.push(Question::new(name(of), kind, CLASS::IN.into(), true));
            assert_eq!(card(PI).read(&bytes(&packet)), *expected, "{of}");
        }
        let card = card(PI);
        check("_SageMesh._tcp.local", TYPE::PTR.into(), &Heard::AskedForAll);
        check(SERVICE, QTYPE::ANY, &Heard::AskedForAll);
        check(ALL_SERVICES, TYPE::PTR.into(), &Heard::Asked);
        check(&card.instance, TYPE::SRV.into(), &Heard::Asked);
        check(&card.host, TYPE::A.into(), &Heard::Asked);
        check(&card.host, TYPE::SRV.into(), &Heard::Nothing);
        check("_ipp._tcp.local", TYPE::PTR.into(), &Heard::Nothing);
    }

    #[test]
    fn what_is_incomplete_or_too_much_is_not_read() {
        let card = card(TV);
        let complete = self::card(PI).announcement(7400, &hosts(), Stay::Here);
        let mut packet = Packet::parse(&complete).expect("ours");
        packet.answers.retain(|it| !matches!(it.rdata, RData::TXT(_)));
        assert_eq!(card.read(&bytes(&packet)), Heard::Nothing);
        let claims_much = [&[0; 2][..], &[0x84, 0], &[0xff; 8]].concat();
        assert_eq!(card.read(&claims_much), Heard::Nothing);
        assert_eq!(n_entries(&claims_much), Some(4 * 65_535));
        let mut many = Packet::parse(&complete).expect("ours");
        let address = |n: u32| {
            let data = RData::A(Ipv4Addr::from(0x0a00_0000 + n).into());
            ResourceRecord::new(name("x.local"), CLASS::IN, 120, data)
        };
        many.answers.retain(|it| !matches!(it.rdata, RData::A(_) | RData::AAAA(_)));
        for record in &mut many.answers {
            if let RData::SRV(srv) = &mut record.rdata {
                srv.target = name("x.local");
            }
        }
        many.answers.extend((0..100).map(address));
        let Heard::Nodes(nodes) = card.read(&bytes(&many)) else { panic!("a node") };
        assert_eq!(nodes[0].hosts.len(), HOSTS_MAX);
        many.answers.extend((0..100).map(address));
        assert_eq!(card.read(&bytes(&many)), Heard::Nothing);
    }

    proptest! {
        #[test]
        fn no_packet_does_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            card(PI).read(&bytes);
        }

        #[test]
        fn no_damage_does_harm(
            at in 0_usize..300,
            byte in any::<u8>(),
            cut in 0_usize..300,
            is_question in any::<bool>(),
        ) {
            let whole = match is_question {
                true => card(PI).question(),
                false => card(PI).announcement(7400, &hosts(), Stay::Here),
            };
            let mut bytes = whole.clone();
            bytes.truncate(whole.len().saturating_sub(cut));
            if let Some(it) = bytes.get_mut(at) {
                *it = byte;
            }
            if let Heard::Nodes(nodes) = card(TV).read(&bytes) {
                prop_assert!(nodes.iter().all(|node| node.port != 0 && node.hosts.len() <= HOSTS_MAX));
            }
        }
    }
}
