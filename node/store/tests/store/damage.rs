//! What the store refuses to open, what it says then, and that it leaves everything as it was.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rusqlite::Connection;
use store::Durability::Durable;
use store::{Error, Room, Store};

use crate::fixture::{Home, put};

/// A closed store that holds `n` pairs of 4 KiB.
async fn home_with(n: u16) -> Home {
    let home = Home::new();
    let store = home.open();
    let changes = (0..n).map(|n| put(n.to_be_bytes(), vec![7; 4096])).collect();
    store.handle().commit(Durable, changes, vec![]).await.expect("made");
    store.close().await.expect("closed");
    home
}

/// The store is refused as damaged, twice, and its file stays what it is.
#[track_caller]
fn refuses_and_keeps(home: &Home, found: &str) {
    let before = fs::read(home.file("store.db")).ok();
    for _ in 0..2 {
        let error = home.refuses(&[]);
        assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(found), "{text}");
        assert!(
            text.ends_with("move it and the files that begin with its name aside and join the mesh again")
        );
        assert_eq!(fs::read(home.file("store.db")).ok(), before);
    }
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).open(path).expect("opens");
    file.seek(SeekFrom::Start(at)).expect("seeks");
    file.write_all(bytes).expect("writes");
}

#[test]
fn the_directory_and_its_files_are_the_owners_alone() {
    let home = Home::new();
    let _store = home.open();
    let mode = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
    assert_eq!(mode(home.path()), 0o700);
    for name in ["store.db", "store.db-wal", "store.db-shm", "store.lock"] {
        assert_eq!(mode(&home.file(name)), 0o600, "{name}");
    }
}

#[test]
fn a_directory_that_cannot_be_made_is_refused() {
    let dir = tempfile::tempdir().expect("a writable temporary directory");
    fs::write(dir.path().join("file"), "").expect("written");
    for parent in [dir.path().join("file"), "/proc/self".into()] {
        let error = Home::at(&parent.join("state")).refuses(&[]);
        assert!(matches!(error, Error::Directory { .. }), "{error:?}");
        assert!(error.to_string().ends_with("or set `state` to another"), "{error}");
    }
}

#[test]
fn a_directory_that_others_may_write_to_is_refused() {
    let home = Home::new();
    fs::create_dir(home.path()).expect("made");
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o775)).expect("set");
    let error = home.refuses(&[]);
    assert_eq!(
        error.to_string(),
        format!(
            "others may write into the state directory `{0}`: run `chmod go-w {0}`",
            home.path().display()
        )
    );
    assert_eq!(fs::read_dir(home.path()).expect("is there").count(), 0);
}

#[test]
fn a_store_that_is_open_is_not_opened_again() {
    let home = Home::new();
    let store = home.open();
    let error = home.refuses(&[]);
    assert!(matches!(error, Error::Locked { .. }), "{error:?}");
    assert!(error.to_string().contains("stop it first"), "{error}");
    drop(store);
    home.open();
}

#[tokio::test]
async fn garbage_is_refused() {
    let home = home_with(1).await;
    fs::write(home.file("store.db"), "garbage".repeat(1000)).expect("written");
    refuses_and_keeps(&home, "file is not a database");
}

#[tokio::test]
async fn an_emptied_file_is_refused() {
    let home = home_with(1).await;
    fs::write(home.file("store.db"), "").expect("written");
    refuses_and_keeps(&home, "it is empty");
}

#[tokio::test]
async fn a_log_whose_database_vanished_is_refused() {
    let home = home_with(1).await;
    fs::rename(home.file("store.db"), home.file("store.db-wal")).expect("renamed");
    refuses_and_keeps(&home, "it is missing");
    assert!(!home.file("store.db").exists());
}

#[tokio::test]
async fn a_torn_file_is_refused() {
    let home = home_with(64).await;
    let file = fs::OpenOptions::new().write(true).open(home.file("store.db")).expect("opens");
    let len = file.metadata().expect("is there").len();
    file.set_len(len / 2).expect("cut");
    refuses_and_keeps(&home, "malformed");
}

#[tokio::test]
async fn an_overwritten_page_is_refused() {
    let home = home_with(64).await;
    overwrite(&home.file("store.db"), 4096, &[0xaa; 4096]);
    refuses_and_keeps(&home, "(Tree 2 page 2: ");
}

#[test]
fn a_database_of_another_program_is_refused() {
    let home = Home::new();
    fs::create_dir(home.path()).expect("made");
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).expect("set");
    let other = Connection::open(home.file("store.db")).expect("opens");
    other.execute_batch("CREATE TABLE theirs (id INTEGER)").expect("made");
    drop(other);
    refuses_and_keeps(&home, "another program");
}

#[test]
fn a_beginning_that_was_cut_off_is_begun_again() {
    let home = Home::new();
    fs::create_dir(home.path()).expect("made");
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).expect("set");
    fs::write(home.file("store.db.new"), "half a").expect("written");
    home.open();
    assert!(!home.file("store.db.new").exists());
}

const OLD: Room = Room { name: "ledger", migrations: &["CREATE TABLE rounds (id INTEGER PRIMARY KEY)"] };
const NEW: Room =
    Room { name: "ledger", migrations: &[OLD.migrations[0], "ALTER TABLE rounds ADD COLUMN note TEXT"] };
const BROKEN: Room = Room {
    name: "ledger",
    migrations: &[OLD.migrations[0], "CREATE TABLE half (id INTEGER); INSERT INTO nowhere VALUES (1)"],
};
const OTHER: Room = Room { name: "other", migrations: &["CREATE TABLE others (id INTEGER PRIMARY KEY)"] };

fn schema(home: &Home) -> Vec<String> {
    let connection = Connection::open(home.file("store.db")).expect("opens");
    let mut statement = connection
        .prepare("SELECT sql FROM sqlite_schema UNION ALL SELECT name || version FROM rooms")
        .expect("is sound");
    let rows = statement.query_map([], |row| row.get::<_, Option<String>>(0)).expect("reads");
    rows.map(|row| row.expect("reads").unwrap_or_default()).collect()
}

#[test]
fn a_database_of_a_newer_release_is_refused_unchanged() {
    let home = Home::new();
    drop(home.open_with(&[NEW]));
    let before = schema(&home);
    let error = home.refuses(&[OTHER, OLD]);
    assert!(matches!(error, Error::Newer { room: "ledger", found: 2, known: 1 }), "{error:?}");
    assert!(error.to_string().contains("start the newer release"), "{error}");
    assert_eq!(schema(&home), before, "not even the other room's table was made");
    home.open_with(&[NEW]);
}

#[test]
fn a_migration_that_fails_changes_nothing_of_any_room() {
    let home = Home::new();
    drop(home.open_with(&[OLD]));
    let before = schema(&home);
    let error = home.refuses(&[OTHER, BROKEN]);
    assert!(matches!(error, Error::Migration { room: "ledger", version: 2, .. }), "{error:?}");
    assert!(error.to_string().contains("go back to the release used before"), "{error}");
    assert_eq!(schema(&home), before);
    home.open_with(&[OTHER, NEW]);
}

#[test]
fn a_config_out_of_bounds_opens_nothing() {
    let home = Home::new();
    let config = store::Config { queue_bytes: 0, ..home.config() };
    assert!(matches!(Store::open(&config, &[]), Err(Error::Bounds { field: "store.queue_bytes", .. })));
    assert!(!home.path().exists());
}
