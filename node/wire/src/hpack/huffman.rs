//! The Huffman code of RFC 7541, appendix B.
//!
//! The code is canonical: the lengths of its codes say it all, and the tables are computed from them when this is
//! compiled. Decoding looks at twelve bits at a time, which are two symbols for most of what headers hold; random
//! hexadecimal digits (trace ids) always are.

use super::Error;

/// Length of each symbol's code, in bits.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

const LENGTH_MIN: usize = 5;
const LENGTH_MAX: usize = 30;
/// Bits that the fast table is indexed by.
const FAST_BITS: usize = 12;
/// Steps that are taken at once; the bits of as many are at hand after a reading.
const STEPS_MAX: usize = 4;
/// Bytes that as many steps write, at most.
const STEPS_ROOM: usize = 2 * STEPS_MAX;
/// The most bits of padding.
const PADDING_MAX: usize = 7;

static CANON: Canon = Canon::new();
static FAST: [Step; 1 << FAST_BITS] = fast();

/// The code by length, for long codes and for encoding.
struct Canon {
    /// The first code of each length.
    first: [u32; LENGTH_MAX + 1],
    /// How many codes of each length there are.
    n: [u32; LENGTH_MAX + 1],
    /// Where the symbols of each length begin in `symbols`.
    start: [usize; LENGTH_MAX + 1],
    /// All symbols in the order of their codes.
    symbols: [u8; 256],
    codes: [u32; 256],
}

impl Canon {
    const fn new() -> Self {
        let mut canon = Self {
            first: [0; LENGTH_MAX + 1],
            n: [0; LENGTH_MAX + 1],
            start: [0; LENGTH_MAX + 1],
            symbols: [0; 256],
            codes: [0; 256],
        };
        let (mut code, mut at, mut length) = (0, 0, LENGTH_MIN);
        while length <= LENGTH_MAX {
            canon.first[length] = code;
            canon.start[length] = at;
            let mut symbol = 0;
            while symbol < 256 {
                if LENGTHS[symbol] as usize == length {
                    #[expect(clippy::cast_possible_truncation, reason = "there are 256 symbols")]
                    let byte = symbol as u8;
                    canon.symbols[at] = byte;
                    canon.codes[symbol] = code;
                    canon.n[length] += 1;
                    code += 1;
                    at += 1;
                }
                symbol += 1;
            }
            code <<= 1;
            length += 1;
        }
        canon
    }

    /// The symbol that `n` bits, at the top, begin with, and the length of its code. None if they begin with the
    /// end-of-string symbol, or with less than a symbol.
    fn first(&self, bits: u64, n: usize) -> Option<(u8, usize)> {
        let bits = ((bits | (u64::MAX >> n)) >> 32) as u32;
        let step = FAST[(bits >> (32 - FAST_BITS)) as usize];
        let found = match step.n() {
            0 => (FAST_BITS + 1..=LENGTH_MAX).find_map(|length| {
                let code = (bits >> (32 - length)).wrapping_sub(self.first[length]);
                let is_it = code < self.n[length];
                is_it.then(|| (self.symbols[self.start[length] + code as usize], length))
            }),
            _ => {
                let [symbol, _] = step.symbols();
                Some((symbol, usize::from(LENGTHS[usize::from(symbol)])))
            }
        };
        found.filter(|(_, length)| *length <= n)
    }
}

/// What twelve bits begin with, packed so that one load has it: two symbols, how many of them there are whole (none if the
/// code is longer), and the bits of all of them.
#[derive(Clone, Copy)]
struct Step(u32);

impl Step {
    const NONE: Self = Self(0);

    const fn new(symbols: [u8; 2], n: u8, bits: u8) -> Self {
        Self(u32::from_le_bytes([symbols[0], symbols[1], n, bits]))
    }

    const fn symbols(self) -> [u8; 2] {
        let [first, second, ..] = self.0.to_le_bytes();
        [first, second]
    }

    const fn n(self) -> usize {
        (self.0 >> 16 & 0xff) as usize
    }

    const fn bits(self) -> usize {
        (self.0 >> 24) as usize
    }
}

const fn fast() -> [Step; 1 << FAST_BITS] {
    let canon = Canon::new();
    let mut steps = [Step::NONE; 1 << FAST_BITS];
    let mut at = 0;
    while at < 256 {
        let symbol = canon.symbols[at];
        let length = LENGTHS[symbol as usize];
        if length as usize <= FAST_BITS {
            let spare = FAST_BITS - length as usize;
            let start = (canon.codes[symbol as usize] as usize) << spare;
            let mut rest = 0;
            while rest < 1 << spare {
                steps[start + rest] = Step::new([symbol, 0], 1, length);
                rest += 1;
            }
        }
        at += 1;
    }
    // Only first symbols are read here, and they stand already.
    let mut at = 0;
    while at < 1 << FAST_BITS {
        let step = steps[at];
        let second = steps[(at << step.bits()) & ((1 << FAST_BITS) - 1)];
        if step.n() > 0 && second.n() > 0 {
            let (one, two) = (step.symbols()[0], second.symbols()[0]);
            let length = LENGTHS[one as usize] + LENGTHS[two as usize];
            if length as usize <= FAST_BITS {
                steps[at] = Step::new([one, two], 2, length);
            }
        }
        at += 1;
    }
    steps
}

/// Decodes what `N` steps take of `bits`, which has as many, to the beginning of `out`, which has room for two symbols a
/// step. How many symbols and bits were taken.
#[inline]
fn take_steps<const N: usize>(mut bits: u64, out: &mut [u8]) -> (usize, usize) {
    let (mut at, mut n_bits) = (0, 0);
    for _ in 0..N {
        // What is longer than a step takes no bits, however often it is looked at.
        let step = FAST[(bits >> (64 - FAST_BITS)) as usize];
        out[at..at + 2].copy_from_slice(&step.symbols());
        at += step.n();
        n_bits += step.bits();
        bits <<= step.bits();
    }
    (at, n_bits)
}

/// Decodes a whole string to the end of `out`.
///
/// # Errors
/// [`Error::Huffman`]; what `out` then ends with is of no use.
pub fn decode(mut source: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let mut at = out.len();
    // More than the most symbols: a step always writes two.
    out.resize(at + source.len() * 8 / LENGTH_MIN + STEPS_ROOM, 0);
    // The next `n` bits, at the top.
    let (mut bits, mut n) = (0_u64, 0_usize);
    loop {
        if let Some(chunk) = source.first_chunk::<8>() {
            bits |= u64::from_be_bytes(*chunk) >> n;
            let n_bytes = (63 - n) / 8;
            source = &source[n_bytes..];
            n += n_bytes * 8;
        } else {
            let (now, later) = source.split_at(source.len().min((63 - n) / 8));
            let mut chunk = [0; 8];
            chunk[..now.len()].copy_from_slice(now);
            bits |= u64::from_be_bytes(chunk) >> n;
            n += now.len() * 8;
            source = later;
        }
        if n < FAST_BITS {
            break;
        }
        while n >= FAST_BITS {
            let (n_symbols, n_bits) = match out[at..].first_chunk_mut::<STEPS_ROOM>() {
                Some(room) if n >= STEPS_MAX * FAST_BITS => take_steps::<STEPS_MAX>(bits, room),
                _ => take_steps::<1>(bits, &mut out[at..]),
            };
            at += n_symbols;
            bits <<= n_bits;
            n -= n_bits;
            if n_bits > 0 {
                continue;
            }
            // A long code is next.
            if n < LENGTH_MAX && !source.is_empty() {
                break;
            }
            let (symbol, length) = CANON.first(bits, n).ok_or(Error::Huffman)?;
            out[at] = symbol;
            at += 1;
            bits <<= length;
            n -= length;
        }
    }
    // The last few bits. What follows them reads as padding.
    while bits | (u64::MAX >> n) != u64::MAX {
        let (symbol, length) = CANON.first(bits, n).ok_or(Error::Huffman)?;
        out[at] = symbol;
        at += 1;
        bits <<= length;
        n -= length;
    }
    if n > PADDING_MAX {
        return Err(Error::Huffman);
    }
    out.truncate(at);
    Ok(())
}

/// Encodes a string to the end of `out`.
#[expect(clippy::cast_possible_truncation, reason = "eight bits are taken at a time")]
pub fn encode(source: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut n) = (0_u64, 0_u32);
    for &byte in source {
        let length = u32::from(LENGTHS[usize::from(byte)]);
        bits = bits << length | u64::from(CANON.codes[usize::from(byte)]);
        n += length;
        while n >= 8 {
            n -= 8;
            out.push((bits >> n) as u8);
        }
    }
    if n > 0 {
        out.push((bits << (8 - n)) as u8 | (0xff >> n));
    }
}

/// Bytes that a string is encoded to.
pub(super) fn encoded_len(source: &[u8]) -> usize {
    source.iter().map(|byte| usize::from(LENGTHS[usize::from(*byte)])).sum::<usize>().div_ceil(8)
}
