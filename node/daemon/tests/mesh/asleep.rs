//! Nodes that were off until their records had ended.

use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::Duration;

use daemon::state;
use identity::author::{self, NodeKeys};
use identity::statement::Right;
use identity::{KeySet, Members, Scope, SoftKeys};
use tls::keyfile;
use types::key::{KeySlot, Keys};
use types::{Now, TrustDomain};

use crate::town::{Machine, founder};

const DAY: Duration = Duration::from_secs(86_400);

fn keys(at: &Machine, file: &str, slots: &[KeySlot]) -> SoftKeys {
    DirBuilder::new().recursive(true).mode(0o700).create(at.state()).unwrap();
    keyfile::create(&state::path(&at.state(), file), slots).unwrap()
}

fn belongs(to: &Members, machine: &Machine, name: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = state::open(&store::Config { dir: machine.state(), ..store::Config::default() }).unwrap();
        let own = TrustDomain::new(name.parse().unwrap(), to.mesh().clone());
        state::found(&store.handle(), to, &own, Vec::new()).await.unwrap();
        store.close().await.unwrap();
    });
}

/// A mesh of `pi`, its signer, and `tv`, whose records are this old.
fn asleep(pi_ago: Duration, tv_ago: Duration) -> (Machine, Machine) {
    let (pi, tv, safe) = (Machine::new(), Machine::new(), Machine::new());
    let now = Now::read();
    let past = |ago| Now { wall: now.wall - ago, ..now };
    let then = past(tv_ago);
    let root = keys(&safe, state::ROOT_KEYS, &KeySlot::ROOT);
    let next_root = keys(&safe, state::NEXT_ROOT_KEYS, &KeySlot::ROOT);
    let signer = keys(&pi, state::SIGNER_KEYS, &KeySlot::SIGNER);
    let promised = KeySet::of(&next_root, KeySlot::ROOT).unwrap().digest();
    let first = author::root(&root, "home.mesh".parse().unwrap(), promised, then).unwrap();
    let verifier: Arc<dyn Keys> = Arc::new(SoftKeys::default());
    let mut members = Members::new(verifier, first.digest(), first).unwrap();
    let set = KeySet::of(&signer, KeySlot::SIGNER).unwrap();
    let rights = BTreeSet::from(Right::ALL);
    let grant = members.grant(&root, "pi".parse().unwrap(), set, rights, Scope::All, then).unwrap();
    members.merge(grant).unwrap();
    for (machine, name, scope, ago) in [(&pi, "pi", "svc/*", pi_ago), (&tv, "tv", "svc/echo", tv_ago)] {
        let own = NodeKeys::of(&keys(machine, state::NODE_KEYS, &KeySlot::NODE)).unwrap();
        let scope = scope.parse().unwrap();
        let record = members.sign_member(&signer, name.parse().unwrap(), &own, scope, past(ago));
        members.merge(record.unwrap()).unwrap();
    }
    members.merge(members.beacon(&signer, past(pi_ago)).unwrap()).unwrap();
    belongs(&members, &pi, "pi");
    belongs(&members, &tv, "tv");
    (pi, tv)
}

#[test]
fn a_node_whose_record_ended_comes_back_as_itself_by_an_invitation() {
    let (mut pi, mut tv) = asleep(100 * DAY, 100 * DAY);
    let before = tv.json(&["status"])["peer"].clone();
    assert!(before.is_string());
    // A signer needs nobody.
    pi.up();
    assert!(pi.log().contains("renewed"), "{}", pi.log());

    tv.is_refused(&["up"], 3, "run `sagemesh invite --name tv` on `pi`, then `sagemesh join TOKEN` here");
    let other = pi.does(&["invite", "--name", "nas"]);
    tv.is_refused(&["join", other.trim()], 1, "sagemesh invite --name tv");
    let foreign = founder("").does(&["invite", "--name", "tv"]);
    tv.is_refused(&["join", foreign.trim()], 1, "another mesh");

    let told = tv.does(&["join", pi.does(&["invite", "--name", "tv"]).trim()]);
    assert!(told.contains("renewed"), "{told}");
    tv.up();
    pi.sees("tv", "alive", true);
    tv.sees("pi", "alive", true);
    let status = tv.json(&["status"]);
    assert_eq!((&status["peer"], status["scope"].as_str()), (&before, Some("svc/echo")));
    tv.stop();
    let told = tv.does(&["join", pi.does(&["invite", "--name", "tv"]).trim()]);
    assert!(told.contains("a member already"), "{told}");
}

#[test]
fn a_node_that_its_signer_has_forgotten_comes_back_with_its_old_keys() {
    let (mut pi, mut tv) = asleep(DAY, 500 * DAY);
    let before = tv.json(&["status"])["peer"].clone();
    pi.up();
    tv.does(&["join", pi.does(&["invite", "--name", "tv", "--scope", "svc/web"]).trim()]);
    tv.up();
    pi.sees("tv", "alive", true);
    let status = tv.json(&["status"]);
    assert_eq!((&status["peer"], status["scope"].as_str()), (&before, Some("svc/web")));
}

#[test]
fn a_signer_that_slept_too_long_is_told_what_is_left_to_do() {
    let (pi, _tv) = asleep(500 * DAY, 500 * DAY);
    pi.is_refused(&["up"], 3, "have the root grant one");
    pi.is_refused(&["up"], 3, "MEMBER_EXPIRED");
}

#[test]
fn a_node_that_was_revoked_while_it_was_off_is_not_renewed() {
    let (mut pi, tv) = asleep(100 * DAY, 100 * DAY);
    pi.up();
    let token = pi.does(&["invite", "--name", "tv"]);
    pi.does(&["revoke", "tv"]);
    tv.is_refused(&["join", token.trim()], 3, "MEMBER_REVOKED");
}
