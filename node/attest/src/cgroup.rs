//! The path of a control group (version 2) by the number that the kernel gives it.
//!
//! The number is the inode of the group's folder, never used twice. Where version 2 is mounted differs: hybrid
//! systems have it in a sub-folder.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Groups that are remembered; beyond that all are forgotten and looked up again.
const KNOWN_MAX: usize = 4096;
/// Folders that are visited in search of one group.
const VISITED_MAX: usize = 16_384;

/// The control groups of this machine, as far as this process sees them.
pub(crate) struct Cgroups {
    mount: Option<Mount>,
    known: Mutex<HashMap<u64, String>>,
}

/// Where the tree of groups is mounted, and which group that folder is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) folder: PathBuf,
    pub(crate) group: String,
}

impl Cgroups {
    pub(crate) fn new() -> Self {
        let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
        Self { mount: find_mount(&mounts), known: Mutex::default() }
    }

    /// The path of group `id`. `likely` is the path of a process that probably is in it, which saves the search.
    pub(crate) fn path(&self, id: u64, likely: Option<&str>) -> Option<String> {
        if let Some(path) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Some(path.clone());
        }
        let mount = self.mount.as_ref()?;
        let is_likely = |path: &&str| mount.folder_of(path).is_some_and(|folder| number(&folder) == Some(id));
        let path = match likely.filter(is_likely) {
            Some(path) => path.to_owned(),
            None => mount.search(id)?,
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(id, path.clone());
        Some(path)
    }
}

impl Mount {
    /// The folder of a group, if it lies in this tree.
    fn folder_of(&self, path: &str) -> Option<PathBuf> {
        let rest = path.strip_prefix(self.group.trim_end_matches('/'))?;
        Some(self.folder.join(rest.trim_start_matches('/')))
    }

    /// Looks for a group, those near the root first.
    fn search(&self, id: u64) -> Option<String> {
        let mut folders = VecDeque::from([self.folder.clone()]);
        let mut n_visited = 0;
        while let Some(folder) = folders.pop_front() {
            n_visited += 1;
            if number(&folder) == Some(id) {
                return self.group_of(&folder);
            }
            if n_visited + folders.len() > VISITED_MAX {
                continue;
            }
            // A group may vanish while it is looked at.
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
            folders.extend(entries.flatten().filter(is_folder).map(|entry| entry.path()));
        }
        None
    }

    fn group_of(&self, folder: &Path) -> Option<String> {
        let below = folder.strip_prefix(&self.folder).ok()?.to_str()?;
        let above = self.group.trim_end_matches('/');
        Some(if below.is_empty() && !above.is_empty() {
            above.to_owned()
        } else {
            format!("{above}/{below}")
        })
    }
}

fn number(folder: &Path) -> Option<u64> {
    fs::metadata(folder).ok().map(|it| it.ino())
}

/// The first mount of type cgroup2 in the text of `/proc/self/mountinfo` (man 5 proc). Other mounts may have names
/// that are no text: users mount what they like where they like.
pub(crate) fn find_mount(mounts: &[u8]) -> Option<Mount> {
    lines(mounts).find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        if kind.split(' ').next()? != "cgroup2" {
            return None;
        }
        let mut fields = fields.split(' ').skip(3);
        let group = unescape(fields.next()?)?;
        let folder = unescape(fields.next()?)?;
        // A group outside this process' cgroup namespace has no path in it.
        (!group.starts_with("/..")).then(|| Mount { folder: PathBuf::from(folder), group })
    })
}

/// The lines that are text.
pub(crate) fn lines(bytes: &[u8]) -> impl Iterator<Item = &str> {
    bytes.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok())
}

/// Undoes the octal escapes of white space and backslashes (man 5 proc).
fn unescape(field: &str) -> Option<String> {
    let mut text = Vec::new();
    let mut bytes = field.as_bytes();
    while let Some((first, rest)) = bytes.split_first() {
        let octal = rest.get(..3).filter(|_| *first == b'\\');
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        text.push(code.unwrap_or(*first));
        bytes = if code.is_some() { &rest[3..] } else { rest };
    }
    std::ffi::OsStr::from_bytes(&text).to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: impl AsRef<[u8]>, expected: Option<(&str, &str)>) {
        let expected =
            expected.map(|(folder, group)| Mount { folder: PathBuf::from(folder), group: group.to_owned() });
        let line = line.as_ref();
        assert_eq!(find_mount(line), expected, "{}", line.escape_ascii());
    }

    #[test]
    fn the_mount_is_found_wherever_it_is() {
        check(
            "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw",
            Some(("/sys/fs/cgroup", "/")),
        );
        check(
            "42 32 0:39 / /sys/fs/cgroup/unified rw - cgroup2 none rw",
            Some(("/sys/fs/cgroup/unified", "/")),
        );
        check("42 32 0:39 /a/b /mnt/my\\040groups rw - cgroup2 none rw", Some(("/mnt/my groups", "/a/b")));
        check("42 32 0:39 /../x /sys/fs/cgroup rw - cgroup2 none rw", None);
        check("33 32 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu", None);
        check("", None);
        check(
            b"31 24 0:27 / /media/caf\xe9 rw - fuse x rw\n30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            Some(("/sys/fs/cgroup", "/")),
        );
        check(b"30 24 0:26 / /mnt/caf\xe9 rw - cgroup2 cgroup2 rw", None);
    }

    #[test]
    fn a_group_is_found_by_its_number() {
        let tree = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(tree.path().join("system.slice/orders.service")).expect("a tree");
        let id = number(&tree.path().join("system.slice/orders.service")).expect("a folder");
        let root = number(tree.path()).expect("a folder");
        for (group, of_root, below) in [
            ("/", "/", "/system.slice/orders.service"),
            ("/docker/7", "/docker/7", "/docker/7/system.slice/orders.service"),
        ] {
            let mount = Mount { folder: tree.path().to_owned(), group: group.to_owned() };
            let groups = Cgroups { mount: Some(mount), known: Mutex::default() };
            assert_eq!(groups.path(root, Some("/gone")).as_deref(), Some(of_root));
            assert_eq!(
                groups.path(id, Some(of_root)).as_deref(),
                Some(below),
                "a wrong guess is seen through"
            );
            assert_eq!(groups.path(1, None), None);
            let groups = Cgroups { known: Mutex::default(), ..groups };
            assert_eq!(groups.path(id, Some(below)).as_deref(), Some(below));
        }
    }
}
