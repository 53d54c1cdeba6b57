//! What a member says of itself in its record, under keys that are read: where it is, what it offers, its
//! certificates. Whatever it says, the certificates are of its own keys.
#![no_main]

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use x509_parser::prelude::{FromDer, X509Certificate};

use daemon::{authorities, services};
use membership::{Config, ENTRIES_MAX, Input as Event, Liveness, Membership, Outbox, Record};
use mesh::gossip::Known;
use mesh::reach::{self, HOSTS_MAX, Reach};
use sagemesh_fuzz::edit::{Edit, edited};
use sagemesh_fuzz::{Lenient, Mesh, mesh as founded};
use types::{KeySlot, Timestamp};

#[derive(Arbitrary, Debug)]
struct Input {
    reach: Value,
    authority: Value,
    offers: Vec<(String, Value)>,
}

#[derive(Arbitrary, Debug)]
enum Value {
    Bytes(Vec<u8>),
    Edited(Vec<Edit>),
}

impl Value {
    fn of(&self, good: &[u8]) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Edited(edits) => edited(good, edits),
        }
    }
}

static MESH: OnceLock<Mesh> = OnceLock::new();

fuzz_target!(|input: Input| {
    let mesh = MESH.get_or_init(Mesh::found);
    let said =
        Reach { hosts: vec![[192, 0, 2, 1].into(), [0; 16].into()], mesh: 7400, inbound: 7450, api: 7443 };
    // Two signatures, as `identity.v1.AuthoritySignatures` holds them.
    let signatures = [&[0x0a, 4], b"rust".as_slice(), &[0x12, 5], b"stock"].concat();
    let mut entries = BTreeMap::from([
        (reach::KEY.to_owned(), input.reach.of(&said.to_bytes())),
        ("identity/authority".to_owned(), input.authority.of(&signatures)),
    ]);
    entries
        .extend(input.offers.iter().map(|(name, value)| (format!("service/{name}"), value.of(b"\x08\x01"))));
    let record = record(&entries);
    let known =
        Known { liveness: Liveness::Alive, record: Some(Arc::new(record)), since: Timestamp::default() };

    if let Some(reach) = known.reach() {
        assert!(reach.hosts.len() <= HOSTS_MAX);
        assert!(reach.hosts.iter().all(|host| !host.is_unspecified() && !host.is_multicast()));
        assert_eq!(Reach::from_bytes(&reach.to_bytes()), Some(reach));
    }
    let offered = services::offered(&known);
    assert!(offered.len() <= ENTRIES_MAX);
    assert!(offered.iter().all(|name| entries.contains_key(&format!("service/{name}"))));

    let pi = mesh.members.get(&founded::domain("pi")).expect("a member");
    let known = BTreeMap::from([(pi.peer, known)]);
    let all = authorities::all(&mesh.nodes[1], &founded::domain("db"), &mesh.members, &known);
    for authority in all.expect("its own keys") {
        let member = mesh.members.get(&founded::domain(authority.node.as_str())).expect("a member");
        for der in authority.rustls.iter().chain(&authority.stock) {
            let (rest, certificate) = X509Certificate::from_der(der.as_ref()).expect("a certificate");
            assert!(rest.is_empty() && certificate.is_ca());
            let key = certificate.public_key().subject_public_key.data.as_ref();
            let keys = member.authority.both();
            assert!(keys.iter().any(|own| own.as_bytes() == key), "of {}'s own keys", authority.node);
        }
    }
});

/// What a node says that was asked to say this; what is beyond bounds is left out.
fn record(entries: &BTreeMap<String, Vec<u8>>) -> Record {
    let (now, keys) = (founded::dawn(), Arc::new(Lenient::new(11, &KeySlot::NODE)));
    let rng = ChaCha8Rng::seed_from_u64(1);
    let mut core = Membership::new(now, Config::default(), keys, rng).expect("a key");
    for (key, value) in entries {
        let _ = core.put(now, key, value);
    }
    core.handle(now.after(Duration::from_secs(60)), Event::Tick, &mut Outbox::default());
    core.own_record().clone()
}
