//! Packets: read from hostile bytes with every list bounded, and written.

use proto::Message;
use proto::membership::v1 as wire;
use types::{Digest, Reason, Refusal};

use crate::charge::Accusation;
use crate::member::{MEMBERS_MAX, ShortId};
use crate::record::{Delta, ENTRIES_MAX, Entry, Head, Signed, Stamp, check_entry};

/// Longest packet in bytes. The longest that is sent is an exchange of [`MEMBERS_MAX`] stamps.
pub const PACKET_LEN_MAX: usize = 128 * 1024;
/// Most accusations in a packet.
pub(crate) const ACCUSATIONS_MAX: usize = 256;
/// Most deltas in a packet.
pub(crate) const DELTAS_MAX: usize = 256;
/// Most records that a packet announces or asks for.
pub(crate) const MARKS_MAX: usize = 1024;
/// Most bytes of one signature.
const SIGNATURE_LEN_MAX: usize = 64;
/// A delta is sent on unasked this often at most, whatever it says.
pub(crate) const HOPS_MAX: u32 = 3;

/// One packet, well-formed. What it says is yet to be checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) ping: Option<u32>,
    pub(crate) ack: Option<u32>,
    pub(crate) nack: Option<u32>,
    pub(crate) ask: Option<Ask>,
    pub(crate) accusations: Vec<Accusation>,
    pub(crate) deltas: Vec<Step>,
    pub(crate) holds: Vec<Mark>,
    pub(crate) wants: Vec<Mark>,
    pub(crate) exchange: Option<Exchange>,
    pub(crate) items: Option<Digest>,
    pub(crate) has_more: bool,
}

/// Asks for a ping on behalf of the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) number: u32,
    pub(crate) target: ShortId,
}

/// A delta on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) author: ShortId,
    pub(crate) delta: Delta,
    pub(crate) hops: u32,
}

/// Whose record, and how new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) author: ShortId,
    pub(crate) stamp: Stamp,
}

/// All that a peer holds, each list sorted by author.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exchange {
    pub(crate) holds: Vec<Mark>,
    pub(crate) dead: Vec<ShortId>,
}

impl Packet {
    /// Whether it says nothing.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Cuts every list to what a peer reads. What falls out comes again with the next exchange.
    pub(crate) fn clamp(&mut self) {
        self.accusations.truncate(ACCUSATIONS_MAX);
        self.deltas.truncate(DELTAS_MAX);
        self.holds.truncate(MARKS_MAX);
        self.wants.truncate(MARKS_MAX);
    }

    /// Its encoding.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let exchange = self.exchange.as_ref().map(|exchange| wire::Exchange {
            holds: versions(&exchange.holds),
            dead: exchange.dead.iter().map(|id| id.0).collect(),
        });
        let packet = wire::Packet {
            ping: self.ping,
            ack: self.ack,
            nack: self.nack,
            ask: self.ask.map(|ask| wire::Ask { number: ask.number, target: ask.target.0 }),
            accusations: self.accusations.iter().map(accusation_to_wire).collect(),
            deltas: self.deltas.iter().map(step_to_wire).collect(),
            holds: versions(&self.holds),
            wants: versions(&self.wants),
            exchange,
            items: self.items.map(|digest| digest.0.to_vec()).unwrap_or_default(),
            more: self.has_more,
        };
        packet.encode_to_vec()
    }

    /// Reads a packet.
    ///
    /// # Errors
    /// [`Reason::PacketMalformed`], or [`Reason::StateTooLarge`] for an entry beyond its bounds.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, Refusal> {
        bound(bytes.len(), PACKET_LEN_MAX, "bytes")?;
        let packet =
            wire::Packet::decode(bytes).map_err(|err| Reason::PacketMalformed.because(err.to_string()))?;
        bound(packet.accusations.len(), ACCUSATIONS_MAX, "accusations")?;
        bound(packet.deltas.len(), DELTAS_MAX, "deltas")?;
        let items = match &packet.items[..] {
            [] => None,
            bytes => Some(Digest::from_slice(bytes).ok_or_else(|| malformed("a digest has 32 bytes"))?),
        };
        Ok(Self {
            ping: packet.ping,
            ack: packet.ack,
            nack: packet.nack,
            ask: packet.ask.map(|ask| Ask { number: ask.number, target: ShortId(ask.target) }),
            accusations: packet.accusations.into_iter().map(accusation).collect::<Result<_, _>>()?,
            deltas: packet.deltas.into_iter().map(step).collect::<Result<_, _>>()?,
            holds: marks(packet.holds, MARKS_MAX)?,
            wants: marks(packet.wants, MARKS_MAX)?,
            exchange: packet.exchange.map(exchange).transpose()?,
            items,
            has_more: packet.more,
        })
    }
}

fn malformed(detail: &str) -> Refusal {
    Reason::PacketMalformed.because(detail)
}

fn bound(len: usize, len_max: usize, what: &str) -> Result<(), Refusal> {
    if len > len_max {
        return Err(Reason::PacketMalformed.because(format!("{len} {what} where {len_max} are allowed")));
    }
    Ok(())
}

fn signed(payload: Vec<u8>, signature: Vec<u8>) -> Result<Signed, Refusal> {
    bound(signature.len(), SIGNATURE_LEN_MAX, "bytes of a signature")?;
    Ok(Signed { payload, signature })
}

fn accusation(said: wire::Accusation) -> Result<Accusation, Refusal> {
    Accusation::from_parts(ShortId(said.accuser), signed(said.charge, said.signature)?)
}

fn accusation_to_wire(said: &Accusation) -> wire::Accusation {
    let Signed { payload, signature } = said.signed.clone();
    wire::Accusation { accuser: said.accuser.0, charge: payload, signature }
}

fn step(delta: wire::Delta) -> Result<Step, Refusal> {
    bound(delta.entries.len(), ENTRIES_MAX, "entries")?;
    let head = Head::from_bytes(&delta.head)?;
    let entry = |entry: wire::Entry| {
        check_entry(&entry.key, &entry.value)?;
        if entry.version > head.stamp.version {
            return Err(malformed("an entry is newer than its record"));
        }
        Ok(Entry { key: entry.key.into(), value: entry.value.into(), version: entry.version })
    };
    let entries = delta.entries.into_iter().map(entry).collect::<Result<_, _>>()?;
    let signed = signed(delta.head, delta.signature)?;
    let hops = delta.hops.min(HOPS_MAX);
    let author = ShortId(delta.author);
    Ok(Step { author, delta: Delta { head, signed, base: delta.base, entries }, hops })
}

fn step_to_wire(step: &Step) -> wire::Delta {
    let Delta { signed, base, entries, .. } = step.delta.clone();
    let entry = |entry: Entry| wire::Entry {
        key: entry.key.into(),
        value: entry.value.into(),
        version: entry.version,
    };
    wire::Delta {
        author: step.author.0,
        head: signed.payload,
        signature: signed.signature,
        base,
        entries: entries.into_iter().map(entry).collect(),
        hops: step.hops,
    }
}

fn versions(marks: &[Mark]) -> Option<wire::Versions> {
    if marks.is_empty() {
        return None;
    }
    Some(wire::Versions {
        authors: marks.iter().map(|mark| mark.author.0).collect(),
        incarnations: marks.iter().map(|mark| mark.stamp.incarnation).collect(),
        versions: marks.iter().map(|mark| relative(mark.stamp)).collect(),
    })
}

/// The version less the incarnation, modulo 2^64.
fn relative(stamp: Stamp) -> i64 {
    stamp.version.wrapping_sub(stamp.incarnation).cast_signed()
}

fn marks(versions: Option<wire::Versions>, len_max: usize) -> Result<Vec<Mark>, Refusal> {
    let Some(versions) = versions else { return Ok(Vec::new()) };
    bound(versions.authors.len(), len_max, "records")?;
    let len = versions.authors.len();
    if versions.incarnations.len() != len || versions.versions.len() != len {
        return Err(malformed("the lists of versions differ in length"));
    }
    let stamps = versions.incarnations.into_iter().zip(versions.versions);
    Ok(versions
        .authors
        .into_iter()
        .zip(stamps)
        .map(|(author, (incarnation, relative))| Mark {
            author: ShortId(author),
            stamp: Stamp { incarnation, version: incarnation.wrapping_add_signed(relative) },
        })
        .collect())
}

fn exchange(exchange: wire::Exchange) -> Result<Exchange, Refusal> {
    let holds = marks(exchange.holds, MEMBERS_MAX + 1)?;
    bound(exchange.dead.len(), MEMBERS_MAX, "dead")?;
    let dead: Vec<_> = exchange.dead.into_iter().map(ShortId).collect();
    if !holds.is_sorted_by(|a, b| a.author < b.author) || !dead.is_sorted_by(|a, b| a < b) {
        return Err(malformed("an exchange is not sorted"));
    }
    Ok(Exchange { holds, dead })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use types::Keys;

    use super::*;
    use crate::record::Record;
    use crate::testing;

    fn full(keys: &dyn Keys) -> Packet {
        let entries = vec![Entry { key: "a/b".into(), value: b"v".as_slice().into(), version: 3 }];
        let stamp = Stamp { incarnation: 9, version: 3 };
        let record = Record::sign(stamp, 1, false, entries, keys).expect("a key");
        let mark = Mark { author: ShortId(5), stamp };
        Packet {
            ping: Some(0),
            ack: Some(1),
            nack: Some(2),
            ask: Some(Ask { number: 3, target: ShortId(4) }),
            accusations: vec![Accusation::sign(ShortId(1), ShortId(2), 3, keys).expect("a key")],
            deltas: vec![Step { author: ShortId(5), delta: record.delta(0), hops: 2 }],
            holds: vec![mark],
            wants: vec![mark],
            exchange: Some(Exchange { holds: vec![mark], dead: vec![ShortId(9)] }),
            items: Some(Digest([7; 32])),
            has_more: true,
        }
    }

    #[test]
    fn every_part_survives_the_wire() {
        let packet = full(&testing::keys(1));
        assert_eq!(Packet::from_bytes(&packet.to_bytes()), Ok(packet));
        assert!(Packet::from_bytes(&[]).expect("an empty packet").is_empty());
    }

    #[test]
    fn too_many_of_anything_is_refused() {
        #[track_caller]
        fn check(packet: &Packet) {
            let refused = Packet::from_bytes(&packet.to_bytes()).map_err(|refusal| refusal.reason);
            assert_eq!(refused, Err(Reason::PacketMalformed));
        }
        let packet = full(&testing::keys(1));
        let said = packet.accusations[0].clone();
        check(&Packet { accusations: vec![said; ACCUSATIONS_MAX + 1], ..Packet::default() });
        let step = packet.deltas[0].clone();
        check(&Packet { deltas: vec![step; DELTAS_MAX + 1], ..Packet::default() });
        let mark = packet.holds[0];
        check(&Packet { wants: vec![mark; MARKS_MAX + 1], ..Packet::default() });
        let holds = vec![mark; 2];
        check(&Packet { exchange: Some(Exchange { holds, dead: vec![] }), ..Packet::default() });
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Packet::from_bytes(&bytes);
        }

        #[test]
        fn bent_packets_never_panic(at in any::<prop::sample::Index>(), to in any::<u8>(), cut in 0usize..400) {
            let mut bytes = full(&testing::keys(1)).to_bytes();
            let idx = at.index(bytes.len());
            bytes[idx] = to;
            bytes.truncate(bytes.len() - cut % bytes.len());
            let _ = Packet::from_bytes(&bytes);
        }
    }
}
