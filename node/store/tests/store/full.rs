//! A disk that is full: nothing is lost, and the store goes on once there is space.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use store::Durability::{Batched, Durable};
use store::{Error, Seq};
use types::event::Priority;

use crate::fixture::{Home, event, put};

/// A small file system of its own, taken away when dropped.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    /// `None`, said aloud, where this process may not mount.
    fn mount(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a writable temporary directory");
        let is_root = fs::metadata("/proc/self").expect("a /proc").uid() == 0;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "sagemesh-test"]).arg(dir.path());
        if !is_root || !mount.status().is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: mounting a small tmpfs needs root and CAP_SYS_ADMIN");
            return None;
        }
        Some(Self { dir })
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Takes all the space that is left.
    fn fill(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        let mut file = File::create(&path).expect("an inode is left");
        for len in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![0; len]).is_ok() {}
        }
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("-l").arg(self.dir.path()).status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "failed to unmount {}",
            self.dir.path().display()
        );
    }
}

#[track_caller]
fn assert_full(error: &Error, path: &Path) {
    assert!(matches!(error, Error::Full { .. }), "{error:?}");
    assert!(error.to_string().contains(&format!("no space is left for `{}", path.display())), "{error}");
    assert!(error.to_string().contains("free some on its file system"), "{error}");
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_the_store_goes_on_once_there_is_space() {
    let Some(disk) = Disk::mount("size=12m,mode=755") else { return };
    let ballast = disk.dir.path().join("ballast");
    fs::write(&ballast, vec![0; 4 << 20]).expect("4 of 12 MiB");
    let home = Home::at(&disk.path());
    let store = home.open();
    let handle = store.handle();

    let mut n_made = 0u64;
    let error = loop {
        let change = put(n_made.to_be_bytes(), vec![7; 100_000]);
        match handle.commit(Durable, vec![change], vec![event(n_made, Priority::Audit)]).await {
            Ok(()) => n_made += 1,
            Err(error) => break error,
        }
        assert!(n_made < 200, "12 MiB do not hold 20 MB");
    };
    assert_full(&error, home.path());
    assert!(n_made > 10);

    let batched = vec![put("batched", vec![8; 100_000])];
    handle.commit(Batched, batched, vec![event(n_made, Priority::Notice)]).await.expect("taken");
    let refusal = handle.commit(Durable, vec![put("refused", vec![9; 100_000])], vec![]).await;
    assert_full(&refusal.expect_err("still full"), home.path());
    assert_eq!(handle.scan("test", b"").await.expect("reading goes on").len() as u64, n_made);
    assert!(handle.counts().n_failures >= 2);

    fs::remove_file(ballast).expect("removed");
    handle.commit(Durable, vec![put("new", "")], vec![]).await.expect("made");
    store.close().await.expect("closed");

    let store = home.open();
    let handle = store.handle();
    for n in 0..n_made {
        let value = handle.get("test", &n.to_be_bytes()).await.expect("read");
        assert_eq!(value, Some(vec![7; 100_000]), "commit {n} was acknowledged");
    }
    assert_eq!(handle.get("test", b"batched").await.expect("read"), Some(vec![8; 100_000]));
    assert_eq!(handle.get("test", b"refused").await.expect("read"), None);
    let events = handle.events_after(Seq::default(), 1000).await.expect("read");
    assert!(events.iter().map(|stored| stored.event.time.as_millis()).eq(0..=n_made));
}

#[tokio::test]
async fn batched_commits_that_a_full_disk_keeps_out_to_the_end_are_reported() {
    let Some(disk) = Disk::mount("size=4m,mode=755") else { return };
    let home = Home::at(&disk.path());
    let store = home.open();
    disk.fill("ballast");
    let changes = vec![put("key", vec![7; 100_000])];
    store.handle().commit(Batched, changes, vec![]).await.expect("taken");
    assert_full(&store.close().await.expect_err("nothing fits"), home.path());
}

#[tokio::test]
async fn opening_on_a_full_disk_says_so_and_works_once_there_is_space() {
    let Some(disk) = Disk::mount("size=4m,mode=755") else { return };
    let home = Home::at(&disk.path());
    fs::create_dir(home.path()).expect("made");
    // For a new database, and then for one that is there.
    for round in ["first", "second"] {
        let ballast = disk.fill(round);
        assert_full(&home.refuses(&[]), home.path());
        fs::remove_file(ballast).expect("removed");
        let store = home.open();
        store.handle().commit(Durable, vec![put(round, "")], vec![]).await.expect("made");
        store.close().await.expect("closed");
    }
    assert_eq!(home.open().handle().scan("test", b"").await.expect("read").len(), 2);
}

#[test]
fn a_read_only_file_system_is_refused() {
    let Some(disk) = Disk::mount("ro") else { return };
    let error = Home::at(&disk.path()).refuses(&[]);
    assert!(matches!(error, Error::Directory { .. }), "{error:?}");
}
