//! Making two member maps equal: what one side says to the other, and what follows from the answer.
//!
//! Three messages and a half: the opener sends [`compare`], the acceptor answers with [`differ`], the opener
//! gives with [`supply`] what the other lacks and names what it lacks itself, and the acceptor gives that with
//! [`answer`]. Parts by the first byte of a digest keep the price of one news among thousands small.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::Message;
use proto::identity::v1;

use types::{Digest, Envelope, Reason, Refusal};

use crate::members::Members;
use crate::statement::Signed;

/// Most bytes of one message. What does not fit comes with the next comparison.
pub const MESSAGE_LEN_MAX: usize = 16 << 20;
/// Most bytes of statements in one message; the rest of it is for what is wanted.
const STATEMENTS_LEN_MAX: usize = 12 << 20;
/// Most bytes of the first message.
pub const COMPARE_LEN_MAX: usize = 4 << 10;
/// Most digests wanted in one message.
const WANTS_MAX: usize = 100_000;
/// Most statements in one message.
const STATEMENTS_MAX: usize = 20_000;
const PARTS: usize = 256;
const PART_LEN: usize = 8;
const DIGEST_LEN: usize = 32;

/// What the opener says first.
pub fn compare(members: &Members) -> Vec<u8> {
    v1::Compare { parts: parts(&digests(members)) }.encode_to_vec()
}

/// What the acceptor answers to [`compare`].
///
/// # Errors
/// [`Reason::PacketMalformed`].
pub fn differ(members: &Members, message: &[u8]) -> Result<Vec<u8>, Refusal> {
    let theirs = v1::Compare::decode(message).map_err(|_| malformed("a comparison cannot be read"))?.parts;
    if theirs.len() != PARTS * PART_LEN {
        return Err(malformed(format!("a comparison of {} bytes", theirs.len())));
    }
    let held = digests(members);
    let mine = parts(&held);
    let pairs = mine.chunks(PART_LEN).zip(theirs.chunks(PART_LEN));
    let differing: Vec<u8> =
        (0..=u8::MAX).zip(pairs).filter(|(_, (mine, theirs))| mine != theirs).map(|(part, _)| part).collect();
    let is_due = |digest: &&Digest| differing.binary_search(&digest.0[0]).is_ok();
    let digests = held.iter().filter(is_due).take(WANTS_MAX).flat_map(|digest| digest.0).collect();
    Ok(v1::Differ { parts: differing, digests }.encode_to_vec())
}

/// What the opener gives and wants after [`differ`].
///
/// # Errors
/// [`Reason::PacketMalformed`].
pub fn supply(members: &Members, message: &[u8]) -> Result<Vec<u8>, Refusal> {
    let theirs = v1::Differ::decode(message).map_err(|_| malformed("a difference cannot be read"))?;
    if theirs.parts.len() > PARTS {
        return Err(malformed(format!("{} parts of {PARTS}", theirs.parts.len())));
    }
    let held = read_digests(&theirs.digests)?;
    let is_due =
        |signed: &&Arc<Signed>| theirs.parts.contains(&signed.digest.0[0]) && !held.contains(&signed.digest);
    let wants = held.iter().filter(|digest| members.item(digest).is_none());
    Ok(v1::Supply {
        statements: statements(members, is_due),
        wants: wants.flat_map(|digest| digest.0).collect(),
    }
    .encode_to_vec())
}

/// What the acceptor takes from [`supply`], and gives.
///
/// # Errors
/// [`Reason::PacketMalformed`], and what [`Envelope::from_bytes`] says.
pub fn answer(members: &Members, message: &[u8]) -> Result<(Vec<Envelope>, Vec<u8>), Refusal> {
    let supply = read_supply(message)?;
    let wants = read_digests(&supply.wants)?;
    let given = statements(members, |signed| wants.contains(&signed.digest));
    let reply = v1::Supply { statements: given, wants: Vec::new() }.encode_to_vec();
    Ok((envelopes(&supply)?, reply))
}

/// What the opener takes from [`answer`].
///
/// # Errors
/// As [`answer`].
pub fn take(message: &[u8]) -> Result<Vec<Envelope>, Refusal> {
    envelopes(&read_supply(message)?)
}

/// Reads a supply. Its statements are counted first: each takes memory though it may be empty.
fn read_supply(message: &[u8]) -> Result<v1::Supply, Refusal> {
    let torn = || malformed("a supply cannot be read");
    let (mut rest, mut n_fields) = (message, 0);
    while !rest.is_empty() {
        let (_, wire_type) = prost_key(&mut rest).ok_or_else(torn)?;
        let len = prost_varint(&mut rest).filter(|_| wire_type == 2).ok_or_else(torn)?;
        rest = usize::try_from(len).ok().and_then(|len| rest.get(len..)).ok_or_else(torn)?;
        n_fields += 1;
        if n_fields > STATEMENTS_MAX {
            return Err(malformed(format!("a supply of more than {STATEMENTS_MAX} statements")));
        }
    }
    v1::Supply::decode(message).map_err(|_| torn())
}

/// Number and wire type of the next field.
fn prost_key(rest: &mut &[u8]) -> Option<(u64, u64)> {
    let key = prost_varint(rest)?;
    Some((key >> 3, key & 7))
}

/// The next number (protobuf encoding, base 128 varints).
fn prost_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn envelopes(supply: &v1::Supply) -> Result<Vec<Envelope>, Refusal> {
    supply.statements.iter().map(|bytes| Envelope::from_bytes(bytes)).collect()
}

/// Statements to be given, in an order in which they can be merged. What the root said comes first and so in
/// one message: a new root counts only with all that belongs to it.
fn statements(members: &Members, mut is_due: impl FnMut(&&Arc<Signed>) -> bool) -> Vec<Vec<u8>> {
    let root = members.root().id();
    let items = members.items().filter(|signed| is_due(signed));
    let is_by_root = |signed: &&Arc<Signed>| signed.statement.signer().is_none_or(|signer| signer == root);
    let (first, rest): (Vec<&Arc<Signed>>, Vec<_>) = items.partition(is_by_root);
    let mut len = 0;
    let encoded = first.into_iter().chain(rest).map(|signed| signed.envelope.to_bytes());
    encoded
        .take_while(move |bytes| {
            len += bytes.len() + 8;
            len <= STATEMENTS_LEN_MAX
        })
        .collect()
}

fn digests(members: &Members) -> BTreeSet<Digest> {
    members.items().map(|signed| signed.digest).collect()
}

fn parts(digests: &BTreeSet<Digest>) -> Vec<u8> {
    let mut all = Vec::with_capacity(PARTS * PART_LEN);
    let mut sorted = digests.iter().peekable();
    for part in 0..=u8::MAX {
        let mut within: Vec<&[u8]> = Vec::new();
        while let Some(digest) = sorted.next_if(|digest| digest.0[0] == part) {
            within.push(&digest.0);
        }
        all.extend_from_slice(&Digest::of(&within).0[..PART_LEN]);
    }
    all
}

fn read_digests(bytes: &[u8]) -> Result<BTreeSet<Digest>, Refusal> {
    if !bytes.len().is_multiple_of(DIGEST_LEN) || bytes.len() / DIGEST_LEN > WANTS_MAX {
        return Err(malformed(format!("{} bytes of digests", bytes.len())));
    }
    Ok(bytes.chunks(DIGEST_LEN).filter_map(Digest::from_slice).collect())
}

fn malformed(detail: impl Into<String>) -> Refusal {
    Reason::PacketMalformed.because(detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, bare_members};

    /// Lets `opener` and `acceptor` make themselves equal, as two nodes do over a stream.
    fn meet(opener: &mut Members, acceptor: &mut Members) {
        let differ = differ(acceptor, &compare(opener)).expect("well-formed");
        let supply = supply(opener, &differ).expect("well-formed");
        let (taken, reply) = answer(acceptor, &supply).expect("well-formed");
        acceptor.merge_all(taken);
        opener.merge_all(take(&reply).expect("well-formed"));
    }

    #[test]
    fn two_maps_become_equal_whoever_knows_what() {
        let mut world = World::new();
        for name in ["pi", "tv", "nas"] {
            world.joins("s1", name);
        }
        let mut here = world.members.clone();
        world.joins("s2", "web");
        world.revokes("s1", "tv");
        let mut there = world.members.clone();
        here.merge(world.joins("s1", "only")).expect("news of this side");
        meet(&mut here, &mut there);
        assert_eq!(here.summary(), there.summary());
        let mut stranger = bare_members();
        meet(&mut stranger, &mut there);
        assert_eq!(stranger.summary(), there.summary());
    }

    #[test]
    fn a_new_root_comes_with_all_that_belongs_to_it() {
        let mut world = World::new();
        world.joins("s1", "pi");
        world.revokes("s1", "pi");
        let mut behind = world.members.clone();
        world.rotates();
        meet(&mut behind, &mut world.members);
        assert_eq!(behind.root().generation, 2);
        assert_eq!(behind.summary(), world.members.summary());
    }

    #[test]
    fn equal_maps_give_each_other_nothing() {
        let mut world = World::new();
        world.joins("s1", "pi");
        let differ = differ(&world.members, &compare(&world.members)).expect("well-formed");
        assert!(differ.is_empty());
        assert!(supply(&world.members, &differ).expect("well-formed").is_empty());
    }

    #[test]
    fn torn_messages_are_refused() {
        let members = bare_members();
        let reason = |result: Result<Vec<u8>, Refusal>| result.map_err(|refusal| refusal.reason);
        assert_eq!(reason(differ(&members, b"\xff")), Err(Reason::PacketMalformed));
        assert_eq!(reason(differ(&members, b"")), Err(Reason::PacketMalformed));
        let half = v1::Differ { parts: vec![1], digests: vec![0; 31] }.encode_to_vec();
        assert_eq!(reason(supply(&members, &half)), Err(Reason::PacketMalformed));
        let many = v1::Differ { parts: vec![1; 257], digests: Vec::new() }.encode_to_vec();
        assert_eq!(reason(supply(&members, &many)), Err(Reason::PacketMalformed));
        let empty = v1::Supply { statements: vec![Vec::new(); STATEMENTS_MAX + 1], wants: Vec::new() };
        assert!(take(&empty.encode_to_vec()).is_err_and(|it| it.reason == Reason::PacketMalformed));
        let envelope = v1::Supply { statements: vec![vec![0xff]], wants: Vec::new() }.encode_to_vec();
        assert!(take(&envelope).is_err());
    }
}
