//! The little DER that the certificate library cannot write: names by digest, and name constraints.
//!
//! ITU-T X.690 §8.1, lengths in the definite form.

/// SEQUENCE.
pub(crate) const SEQUENCE: u8 = 0x30;
/// SET.
pub(crate) const SET: u8 = 0x31;
/// UTF8String.
pub(crate) const UTF8_STRING: u8 = 0x0c;
/// id-at-commonName, 2.5.4.3, as a whole.
pub(crate) const COMMON_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x03];

/// A context-specific tag.
pub(crate) const fn context(number: u8, is_constructed: bool) -> u8 {
    0x80 | number | if is_constructed { 0x20 } else { 0 }
}

/// One value: tag, length, and its parts one after the other.
pub(crate) fn value(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = vec![tag];
    match u8::try_from(len) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = len.to_be_bytes();
            let skip = bytes.iter().take_while(|byte| **byte == 0).count();
            let n = u8::try_from(bytes.len() - skip).expect("a usize has at most eight bytes");
            out.push(0x80 | n);
            out.extend_from_slice(&bytes[skip..]);
        }
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_the_shortest_form() {
        #[track_caller]
        fn check(len: usize, expected: &[u8]) {
            assert_eq!(&value(SEQUENCE, &[&vec![0; len]])[..expected.len()], expected);
        }
        check(0, &[0x30, 0x00]);
        check(127, &[0x30, 0x7f]);
        check(128, &[0x30, 0x81, 0x80]);
        check(256, &[0x30, 0x82, 0x01, 0x00]);
    }
}
