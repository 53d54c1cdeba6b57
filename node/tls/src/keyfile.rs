//! Private keys at rest: one text file with a secret a line, readable by its owner alone.
//!
//! Whoever can read the file is the node, so a file that others could read is refused rather than repaired:
//! its keys may be known already. A file is never written over.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use identity::SoftKeys;
use identity::soft_keys::Secret;
use types::KeySlot;

use crate::random;

/// The first line of every key file.
pub const HEADER: &str = "# sagemesh keys v1: whoever can read this file can act in its name";
/// Longest key file in bytes.
const LEN_MAX: usize = 4096;

/// A key file could not be written or read. What was there is there still.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("failed to {what} the key file {}: {}", path.display(), advice(source))]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// There is a file already.
    #[error("the key file {} exists: keys are never written over; move it away if you mean to start anew", .0.display())]
    Exists(PathBuf),
    /// Others can read it.
    #[error("the key file {} can be read by others (mode {mode:o}): if nobody did, run `chmod 600` on it; otherwise revoke this node and join it again", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It does not hold what it should.
    #[error("the key file {} is damaged in line {line} ({what}): restore it from a backup, or revoke this node and join it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, from 1; 0 for the file as a whole.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
}

fn advice(err: &io::Error) -> &'static str {
    match err.kind() {
        io::ErrorKind::PermissionDenied => "run as the user who owns the state directory, or as root",
        io::ErrorKind::NotFound => "run `sagemesh init` or `sagemesh join` first",
        io::ErrorKind::StorageFull => "make room on the disk",
        io::ErrorKind::ReadOnlyFilesystem => "choose a state directory that can be written",
        _ => "see the cause",
    }
}

/// Draws a secret for each slot and keeps them in a new file of mode 0600.
///
/// # Errors
/// [`Error::Exists`], or what the file system says. A file that is there afterwards is whole.
pub fn create(path: &Path, slots: &[KeySlot]) -> Result<SoftKeys, Error> {
    let secrets: Vec<(KeySlot, Secret)> = slots.iter().map(|slot| (*slot, random::secret(*slot))).collect();
    let mut text = Zeroizing::new(String::with_capacity(LEN_MAX));
    let _ = writeln!(text, "{HEADER}");
    for (slot, secret) in &secrets {
        let hex = Zeroizing::new(HEXLOWER.encode(secret.expose()));
        let _ = writeln!(text, "{} {}", slot.name(), *hex);
    }
    write_new(path, text.as_bytes())?;
    keys_of(path, &secrets)
}

/// Reads the keys of a file.
///
/// # Errors
/// [`Error::Open`] if others can read it, [`Error::Damaged`] if it is torn, or what the file system says.
pub fn load(path: &Path) -> Result<SoftKeys, Error> {
    let secrets = read(path)?;
    keys_of(path, &secrets)
}

/// Reads one secret of a file, for writing it out in another form.
///
/// # Errors
/// As [`load`], and [`Error::Damaged`] if it has none for that slot.
pub fn secret(path: &Path, slot: KeySlot) -> Result<Secret, Error> {
    let found = read(path)?.into_iter().find(|(held, _)| *held == slot);
    let what = format!("no `{}`", slot.name());
    found.map(|(_, secret)| secret).ok_or(Error::Damaged { path: path.to_owned(), line: 0, what })
}

fn keys_of(path: &Path, secrets: &[(KeySlot, Secret)]) -> Result<SoftKeys, Error> {
    let damaged = |err: identity::soft_keys::Error| Error::Damaged {
        path: path.to_owned(),
        line: 0,
        what: err.to_string(),
    };
    SoftKeys::new(secrets.iter().map(|(slot, secret)| (*slot, secret))).map_err(damaged)
}

fn read(path: &Path) -> Result<Vec<(KeySlot, Secret)>, Error> {
    let io = |source| Error::Io { what: "read", path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let meta = file.metadata().map_err(io)?;
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Error::Open { path: path.to_owned(), mode });
    }
    let damaged = |line, what: &str| Error::Damaged { path: path.to_owned(), line, what: what.to_owned() };
    if !meta.is_file() || meta.size() > LEN_MAX as u64 {
        return Err(damaged(0, "not a key file"));
    }
    // The whole capacity at once: a buffer that grows leaves secrets behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LEN_MAX + 1));
    file.take(LEN_MAX as u64).read_to_end(&mut bytes).map_err(io)?;
    parse(&bytes).map_err(|Damage { line, what }| damaged(line, what))
}

/// What is wrong with the bytes of a key file. No secret was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("damaged in line {line}: {what}")]
pub struct Damage {
    /// The line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong with it.
    pub what: &'static str,
}

/// Reads the bytes of a key file: at least one key, and each but once.
///
/// # Errors
/// Where they are torn or altered.
pub fn parse(bytes: &[u8]) -> Result<Vec<(KeySlot, Secret)>, Damage> {
    let damage = |line, what| Damage { line, what };
    let text = std::str::from_utf8(bytes).map_err(|_| damage(0, "not text"))?;
    let mut lines = text.lines();
    if lines.next() != Some(HEADER) {
        return Err(damage(1, "the header is missing"));
    }
    if !text.ends_with('\n') {
        return Err(damage(text.lines().count(), "the last line is torn"));
    }
    let mut secrets: Vec<(KeySlot, Secret)> = Vec::new();
    for (idx, line) in lines.enumerate() {
        let line_no = idx + 2;
        let (name, hex) = line.split_once(' ').ok_or_else(|| damage(line_no, "no name and secret"))?;
        let slot = KeySlot::ALL.into_iter().find(|slot| slot.name() == name);
        let slot = slot.ok_or_else(|| damage(line_no, "no key has that name"))?;
        let bytes = Zeroizing::new(HEXLOWER.decode(hex.as_bytes()).unwrap_or_default());
        let secret = bytes.as_slice().try_into().map_err(|_| damage(line_no, "not 64 hexadecimal digits"))?;
        if secrets.iter().any(|(held, _)| *held == slot) {
            return Err(damage(line_no, "the key is there twice"));
        }
        secrets.push((slot, Secret::new(secret)));
    }
    if secrets.is_empty() {
        return Err(damage(0, "it holds no key"));
    }
    Ok(secrets)
}

/// Writes a new file of mode 0600, whole or not at all, and only where none is.
///
/// # Errors
/// [`Error::Exists`], or what the file system says.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let io = |source| Error::Io { what: "write", path: path.to_owned(), source };
    let torn = path.with_extension(format!("new-{}", HEXLOWER.encode(&random::bytes::<8>())));
    let result = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&torn)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        // A link, unlike a rename, does not replace what is there.
        fs::hard_link(&torn, path)
    })();
    let _ = fs::remove_file(&torn);
    match result {
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => return Err(Error::Exists(path.to_owned())),
        other => other.map_err(io)?,
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use types::key::Keys;

    use super::*;

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().expect("a directory")
    }

    #[test]
    fn keys_come_back_as_they_were_and_only_their_owner_can_read_them() {
        let dir = dir();
        let path = dir.path().join("node.keys");
        let made = create(&path, &KeySlot::NODE).expect("a new file");
        let read = load(&path).expect("the file");
        for slot in KeySlot::NODE {
            assert_eq!(made.public(slot), read.public(slot));
        }
        let mode = fs::metadata(&path).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 1, "nothing else is left");
    }

    #[test]
    fn a_file_is_never_written_over() {
        let dir = dir();
        let path = dir.path().join("node.keys");
        create(&path, &KeySlot::NODE).expect("a new file");
        let before = fs::read(&path).expect("the file");
        assert!(matches!(create(&path, &KeySlot::NODE), Err(Error::Exists(_))));
        assert_eq!(fs::read(&path).expect("the file"), before);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = dir();
        let path = dir.path().join("node.keys");
        create(&path, &KeySlot::NODE).expect("a new file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
        let err = load(&path).expect_err("an open file");
        assert!(err.to_string().contains("chmod 600"), "{err}");
    }

    #[test]
    fn a_torn_or_altered_file_is_refused_and_left_alone() {
        let dir = dir();
        let path = dir.path().join("node.keys");
        create(&path, &KeySlot::NODE).expect("a new file");
        let whole = fs::read_to_string(&path).expect("the file");

        #[track_caller]
        fn check(path: &Path, text: &str) {
            fs::write(path, text).expect("a write");
            let err = load(path).expect_err("a damaged file");
            assert!(matches!(err, Error::Damaged { .. }), "{err}");
            assert!(err.to_string().contains("restore it from a backup"), "{err}");
            assert_eq!(fs::read_to_string(path).expect("the file"), text);
        }
        for len in [0, 1, HEADER.len(), whole.len() - 70, whole.len() - 1] {
            check(&path, &whole[..len]);
        }
        check(&path, &whole.replace("jwt-p256", "jwt-p257"));
        check(&path, &format!("{HEADER}\nnode-ed25519 {}\n", "0".repeat(63)));
        check(&path, &format!("{HEADER}\njwt-p256 {}\n", "0".repeat(64)));
        let line = whole.lines().nth(1).expect("a key");
        check(&path, &format!("{whole}{line}\n"));
        check(&path, &"x".repeat(5000));
    }

    #[test]
    fn a_file_that_is_no_text_is_damaged_rather_than_unreadable() {
        let dir = dir();
        let path = dir.path().join("node.keys");
        create(&path, &KeySlot::NODE).expect("a new file");
        let mut bytes = fs::read(&path).expect("the file");
        bytes[HEADER.len() + 5] = 0xff;
        fs::write(&path, &bytes).expect("a write");
        let err = load(&path).expect_err("a damaged file");
        assert!(matches!(err, Error::Damaged { .. }), "{err}");
    }

    #[test]
    fn a_missing_file_or_directory_says_what_to_do() {
        let dir = dir();
        let err = load(&dir.path().join("node.keys")).expect_err("no file");
        assert!(err.to_string().contains("sagemesh init"), "{err}");
        let err = create(&dir.path().join("no/node.keys"), &KeySlot::NODE).expect_err("no directory");
        assert!(matches!(err, Error::Io { what: "write", .. }));
    }

    proptest! {
        #[test]
        fn an_altered_file_is_refused_or_holds_each_key_once(
            altered in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..3),
            cut: prop::sample::Index,
        ) {
            let line = |slot: &KeySlot| format!("{} {}\n", slot.name(), "07".repeat(32));
            let text = format!("{HEADER}\n{}", KeySlot::NODE.iter().map(line).collect::<String>());
            let mut bytes = text.into_bytes();
            prop_assert!(parse(&bytes[..cut.index(bytes.len())]).map_or(true, |read| read.len() < 4));
            for (at, byte) in altered {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(read) = parse(&bytes) {
                prop_assert!((1..=KeySlot::ALL.len()).contains(&read.len()));
                for (n, (slot, _)) in read.iter().enumerate() {
                    prop_assert!(read[..n].iter().all(|(other, _)| other != slot));
                }
            }
        }
    }
}
