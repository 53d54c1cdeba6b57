//! What a call looks like: the service echoes every message, and each says whose it is and which one.

use bytes::{BufMut, Bytes, BytesMut};

/// The header in which a call says which one it is.
pub(crate) const ID: &str = "chaos-id";
/// The path of calls that the service answers before it has read all of the request.
pub(crate) const EARLY: &str = "/chaos.v1.Chaos/Early";
const ECHO: &str = "/chaos.v1.Chaos/Echo";
/// A gRPC message: a flag, its length, its bytes (grpc/doc/PROTOCOL-HTTP2.md).
const PREFIX: usize = 5;
/// The longest message that is taken.
const MESSAGE_MAX: usize = 1 << 20;
/// The longest of calls that are not alike.
const BIG_MAX: usize = 512 << 10;
/// The shortest of them.
const BIG_MIN: usize = 64 << 10;

/// What one call sends, and gets back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) path: &'static str,
    /// Messages of the request, and of the answer.
    pub(crate) n_messages: u32,
    /// Bytes of each.
    pub(crate) len: usize,
}

impl Shape {
    /// The shape of a call. Of 200 calls 188 are unary and short, 10 stream, one is long, and one is answered early.
    pub(crate) const fn of(id: u64) -> Self {
        let len = BIG_MIN + (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize % (BIG_MAX - BIG_MIN);
        match id % 200 {
            0 => Self { path: ECHO, n_messages: 1, len },
            1 => Self { path: EARLY, n_messages: 1, len },
            2..12 => Self { path: ECHO, n_messages: 8, len: 4096 },
            _ => Self { path: ECHO, n_messages: 1, len: 16 },
        }
    }

    /// What shows that no window is lost: as large a body as may be, both ways.
    pub(crate) const fn last() -> Self {
        Self { path: ECHO, n_messages: 1, len: MESSAGE_MAX }
    }

    pub(crate) fn is_early(self) -> bool {
        self.path == EARLY
    }

    /// One message of the request: where the answer comes early, there is little to wait for.
    pub(crate) fn asked(self, id: u64, place: u32) -> Bytes {
        let len = if self.is_early() { 16 } else { self.len };
        Self { len, ..self }.message(id, place)
    }

    /// One message of a call: its id, its place, and its id again up to the end.
    pub(crate) fn message(self, id: u64, place: u32) -> Bytes {
        let mut message = BytesMut::with_capacity(PREFIX + self.len + 8);
        message.put_u8(0);
        message.put_u32(u32::try_from(self.len).unwrap_or_default());
        message.put_u64_le(id);
        message.put_u64_le(place.into());
        while message.len() < PREFIX + self.len {
            message.put_u64_le(id);
        }
        message.truncate(PREFIX + self.len);
        message.freeze()
    }
}

/// Takes whole messages, with their prefix, out of what was read.
pub(crate) fn next_message(read: &mut BytesMut) -> Option<Bytes> {
    let len = u32::from_be_bytes(read.get(1..PREFIX)?.try_into().ok()?) as usize;
    let is_whole = len <= MESSAGE_MAX && read.len() >= PREFIX + len;
    is_whole.then(|| read.split_to(PREFIX + len).freeze())
}

/// Whose message it is.
pub(crate) fn owner(message: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(message.get(PREFIX..PREFIX + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written_and_says_whose_it_is() {
        for id in [0, 1, 2, 199, 1_000_003] {
            let shape = Shape::of(id);
            let mut read = BytesMut::new();
            for place in 0..shape.n_messages {
                read.extend_from_slice(&shape.message(id, place));
            }
            for place in 0..shape.n_messages {
                let message = next_message(&mut read).expect("a whole message");
                assert_eq!((owner(&message), message), (Some(id), shape.message(id, place)));
            }
            assert!(next_message(&mut read).is_none() && read.is_empty());
        }
    }
}
