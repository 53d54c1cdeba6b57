//! Header blocks: what is read, written again, says the same; tables and lists keep their bounds.
#![no_main]

use libfuzzer_sys::fuzz_target;

use wire::hpack::{Decoder, Encoder, Fields, Fit, huffman_decode, huffman_encode};

const LIST_MAX: usize = 16 << 10;
const TABLE_MAX: usize = 4096;
const MEMORY_MAX: usize = 256 << 10;

fuzz_target!(init: sagemesh_fuzz::seed::write(seeds()), |input: &[u8]| {
    check_huffman(input);
    let mut decoder = Decoder::new(TABLE_MAX);
    let (mut encoder, mut back) = (Encoder::new(TABLE_MAX), Decoder::new(TABLE_MAX));
    let (mut fields, mut again, mut out) = (Fields::new(), Fields::new(), Vec::new());
    for block in pieces(input) {
        let Ok(fit) = decoder.decode(block, LIST_MAX, &mut fields) else { return };
        assert!(decoder.memory() < MEMORY_MAX && fields.size() <= LIST_MAX);
        if fit == Fit::Whole {
            // Twice: what is written as new comes from the table the second time.
            for _ in 0..2 {
                out.clear();
                encoder.encode(&fields, &mut out);
                assert_eq!(back.decode(&out, LIST_MAX, &mut again), Ok(Fit::Whole));
                assert_eq!(sorted(&again), sorted(&fields));
            }
            assert!(encoder.memory() < MEMORY_MAX);
        }
    }
});

fn check_huffman(input: &[u8]) {
    let (mut decoded, mut encoded) = (Vec::new(), Vec::new());
    if huffman_decode(input, &mut decoded).is_ok() {
        huffman_encode(&decoded, &mut encoded);
        assert_eq!(encoded, input);
    }
    (decoded, encoded) = (Vec::new(), Vec::new());
    huffman_encode(input, &mut encoded);
    assert_eq!(huffman_decode(&encoded, &mut decoded), Ok(()));
    assert_eq!(decoded, input);
}

/// Blocks, each behind a byte that is its length.
fn pieces(mut input: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (len, rest) = input.split_first()?;
        let (block, rest) = rest.split_at(rest.len().min(usize::from(*len)));
        input = rest;
        Some(block)
    })
}

/// Constant fields are written first, so the order between names may change.
fn sorted(fields: &Fields) -> Vec<(&[u8], &[u8])> {
    let mut list: Vec<_> = fields.iter().map(|field| (field.name, field.value)).collect();
    list.sort_unstable();
    list
}

/// Requests and answers as clients and servers write them.
fn seeds() -> impl Iterator<Item = Vec<u8>> {
    let list = [
        (":method", "POST"),
        (":path", "/shop.v1.Orders/Place"),
        ("te", "trailers"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("authorization", "Bearer x"),
        ("x-own", "value"),
    ];
    (1..=list.len()).map(move |n| {
        let (mut encoder, mut seed) = (Encoder::new(TABLE_MAX), Vec::new());
        let mut fields = Fields::new();
        for (name, value) in &list[..n] {
            fields.push(name.as_bytes(), value.as_bytes());
        }
        for _ in 0..4 {
            let mut block = Vec::new();
            encoder.encode(&fields, &mut block);
            seed.push(u8::try_from(block.len()).unwrap_or(u8::MAX));
            seed.extend(block);
        }
        seed
    })
}
