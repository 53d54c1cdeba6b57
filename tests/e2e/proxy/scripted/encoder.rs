//! Writes fields in all ways that HPACK has, by chance.

use std::collections::VecDeque;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use wire::hpack::huffman_encode;

use super::{Field, TABLE_SIZE};

/// The sending half of one connection's compression.
#[derive(Default)]
pub struct Encoder {
    table: VecDeque<(Vec<u8>, Vec<u8>)>,
    /// What the table may hold less than it could.
    less: usize,
}

impl Encoder {
    pub fn encode(&mut self, list: &[Field], rng: &mut ChaCha8Rng) -> Vec<u8> {
        let mut out = Vec::new();
        if rng.random_bool(0.05) {
            self.less = if rng.random_bool(0.5) { 0 } else { rng.random_range(0..=TABLE_SIZE) };
            self.evict(0);
            number(0x20, 5, TABLE_SIZE - self.less, &mut out);
        }
        for field in list {
            self.write(field, rng, &mut out);
        }
        out
    }

    fn write(&mut self, field: &Field, rng: &mut ChaCha8Rng, out: &mut Vec<u8>) {
        let place = |found: Option<usize>| found.map(|place| place + 62);
        let same = place(self.table.iter().position(|it| (&it.0, &it.1) == (&field.name, &field.value)));
        if let Some(place) = same.filter(|_| !field.is_secret && rng.random_bool(0.8)) {
            return number(0x80, 7, place, out);
        }
        let named = place(self.table.iter().position(|it| it.0 == field.name));
        let named = named.filter(|_| rng.random_bool(0.7)).unwrap_or(0);
        let is_kept = !field.is_secret && rng.random_bool(0.4);
        match (field.is_secret, is_kept) {
            (true, _) => number(0x10, 4, named, out),
            (false, true) => number(0x40, 6, named, out),
            (false, false) => number(0x00, 4, named, out),
        }
        if named == 0 {
            string(&field.name, rng, out);
        }
        string(&field.value, rng, out);
        if is_kept {
            let size = field.name.len() + field.value.len() + 32;
            self.evict(size);
            if size <= TABLE_SIZE - self.less {
                self.table.push_front((field.name.clone(), field.value.clone()));
            }
        }
    }

    /// Makes room for an entry.
    fn evict(&mut self, size: usize) {
        let held = |it: &(Vec<u8>, Vec<u8>)| it.0.len() + it.1.len() + 32;
        while !self.table.is_empty()
            && self.table.iter().map(held).sum::<usize>() + size > TABLE_SIZE - self.less
        {
            self.table.pop_back();
        }
    }
}

/// An integer of HPACK (RFC 7541, section 5.1).
fn number(pattern: u8, n_bits: u32, value: usize, out: &mut Vec<u8>) {
    let most = (1 << n_bits) - 1;
    if value < most {
        return out.push(pattern | u8::try_from(value).unwrap());
    }
    out.push(pattern | u8::try_from(most).unwrap());
    let mut rest = value - most;
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).unwrap() | 0x80);
        rest /= 128;
    }
    out.push(u8::try_from(rest).unwrap());
}

fn string(text: &[u8], rng: &mut ChaCha8Rng, out: &mut Vec<u8>) {
    let mut coded = Vec::new();
    let is_coded = rng.random_bool(0.5);
    match is_coded {
        true => huffman_encode(text, &mut coded),
        false => coded.extend_from_slice(text),
    }
    number(if is_coded { 0x80 } else { 0 }, 7, coded.len(), out);
    out.extend(coded);
}
