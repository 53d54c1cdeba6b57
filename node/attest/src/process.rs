//! Which process holds a socket, and which program it runs, read from /proc.
//!
//! A whole look through /proc takes tens of milliseconds, so a socket that was found is looked for where it was
//! found, and a new one first in the processes that held the last ones. What is remembered is never believed:
//! it only says where to look.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use crate::cgroup;
use crate::diag::Cookie;

/// Sockets whose holders are remembered; beyond that the oldest is forgotten.
const PLACES_MAX: usize = 4096;
/// Processes that are looked into before all others.
const RECENT_MAX: usize = 16;
/// For how long all processes are looked through. What was not found by then is unknown.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// What the kernel adds to the path of a program whose file was removed or replaced.
const DELETED: &str = " (deleted)";

/// A process that holds a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    pub(crate) exe: Option<PathBuf>,
    pub(crate) cgroup: Option<String>,
}

/// The processes of this machine, as far as this process may look into them.
#[derive(Default)]
pub(crate) struct Processes {
    found: Mutex<Found>,
}

/// Where sockets were found last.
#[derive(Default)]
struct Found {
    places: HashMap<Key, Place>,
    /// The keys of `places`, oldest first.
    order: VecDeque<Key>,
    /// Latest first.
    recent: VecDeque<u32>,
}

type Key = (u64, Cookie);

/// One open file of one process.
#[derive(Clone, Debug)]
struct Place {
    pid: u32,
    descriptor: String,
}

impl Processes {
    /// A process that holds socket `inode`, made by `uid`. `None` if none does, or if this process may not look.
    pub(crate) fn holder(&self, inode: u64, cookie: Cookie, uid: u32) -> Option<Holder> {
        let key = (inode, cookie);
        let (place, recent) = {
            let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            (found.places.get(&key).cloned(), found.recent.clone())
        };
        if let Some(holder) = place.and_then(|place| place.read(inode)) {
            return Some(holder);
        }
        let until = Instant::now() + LOOK_MAX;
        let in_recent = recent.into_iter().find_map(|pid| look_into(pid, inode, until));
        let (place, holder) = in_recent.or_else(|| look_through(inode, uid, until))?;
        self.found.lock().unwrap_or_else(PoisonError::into_inner).note(key, place);
        Some(holder)
    }
}

impl Found {
    fn note(&mut self, key: Key, place: Place) {
        self.recent.retain(|pid| *pid != place.pid);
        self.recent.push_front(place.pid);
        self.recent.truncate(RECENT_MAX);
        if self.places.insert(key, place).is_none() {
            self.order.push_back(key);
        }
        // INVARIANT: `order` has each key of `places` once.
        if self.order.len() > PLACES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.places.remove(&oldest);
        }
    }
}

impl Place {
    fn is_of(&self, inode: u64) -> bool {
        let link = fs::read_link(format!("/proc/{}/fd/{}", self.pid, self.descriptor));
        link.is_ok_and(|link| link.as_os_str() == name_of(inode).as_str())
    }

    /// Reads who is there. The socket is looked at before and after, so that what is read is of its holder.
    fn read(&self, inode: u64) -> Option<Holder> {
        if !self.is_of(inode) {
            return None;
        }
        let holder = read(self.pid);
        self.is_of(inode).then_some(holder)
    }
}

/// What a process is. The pid may have been given to another meanwhile: who calls sees to that.
pub(crate) fn read(pid: u32) -> Holder {
    Holder { pid, exe: program(pid), cgroup: group(pid) }
}

/// The user as whom a process acts, and when it was started, in ticks since boot. The pair tells a process from
/// a later one with its pid.
pub(crate) fn birth(pid: u32) -> Option<(u32, u64)> {
    let uid = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
    // The name is cut at 15 bytes, in the middle of a character too.
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    Some((uid, started(&String::from_utf8_lossy(&stat))?))
}

/// Field 22 of `/proc/PID/stat` (man 5 proc); the name, field 2, may hold spaces and parentheses.
pub(crate) fn started(stat: &str) -> Option<u64> {
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

fn name_of(inode: u64) -> String {
    format!("socket:[{inode}]")
}

/// Looks through all processes: those of the socket's user first. The oldest comes first, for children inherit
/// what their parents opened; pid 1 comes last, for it keeps the sockets that it hands to services.
fn look_through(inode: u64, uid: u32, until: Instant) -> Option<(Place, Holder)> {
    let entries = fs::read_dir("/proc").ok()?;
    let pid_of = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let is_foreign = |pid| fs::metadata(format!("/proc/{pid}")).map_or(true, |it| it.uid() != uid);
    let mut pids: Vec<(bool, u32)> =
        entries.flatten().filter_map(pid_of).map(|pid| (is_foreign(pid), pid)).collect();
    pids.sort_unstable_by_key(|(is_foreign, pid)| (*is_foreign, *pid == 1, *pid));
    for (_, pid) in pids {
        if Instant::now() > until {
            warn!(
                sagemesh.attest.bound_s = LOOK_MAX.as_secs(),
                "gave up looking for a socket: some process has very many files open"
            );
            return None;
        }
        if let Some(found) = look_into(pid, inode, until) {
            return Some(found);
        }
    }
    None
}

fn look_into(pid: u32, inode: u64, until: Instant) -> Option<(Place, Holder)> {
    let name = name_of(inode);
    let entries: Vec<fs::DirEntry> = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten().collect();
    // A process with many sockets has its newest among the last.
    for entry in entries.into_iter().rev() {
        if fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == name.as_str()) {
            let place = Place { pid, descriptor: entry.file_name().into_string().ok()? };
            let holder = place.read(inode)?;
            return Some((place, holder));
        }
        if Instant::now() > until {
            return None;
        }
    }
    None
}

/// The path of a process' program, if it means the same file here: whoever may make a mount namespace can lay
/// any file over any path in it.
fn program(pid: u32) -> Option<PathBuf> {
    let link = PathBuf::from(format!("/proc/{pid}/exe"));
    let path = fs::read_link(&link).ok()?;
    let file = fs::metadata(&link).ok()?;
    let is_here = is_same(&fs::metadata(&path), &file);
    let is_in_same_tree = || {
        let here = fs::metadata("/proc/self/ns/mnt");
        fs::metadata(format!("/proc/{pid}/ns/mnt")).is_ok_and(|it| is_same(&here, &it))
    };
    if is_here {
        return Some(path);
    }
    is_in_same_tree().then(|| if file.nlink() == 0 { undeleted(path) } else { path })
}

fn is_same(one: &io::Result<fs::Metadata>, other: &fs::Metadata) -> bool {
    one.as_ref().is_ok_and(|one| (one.dev(), one.ino()) == (other.dev(), other.ino()))
}

/// The path that a removed program had: a service goes on under its name while its package is upgraded.
fn undeleted(path: PathBuf) -> PathBuf {
    match path.to_str().and_then(|text| text.strip_suffix(DELETED)) {
        Some(text) => PathBuf::from(text),
        None => path,
    }
}

/// The control group (version 2) of a process: the line `0::/path` of `/proc/PID/cgroup`.
fn group(pid: u32) -> Option<String> {
    group_in(&fs::read(format!("/proc/{pid}/cgroup")).ok()?)
}

/// The path on that line; other lines may be no text.
pub(crate) fn group_in(groups: &[u8]) -> Option<String> {
    let path = cgroup::lines(groups).find_map(|line| line.strip_prefix("0::"))?;
    // The group may have been removed, or lie outside this process' cgroup namespace.
    (!path.ends_with(DELETED) && !path.starts_with("/..")).then(|| path.to_owned())
}
