//! Tokens: as text, and as what is behind a checksum that holds.
#![no_main]

use data_encoding::BASE64URL_NOPAD;
use libfuzzer_sys::fuzz_target;

use identity::AuthorityId;
use identity::soft_keys::Secret;
use identity::token::{ADDRESSES_MAX, TOKEN_LEN_MAX, Token};
use sagemesh_fuzz::mesh;
use types::Digest;

const PREFIX: &str = "smj1";

fuzz_target!(init: sagemesh_fuzz::seed::write(seeds()), |input: &[u8]| {
    if let Ok(text) = std::str::from_utf8(input) {
        check(text);
    }
    let digest = Digest::of(&[b"sagemesh token v1", input]);
    check(&format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&[input, &digest.0[..4]].concat())));
});

fn check(text: &str) {
    let Ok(token) = text.parse::<Token>() else { return };
    assert!(token.addresses.len() <= ADDRESSES_MAX && text.trim().len() <= TOKEN_LEN_MAX);
    let again: Token = token.to_string().parse().expect("our own text");
    assert_eq!(again.to_string(), token.to_string());
    assert_eq!(again.id(), token.id());
    let secret = BASE64URL_NOPAD.encode(token.secret.expose());
    assert!(!format!("{token:?}").contains(&secret), "the secret is not printed");
}

/// A token as text, and its payload.
fn seeds() -> [Vec<u8>; 2] {
    let token = Token {
        domain: mesh::domain("pi"),
        root: Digest([1; 32]),
        inviter: AuthorityId(Digest([2; 32])),
        secret: Secret::new([3; 32]),
        addresses: vec!["192.0.2.1:7443".to_owned(), "[2001:db8::1]:7443".to_owned()],
    };
    let text = token.to_string();
    let mut payload = BASE64URL_NOPAD.decode(&text.as_bytes()[PREFIX.len()..]).expect("our own text");
    payload.truncate(payload.len() - 4);
    [text.into_bytes(), payload]
}
