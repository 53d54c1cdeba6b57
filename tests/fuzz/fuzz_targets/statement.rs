//! Payloads of every kind of statement: what is read, written again, says the same.
#![no_main]

use libfuzzer_sys::fuzz_target;

use identity::Statement;
use identity::statement::{Beacon, CutOff, Grant, Handover, Kind, Member, Operator, Root, Tombstone};
use sagemesh_fuzz::Mesh;
use types::Envelope;

const DOMAINS: [&str; 8] = [
    Root::DOMAIN,
    Grant::DOMAIN,
    CutOff::DOMAIN,
    Member::DOMAIN,
    Tombstone::DOMAIN,
    Handover::DOMAIN,
    Operator::DOMAIN,
    Beacon::DOMAIN,
];

fuzz_target!(init: sagemesh_fuzz::seed::write(seeds()), |input: &[u8]| {
    let Some((kind, payload)) = input.split_first() else { return };
    let Some(domain) = DOMAINS.get(usize::from(*kind)) else { return };
    let Ok(read) = Statement::read(&envelope(domain, payload.to_vec())) else { return };
    let written = match &read {
        Statement::Root(it) => it.encode(),
        Statement::Grant(it) => it.encode(),
        Statement::CutOff(it) => it.encode(),
        Statement::Member(it) => it.encode(),
        Statement::Tombstone(it) => it.encode(),
        Statement::Handover(it) => it.encode(),
        Statement::Operator(it) => it.encode(),
        Statement::Beacon(it) => it.encode(),
    };
    assert_eq!(Statement::read(&envelope(domain, written)), Ok(read));
});

fn envelope(domain: &str, payload: Vec<u8>) -> Envelope {
    Envelope { domain: domain.to_owned(), payload, signatures: Vec::new() }
}

/// The number of the kind, then the payload.
fn seeds() -> impl Iterator<Item = Vec<u8>> {
    Mesh::found().statements().into_iter().map(|envelope| {
        let kind = DOMAINS.iter().position(|domain| *domain == envelope.domain).expect("a kind of ours");
        [vec![u8::try_from(kind).expect("there are eight")], envelope.payload].concat()
    })
}
