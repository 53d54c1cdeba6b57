//! A process that ends with the one that started it, however that ended.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;

use anyhow::{Context, bail};
use rustix::process::Signal;
use tokio::process::Command;

/// A command that runs `program` tied to this process, in the namespace if there is one. Arguments can follow.
pub(super) fn command(sagemesh: &Path, namespace: Option<&str>, program: &Path) -> Command {
    let mut command = Command::new(sagemesh);
    command.args(["demo", "--tie", &std::process::id().to_string(), "--"]);
    if let Some(namespace) = namespace {
        // `ip netns exec` would mount /sys anew, without control groups.
        command.args(["nsenter", &format!("--net=/run/netns/{namespace}"), "--"]);
    }
    command.arg(program);
    command
}

/// Becomes `command`, which the kernel kills when the process `parent` ends (PR_SET_PDEATHSIG, prctl(2)).
///
/// # Errors
/// It cannot be started, or the parent has ended already.
pub(in crate::demo) fn exec(parent: u32, command: &[OsString]) -> anyhow::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .context("failed to tie a process to its parent")?;
    let found = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if found != Some(parent) {
        bail!("the process that started this one has ended");
    }
    let [program, args @ ..] = command else { bail!("no program is named") };
    let err = std::process::Command::new(program).args(args).exec();
    Err(err).with_context(|| format!("failed to run {}", program.display()))
}
