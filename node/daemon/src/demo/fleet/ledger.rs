//! What a fleet has made on this machine, in a file of its work folder, so that it can be ended by anyone.
//!
//! A line is written before a namespace is made and after a process is. A process is known by its pid and the
//! time when it started, so that a pid which was given to another in the meantime is left alone.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};

use super::PREFIX;

/// The file.
const FILE: &str = "ledger";
/// How long killed processes may take to be gone.
const KILL_MAX: Duration = Duration::from_secs(5);

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Process {
    pid: u32,
    /// In clock ticks since the machine started.
    started: u64,
    name: String,
}

/// The record. Dropping it ends and removes all that is in it, the folder too.
#[derive(Debug)]
pub(super) struct Ledger {
    dir: PathBuf,
    /// Locked while the fleet lives.
    file: File,
    processes: Vec<Process>,
    namespaces: Vec<String>,
}

impl Ledger {
    /// Takes the folder for this fleet, and ends what an earlier one left there.
    pub(super) fn open(dir: &Path) -> anyhow::Result<Self> {
        let show = dir.display();
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(dir).with_context(|| format!("failed to make {show}"))?;
        let found = fs::symlink_metadata(dir).with_context(|| format!("failed to look at {show}"))?;
        if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o022 != 0
        {
            bail!("{show} is another user's, or others can write to it: remove it");
        }
        let path = dir.join(FILE);
        let is_empty = fs::read_dir(dir).with_context(|| format!("failed to read {show}"))?.next().is_none();
        if !is_empty && !path.exists() {
            bail!("{show} holds what no fleet has made: name an empty folder");
        }
        let file = OpenOptions::new().create(true).append(true).read(true).open(&path);
        let file = file.with_context(|| format!("failed to open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another fleet runs in {show}: wait until it has ended"),
            Err(TryLockError::Error(err)) => return Err(err).context("failed to lock the work folder"),
        }
        let is_same =
            fs::metadata(&path).is_ok_and(|it| file.metadata().is_ok_and(|own| own.ino() == it.ino()));
        if !is_same {
            bail!("another fleet in {show} ended just now: try again");
        }
        let mut ledger = Self { dir: dir.to_owned(), file, processes: Vec::new(), namespaces: Vec::new() };
        ledger.read().with_context(|| format!("failed to read {}", path.display()))?;
        ledger.end();
        ledger.sweep().with_context(|| format!("failed to empty {show}"))?;
        ledger.file.set_len(0).context("failed to empty the ledger")?;
        Ok(ledger)
    }

    /// Notes a namespace that is about to be made.
    pub(super) fn namespace(&mut self, name: &str) -> anyhow::Result<()> {
        self.namespaces.push(name.to_owned());
        writeln!(self.file, "namespace {name}").context("failed to note a namespace")
    }

    /// Notes a process that was just started.
    pub(super) fn process(&mut self, pid: u32, name: &str) -> anyhow::Result<()> {
        // One that has ended already needs no ending.
        let Some((started, _)) = stat(pid) else { return Ok(()) };
        self.processes.push(Process { pid, started, name: name.to_owned() });
        writeln!(self.file, "process {pid} {started} {name}").context("failed to note a process")
    }

    /// Sends a signal to all processes that run.
    pub(super) fn signal_all(&self, signal: Signal) {
        for process in self.processes.iter().filter(|it| it.is_running()) {
            process.signal(signal);
        }
    }

    /// Whether a process runs still.
    pub(super) fn is_any_running(&self) -> bool {
        self.processes.iter().any(Process::is_running)
    }

    /// Their names.
    pub(super) fn running(&self) -> String {
        let names = self.processes.iter().filter(|it| it.is_running()).map(|it| it.name.as_str());
        names.collect::<Vec<_>>().join(", ")
    }

    /// Reads what an earlier fleet noted. A line cut short by a crash is of nothing that was made.
    fn read(&mut self) -> io::Result<()> {
        for line in fs::read_to_string(self.dir.join(FILE))?.lines() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["namespace", name] if name.starts_with(PREFIX) => self.namespaces.push(name.to_owned()),
                ["process", pid, started, name] => {
                    if let (Ok(pid), Ok(started)) = (pid.parse(), started.parse()) {
                        self.processes.push(Process { pid, started, name: name.to_owned() });
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Ends all processes and removes all namespaces.
    fn end(&mut self) {
        self.signal_all(Signal::KILL);
        let deadline = Instant::now() + KILL_MAX;
        while self.is_any_running() && Instant::now() < deadline {
            sleep(Duration::from_millis(5));
        }
        self.processes.clear();
        for name in self.namespaces.drain(..).filter(|name| Path::new("/run/netns").join(name).exists()) {
            let mut command = Command::new("ip");
            command.args(["netns", "delete", &name]).stdout(Stdio::null()).stderr(Stdio::null());
            // Who cannot delete it could not have made it.
            let _ = command.status();
        }
    }

    /// Removes all files but the ledger.
    fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_name() == FILE {
                continue;
            }
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.end();
        if let Err(err) = self.sweep().and_then(|()| fs::remove_dir_all(&self.dir)) {
            tracing::warn!(error = %err, dir = %self.dir.display(), "failed to remove the work folder");
        }
    }
}

impl Process {
    /// Whether it is this process still, and not only waits to be reaped.
    fn is_running(&self) -> bool {
        stat(self.pid).is_some_and(|(started, state)| started == self.started && !matches!(state, 'Z' | 'X'))
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            // It may have ended since.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

/// When a process started and its state, from `/proc/PID/stat` (proc(5): fields 22 and 3).
fn stat(pid: u32) -> Option<(u64, char)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything, brackets too.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((fields.nth(18)?.parse().ok()?, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_crash_left_is_ended_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a folder");
        let dir = dir.path().join("work");
        let start = || Command::new("sleep").arg("60").spawn().expect("a process");
        let (mut left, mut other) = (start(), start());
        let (started, _) = stat(left.id()).expect("it runs");
        fs::create_dir(&dir).expect("a folder");
        fs::write(dir.join("junk"), "").expect("a file");
        Ledger::open(&dir).expect_err("no ledger: the files may be anybody's");
        // The other's pid with another start: it was given to another process since.
        let text = format!("process {} {started} a\nprocess {} 1 b\nproc", left.id(), other.id());
        fs::write(dir.join(FILE), text).expect("a file");
        let ledger = Ledger::open(&dir).expect("what was left can be ended");
        assert!(left.wait().expect("it ended").code().is_none() && !dir.join("junk").exists());
        assert!(other.try_wait().expect("a state").is_none());
        Ledger::open(&dir).expect_err("the folder is taken");
        drop(ledger);
        assert!(!dir.exists());
        other.kill().expect("it runs");
        other.wait().expect("it ended");
    }
}
