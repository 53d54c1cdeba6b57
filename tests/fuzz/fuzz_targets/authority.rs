//! Authorities that are paths: a server reads what the client sent but for these, wherever the stream is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;

use wire::Authorities;
use wire::frame::{HEAD_LEN, Head, PREFACE, flag, kind, write_data, write_headers};
use wire::hpack::{Decoder, Fields, Fit, Name};

const LIST_MAX: usize = 64 << 10;

fuzz_target!(init: sagemesh_fuzz::seed::write(seeds()), |input: &[u8]| {
    let Some((cut, frames)) = input.split_first() else { return };
    let sent = [PREFACE, frames].concat();
    let (mut whole, mut cut_up) = (sent.clone(), sent.clone());
    Authorities::new().mend(&mut whole);
    let mut authorities = Authorities::new();
    for piece in cut_up.chunks_mut(usize::from(*cut).max(1)) {
        authorities.mend(piece);
    }
    assert_eq!(whole, cut_up);
    assert!(is_like(&whole, &sent));
    let (mut before, mut after) = (Blocks::new(&sent), Blocks::new(&whole));
    loop {
        match (before.next(), after.next()) {
            (None, None) => return,
            (before, after) => assert_eq!(before, after),
        }
        assert_eq!(before.fields.len(), after.fields.len());
        for (sent, read) in before.fields.iter().zip(after.fields.iter()) {
            assert_eq!(sent.name, read.name);
            assert!(sent.value == read.value || sent.known == Name::Authority && is_like(read.value, sent.value));
        }
    }
});

/// Whether bytes are others but for some that are dashes now.
fn is_like(bytes: &[u8], others: &[u8]) -> bool {
    let is_it = |(byte, other): (&u8, &u8)| byte == other || (*byte == b'-' && b"%:@[]".contains(other));
    bytes.len() == others.len() && bytes.iter().zip(others).all(is_it)
}

/// The blocks of a connection as a server reads them, until it would end the connection.
struct Blocks<'a> {
    frames: &'a [u8],
    decoder: Decoder,
    fields: Fields,
}

impl<'a> Blocks<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { frames: &bytes[PREFACE.len()..], decoder: Decoder::new(4096), fields: Fields::new() }
    }

    /// Reads the next block to `fields`.
    fn next(&mut self) -> Option<Fit> {
        self.fields.clear();
        let mut block: Option<Vec<u8>> = None;
        loop {
            let head = Head::read(self.frames)?;
            let (payload, rest) = self.frames[HEAD_LEN..].split_at_checked(head.len as usize)?;
            self.frames = rest;
            match (head.kind, &mut block) {
                (kind::HEADERS, None) => block = Some(fragment(head, payload)?.to_vec()),
                (kind::CONTINUATION, Some(block)) => block.extend_from_slice(payload),
                (kind::CONTINUATION, None) | (_, Some(_)) => return None,
                (_, None) => continue,
            }
            if head.has(flag::END_HEADERS) {
                return self.decoder.decode(&block?, LIST_MAX, &mut self.fields).ok();
            }
        }
    }
}

/// What HEADERS have of a block.
fn fragment(head: Head, mut payload: &[u8]) -> Option<&[u8]> {
    let mut n_padding = 0;
    if head.has(flag::PADDED) {
        let (first, rest) = payload.split_first()?;
        (n_padding, payload) = (usize::from(*first), rest);
    }
    if head.has(flag::PRIORITY) {
        payload = payload.get(5..)?;
    }
    payload.get(..payload.len().checked_sub(n_padding)?)
}

/// Requests as gRPC-core writes them, one frame or many, and the field in every form.
fn seeds() -> impl Iterator<Item = Vec<u8>> {
    let path = b"%2Frun%2Fapi.sock";
    let forms: [&[u8]; 6] =
        [&[0x41], &[0x01], &[0x11], b"\x40\x0a:authority", b"\x00\x0a:authority", b"\x83\x86\x04\x02/a\x41"];
    forms.into_iter().flat_map(move |form| {
        let block = [form, &[17], path].concat();
        [1 << 14, 3].map(|frame_max| {
            let mut seed = vec![7];
            for _ in 0..2 {
                write_headers(1, false, frame_max, &mut seed, |out| out.extend_from_slice(&block));
                write_data(1, &block, true, &mut seed);
                // The entry of the table, if there is one.
                write_headers(3, true, frame_max, &mut seed, |out| out.push(0xbe));
            }
            seed
        })
    })
}
