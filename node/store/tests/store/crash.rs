//! Crashes: what was acknowledged survives SIGKILL, and what the disk kept half is seen whole or not at all.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use store::Durability::{Batched, Durable};
use store::{Handle, Seq};
use tokio::task::JoinSet;
use types::event::Priority;

use crate::fixture::{Home, event, put};

const DIR_VAR: &str = "SAGEMESH_TEST_STORE_DIR";
const FIRST_VAR: &str = "SAGEMESH_TEST_STORE_FIRST";

/// A commit whose parts are recognised: two keys and an event.
async fn commit(handle: &Handle, n: u64) -> Result<(), store::Error> {
    let value = vec![7; 500 + usize::try_from(n % 17).unwrap_or(0) * 400];
    let changes = vec![put(format!("a/{n:08}"), value.clone()), put(format!("b/{n:08}"), value)];
    handle.commit(Durable, changes, vec![event(n, Priority::Audit)]).await
}

/// The numbers of the commits that are there; each is there whole.
async fn commits(handle: &Handle) -> BTreeSet<u64> {
    let numbers = |pairs: Vec<store::Pair>| {
        let number = |key: &[u8]| std::str::from_utf8(&key[2..]).ok().and_then(|digits| digits.parse().ok());
        pairs.iter().map(|(key, _)| number(key).expect("a number")).collect::<BTreeSet<u64>>()
    };
    let first = numbers(handle.scan("test", b"a/").await.expect("read"));
    let second = numbers(handle.scan("test", b"b/").await.expect("read"));
    let mut third = BTreeSet::new();
    let mut cursor = Seq::default();
    while let page = handle.events_after(cursor, 1000).await.expect("read")
        && let Some(last) = page.last()
    {
        cursor = last.seq;
        third.extend(page.iter().map(|stored| stored.event.time.as_millis()));
    }
    assert_eq!(first, second, "half a transaction");
    assert_eq!(first, third, "changes without their event, or an event without its changes");
    first
}

#[tokio::test]
#[ignore = "the child process of acknowledged_commits_survive_sigkill"]
async fn child_that_commits_until_it_is_killed() {
    let (Ok(dir), Ok(first)) = (std::env::var(DIR_VAR), std::env::var(FIRST_VAR)) else { return };
    let first: u64 = first.parse().expect("a number");
    let store = Home::at(&PathBuf::from(dir)).open();
    let mut tasks = JoinSet::new();
    for task in 0..4 {
        let handle = store.handle();
        tasks.spawn(async move {
            for n in (first + task..).step_by(4) {
                handle.commit(Batched, vec![put("batched", n.to_be_bytes())], vec![]).await.expect("taken");
                commit(&handle, n).await.expect("made");
                writeln!(std::io::stdout(), "\nacknowledged {n}").expect("the parent reads");
            }
        });
    }
    tasks.join_all().await;
}

#[tokio::test]
async fn acknowledged_commits_survive_sigkill() {
    let home = Home::new();
    let mut acknowledged = BTreeSet::new();
    for (round, n_before_kill) in [1, 40, 150, 3, 400, 77].into_iter().enumerate() {
        let first = round as u64 * 1_000_000;
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--ignored", "--exact", "crash::child_that_commits_until_it_is_killed", "--nocapture"])
            .env(DIR_VAR, home.path())
            .env(FIRST_VAR, first.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this binary runs");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let mut n_seen = 0;
        // Reads on after the kill: what had been written into the pipe was acknowledged, too.
        for line in output.lines() {
            let line = line.expect("text");
            let Some(n) = line.strip_prefix("acknowledged ") else { continue };
            acknowledged.insert(n.parse().expect("a number"));
            n_seen += 1;
            if n_seen == n_before_kill {
                child.kill().expect("SIGKILL");
            }
        }
        assert!(n_seen >= n_before_kill, "the child ended by itself");
        child.wait().expect("it ended");

        let found = commits(&home.open().handle()).await;
        assert_eq!(
            acknowledged.difference(&found).next(),
            None,
            "round {round}: an acknowledged commit is lost"
        );
        acknowledged = found;
    }
}

#[tokio::test]
async fn a_log_torn_anywhere_gives_the_first_commits_and_each_whole() {
    let home = Home::new();
    let store = home.open();
    for n in 0..40 {
        commit(&store.handle(), n).await.expect("made");
    }
    // The files of a machine that lost its power now, less what the disk did not write.
    let database = fs::read(home.file("store.db")).expect("is there");
    let log = fs::read(home.file("store.db-wal")).expect("is there");
    let step = log.len() / 97;
    for (tear, junk) in (0..=97).flat_map(|i| [(i * step, 0), (i * step, 3000)]) {
        let torn = Home::new();
        drop(torn.open());
        fs::write(torn.file("store.db"), &database).expect("written");
        let end = (tear + junk).min(log.len());
        let tail = log[tear.min(end)..end].iter().map(|byte| !byte);
        let bytes: Vec<u8> = log[..tear].iter().copied().chain(tail).collect();
        fs::write(torn.file("store.db-wal"), bytes).expect("written");
        let found = commits(&torn.open().handle()).await;
        assert!(found.iter().copied().eq(0..found.len() as u64), "torn at {tear}: {found:?}");
    }
    // And the whole log gives all.
    let whole = Home::new();
    drop(whole.open());
    fs::write(whole.file("store.db"), &database).expect("written");
    fs::write(whole.file("store.db-wal"), &log).expect("written");
    assert_eq!(commits(&whole.open().handle()).await.len(), 40);
}
