//! Authorities that are paths, changed such that every server takes them.
//!
//! What is made with gRPC-core (Python, C++, Ruby, PHP) and dials a Unix socket names its path as `:authority`, encoded
//! by percent: `%2Frun%2Fapi.sock`. The h2 crate refuses that (hyperium/h2#487). On the way to such a server the value
//! becomes one of the same length that could be a host, `-2Frun-2Fapi.sock`. As no length changes, frames, windows and
//! the tables of both ends stay as they were, and nothing is kept here but the place.
//!
//! Nothing is judged: what is not understood passes as it is, for the server to refuse. Left out on purpose, since
//! gRPC-core sends neither for this field: values in Huffman's code, and names by an index of the dynamic table.

use crate::frame::{HEAD_LEN, Head, PREFACE, flag, kind};

const NAME: &[u8] = b":authority";
/// Its index in the static table (RFC 7541, appendix A).
const NAME_IDX: usize = 1;
/// Bytes of a priority in HEADERS.
const PRIORITY_LEN: usize = 5;
/// Most digits of a number behind its prefix, as in the decoder.
const DIGITS_MAX: u32 = 4;
/// Says that a string is in Huffman's code.
const HUFFMAN: u8 = 0x80;

/// Looks through what one client sends, from the first byte on.
#[derive(Clone, Debug)]
pub struct Authorities {
    at: At,
    /// In the header block that is not over.
    field: InBlock,
}

/// Where in the frames.
#[derive(Clone, Copy, Debug)]
enum At {
    Head {
        bytes: [u8; HEAD_LEN],
        n_bytes: usize,
    },
    /// Before the byte that tells how much padding there is.
    Padding {
        n_before: usize,
        n_left: usize,
    },
    Payload(Payload),
}

/// How many bytes are left of each part of a payload.
#[derive(Clone, Copy, Debug)]
struct Payload {
    n_before: usize,
    n_block: usize,
    n_after: usize,
}

/// Where in a header block (RFC 7541, sections 5 and 6).
#[derive(Clone, Copy, Debug)]
enum InBlock {
    /// Before a field, or a table's size.
    Field,
    /// Before a name's length.
    NameLength,
    /// Before a value's length.
    ValueLength { is_authority: bool },
    /// In a number that is longer than its prefix.
    Number { of: Number, number: usize, n_digits: u32 },
    /// In a name.
    Name { n_left: usize, is_authority: bool },
    /// In a value.
    Value { n_left: usize, kind: Value },
    /// Where nobody can tell.
    Lost,
}

/// What a number is.
#[derive(Clone, Copy, Debug)]
enum Number {
    /// The entry that is a whole field, or a table's size.
    Whole,
    /// The entry that has the name, or 0 if the name follows.
    NameIndex,
    NameLength {
        is_huffman: bool,
    },
    ValueLength(Value),
}

/// What a value is, as far as it is known.
#[derive(Clone, Copy, Debug)]
enum Value {
    /// Nothing to change.
    Other,
    /// An authority, without a percent sign so far.
    Authority,
    /// An authority that is a path.
    Path,
}

impl Default for Authorities {
    fn default() -> Self {
        Self::new()
    }
}

impl Authorities {
    /// At the beginning of a connection.
    pub const fn new() -> Self {
        Self { at: At::Payload(Payload::passed(PREFACE.len())), field: InBlock::Field }
    }

    /// Changes those in the bytes that follow the ones before, wherever the stream was cut.
    pub fn mend(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let n_taken = self.take(bytes);
            bytes = &mut bytes[n_taken..];
        }
    }

    /// Takes one byte at least.
    fn take(&mut self, bytes: &mut [u8]) -> usize {
        match self.at {
            At::Head { bytes: mut head, mut n_bytes } => {
                let n = bytes.len().min(HEAD_LEN - n_bytes);
                head[n_bytes..n_bytes + n].copy_from_slice(&bytes[..n]);
                n_bytes += n;
                self.at = match Head::read(&head[..n_bytes]) {
                    Some(head) => self.begin(head),
                    None => At::Head { bytes: head, n_bytes },
                };
                n
            }
            At::Padding { n_before, n_left } => {
                let n_after = usize::from(bytes[0]);
                let payload = match n_left.checked_sub(n_before + n_after) {
                    Some(n_block) => Payload { n_before, n_block, n_after },
                    None => Payload::passed(n_left),
                };
                self.at = payload.at();
                1
            }
            At::Payload(mut payload) => {
                let n = payload.take(bytes, &mut self.field);
                self.at = payload.at();
                n
            }
        }
    }

    fn begin(&mut self, head: Head) -> At {
        let len = head.len as usize;
        let n_before = if head.has(flag::PRIORITY) { PRIORITY_LEN.min(len) } else { 0 };
        match head.kind {
            kind::HEADERS => {
                self.field = InBlock::Field;
                match len.checked_sub(1) {
                    Some(n_left) if head.has(flag::PADDED) => At::Padding { n_before, n_left },
                    _ => Payload { n_before, n_block: len - n_before, n_after: 0 }.at(),
                }
            }
            kind::CONTINUATION => Payload { n_before: 0, n_block: len, n_after: 0 }.at(),
            _ => Payload::passed(len).at(),
        }
    }
}

impl Payload {
    /// One without a header block.
    const fn passed(len: usize) -> Self {
        Self { n_before: len, n_block: 0, n_after: 0 }
    }

    /// Where it leaves off.
    const fn at(self) -> At {
        match self {
            Self { n_before: 0, n_block: 0, n_after: 0 } => At::Head { bytes: [0; HEAD_LEN], n_bytes: 0 },
            _ => At::Payload(self),
        }
    }

    /// Takes bytes of the first part that has any left.
    fn take(&mut self, bytes: &mut [u8], field: &mut InBlock) -> usize {
        let is_block = self.n_before == 0 && self.n_block > 0;
        let parts = [&mut self.n_before, &mut self.n_block, &mut self.n_after];
        let mut n = bytes.len();
        if let Some(n_left) = parts.into_iter().find(|n_left| **n_left > 0) {
            n = n.min(*n_left);
            *n_left -= n;
        }
        if is_block {
            for byte in &mut bytes[..n] {
                *field = field.after(byte);
            }
        }
        n
    }
}

impl InBlock {
    /// Where the next byte leads to. It is changed if it must be.
    fn after(self, byte: &mut u8) -> Self {
        match self {
            Self::Field => match *byte {
                0x80.. => Number::Whole.begin(7, *byte),
                0x40.. => Number::NameIndex.begin(6, *byte),
                0x20.. => Number::Whole.begin(5, *byte),
                _ => Number::NameIndex.begin(4, *byte),
            },
            Self::NameLength => {
                let is_huffman = *byte & HUFFMAN != 0;
                Number::NameLength { is_huffman }.begin(7, *byte)
            }
            Self::ValueLength { is_authority } => {
                let is_readable = is_authority && *byte & HUFFMAN == 0;
                let value = if is_readable { Value::Authority } else { Value::Other };
                Number::ValueLength(value).begin(7, *byte)
            }
            Self::Number { of, number, n_digits } => {
                let number = number + (usize::from(*byte & 0x7f) << (7 * n_digits));
                match n_digits + 1 {
                    _ if *byte & 0x80 == 0 => of.end(number),
                    DIGITS_MAX => Self::Lost,
                    n_digits => Self::Number { of, number, n_digits },
                }
            }
            Self::Name { n_left, is_authority } => {
                let is_authority = is_authority && NAME[NAME.len() - n_left] == *byte;
                match n_left - 1 {
                    0 => Self::ValueLength { is_authority },
                    n_left => Self::Name { n_left, is_authority },
                }
            }
            Self::Value { n_left, kind } => {
                let kind = kind.after(byte);
                if n_left > 1 { Self::Value { n_left: n_left - 1, kind } } else { Self::Field }
            }
            Self::Lost => Self::Lost,
        }
    }
}

impl Number {
    /// What a number's first byte leads to, of which `prefix` bits are the number's.
    const fn begin(self, prefix: u32, byte: u8) -> InBlock {
        let mask = (1 << prefix) - 1;
        match byte & mask {
            number if number == mask => InBlock::Number { of: self, number: number as usize, n_digits: 0 },
            number => self.end(number as usize),
        }
    }

    /// What a number leads to.
    const fn end(self, number: usize) -> InBlock {
        match (self, number) {
            (Self::Whole, _) | (Self::ValueLength(_), 0) => InBlock::Field,
            (Self::NameIndex, 0) => InBlock::NameLength,
            (Self::NameIndex, idx) => InBlock::ValueLength { is_authority: idx == NAME_IDX },
            (Self::NameLength { .. }, 0) => InBlock::ValueLength { is_authority: false },
            (Self::NameLength { is_huffman }, n_left) => {
                InBlock::Name { n_left, is_authority: !is_huffman && n_left == NAME.len() }
            }
            (Self::ValueLength(kind), n_left) => InBlock::Value { n_left, kind },
        }
    }
}

impl Value {
    /// What the value is by its next byte, which is changed if the value is a path, and it has no place in a host.
    fn after(self, byte: &mut u8) -> Self {
        match (self, *byte) {
            // An address in brackets may have a zone.
            (Self::Authority, b'[') => Self::Other,
            (Self::Authority, b'%') | (Self::Path, b'%' | b':' | b'@' | b'[' | b']') => {
                *byte = b'-';
                Self::Path
            }
            (kind, _) => kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::{write_data, write_headers};
    use crate::hpack::{Decoder, Fields, Fit};

    const PATH: &[u8] = b"%2Frun%2Fsagemesh%2Fapi.sock";
    const HOST: &[u8] = b"-2Frun-2Fsagemesh-2Fapi.sock";

    /// A field as literals: its name, or where that is, and its value.
    fn literal(first: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        for string in [name, value].into_iter().filter(|it| !it.is_empty()) {
            assert!(string.len() < 127);
            out.push(string.len().to_le_bytes()[0]);
            out.extend_from_slice(string);
        }
        out
    }

    /// What becomes of a block that comes as one frame.
    fn mended(block: &[u8]) -> Vec<u8> {
        let mut bytes = PREFACE.to_vec();
        write_headers(1, true, 1 << 14, &mut bytes, |out| out.extend_from_slice(block));
        Authorities::new().mend(&mut bytes);
        bytes.split_off(PREFACE.len() + HEAD_LEN)
    }

    #[track_caller]
    fn check(block: &[u8], expected: &[u8]) {
        let text = |it: &[u8]| it.escape_ascii().to_string();
        assert_eq!(text(&mended(block)), text(expected));
    }

    #[test]
    fn a_path_becomes_a_host_however_the_field_is_written() {
        for (first, name) in
            [(0x41, &b""[..]), (0x01, b""), (0x11, b""), (0x40, NAME), (0x00, NAME), (0x10, NAME)]
        {
            check(&literal(first, name, PATH), &literal(first, name, HOST));
        }
        // Behind sizes, whole fields, and other literals, long ones too.
        let mut before = vec![0x3f, 0xe1, 0x1f, 0x83, 0x86, 0xff, 0x80, 0x01];
        before.extend(literal(0x04, b"", b"/a%2Fb"));
        before.extend(literal(0x40, b"x-path", PATH));
        before.extend([0x0f, 0x70, 0x7f, 0x49]);
        before.extend([b'%'; 0x7f + 0x49]);
        let whole =
            |value: &[u8]| [&before[..], &literal(0x41, b"", value), &literal(0x40, b"y", PATH)].concat();
        check(&whole(PATH), &whole(HOST));
    }

    #[test]
    fn what_is_no_path_and_what_is_not_understood_stays() {
        let values: [&[u8]; 5] = [b"localhost", b"localhost:7443", b"[fe80::1%25eth0]:80", b"a@b", b"[::1]"];
        for value in values {
            check(&literal(0x41, b"", value), &literal(0x41, b"", value));
        }
        check(&literal(0x41, b"", b"run%2Fa:b@c[d]"), &literal(0x41, b"", b"run-2Fa-b-c-d-"));
        for other in [
            literal(0x42, b"", PATH),
            literal(0x40, b":authoritx", PATH),
            literal(0x40, b":authority2", PATH),
        ] {
            check(&other, &other);
        }
        // Huffman's code, an empty name, an endless number, a value that has no end.
        let mut huffman = literal(0x41, b"", PATH);
        huffman[1] |= HUFFMAN;
        let empty = [&[0x40, 0x00][..], &literal(0x41, b"", PATH)[1..]].concat();
        let endless = [&[0x41, 0x7f, 0xff, 0xff, 0xff, 0xff][..], PATH].concat();
        for block in [huffman, empty, endless] {
            check(&block, &block);
        }
        check(&literal(0x41, b"", PATH)[..9], &literal(0x41, b"", HOST)[..9]);
        // The next block is understood again.
        let mut bytes = PREFACE.to_vec();
        for block in [&[0x41, 0x7f, 0xff, 0xff, 0xff, 0xff][..], &literal(0x41, b"", PATH)] {
            write_headers(1, true, 1 << 14, &mut bytes, |out| out.extend_from_slice(block));
        }
        Authorities::new().mend(&mut bytes);
        assert!(bytes.ends_with(HOST));
    }

    #[test]
    fn padding_and_priorities_are_passed() {
        let block = literal(0x41, b"", PATH);
        let frame = |flags: u8, before: &[u8], block: &[u8], after: &[u8]| {
            let len = u32::try_from(before.len() + block.len() + after.len()).expect("it is short");
            let mut bytes = PREFACE.to_vec();
            Head { len, kind: kind::HEADERS, flags, stream: 1 }.write(&mut bytes);
            [&bytes, before, block, after].concat()
        };
        #[track_caller]
        fn check(mut bytes: Vec<u8>, expected: &[u8]) {
            Authorities::new().mend(&mut bytes);
            assert_eq!(bytes.escape_ascii().to_string(), expected.escape_ascii().to_string());
        }
        let after = literal(0x41, b"", PATH);
        let n_after = after.len().to_le_bytes()[0];
        let good = literal(0x41, b"", HOST);
        let padded = [n_after, 0x41, 0x7f, 0, 0, 0];
        check(
            frame(flag::PADDED, &padded[..1], &block, &after),
            &frame(flag::PADDED, &padded[..1], &good, &after),
        );
        let both = flag::PADDED | flag::PRIORITY;
        check(frame(both, &padded, &block, &after), &frame(both, &padded, &good, &after));
        let priority = [0x41, 0x7f, 0, 0, 0];
        check(frame(flag::PRIORITY, &priority, &block, &[]), &frame(flag::PRIORITY, &priority, &good, &[]));
        // More padding than there is; a priority that ends early; no room for the padding's length.
        let broken = [frame(flag::PADDED, &[200], &block, &[]), frame(both, &[0, 0x41], &[], &[])];
        for bytes in
            broken.into_iter().chain([frame(flag::PADDED, &[], &[], &[]), frame(both, &[], &[], &[])])
        {
            let then = frame(0, &[], &block, &[]).split_off(PREFACE.len());
            let good = frame(0, &[], &good, &[]).split_off(PREFACE.len());
            check([&bytes[..], &then].concat(), &[&bytes[..], &good].concat());
        }
    }

    /// What gRPC-core writes: a literal for the table when a field comes first, its index after that.
    fn block(table: &mut Vec<Vec<u8>>, authority: &[u8], note: &[u8], at: usize) -> Vec<u8> {
        let mut out = vec![0x83, 0x86];
        out.extend(literal(0x00, b"x-note", note));
        for (name, value) in [(NAME, authority), (b"x-at", at.to_string().as_bytes())] {
            let field = literal(0x40, name, value);
            match table.iter().rev().position(|it| *it == field) {
                Some(newer) => out.push(0x80 | (62 + newer).to_le_bytes()[0]),
                None => {
                    out.extend_from_slice(&field);
                    table.push(field);
                }
            }
        }
        out
    }

    /// The fields of all blocks: names and values.
    fn read(bytes: &[u8]) -> Vec<Vec<(Vec<u8>, Vec<u8>)>> {
        let (mut decoder, mut fields) = (Decoder::new(4096), Fields::new());
        let (mut rest, mut block, mut lists) = (&bytes[PREFACE.len()..], Vec::new(), Vec::new());
        while let Some(head) = Head::read(rest) {
            let (payload, after) = rest[HEAD_LEN..].split_at(head.len as usize);
            rest = after;
            if matches!(head.kind, kind::HEADERS | kind::CONTINUATION) {
                block.extend_from_slice(payload);
                if head.has(flag::END_HEADERS) {
                    assert_eq!(decoder.decode(&block, 1 << 20, &mut fields), Ok(Fit::Whole));
                    lists.push(fields.iter().map(|it| (it.name.to_vec(), it.value.to_vec())).collect());
                    block.clear();
                }
            }
        }
        assert!(rest.is_empty() && block.is_empty());
        lists
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn wherever_it_is_cut_the_server_reads_the_same_but_for_authorities(
            requests in proptest::collection::vec((0..4_usize, 1..60_u32, 1..25_usize), 1..12),
            cuts in proptest::collection::vec(1..40_usize, 1..50),
        ) {
            let (mut table, mut bytes) = (Vec::new(), PREFACE.to_vec());
            let values = [PATH, b"localhost", b"%2Fother", b"a%2Fb%2Fc%2Fd"];
            for (at, (value, frame_max, len)) in requests.iter().enumerate() {
                let block = block(&mut table, values[*value], &b"%:@[]".repeat(*len), at);
                write_headers(1, false, *frame_max, &mut bytes, |out| out.extend_from_slice(&block));
                write_data(1, &literal(0x41, b"", PATH), false, &mut bytes);
            }
            let (mut whole, mut cut) = (bytes.clone(), bytes.clone());
            Authorities::new().mend(&mut whole);
            let (mut authorities, mut rest) = (Authorities::new(), &mut cut[..]);
            for n in cuts.into_iter().cycle() {
                let (piece, after) = rest.split_at_mut(rest.len().min(n));
                authorities.mend(piece);
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(&whole, &cut);
            let mut expected = read(&bytes);
            for (_, value) in expected.iter_mut().flatten().filter(|(name, _)| name == NAME) {
                *value = value.iter().map(|byte| if *byte == b'%' { b'-' } else { *byte }).collect();
            }
            prop_assert_eq!(read(&whole), expected);
        }

        #[test]
        fn any_bytes_pass_and_keep_their_number(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let before = bytes.clone();
            Authorities::new().mend(&mut bytes);
            let is_same = |(new, old): (&u8, &u8)| new == old || (*new == b'-' && b"%:@[]".contains(old));
            prop_assert!(bytes.len() == before.len() && bytes.iter().zip(&before).all(is_same));
        }
    }
}
