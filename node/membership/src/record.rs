//! What a node says of itself: versioned entries under one signature.
//!
//! The author signs a head that holds a digest over all entries. So whoever has the record can prove it to
//! others, in whole or as a delta to what they have, at the price of one signature whatever its size; and
//! nobody can leave out, mix or alter entries.

use proto::membership::v1 as wire;
use proto::{Message, Name};
use types::envelope::Signature;
use types::key::Unavailable;
use types::{Algorithm, Digest, Envelope, KeySlot, Keys, PeerId, PublicKey, Reason, Refusal};

/// Longest key in bytes, the room and the slash included.
pub const KEY_LEN_MAX: usize = 80;
/// Longest value in bytes.
pub const VALUE_LEN_MAX: usize = 1024;
/// Most entries of one record.
pub const ENTRIES_MAX: usize = 64;
/// Most bytes of all keys and values of one record.
pub const RECORD_LEN_MAX: usize = 8 * 1024;
/// Longest encoded head in bytes.
pub(crate) const HEAD_LEN_MAX: usize = 64;
/// Bytes of the digest in a head. To pass off other entries takes a second preimage, 2^128 tries; collisions,
/// 2^64, only help an author to contradict itself.
const ROOT_LEN: usize = 16;

/// How new a record is. Both numbers only rise, so the order is that of signing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Rises when the node starts, refutes or leaves.
    pub incarnation: u64,
    /// Rises with every change of entries.
    pub version: u64,
}

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `room/key`.
    pub key: Box<str>,
    /// The value, which means something to its room only.
    pub value: Box<[u8]>,
    /// The version of the record that set it.
    pub version: u64,
}

/// A record whose head its author is known to have signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub(crate) head: Head,
    pub(crate) signed: Signed,
    /// Sorted by key.
    entries: Vec<Entry>,
}

/// What the signature covers, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) stamp: Stamp,
    pub(crate) floor: u64,
    root: [u8; ROOT_LEN],
    pub(crate) has_left: bool,
}

/// What the signature covers, as its author wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signed {
    pub(crate) payload: Vec<u8>,
    pub(crate) signature: Vec<u8>,
}

/// A step of a record as it came in: well-formed, and not yet to be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delta {
    pub(crate) head: Head,
    pub(crate) signed: Signed,
    pub(crate) base: u64,
    pub(crate) entries: Vec<Entry>,
}

/// What became of a delta that was not refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    /// The record after it.
    Record(Record),
    /// It builds on entries that are not here; the whole record would do.
    NeedsWhole,
}

impl Record {
    /// How new it is.
    pub fn stamp(&self) -> Stamp {
        self.head.stamp
    }

    /// The value under `key`.
    pub fn value(&self, key: &str) -> Option<&[u8]> {
        let idx = self.entries.binary_search_by(|entry| (*entry.key).cmp(key)).ok()?;
        Some(&self.entries[idx].value)
    }

    /// All entries in the order of their keys.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Signs a record of these entries, which are sorted by key and within bounds.
    ///
    /// # Errors
    /// If the node's key is not at hand.
    pub(crate) fn sign(
        stamp: Stamp,
        floor: u64,
        has_left: bool,
        entries: Vec<Entry>,
        keys: &dyn Keys,
    ) -> Result<Self, Unavailable> {
        let head = Head { stamp, floor, root: root(&entries), has_left };
        let signed = Signed::seal(&wire::Head::full_name(), head.to_wire().encode_to_vec(), keys)?;
        Ok(Self { head, signed, entries })
    }

    /// The step from version `base` to this record; the whole of it if removals lie between.
    pub(crate) fn delta(&self, base: u64) -> Delta {
        let base = if base < self.head.floor { 0 } else { base };
        let entries = self.entries.iter().filter(|entry| entry.version > base).cloned().collect();
        Delta { head: self.head.clone(), signed: self.signed.clone(), base, entries }
    }

    /// Takes the step on top of what is `held`. The signature is checked last, once per record and step.
    ///
    /// # Errors
    /// [`Reason::SignatureInvalid`] if the author did not sign it, [`Reason::StateTooLarge`] beyond bounds,
    /// [`Reason::PacketMalformed`] if a whole record does not match its own head.
    pub(crate) fn apply(
        held: Option<&Self>,
        delta: Delta,
        author: PeerId,
        keys: &dyn Keys,
    ) -> Result<Applied, Refusal> {
        let is_whole = delta.base == 0;
        let entries = match held {
            Some(held) if !is_whole => merged(&held.entries, delta.entries),
            _ => merged(&[], delta.entries),
        };
        check_bounds(&entries)?;
        if root(&entries) != delta.head.root {
            if is_whole {
                return Err(Reason::PacketMalformed.because("a record that does not match its head"));
            }
            return Ok(Applied::NeedsWhole);
        }
        delta.signed.open_head(author, keys)?;
        Ok(Applied::Record(Self { head: delta.head, signed: delta.signed, entries }))
    }
}

impl Delta {
    /// Its bytes in a packet, more or less.
    pub(crate) fn wire_len(&self) -> usize {
        let entries = self.entries.iter().map(|entry| entry.key.len() + entry.value.len() + 12);
        140 + entries.sum::<usize>()
    }
}

impl Head {
    fn to_wire(&self) -> wire::Head {
        let presence = if self.has_left { wire::Presence::Left } else { wire::Presence::Here };
        wire::Head {
            incarnation: self.stamp.incarnation,
            version: self.stamp.version,
            floor: self.floor,
            root: self.root.to_vec(),
            presence: presence.into(),
        }
    }

    /// Reads what a signature covers.
    ///
    /// # Errors
    /// [`Reason::PacketMalformed`].
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, Refusal> {
        let malformed = || Reason::PacketMalformed.because("the head of a record cannot be read");
        if bytes.len() > HEAD_LEN_MAX {
            return Err(malformed());
        }
        let head = wire::Head::decode(bytes).map_err(|_| malformed())?;
        let has_left = match head.presence() {
            wire::Presence::Here => false,
            wire::Presence::Left => true,
            wire::Presence::Unspecified => return Err(malformed()),
        };
        // The last number is kept free, so that the author can always go one further.
        if head.incarnation == u64::MAX || head.version == u64::MAX || head.floor > head.version {
            return Err(malformed());
        }
        let stamp = Stamp { incarnation: head.incarnation, version: head.version };
        let root = head.root.try_into().map_err(|_| malformed())?;
        Ok(Self { stamp, floor: head.floor, root, has_left })
    }
}

impl Signed {
    /// Signs `payload` with the node's key as a statement of the kind `domain`.
    ///
    /// # Errors
    /// If the key is not at hand.
    pub(crate) fn seal(domain: &str, payload: Vec<u8>, keys: &dyn Keys) -> Result<Self, Unavailable> {
        let mut envelope = Envelope::seal(domain, payload, keys, &[KeySlot::Node])?;
        let signature = envelope.signatures.pop().expect("one slot makes one signature").value;
        Ok(Self { payload: envelope.payload, signature })
    }

    /// Checks that `author` signed it as the head of its record.
    ///
    /// # Errors
    /// [`Reason::SignatureInvalid`].
    pub(crate) fn open_head(&self, author: PeerId, keys: &dyn Keys) -> Result<(), Refusal> {
        self.open(&wire::Head::full_name(), author, keys)
    }

    /// Checks that `author` signed it as a statement of the kind `domain`.
    ///
    /// # Errors
    /// [`Reason::SignatureInvalid`].
    pub(crate) fn open(&self, domain: &str, author: PeerId, keys: &dyn Keys) -> Result<(), Refusal> {
        let key = PublicKey::new(Algorithm::Ed25519, &author.0).expect("a peer id has 32 bytes");
        let value = self.signature.clone();
        let signature = Signature { algorithm: Algorithm::Ed25519 as u32, value };
        let payload = self.payload.clone();
        let envelope = Envelope { domain: domain.to_owned(), payload, signatures: vec![signature] };
        envelope.open(domain, &[&key], keys).map(drop)
    }
}

/// Checks one entry that someone wants in a record.
///
/// # Errors
/// [`Reason::StateTooLarge`].
pub(crate) fn check_entry(key: &str, value: &[u8]) -> Result<(), Refusal> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_./".contains(&b);
    let is_name = key.split_once('/').is_some_and(|(room, rest)| !room.is_empty() && !rest.is_empty())
        && key.bytes().all(allowed);
    if !is_name || key.len() > KEY_LEN_MAX {
        let key: String = key.chars().take(KEY_LEN_MAX).collect();
        return Err(Reason::StateTooLarge.because(format!("`{}` is no key", key.escape_default())));
    }
    if value.len() > VALUE_LEN_MAX {
        let detail = format!("{} bytes under `{key}` where {VALUE_LEN_MAX} are allowed", value.len());
        return Err(Reason::StateTooLarge.because(detail));
    }
    Ok(())
}

/// Checks the whole of a record whose entries each passed [`check_entry`].
///
/// # Errors
/// [`Reason::StateTooLarge`].
pub(crate) fn check_bounds(entries: &[Entry]) -> Result<(), Refusal> {
    let len: usize = entries.iter().map(|entry| entry.key.len() + entry.value.len()).sum();
    if entries.len() > ENTRIES_MAX || len > RECORD_LEN_MAX {
        let detail = format!("{} entries of {len} bytes in one record", entries.len());
        return Err(Reason::StateTooLarge.because(detail));
    }
    Ok(())
}

/// `held` with `steps` put over it, sorted by key.
fn merged(held: &[Entry], steps: Vec<Entry>) -> Vec<Entry> {
    let mut entries = held.to_vec();
    for step in steps {
        put(&mut entries, step);
    }
    entries
}

/// Sets one entry among entries sorted by key.
pub(crate) fn put(entries: &mut Vec<Entry>, entry: Entry) {
    match entries.binary_search_by(|held| held.key.cmp(&entry.key)) {
        Ok(idx) => entries[idx] = entry,
        Err(idx) => entries.insert(idx, entry),
    }
}

/// The digest over all entries: key, value (each behind its length) and version of each.
fn root(entries: &[Entry]) -> [u8; ROOT_LEN] {
    let mut bytes = Vec::with_capacity(entries.len() * 64);
    for entry in entries {
        for part in [entry.key.as_bytes(), &entry.value[..]] {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        bytes.extend_from_slice(&entry.version.to_be_bytes());
    }
    let Digest(digest) = Digest::of(&[b"sagemesh record v1", &bytes]);
    let mut root = [0; ROOT_LEN];
    root.copy_from_slice(&digest[..ROOT_LEN]);
    root
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn entry(key: &str, value: &[u8], version: u64) -> Entry {
        Entry { key: key.into(), value: value.into(), version }
    }

    fn record(version: u64, floor: u64, entries: &[Entry]) -> Record {
        let stamp = Stamp { incarnation: 7, version };
        Record::sign(stamp, floor, false, entries.to_vec(), &testing::keys(1)).expect("a key")
    }

    fn apply(held: Option<&Record>, delta: Delta) -> Result<Applied, Reason> {
        Record::apply(held, delta, testing::peer(1), &testing::keys(2)).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn a_third_party_can_prove_a_step_to_a_fourth() {
        let first = record(1, 1, &[entry("a/x", b"1", 1), entry("a/y", b"2", 1)]);
        let second = record(2, 1, &[entry("a/x", b"1", 1), entry("a/y", b"3", 2)]);
        let step = second.delta(1);
        assert_eq!(step.entries.len(), 1, "only what changed travels");
        assert_eq!(apply(Some(&first), step), Ok(Applied::Record(second.clone())));
        assert_eq!(apply(None, second.delta(0)), Ok(Applied::Record(second.clone())));
        assert_eq!(apply(None, second.delta(1)), Ok(Applied::NeedsWhole));
    }

    #[test]
    fn a_removal_makes_the_next_step_whole() {
        let third = record(3, 3, &[entry("a/x", b"1", 1)]);
        let step = third.delta(2);
        assert_eq!((step.base, step.entries.len()), (0, 1));
    }

    #[test]
    fn altered_and_left_out_entries_are_refused() {
        let whole = record(2, 1, &[entry("a/x", b"1", 1), entry("a/y", b"3", 2)]).delta(0);
        let mut altered = whole.clone();
        altered.entries[0].value = b"9".as_slice().into();
        assert_eq!(apply(None, altered), Err(Reason::PacketMalformed));
        let mut shorter = whole.clone();
        shorter.entries.pop();
        assert_eq!(apply(None, shorter), Err(Reason::PacketMalformed));
        let mut forged = whole;
        forged.signed.signature[0] ^= 1;
        assert_eq!(apply(None, forged), Err(Reason::SignatureInvalid));
    }

    #[test]
    fn bounds_hold_for_one_entry_and_for_all() {
        #[track_caller]
        fn check(key: &str, value_bytes: usize, is_fine: bool) {
            assert_eq!(check_entry(key, &vec![0; value_bytes]).is_ok(), is_fine, "{key}");
        }
        check("route/load", VALUE_LEN_MAX, true);
        check("route/load", VALUE_LEN_MAX + 1, false);
        check("route", 1, false);
        check("/load", 1, false);
        check("route/", 1, false);
        check("Route/load", 1, false);
        check(&format!("a/{}", "b".repeat(KEY_LEN_MAX)), 1, false);
        let many: Vec<_> = (0..=ENTRIES_MAX).map(|n| entry(&format!("a/{n:03}"), b"", 1)).collect();
        assert!(check_bounds(&many).is_err());
        let large: Vec<_> = (0..9).map(|n| entry(&format!("a/{n}"), &[0; 1024], 1)).collect();
        assert!(check_bounds(&large).is_err() && check_bounds(&large[..7]).is_ok());
    }
}
