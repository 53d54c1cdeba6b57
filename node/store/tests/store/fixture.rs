//! A store in a directory of its own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use store::{Change, Config, Durability, Error, Handle, Room, Store};
use tempfile::TempDir;
use types::Timestamp;
use types::event::{Event, EventId, Priority};

/// A directory for a store; removed when dropped.
pub(crate) struct Home {
    _dir: Option<TempDir>,
    path: PathBuf,
}

impl Home {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a writable temporary directory");
        let path = dir.path().join("state");
        Self { _dir: Some(dir), path }
    }

    pub(crate) fn at(path: &Path) -> Self {
        Self { _dir: None, path: path.to_path_buf() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Batched commits wait for longer than a test takes, so that nothing is written by chance.
    pub(crate) fn config(&self) -> Config {
        Config { dir: self.path.clone(), commit_delay: Duration::from_secs(10), ..Config::default() }
    }

    #[track_caller]
    pub(crate) fn open(&self) -> Store {
        self.open_with(&[])
    }

    #[track_caller]
    pub(crate) fn open_with(&self, rooms: &[Room]) -> Store {
        Store::open(&self.config(), rooms).expect("the store opens")
    }

    #[track_caller]
    pub(crate) fn refuses(&self, rooms: &[Room]) -> Error {
        Store::open(&self.config(), rooms).err().expect("the store is refused")
    }
}

pub(crate) fn put(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Change {
    Change::Put { room: "test", key: key.into(), value: value.into() }
}

pub(crate) fn event(n: u64, priority: Priority) -> Event {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&n.to_be_bytes());
    Event {
        id: EventId(id),
        kind: "test.thing.happened.v1".into(),
        source: "spiffe://pi.home.mesh/node".into(),
        subject: "thing".into(),
        time: Timestamp::from_millis(n),
        priority,
        data: serde_json::json!({ "n": n }),
    }
}

/// Returns once all batched commits before it are on disk.
pub(crate) async fn flush(handle: &Handle) {
    handle.commit(Durability::Durable, Vec::new(), Vec::new()).await.expect("a commit");
}
