//! Small changes to bytes that were good.

use libfuzzer_sys::arbitrary::{self, Arbitrary};

/// One change. Places are taken modulo the length, so that every edit of every input means something.
#[derive(Arbitrary, Clone, Debug)]
pub enum Edit {
    /// Another byte in that place.
    Set { at: u16, byte: u8 },
    /// More bytes in that place.
    Insert { at: u16, bytes: Vec<u8> },
    /// Fewer bytes.
    Remove { at: u16, n: u8 },
    /// What follows is what is at the end of many messages: one field more, or one again.
    Append(Vec<u8>),
    /// A piece of it twice.
    Again { at: u16, n: u8 },
}

impl Edit {
    /// Makes the change.
    pub fn apply(&self, bytes: &mut Vec<u8>) {
        let place = |at: u16, len: usize| usize::from(at) % (len + 1);
        let len = bytes.len();
        match self {
            Self::Set { at, byte } => {
                if let Some(held) = bytes.get_mut(place(*at, len)) {
                    *held = *byte;
                }
            }
            Self::Insert { at, bytes: more } => {
                let at = place(*at, len);
                bytes.splice(at..at, more.iter().copied());
            }
            Self::Remove { at, n } => {
                let at = place(*at, len);
                bytes.drain(at..len.min(at + usize::from(*n)));
            }
            Self::Append(more) => bytes.extend(more),
            Self::Again { at, n } => {
                let at = place(*at, len);
                let piece = bytes[at..len.min(at + usize::from(*n))].to_vec();
                bytes.extend(piece);
            }
        }
    }
}

/// Makes all of them, in their order.
pub fn edited(bytes: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for edit in edits {
        edit.apply(&mut bytes);
    }
    bytes
}
