//! Commits: what is made together, when it is on disk, and in which order.

use std::time::{Duration, Instant};

use rusqlite::Connection;
use store::Durability::{Batched, Durable};
use store::{COMMIT_BYTES_MAX, Change, Config, Error, Room, Seq, Store, Value};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use types::event::Priority;

use crate::fixture::{Home, event, flush, put};

#[tokio::test]
async fn a_durable_commit_can_be_read_when_it_returns() {
    let home = Home::new();
    let store = home.open();
    let handle = store.handle();
    handle
        .commit(Durable, vec![put("a/1", "x"), put("a/2", "y"), put("b", "z")], vec![])
        .await
        .expect("made");
    assert_eq!(handle.get("test", b"a/1").await.expect("read"), Some(b"x".to_vec()));
    handle.commit(Durable, vec![put("a/1", "new")], vec![]).await.expect("made");
    let pairs = handle.scan("test", b"a/").await.expect("read");
    assert_eq!(pairs, [(b"a/1".to_vec(), b"new".to_vec()), (b"a/2".to_vec(), b"y".to_vec())]);
    let delete = Change::Delete { room: "test", key: b"a/1".to_vec() };
    handle.commit(Durable, vec![delete], vec![]).await.expect("made");
    assert_eq!(handle.get("test", b"a/1").await.expect("read"), None);
}

#[tokio::test]
async fn a_scan_ends_where_its_prefix_ends() {
    let home = Home::new();
    let store = home.open();
    let handle = store.handle();
    let keys: [&[u8]; 5] = [b"", b"\x01", b"\xfe\xff", b"\xff", b"\xff\xff"];
    handle.commit(Durable, keys.map(|key| put(key, "")).to_vec(), vec![]).await.expect("made");
    let other = Change::Put { room: "other", key: b"\xff".to_vec(), value: vec![] };
    handle.commit(Durable, vec![other], vec![]).await.expect("made");
    for (prefix, expected) in [(&b""[..], &keys[..]), (b"\xff", &keys[3..]), (b"\xfe", &keys[2..3])] {
        let pairs = handle.scan("test", prefix).await.expect("read");
        assert_eq!(pairs.iter().map(|(key, _)| key).collect::<Vec<_>>(), expected, "{prefix:?}");
    }
}

#[tokio::test]
async fn rooms_do_not_see_each_others_keys() {
    let home = Home::new();
    let store = home.open();
    let handle = store.handle();
    handle.commit(Durable, vec![put("key", "mine")], vec![]).await.expect("made");
    assert_eq!(handle.get("other", b"key").await.expect("read"), None);
    let delete = Change::Delete { room: "other", key: b"key".to_vec() };
    handle.commit(Durable, vec![delete], vec![]).await.expect("made");
    assert_eq!(handle.get("test", b"key").await.expect("read"), Some(b"mine".to_vec()));
}

#[tokio::test]
async fn a_batched_commit_is_written_by_itself_when_it_is_due() {
    let home = Home::new();
    let config = Config { commit_delay: Duration::from_millis(1), ..home.config() };
    let store = Store::open(&config, &[]).expect("opens");
    let handle = store.handle();
    handle.commit(Batched, vec![put("key", "value")], vec![]).await.expect("taken");
    let written = async {
        while handle.get("test", b"key").await.expect("read").is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), written).await.expect("written within a minute");
}

#[tokio::test]
async fn batched_commits_share_one_transaction_and_keep_their_order() {
    let home = Home::new();
    let store = home.open();
    let handle = store.handle();
    for n in 0..500u64 {
        handle
            .commit(Batched, vec![put("last", n.to_string())], vec![event(n, Priority::Info)])
            .await
            .expect("taken");
    }
    assert_eq!(handle.get("test", b"last").await.expect("read"), None, "nothing is due yet");
    flush(&handle).await;
    assert_eq!(handle.counts().n_transactions, 1);
    assert_eq!(handle.get("test", b"last").await.expect("read"), Some(b"499".to_vec()));
    let events = handle.events_after(Seq::default(), 1000).await.expect("read");
    assert!(events.iter().map(|stored| stored.event.time.as_millis()).eq(0..500));
}

#[tokio::test]
async fn half_a_queue_is_written_before_it_is_due() {
    let home = Home::new();
    let store = home.open();
    let handle = store.handle();
    // The queue holds five of these: if they waited until they are due, 10 s would pass seven times.
    let begin = Instant::now();
    for n in 0..40u8 {
        handle.commit(Batched, vec![put("key", vec![n; 3 << 19])], vec![]).await.expect("taken");
    }
    assert!(begin.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn an_audit_event_makes_its_commit_durable() {
    let home = Home::new();
    let store = home.open();
    let handle = store.handle();
    handle.commit(Batched, vec![put("key", "value")], vec![event(1, Priority::Audit)]).await.expect("made");
    assert_eq!(handle.get("test", b"key").await.expect("read"), Some(b"value".to_vec()));
}

const LEDGER: Room = Room {
    name: "ledger",
    migrations: &[
        "CREATE TABLE rounds (id INTEGER PRIMARY KEY)",
        "ALTER TABLE rounds ADD COLUMN note TEXT NOT NULL DEFAULT ''",
    ],
};

fn insert(id: i64, note: &str) -> Change {
    Change::Execute {
        sql: "INSERT INTO rounds (id, note) VALUES (?1, ?2)",
        params: vec![id.into(), note.to_owned().into()],
    }
}

#[tokio::test]
async fn a_room_uses_tables_of_its_own_and_brings_them_up_to_date() {
    let home = Home::new();
    let first = Room { name: "ledger", migrations: &LEDGER.migrations[..1] };
    let store = home.open_with(&[first]);
    let old = Change::Execute { sql: "INSERT INTO rounds (id) VALUES (1)", params: vec![] };
    store.handle().commit(Durable, vec![old], vec![]).await.expect("made");
    store.close().await.expect("closed");

    let store = home.open_with(&[LEDGER]);
    let handle = store.handle();
    handle.commit(Durable, vec![insert(2, "second")], vec![]).await.expect("made");
    let rows =
        handle.query("SELECT id, note FROM rounds WHERE id >= ?1", vec![1.into()]).await.expect("read");
    let text = |text: &str| Value::Text(text.to_owned());
    assert_eq!(rows, [[Value::Integer(1), text("")], [Value::Integer(2), text("second")]]);
    store.close().await.expect("closed");
    drop(home.open_with(&[LEDGER]));
}

#[tokio::test]
async fn a_refused_statement_fails_its_commit_alone_and_whole() {
    let home = Home::new();
    let store = home.open_with(&[LEDGER]);
    let handle = store.handle();
    let commit = |key: &'static str, id| {
        let changes = vec![put(key, ""), insert(id, key)];
        let handle = handle.clone();
        async move { handle.commit(Batched, changes, vec![event(1, Priority::Notice)]).await }
    };
    commit("good", 1).await.expect("taken");
    commit("bad", 1).await.expect("taken, and refused when it is written");
    commit("better", 2).await.expect("taken");
    let refusal = handle.commit(Durable, vec![put("worse", ""), insert(2, "worse")], vec![]).await;
    assert!(matches!(refusal, Err(Error::Refused { .. })), "{refusal:?}");

    let keys = handle.scan("test", b"").await.expect("read");
    assert_eq!(keys.iter().map(|(key, _)| &key[..]).collect::<Vec<_>>(), [&b"better"[..], b"good"]);
    assert_eq!(handle.events_after(Seq::default(), 10).await.expect("read").len(), 2);
    let counts = handle.counts();
    assert_eq!((counts.n_transactions, counts.n_refused, counts.n_failures), (1, 1, 0));
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_taken() {
    let home = Home::new();
    let store = home.open();
    let handle = store.handle();
    let refusal = handle.commit(Durable, vec![put("key", vec![0; COMMIT_BYTES_MAX])], vec![]).await;
    assert!(matches!(refusal, Err(Error::TooLarge { what: "commit", .. })), "{refusal:?}");
    let mut large = event(1, Priority::Audit);
    large.data = "x".repeat(store::EVENT_BYTES_MAX).into();
    let refusal = handle.commit(Durable, vec![put("key", "")], vec![large]).await;
    assert!(matches!(refusal, Err(Error::TooLarge { what: "event", .. })), "{refusal:?}");
    assert_eq!(handle.get("test", b"key").await.expect("read"), None);
}

#[tokio::test]
async fn a_read_that_is_too_large_is_refused() {
    let home = Home::new();
    let store = home.open();
    let handle = store.handle();
    for n in 0..17u8 {
        handle.commit(Durable, vec![put([n], vec![n; COMMIT_BYTES_MAX - 1000])], vec![]).await.expect("made");
    }
    let refusal = handle.scan("test", b"").await;
    assert!(matches!(refusal, Err(Error::TooLarge { what: "read", .. })), "17 times 4 MiB is above 64");
    assert_eq!(handle.scan("test", &[3]).await.expect("read").len(), 1);
}

#[tokio::test]
async fn what_was_taken_is_written_when_the_store_is_shut_down() {
    let home = Home::new();
    let store = home.open();
    let handle = store.handle();
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(store.run(shutdown.clone()));
    handle.commit(Batched, vec![put("key", "value")], vec![]).await.expect("taken");
    shutdown.cancel();
    tasks.join_next().await.expect("one task").expect("no panic").expect("closed");
    assert!(!home.file("store.db-wal").exists(), "the log is folded into the database");

    for outcome in [
        handle.commit(Durable, vec![], vec![]).await,
        handle.commit(Batched, vec![], vec![event(1, Priority::Info)]).await,
        handle.get("test", b"key").await.map(drop),
    ] {
        assert!(matches!(outcome, Err(Error::Closed)), "{outcome:?}");
    }
    let value = home.open().handle().get("test", b"key").await.expect("read");
    assert_eq!(value, Some(b"value".to_vec()));
}

#[tokio::test]
async fn what_was_taken_is_written_when_the_store_is_dropped() {
    let home = Home::new();
    let store = home.open();
    store.handle().commit(Batched, vec![put("key", "value")], vec![]).await.expect("taken");
    drop(store);
    let value = home.open().handle().get("test", b"key").await.expect("read");
    assert_eq!(value, Some(b"value".to_vec()));
}

#[tokio::test]
async fn reads_go_on_while_another_program_writes_and_commits_wait_for_it() {
    let home = Home::new();
    let store = home.open();
    let handle = store.handle();
    handle.commit(Durable, vec![put("key", "before")], vec![]).await.expect("made");
    let other = Connection::open(home.file("store.db")).expect("opens");
    other.execute_batch("BEGIN IMMEDIATE").expect("the right to write");

    let commit = handle.commit(Durable, vec![put("key", "after")], vec![]);
    let read = async {
        let value = handle.get("test", b"key").await;
        other.execute_batch("COMMIT").expect("it ends");
        value
    };
    let (made, value) = tokio::join!(commit, read);
    assert_eq!(value.expect("read"), Some(b"before".to_vec()));
    made.expect("made once the other ended");
    assert_eq!(handle.get("test", b"key").await.expect("read"), Some(b"after".to_vec()));
}

#[tokio::test]
async fn a_program_that_never_ends_its_writing_is_named_and_costs_no_batched_commit() {
    let home = Home::new();
    let store = home.open();
    let handle = store.handle();
    let other = Connection::open(home.file("store.db")).expect("opens");
    other.execute_batch("BEGIN IMMEDIATE").expect("the right to write");
    handle.commit(Batched, vec![put("batched", "")], vec![]).await.expect("taken");
    let refusal =
        handle.commit(Durable, vec![put("durable", "")], vec![]).await.expect_err("it waited enough");
    assert!(refusal.to_string().contains("close what has it open"), "{refusal}");
    other.execute_batch("COMMIT").expect("it ends");
    flush(&handle).await;
    let pairs = handle.scan("test", b"").await.expect("read");
    assert_eq!(pairs.iter().map(|(key, _)| &key[..]).collect::<Vec<_>>(), [b"batched"]);
}
