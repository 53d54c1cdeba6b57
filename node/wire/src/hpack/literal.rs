//! Numbers and strings (RFC 7541, section 5), and which bytes fields may have (RFC 9113, section 8.2.1).

use super::recent::Strings;
use super::{Error, Name, huffman};

/// Most bytes of a number after its prefix. Four hold 28 bits, more than any length or index that is allowed.
const NUMBER_LEN_MAX: u32 = 4;
/// Says that a string is encoded by Huffman's code.
const HUFFMAN: u8 = 0x80;

/// What names consist of: the tokens of RFC 9110, section 5.6.2, but for upper case.
static IN_NAMES: [bool; 256] = {
    let mut allowed = [false; 256];
    let others = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz";
    let mut at = 0;
    while at < others.len() {
        allowed[others[at] as usize] = true;
        at += 1;
    }
    allowed
};

/// Reads a number whose first byte keeps `prefix` bits for it, from one to seven.
pub(super) fn read_number(input: &mut &[u8], prefix: u32) -> Result<usize, Error> {
    let (first, mut rest) = input.split_first().ok_or(Error::Truncated)?;
    let mask = (1_usize << prefix) - 1;
    let mut number = usize::from(*first) & mask;
    if number == mask {
        let mut n_bytes = 0;
        loop {
            let (byte, after) = rest.split_first().ok_or(Error::Truncated)?;
            if n_bytes == NUMBER_LEN_MAX {
                return Err(Error::Number);
            }
            number += usize::from(byte & 0x7f) << (7 * n_bytes);
            n_bytes += 1;
            rest = after;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *input = rest;
    Ok(number)
}

/// Writes a number behind the bits of `first` that are not the prefix's.
#[inline]
pub(super) fn write_number(first: u8, prefix: u32, number: usize, out: &mut Vec<u8>) {
    let mask = (1_u8 << prefix) - 1;
    match u8::try_from(number) {
        Ok(number) if number < mask => out.push(first | number),
        _ => write_long_number(first | mask, number - usize::from(mask), out),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "seven bits are taken at a time")]
fn write_long_number(first: u8, mut rest: usize, out: &mut Vec<u8>) {
    out.push(first);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Reads a string to the end of `out` and returns its length. `kept` has what came lately.
pub(super) fn read_string(
    input: &mut &[u8],
    kept: &mut Option<Box<Strings>>,
    out: &mut Vec<u8>,
) -> Result<usize, Error> {
    let is_huffman = input.first().ok_or(Error::Truncated)? & HUFFMAN != 0;
    let len = read_number(input, 7)?;
    let (string, rest) = input.split_at_checked(len).ok_or(Error::Truncated)?;
    *input = rest;
    let start = out.len();
    if is_huffman {
        Strings::decode(kept, string, out)?;
    } else {
        out.extend_from_slice(string);
    }
    Ok(out.len() - start)
}

/// Writes a string as it is: what is read once is not worth Huffman's code.
pub(super) fn write_string(string: &[u8], out: &mut Vec<u8>) {
    write_number(0, 7, string.len(), out);
    out.extend_from_slice(string);
}

/// Writes a string by Huffman's code if that is shorter.
pub(super) fn write_short_string(string: &[u8], out: &mut Vec<u8>) {
    let len = huffman::encoded_len(string);
    if len >= string.len() {
        return write_string(string, out);
    }
    write_number(HUFFMAN, 7, len, out);
    huffman::encode(string, out);
}

/// Whether a name may be. Pseudo-header fields that are known are not asked about.
pub(super) fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| IN_NAMES[usize::from(*byte)])
}

/// Whether a value may be. What gRPC lets a status message begin and end with, it may.
pub(super) fn is_value(name: Name, value: &[u8]) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let is_broken = value.iter().fold(false, |is, byte| is | matches!(byte, 0 | b'\n' | b'\r'));
    let is_padded = is_blank(value.first()) || is_blank(value.last());
    !is_broken && (!is_padded || matches!(name, Name::GrpcMessage))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_in_appendix_c_1() {
        #[track_caller]
        fn check(number: usize, prefix: u32, expected: &[u8]) {
            let mut out = Vec::new();
            write_number(0, prefix, number, &mut out);
            assert_eq!(out, expected);
            assert_eq!(read_number(&mut &out[..], prefix), Ok(number));
        }
        check(10, 5, &[0x0a]);
        check(1337, 5, &[0x1f, 0x9a, 0x0a]);
        check(31, 5, &[0x1f, 0x00]);
        check(126, 7, &[0x7e]);
        check(127, 7, &[0x7f, 0x00]);
        check(255, 7, &[0x7f, 0x80, 0x01]);
    }

    #[test]
    fn numbers_have_an_end() {
        assert_eq!(read_number(&mut &[0x7f, 0xff, 0xff, 0xff, 0xff, 0x01][..], 7), Err(Error::Number));
        assert_eq!(read_number(&mut &[0x7f, 0xff][..], 7), Err(Error::Truncated));
        assert_eq!(read_number(&mut &[][..], 7), Err(Error::Truncated));
    }

    #[test]
    fn bytes_that_fields_must_not_have_are_found() {
        assert!(is_name(b"x-a_1.b") && is_name(b"1"));
        for name in ["", "X-a", "a b", "a:", ":a", "a\n", "\u{e4}", "a\u{7f}", "a\0"] {
            assert!(!is_name(name.as_bytes()), "{name:?}");
        }
        for value in ["", "a b", "\u{e4}", "a\tb"] {
            assert!(is_value(Name::Unknown, value.as_bytes()), "{value:?}");
        }
        for value in [" ", "a ", "\ta", "a\0b", "a\nb", "a\r"] {
            assert!(!is_value(Name::Unknown, value.as_bytes()), "{value:?}");
        }
        assert!(is_value(Name::GrpcMessage, b"not found "));
        assert!(!is_value(Name::GrpcMessage, b"not\nfound"));
    }
}
