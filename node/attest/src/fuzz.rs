//! What is read of the kernel's answers, for `tests/fuzz` alone.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::{Error, cgroup, diag, process};

/// What an answer of `sock_diag` says: its number, and of the socket both ends, user, inode and control group.
#[expect(clippy::type_complexity, reason = "it is taken apart at once")]
pub fn answer(bytes: &[u8]) -> Result<(u32, Option<(SocketAddr, SocketAddr, u32, u64, Option<u64>)>), Error> {
    let (sequence, found) = diag::read(bytes)?;
    Ok((sequence, found?.map(|row| (row.own, row.far, row.uid, row.inode, row.cgroup_id))))
}

/// When the process was started of which `/proc/PID/stat` tells.
pub fn started(stat: &[u8]) -> Option<u64> {
    process::started(&String::from_utf8_lossy(stat))
}

/// The control group in `/proc/PID/cgroup`.
pub fn group(groups: &[u8]) -> Option<String> {
    process::group_in(groups)
}

/// Where `/proc/self/mountinfo` says that the tree of control groups is, and which group that folder is.
pub fn mount(mounts: &[u8]) -> Option<(PathBuf, String)> {
    cgroup::find_mount(mounts).map(|mount| (mount.folder, mount.group))
}
