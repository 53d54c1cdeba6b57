//! Frames (RFC 9113, sections 4 and 6): their heads, and writers for all that this end sends.
//!
//! Writers append to an output that the caller owns. They judge nothing; `Conn` does.

use crate::code::Code;

/// Bytes of a frame's head.
pub const HEAD_LEN: usize = 9;
/// The longest payload that an end must take, and that nobody exceeds without being told.
pub const LEN_MIN: u32 = 1 << 14;
/// The longest payload that an end may ask for.
pub const LEN_MAX: u32 = (1 << 24) - 1;
/// The largest window (section 6.9.1), and the highest stream.
pub const WINDOW_MAX: u32 = (1 << 31) - 1;
/// What a client says first (section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames.
pub mod kind {
    /// A piece of a body.
    pub const DATA: u8 = 0;
    /// The beginning of a header block.
    pub const HEADERS: u8 = 1;
    /// Deprecated.
    pub const PRIORITY: u8 = 2;
    /// The end of a stream.
    pub const RST_STREAM: u8 = 3;
    /// What an end takes.
    pub const SETTINGS: u8 = 4;
    /// Not used: nobody is allowed to push.
    pub const PUSH_PROMISE: u8 = 5;
    /// A question for a sign of life.
    pub const PING: u8 = 6;
    /// No more streams.
    pub const GOAWAY: u8 = 7;
    /// Leave to send more.
    pub const WINDOW_UPDATE: u8 = 8;
    /// More of a header block.
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub mod flag {
    /// Of SETTINGS and PING: an answer.
    pub const ACK: u8 = 0x1;
    /// Of DATA and HEADERS: nothing follows on this stream.
    pub const END_STREAM: u8 = 0x1;
    /// Of HEADERS and CONTINUATION: the block is whole.
    pub const END_HEADERS: u8 = 0x4;
    /// Of DATA and HEADERS: there is padding.
    pub const PADDED: u8 = 0x8;
    /// Of HEADERS: there is a priority.
    pub const PRIORITY: u8 = 0x20;
}

/// What a frame begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of its payload.
    pub len: u32,
    /// Its type, one of [`kind`] or any other.
    pub kind: u8,
    /// Its flags; what they mean depends on the type.
    pub flags: u8,
    /// The stream it is for; 0 is the connection.
    pub stream: u32,
}

impl Head {
    /// Reads a head, if all of it is there. The reserved bit is ignored.
    pub fn read(input: &[u8]) -> Option<Self> {
        let [len_2, len_1, len_0, kind, flags, id @ ..] = *input.first_chunk::<HEAD_LEN>()?;
        let len = u32::from_be_bytes([0, len_2, len_1, len_0]);
        Some(Self { len, kind, flags, stream: u32::from_be_bytes(id) & WINDOW_MAX })
    }

    /// Appends the head.
    pub fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes());
    }

    /// Whether it has a flag.
    pub const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn bytes(self) -> [u8; HEAD_LEN] {
        let [_, len_2, len_1, len_0] = self.len.to_be_bytes();
        let [id_3, id_2, id_1, id_0] = self.stream.to_be_bytes();
        [len_2, len_1, len_0, self.kind, self.flags, id_3, id_2, id_1, id_0]
    }
}

/// Appends a DATA frame. `bytes` are no more than the other end takes in one frame.
pub fn write_data(stream: u32, bytes: &[u8], is_end: bool, out: &mut Vec<u8>) {
    let flags = if is_end { flag::END_STREAM } else { 0 };
    let len = len(bytes.len());
    out.reserve(HEAD_LEN + bytes.len());
    Head { len, kind: kind::DATA, flags, stream }.write(out);
    append(bytes, out);
}

/// Bytes that are copied at once.
pub const COPY_LEN: usize = 2048;

/// Appends the bytes of a body, in pieces. From 4 KiB on glibc before 2.40 copies by `rep movsb`, which AMD's Zen 3 and 4
/// do at a fraction of their speed if source and destination lie alike in their pages (glibc bug 30994), as large buffers
/// do: a fifth of what bodies of 16 KiB cost.
pub fn append(bytes: &[u8], out: &mut Vec<u8>) {
    for piece in bytes.chunks(COPY_LEN) {
        out.extend_from_slice(piece);
    }
}

/// Appends a block, which `encode` writes, as HEADERS and as many CONTINUATION frames as it takes if no frame is
/// longer than `frame_max`.
pub fn write_headers(
    stream: u32,
    is_end: bool,
    frame_max: u32,
    out: &mut Vec<u8>,
    encode: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD_LEN]);
    encode(out);
    let frame_max = frame_max as usize;
    let (body, n_bytes) = (start + HEAD_LEN, out.len() - start - HEAD_LEN);
    let n_more = if n_bytes > frame_max { split(stream, body, frame_max, out) } else { 0 };
    let flags = if n_more == 0 { flag::END_HEADERS } else { 0 } | if is_end { flag::END_STREAM } else { 0 };
    let head = Head { len: len(n_bytes.min(frame_max)), kind: kind::HEADERS, flags, stream };
    out[start..body].copy_from_slice(&head.bytes());
}

/// Makes CONTINUATION frames of what follows the first `frame_max` bytes of a block that begins at `body`, and says
/// how many. Room for their heads is made from the last one backwards, so that each piece moves once.
fn split(stream: u32, body: usize, frame_max: usize, out: &mut Vec<u8>) -> usize {
    let n_bytes = out.len() - body;
    let n_more = (n_bytes - 1) / frame_max;
    out.resize(out.len() + n_more * HEAD_LEN, 0);
    for at in (1..=n_more).rev() {
        let (from, to) = (at * frame_max, n_bytes.min((at + 1) * frame_max));
        let place = body + from + at * HEAD_LEN;
        out.copy_within(body + from..body + to, place);
        let flags = if at == n_more { flag::END_HEADERS } else { 0 };
        let head = Head { len: len(to - from), kind: kind::CONTINUATION, flags, stream };
        out[place - HEAD_LEN..place].copy_from_slice(&head.bytes());
    }
    n_more
}

/// Appends a RST_STREAM frame.
pub fn write_reset(stream: u32, code: Code, out: &mut Vec<u8>) {
    Head { len: 4, kind: kind::RST_STREAM, flags: 0, stream }.write(out);
    out.extend_from_slice(&code.0.to_be_bytes());
}

/// Appends a SETTINGS frame.
pub fn write_settings(settings: &[(u16, u32)], out: &mut Vec<u8>) {
    Head { len: len(settings.len() * 6), kind: kind::SETTINGS, flags: 0, stream: 0 }.write(out);
    for (id, value) in settings {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Appends the answer to a SETTINGS frame.
pub fn write_settings_ack(out: &mut Vec<u8>) {
    Head { len: 0, kind: kind::SETTINGS, flags: flag::ACK, stream: 0 }.write(out);
}

/// Appends a PING frame, or the answer to one.
pub fn write_ping(payload: u64, is_ack: bool, out: &mut Vec<u8>) {
    let flags = if is_ack { flag::ACK } else { 0 };
    Head { len: 8, kind: kind::PING, flags, stream: 0 }.write(out);
    out.extend_from_slice(&payload.to_be_bytes());
}

/// Appends a GOAWAY frame.
pub fn write_goaway(last: u32, code: Code, debug: &[u8], out: &mut Vec<u8>) {
    Head { len: len(8 + debug.len()), kind: kind::GOAWAY, flags: 0, stream: 0 }.write(out);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
    out.extend_from_slice(debug);
}

/// Appends a WINDOW_UPDATE frame.
pub fn write_window_update(stream: u32, by: u32, out: &mut Vec<u8>) {
    Head { len: 4, kind: kind::WINDOW_UPDATE, flags: 0, stream }.write(out);
    out.extend_from_slice(&by.to_be_bytes());
}

/// A length that the caller has bounded already.
fn len(n: usize) -> u32 {
    debug_assert!(n <= LEN_MAX as usize);
    u32::try_from(n).unwrap_or(LEN_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written() {
        let head = Head { len: 0x12_3456, kind: 9, flags: 0x25, stream: 0x7fff_fffe };
        let mut out = Vec::new();
        head.write(&mut out);
        assert_eq!(out, [0x12, 0x34, 0x56, 9, 0x25, 0x7f, 0xff, 0xff, 0xfe]);
        assert_eq!(Head::read(&out), Some(head));
        assert_eq!(Head::read(&out[..8]), None);
        out[5] |= 0x80;
        assert_eq!(Head::read(&out), Some(head));
    }

    #[test]
    fn bodies_of_all_lengths_are_appended_whole() {
        for len in [0, 1, COPY_LEN - 1, COPY_LEN, COPY_LEN + 1, 5 * COPY_LEN + 7] {
            let bytes: Vec<u8> = (0_u8..251).cycle().take(len).collect();
            let mut out = vec![9];
            append(&bytes, &mut out);
            assert_eq!((out[0], &out[1..]), (9, &bytes[..]));
        }
    }

    #[test]
    fn a_long_block_goes_on_in_continuation_frames() {
        for n in 0..40_usize {
            let block: Vec<u8> = (0..n).map(|at| u8::try_from(at).expect("below 40")).collect();
            let mut out = vec![7];
            write_headers(5, true, 8, &mut out, |out| out.extend_from_slice(&block));
            let (mut rest, mut joined, mut kinds) = (&out[1..], Vec::new(), Vec::new());
            while let Some(head) = Head::read(rest) {
                let payload = &rest[HEAD_LEN..HEAD_LEN + head.len as usize];
                rest = &rest[HEAD_LEN + payload.len()..];
                joined.extend_from_slice(payload);
                assert_eq!(head.has(flag::END_HEADERS), rest.is_empty());
                assert!(head.len <= 8 && head.stream == 5);
                kinds.push((head.kind, head.flags & flag::END_STREAM));
            }
            assert!(rest.is_empty());
            assert_eq!(joined, block);
            assert_eq!(kinds[0], (kind::HEADERS, flag::END_STREAM));
            assert!(kinds[1..].iter().all(|it| *it == (kind::CONTINUATION, 0)));
            assert_eq!(kinds.len(), n.div_ceil(8).max(1));
        }
    }
}
