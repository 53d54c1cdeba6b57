//! HPACK against the vectors of RFC 7541, against another implementation, and against itself.

use proptest::prelude::*;

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let digit =
        |byte: u8| (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).unwrap_or(0);
    digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn list(fields: &Fields) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    fields.iter().map(|field| (text(field.name), text(field.value))).collect()
}

#[track_caller]
fn check_vectors(limit: usize, vectors: &[(&str, &[(&str, &str)])]) {
    let (mut decoder, mut fields) = (Decoder::new(limit), Fields::new());
    for (block, expected) in vectors {
        assert_eq!(decoder.decode(&hex(block), 4096, &mut fields), Ok(Fit::Whole), "{block}");
        let expected: Vec<_> =
            expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(list(&fields), expected, "{block}");
    }
}

const FIRST: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
const SECOND: [(&str, &str); 5] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "www.example.com"),
    ("cache-control", "no-cache"),
];
const THIRD: [(&str, &str); 5] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/index.html"),
    (":authority", "www.example.com"),
    ("custom-key", "custom-value"),
];

#[test]
fn fields_are_read_as_in_appendix_c_2() {
    check_vectors(
        4096,
        &[(
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            &[("custom-key", "custom-header")],
        )],
    );
    check_vectors(4096, &[("040c 2f73 616d 706c 652f 7061 7468", &[(":path", "/sample/path")])]);
    check_vectors(4096, &[("1008 7061 7373 776f 7264 0673 6563 7265 74", &[("password", "secret")])]);
    check_vectors(4096, &[("82", &[(":method", "GET")])]);
    let (mut decoder, mut fields) = (Decoder::new(4096), Fields::new());
    let block = hex("1008 7061 7373 776f 7264 0673 6563 7265 74");
    assert_eq!(decoder.decode(&block, 4096, &mut fields), Ok(Fit::Whole));
    assert!(fields.iter().all(|field| field.is_never_indexed));
}

#[test]
fn requests_are_read_as_in_appendix_c_3() {
    check_vectors(
        4096,
        &[
            ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", &FIRST),
            ("8286 84be 5808 6e6f 2d63 6163 6865", &SECOND),
            ("8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65", &THIRD),
        ],
    );
}

#[test]
fn requests_with_huffman_strings_are_read_as_in_appendix_c_4() {
    check_vectors(
        4096,
        &[
            ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", &FIRST),
            ("8286 84be 5886 a8eb 1064 9cbf", &SECOND),
            ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", &THIRD),
        ],
    );
}

const ANSWER_1: [(&str, &str); 4] = [
    (":status", "302"),
    ("cache-control", "private"),
    ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
    ("location", "https://www.example.com"),
];
const ANSWER_2: [(&str, &str); 4] = [
    (":status", "307"),
    ("cache-control", "private"),
    ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
    ("location", "https://www.example.com"),
];
const ANSWER_3: [(&str, &str); 6] = [
    (":status", "200"),
    ("cache-control", "private"),
    ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
    ("location", "https://www.example.com"),
    ("content-encoding", "gzip"),
    ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
];

#[test]
fn answers_are_read_as_in_appendix_c_5() {
    check_vectors(
        256,
        &[
            (
                "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133
                 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                &ANSWER_1,
            ),
            ("4803 3330 37c1 c0bf", &ANSWER_2),
            (
                "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a
                 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d
                 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
                &ANSWER_3,
            ),
        ],
    );
}

#[test]
fn answers_with_huffman_strings_are_read_as_in_appendix_c_6() {
    check_vectors(
        256,
        &[
            (
                "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d
                 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
                &ANSWER_1,
            ),
            ("4883 640e ffc1 c0bf", &ANSWER_2),
            (
                "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d
                 d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106
                 3d50 07",
                &ANSWER_3,
            ),
        ],
    );
}

#[test]
fn broken_blocks_are_refused() {
    #[track_caller]
    fn check(block: &str, expected: Error) {
        let (mut decoder, mut fields) = (Decoder::new(4096), Fields::new());
        assert_eq!(decoder.decode(&hex(block), 4096, &mut fields), Err(expected), "{block}");
    }
    check("80", Error::Index);
    check("be", Error::Index);
    check("7e", Error::Index);
    check("fe", Error::Index);
    check("ff 80 80 80 80 01", Error::Number);
    check("ff", Error::Truncated);
    check("40", Error::Truncated);
    check("40 05 61", Error::Truncated);
    check("40 01 61", Error::Truncated);
    check("0f 2f 01 61", Error::Index);
    check("82 20", Error::SizeUpdate);
    check("3f e2 1f", Error::SizeUpdate);
    // A padding of eight bits, one of zeros, and the symbol that ends strings.
    check("40 01 61 82 07 ff", Error::Huffman);
    check("40 01 61 81 00", Error::Huffman);
    check("40 01 61 84 ff ff ff ff", Error::Huffman);
    check("40 01 61 81 ff", Error::Huffman);
}

#[test]
fn a_table_that_was_shrunk_must_be_announced() {
    let (mut decoder, mut fields) = (Decoder::new(4096), Fields::new());
    decoder.set_limit(1024);
    assert_eq!(decoder.decode(&[0x82], 4096, &mut fields), Err(Error::SizeUpdate));
    let (mut decoder, mut fields) = (Decoder::new(4096), Fields::new());
    decoder.set_limit(1024);
    assert_eq!(decoder.decode(&hex("3f e1 07 82"), 4096, &mut fields), Ok(Fit::Whole));
    assert_eq!(decoder.decode(&[0x82], 4096, &mut fields), Ok(Fit::Whole));
    assert_eq!(decoder.decode(&hex("3f e2 07 82"), 4096, &mut fields), Err(Error::SizeUpdate));
}

#[test]
fn lists_that_are_too_long_leave_the_table_right() {
    let (mut decoder, mut fields) = (Decoder::new(4096), Fields::new());
    // The second field is too much, and gets into the table nevertheless.
    assert_eq!(decoder.decode(&hex("82 40 01 61 01 62"), 60, &mut fields), Ok(Fit::TooLong));
    assert_eq!(decoder.decode(&hex("be"), 60, &mut fields), Ok(Fit::Whole));
    assert_eq!(list(&fields), [("a".to_owned(), "b".to_owned())]);
}

#[test]
fn a_bomb_of_references_fills_no_memory() {
    let (mut decoder, mut fields) = (Decoder::new(4096), Fields::new());
    let mut block = hex("40 01 61 7f 81 1e");
    block.extend([b'x'; 4000]);
    block.extend([0xbe; 60_000]);
    assert_eq!(decoder.decode(&block, 32 << 10, &mut fields), Ok(Fit::TooLong));
    assert!(fields.memory() < 128 << 10, "{}", fields.memory());
}

#[test]
fn a_block_that_comes_again_is_read_the_same_until_the_table_changes() {
    let (mut decoder, mut fields) = (Decoder::new(4096), Fields::new());
    assert_eq!(decoder.decode(&hex("40 01 61 01 62"), 4096, &mut fields), Ok(Fit::Whole));
    for _ in 0..4 {
        assert_eq!(decoder.decode(&hex("82 be"), 4096, &mut fields), Ok(Fit::Whole));
        assert_eq!(fields.value(Name::Method), Some(&b"GET"[..]));
        assert_eq!(fields.get(1).map(|it| it.value), Some(&b"b"[..]));
    }
    assert_eq!(decoder.decode(&hex("82 be"), 40, &mut fields), Ok(Fit::TooLong));
    assert_eq!(decoder.decode(&hex("40 01 61 01 63"), 4096, &mut fields), Ok(Fit::Whole));
    assert_eq!(decoder.decode(&hex("82 be"), 4096, &mut fields), Ok(Fit::Whole));
    assert_eq!(fields.get(1).map(|it| it.value), Some(&b"c"[..]));
}

/// What a call looks like, the `n`-th of its kind.
fn call(n: u32) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in [
        (Name::Method, "POST"),
        (Name::Scheme, "http"),
        (Name::Path, "/shop.v1.Orders/Place"),
        (Name::Authority, "orders.svc.home.mesh"),
        (Name::ContentType, "application/grpc"),
        (Name::Te, "trailers"),
        (Name::UserAgent, "grpc-go/1.76.0"),
    ] {
        fields.push_known(name, value.as_bytes());
    }
    fields.push_known(Name::Traceparent, format!("00-{n:032x}-{n:016x}-01").as_bytes());
    fields.push_known(Name::Authorization, b"Bearer secret");
    fields.push(b"x-own", b"value");
    fields
}

#[test]
fn a_call_that_comes_again_costs_an_index_a_field() {
    let (mut encoder, mut decoder) = (Encoder::new(4096), Decoder::new(4096));
    let (mut out, mut fields) = (Vec::new(), Fields::new());
    for n in 0..10 {
        out.clear();
        encoder.encode(&call(n), &mut out);
        assert_eq!(decoder.decode(&out, 4096, &mut fields), Ok(Fit::Whole));
        assert_eq!(list(&fields), list(&call(n)));
        for field in fields.iter() {
            assert_eq!(field.is_never_indexed, field.known == Name::Authorization);
        }
    }
    assert_eq!(out[..8], [0x83, 0x86, 0xc3, 0xc2, 0xc1, 0xc0, 0xbf, 0x0f], "{out:x?}");
    let n_changes = encoder.memory();
    for n in 10..1000 {
        out.clear();
        encoder.encode(&call(n), &mut out);
    }
    assert_eq!(encoder.memory(), n_changes);
}

#[test]
fn secrets_and_what_came_as_one_are_never_indexed() {
    let (mut encoder, mut decoder) = (Encoder::new(4096), Decoder::new(4096));
    let mut fields = Fields::new();
    fields.push_never_indexed(b"user-agent", b"secret");
    fields.push_never_indexed(b"x-own", b"secret");
    fields.push(b"cookie", b"secret");
    fields.push(b"set-cookie", b"secret");
    fields.push(b"proxy-authorization", b"secret");
    let mut back = Fields::new();
    for _ in 0..5 {
        let mut out = Vec::new();
        encoder.encode(&fields, &mut out);
        assert_eq!(decoder.decode(&out, 4096, &mut back), Ok(Fit::Whole));
        assert_eq!(list(&back), list(&fields));
        assert!(back.iter().all(|field| field.is_never_indexed));
    }
}

#[test]
fn the_table_follows_what_the_other_end_allows() {
    let (mut encoder, mut decoder) = (Encoder::new(4096), Decoder::new(4096));
    let mut back = Fields::new();
    let mut go = |encoder: &mut Encoder, decoder: &mut Decoder| {
        for n in 0..6 {
            let mut out = Vec::new();
            encoder.encode(&call(n), &mut out);
            assert_eq!(decoder.decode(&out, 4096, &mut back), Ok(Fit::Whole));
            assert_eq!(list(&back), list(&call(n)));
        }
    };
    go(&mut encoder, &mut decoder);
    for limits in [&[100][..], &[0], &[4096], &[0, 4096], &[60, 300], &[65536], &[200], &[4096, 200, 4096]] {
        for limit in limits {
            encoder.set_limit(*limit);
            decoder.set_limit(*limit);
        }
        go(&mut encoder, &mut decoder);
    }
    let mut small = Encoder::new(128);
    go(&mut small, &mut Decoder::new(4096));
    let mut none = Encoder::new(0);
    go(&mut none, &mut Decoder::new(4096));
}

#[test]
fn paths_that_differ_leave_room_for_others() {
    let (mut encoder, mut decoder) = (Encoder::new(4096), Decoder::new(4096));
    let mut back = Fields::new();
    for n in 0..2000 {
        let mut fields = call(n);
        fields.set(2, format!("/item/{}", n / 3).as_bytes());
        let mut out = Vec::new();
        encoder.encode(&fields, &mut out);
        assert_eq!(decoder.decode(&out, 4096, &mut back), Ok(Fit::Whole));
        assert_eq!(list(&back), list(&fields));
    }
    let mut out = Vec::new();
    encoder.encode(&call(1), &mut out);
    assert!(out.len() < 150, "{}", out.len());
    assert!(encoder.memory() < 64 << 10, "{}", encoder.memory());
}

fn any_field() -> impl Strategy<Value = (Vec<u8>, Vec<u8>, bool)> {
    let names = proptest::sample::select(vec![
        ":path",
        ":status",
        ":authority",
        "te",
        "user-agent",
        "accept",
        "cookie",
        "traceparent",
        "grpc-timeout",
        "age",
        "via",
        "x",
        "x-a-very-long-name-that-no-table-has",
    ]);
    let value = prop_oneof![
        proptest::sample::select(vec!["", "200", "/", "trailers", "gzip", "a"])
            .prop_map(|it| it.as_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 0..80),
        proptest::collection::vec(any::<u8>(), 1000..5000),
    ];
    (names.prop_map(|it| it.as_bytes().to_vec()), value, proptest::bool::weighted(0.1))
}

fn sorted(mut list: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<(Vec<u8>, Vec<u8>)> {
    list.sort();
    list
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_string_survives_huffman(string in proptest::collection::vec(any::<u8>(), 0..300)) {
        let (mut encoded, mut decoded) = (Vec::new(), b"before".to_vec());
        huffman_encode(&string, &mut encoded);
        prop_assert_eq!(encoded.len(), huffman::encoded_len(&string));
        huffman_decode(&encoded, &mut decoded).expect("it was encoded");
        prop_assert_eq!(&decoded[6..], &string[..]);
        let theirs = fluke_hpack::huffman::HuffmanDecoder::new().decode(&encoded);
        prop_assert_eq!(theirs.ok(), Some(string));
    }

    #[test]
    fn any_bytes_are_read_as_huffman_as_others_read_them(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let mut ours = Vec::new();
        let is_ours = huffman_decode(&bytes, &mut ours).is_ok();
        let theirs = fluke_hpack::huffman::HuffmanDecoder::new().decode(&bytes);
        prop_assert_eq!(is_ours, theirs.is_ok());
        if let Ok(theirs) = theirs {
            prop_assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn others_read_what_is_written_and_so_do_we(
        lists in proptest::collection::vec((proptest::collection::vec(any_field(), 1..12), 0..4_usize), 1..20),
        limits in proptest::collection::vec(proptest::option::weighted(0.2, 0..6000_usize), 20),
    ) {
        let mut encoder = Encoder::new(4096);
        let (mut ours, mut theirs) = (Decoder::new(4096), fluke_hpack::Decoder::new());
        theirs.set_max_allowed_table_size(6000);
        let mut back = Fields::new();
        for ((list, repeats), limit) in lists.iter().zip(limits) {
            if let Some(limit) = limit {
                encoder.set_limit(limit);
                ours.set_limit(limit);
            }
            let mut fields = Fields::new();
            for (name, value, is_never) in list {
                match is_never {
                    true => fields.push_never_indexed(name, value),
                    false => fields.push(name, value),
                }
            }
            let sent = sorted(list.iter().map(|(name, value, _)| (name.clone(), value.clone())).collect());
            for _ in 0..=*repeats {
                let mut out = Vec::new();
                encoder.encode(&fields, &mut out);
                prop_assert_eq!(ours.decode(&out, 1 << 20, &mut back), Ok(Fit::Whole));
                let got = back.iter().map(|it| (it.name.to_vec(), it.value.to_vec())).collect();
                prop_assert_eq!(sorted(got), sent.clone());
                let got = theirs.decode(&out).expect("it reads what we write");
                prop_assert_eq!(sorted(got), sent.clone());
            }
        }
    }

    #[test]
    fn what_others_write_is_read(
        lists in proptest::collection::vec(proptest::collection::vec(any_field(), 0..12), 1..20),
    ) {
        let (mut encoder, mut decoder) = (fluke_hpack::Encoder::new(), Decoder::new(4096));
        let mut back = Fields::new();
        for list in lists {
            let block = encoder.encode(list.iter().map(|(name, value, _)| (&name[..], &value[..])));
            prop_assert_eq!(decoder.decode(&block, 1 << 20, &mut back), Ok(Fit::Whole));
            let got: Vec<_> = back.iter().map(|it| (it.name.to_vec(), it.value.to_vec())).collect();
            let sent: Vec<_> = list.into_iter().map(|(name, value, _)| (name, value)).collect();
            prop_assert_eq!(got, sent);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..6)) {
        let mut decoder = Decoder::new(4096);
        let mut fields = Fields::new();
        for block in blocks {
            if decoder.decode(&block, 4096, &mut fields).is_err() {
                break;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_long_string_that_came_before_is_read_as_if_it_had_not(
        texts in proptest::collection::vec("[a-z0-9]{100,110}", 1..4),
        order in proptest::collection::vec((0..4_usize, any::<bool>()), 0..20),
    ) {
        let mut decoder = Decoder::new(4096);
        for (at, is_broken) in order {
            let text = &texts[at % texts.len()];
            let mut string = Vec::new();
            huffman_encode(text.as_bytes(), &mut string);
            // authorization, in no table, by Huffman's code
            let mut block = vec![0x1f, 8, 0x80 | u8::try_from(string.len()).expect("below 127")];
            if is_broken {
                // The end-of-string symbol.
                let from = string.len() - 5;
                string[from..].fill(0xff);
            }
            block.extend(string);
            let mut fields = Fields::new();
            let read = decoder.decode(&block, 1 << 14, &mut fields);
            prop_assert_eq!(read.is_err(), is_broken);
            if !is_broken {
                prop_assert_eq!(fields.value(Name::Authorization), Some(text.as_bytes()));
            }
        }
    }
}
