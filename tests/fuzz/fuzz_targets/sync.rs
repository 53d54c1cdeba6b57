//! Two nodes that compare their maps, each of whose messages is changed on the way: nothing is given that is not
//! held, nothing asked that is, every message is within its bound; and unchanged messages make two maps equal.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use proto::Message;
use proto::identity::v1;

use identity::{Members, Statement, sync};
use sagemesh_fuzz::edit::{Edit, edited};
use sagemesh_fuzz::{Mesh, mesh};
use types::{Digest, Envelope};

/// Meetings until two maps are equal: one, and another for what had to wait for a root.
const MEETINGS_MAX: usize = 2;

#[derive(Arbitrary, Debug)]
struct Input {
    /// Which statements each side holds: one bit for each.
    here: u32,
    there: u32,
    compare: Vec<Edit>,
    differ: Vec<Edit>,
    supply: Vec<Edit>,
    answer: Vec<Edit>,
}

static STATEMENTS: LazyLock<Vec<Envelope>> = LazyLock::new(|| Mesh::found().statements());

fuzz_target!(|input: Input| {
    let (mut here, mut there) = (holding(input.here), holding(input.there));
    let compare = edited(&sync::compare(&here), &input.compare);
    assert!(input.compare.len() > 2 || compare.len() <= sync::COMPARE_LEN_MAX);
    if let Ok(differ) = sync::differ(&there, &compare) {
        check_differ(&there, &differ);
        if let Ok(supply) = sync::supply(&here, &edited(&differ, &input.differ)) {
            check_supply(&here, &supply);
            if let Ok((given, reply)) = sync::answer(&there, &edited(&supply, &input.supply)) {
                check_supply(&there, &reply);
                there.merge_all(given);
                here.merge_all(sync::take(&edited(&reply, &input.answer)).unwrap_or_default());
            }
        }
    }
    let (mine, theirs) = (roots(&here), roots(&there));
    // Who holds another root of the same generation, as only a stolen root makes one, stays with it.
    if mine.iter().any(|(generation, root)| theirs.get(generation).is_some_and(|it| it != root)) {
        return;
    }
    for _ in 0..MEETINGS_MAX {
        meet(&mut here, &mut there);
    }
    assert_eq!(here.summary(), there.summary());
});

fn holding(mask: u32) -> Members {
    let mut members = mesh::bare();
    let is_held = |idx: &usize| mask.rotate_right(u32::try_from(*idx).unwrap_or_default()) & 1 == 1;
    let held = STATEMENTS.iter().enumerate().filter(|(idx, _)| is_held(idx));
    members.merge_all(held.map(|(_, statement)| statement.clone()).collect::<Vec<_>>());
    members
}

fn meet(here: &mut Members, there: &mut Members) {
    let differ = sync::differ(there, &sync::compare(here)).expect("our own");
    let supply = sync::supply(here, &differ).expect("our own");
    let (given, reply) = sync::answer(there, &supply).expect("our own");
    there.merge_all(given);
    here.merge_all(sync::take(&reply).expect("our own"));
}

fn roots(members: &Members) -> BTreeMap<u32, Digest> {
    let roots = members.items().filter_map(|signed| match &signed.statement {
        Statement::Root(root) => Some((root.generation, signed.digest)),
        _ => None,
    });
    roots.collect()
}

fn check_differ(by: &Members, differ: &[u8]) {
    assert!(differ.len() <= sync::MESSAGE_LEN_MAX);
    let said = v1::Differ::decode(differ).expect("our own");
    assert!(said.parts.is_sorted());
    let digests = said.digests.chunks(32).filter_map(Digest::from_slice).collect::<BTreeSet<_>>();
    assert_eq!(digests.len() * 32, said.digests.len(), "each once");
    assert!(digests.iter().all(|it| by.item(it).is_some() && said.parts.contains(&it.0[0])));
}

fn check_supply(by: &Members, supply: &[u8]) {
    assert!(supply.len() <= sync::MESSAGE_LEN_MAX);
    let said = v1::Supply::decode(supply).expect("our own");
    for statement in &said.statements {
        let digest = Envelope::from_bytes(statement).expect("our own").digest();
        assert!(by.item(&digest).is_some(), "only what is held is given");
    }
    let mut wants = said.wants.chunks(32).filter_map(Digest::from_slice);
    assert!(wants.all(|digest| by.item(&digest).is_none()), "only what is lacking is asked for");
}
