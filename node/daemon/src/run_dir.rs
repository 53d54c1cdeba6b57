//! The directory of the Unix sockets. Anybody may look into it: who asks what is decided at each socket. Nobody
//! else may put anything there: workloads and operators talk to whatever listens under those names.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, bail};

/// Write permission of the group and of others.
const WRITABLE: u32 = 0o022;

/// Makes the directory, or sees that the one that is there is this user's alone.
///
/// # Errors
/// Why it cannot be used, and what to do.
pub(crate) fn make(dir: &Path) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(dir);
    made.with_context(|| format!("failed to make {}: run as root, or set `run`", dir.display()))?;
    check(dir, rustix::process::geteuid().as_raw())
}

fn check(dir: &Path, own_uid: u32) -> anyhow::Result<()> {
    let found = fs::symlink_metadata(dir).with_context(|| format!("failed to look at {}", dir.display()))?;
    let (uid, mode) = (found.uid(), found.mode() & 0o7777);
    let what = if found.is_symlink() {
        "is a symbolic link, which may lead elsewhere tomorrow".to_owned()
    } else if uid != own_uid {
        format!("belongs to the user {uid}, and the node runs as {own_uid}")
    } else if mode & WRITABLE != 0 {
        format!("can be written by others (mode {mode:o})")
    } else {
        return Ok(());
    };
    bail!(
        "the directory of sockets {} {what}: remove it, and it is made anew, or set `run` to a directory that \
         nobody but the node's user can write to",
        dir.display()
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[track_caller]
    fn refused(result: anyhow::Result<()>, expected: &str) {
        let told = result.expect_err("a directory that others decide about").to_string();
        assert!(told.contains(expected) && told.contains("set `run`"), "{told}");
    }

    #[test]
    fn a_directory_that_others_decide_about_is_refused() {
        let place = tempfile::tempdir().expect("a directory");
        let dir = place.path().join("deep/run");
        make(&dir).expect("it is made");
        make(&dir).expect("it is our own");
        let own = fs::metadata(&dir).expect("it is there").uid();
        refused(check(&dir, own + 1), "belongs to the user");
        for mode in [0o775, 0o757, 0o1777] {
            fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).expect("a mode");
            refused(make(&dir), "can be written by others");
        }
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("a mode");
        make(&dir).expect("more privacy does no harm");
        let link = place.path().join("link");
        symlink(&dir, &link).expect("a link");
        refused(make(&link), "is a symbolic link");
    }

    #[test]
    fn a_file_in_its_place_is_told() {
        let place = tempfile::tempdir().expect("a directory");
        let file = place.path().join("run");
        fs::write(&file, "").expect("a file");
        assert!(make(&file).expect_err("no directory").to_string().contains("set `run`"));
    }
}
