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
/// The most bits of padding.
const PADDING_MAX: u32 = 7;

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

    /// The symbol that 32 bits begin with, and the length of its code. None if they begin with the end-of-string
    /// symbol, or with a part of it.
    fn symbol(&self, bits: u32) -> Option<(u8, u32)> {
        (LENGTH_MIN..=LENGTH_MAX).find_map(|length| {
            let code = (bits >> (32 - length)).wrapping_sub(self.first[length]);
            (code < self.n[length])
                .then(|| (self.symbols[self.start[length] + code as usize], LENGTHS_U32[length]))
        })
    }
}

/// Lengths as what shifts take.
const LENGTHS_U32: [u32; LENGTH_MAX + 1] = {
    let mut lengths = [0; LENGTH_MAX + 1];
    let mut at = 1;
    while at <= LENGTH_MAX {
        lengths[at] = lengths[at - 1] + 1;
        at += 1;
    }
    lengths
};

/// What twelve bits begin with.
#[derive(Clone, Copy)]
struct Step {
    symbols: [u8; 2],
    /// How many symbols there are whole: none (the code is longer), one or two.
    n: u8,
    /// Bits of all of them.
    bits: u8,
}

const fn fast() -> [Step; 1 << FAST_BITS] {
    let canon = Canon::new();
    let mut steps = [Step { symbols: [0; 2], n: 0, bits: 0 }; 1 << FAST_BITS];
    let mut at = 0;
    while at < 256 {
        let symbol = canon.symbols[at];
        let length = LENGTHS[symbol as usize];
        if length as usize <= FAST_BITS {
            let spare = FAST_BITS - length as usize;
            let start = (canon.codes[symbol as usize] as usize) << spare;
            let mut rest = 0;
            while rest < 1 << spare {
                steps[start + rest] = Step { symbols: [symbol, 0], n: 1, bits: length };
                rest += 1;
            }
        }
        at += 1;
    }
    // Only first symbols are read here, and they stand already.
    let mut at = 0;
    while at < 1 << FAST_BITS {
        let step = steps[at];
        let second = steps[(at << step.bits) & ((1 << FAST_BITS) - 1)];
        if step.n > 0 && second.n > 0 {
            let length = LENGTHS[second.symbols[0] as usize];
            if (step.bits + length) as usize <= FAST_BITS {
                let symbols = [step.symbols[0], second.symbols[0]];
                steps[at] = Step { symbols, n: 2, bits: step.bits + length };
            }
        }
        at += 1;
    }
    steps
}

/// Decodes a whole string to the end of `out`.
///
/// # Errors
/// [`Error::Huffman`]; what `out` then ends with is of no use.
pub fn decode(mut source: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let mut at = out.len();
    // Two more than the most symbols: a step always writes two.
    out.resize(at + source.len() * 8 / LENGTH_MIN + 2, 0);
    // The next `n` bits, at the top.
    let (mut bits, mut n) = (0_u64, 0_u32);
    loop {
        if let Some(chunk) = source.first_chunk::<8>() {
            bits |= u64::from_be_bytes(*chunk) >> n;
            let n_bytes = (63 - n) / 8;
            source = &source[n_bytes as usize..];
            n += n_bytes * 8;
        } else {
            while n <= 56
                && let Some((byte, rest)) = source.split_first()
            {
                bits |= u64::from(*byte) << (56 - n);
                n += 8;
                source = rest;
            }
        }
        if n < 30 {
            break;
        }
        while n >= 30 {
            let step = FAST[(bits >> (64 - FAST_BITS)) as usize];
            let length = if step.n > 0 {
                out[at..at + 2].copy_from_slice(&step.symbols);
                at += usize::from(step.n);
                u32::from(step.bits)
            } else {
                let (symbol, length) = CANON.symbol((bits >> 32) as u32).ok_or(Error::Huffman)?;
                out[at] = symbol;
                at += 1;
                length
            };
            bits <<= length;
            n -= length;
        }
    }
    // The last few symbols, one by one. What follows the last bit reads as padding.
    while let Some((symbol, length)) = CANON.symbol(((bits | (u64::MAX >> n)) >> 32) as u32)
        && length <= n
    {
        out[at] = symbol;
        at += 1;
        bits <<= length;
        n -= length;
    }
    if n > PADDING_MAX || (bits | (u64::MAX >> n)) != u64::MAX {
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
