//! What a process and its network interface use.

use std::path::Path;

use anyhow::Context;

/// Clock ticks a second of /proc/PID/stat: USER_HZ, 100 on all architectures that Rust knows.
const TICKS_PER_S: f64 = 100.0;

/// What is counted since the start of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// Resident memory now, in MB (10⁶ bytes).
    pub(crate) rss_mb: f64,
    /// CPU seconds, user and system.
    pub(crate) cpu_s: f64,
    /// Bytes in and out of its namespace's interfaces but loopback.
    pub(crate) bytes: f64,
}

/// Reads `VmRSS`, `utime` and `stime` (proc_pid_status(5), proc_pid_stat(5)), and the counters of `eth0` in
/// the namespace of the process (proc_pid_net(5)).
pub(crate) fn of(pid: u32) -> anyhow::Result<Usage> {
    let dir = Path::new("/proc").join(pid.to_string());
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).with_context(|| format!("process {pid}"));
    let status = read("status")?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let rss_kib: f64 = rss.trim().trim_end_matches(" kB").parse()?;
    let stat = read("stat")?;
    // The name in brackets may hold blanks.
    let (_, fields) = stat.rsplit_once(") ").context("no fields")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = |idx: usize| anyhow::Ok(fields.get(idx).context("too few fields")?.parse::<f64>()?);
    let cpu_s = (ticks(11)? + ticks(12)?) / TICKS_PER_S;
    let net = read("net/dev")?;
    let eth = net.lines().find_map(|line| line.trim().strip_prefix("eth0:")).context("no eth0")?;
    let counters: Vec<f64> = eth.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let counter = |idx: usize| counters.get(idx).copied().context("too few counters");
    Ok(Usage { rss_mb: rss_kib * 1024.0 / 1e6, cpu_s, bytes: counter(0)? + counter(8)? })
}
