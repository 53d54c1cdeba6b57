//! The demo as people run it, only shorter: it ends well, says so, and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A demo of eight seconds with its work folder in `place`.
fn demo(place: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sagemesh"));
    // Few calls: debug builds are slow, and all that are under way when the node dies are lost.
    command.args(["demo", "--nodes", "3", "--for", "8s", "--rate", "10", "--plain"]).args(args);
    command.env("TMPDIR", place).env_remove("RUST_BACKTRACE");
    command
}

#[track_caller]
fn goes_well(output: &Output) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    let result = out.lines().last().unwrap().strip_prefix("RESULT ").unwrap();
    let result: Value = serde_json::from_str(result).unwrap();
    assert_eq!((result["demo.nodes"].as_u64(), result["demo.services"].as_u64()), (Some(3), Some(12)));
    assert_eq!(result["demo.tls_group"], "X25519MLKEM768");
    assert_eq!(result["demo.tls_signature"], "ML-DSA-65");
    assert!(result["demo.calls"].as_u64().unwrap() >= 40, "{result}");
    let (failed, in_flight) = (&result["demo.failed"], &result["demo.kill_in_flight"]);
    assert_eq!(failed, in_flight, "all others could be saved: {result}");
    assert!(result["demo.shift_s"].as_f64().unwrap() < 3.0, "{result}");
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|it| std::os::unix::fs::MetadataExt::uid(&it) == 0)
}

/// Processes whose command line names `place`.
fn processes(place: &Path) -> Vec<String> {
    let place = place.to_str().unwrap();
    let read = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).ok();
    let all = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).filter_map(read);
    let lines = all.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(place)).collect()
}

#[track_caller]
fn leaves_nothing(place: &Path) {
    assert_eq!(std::fs::read_dir(place).unwrap().count(), 0);
    assert_eq!(processes(place), Vec::<String>::new());
}

#[test]
fn a_mesh_on_the_loopback_survives_the_loss_of_a_node() {
    let place = tempfile::tempdir().unwrap();
    goes_well(&demo(place.path(), &["--loopback"]).output().unwrap());
    leaves_nothing(place.path());
}

#[test]
fn a_mesh_in_namespaces_survives_the_loss_of_a_node() {
    if !is_root() {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    goes_well(&demo(place.path(), &[]).output().unwrap());
    leaves_nothing(place.path());
    let left = std::fs::read_dir("/run/netns").unwrap().filter_map(Result::ok);
    assert!(left.into_iter().all(|it| it.file_name() != "smdemo-1" && it.file_name() != "smdemo-hub"));
}

#[test]
fn a_demo_that_is_killed_takes_its_nodes_along_and_the_next_one_cleans_up() {
    let place = tempfile::tempdir().unwrap();
    let start = || {
        let mut child = demo(place.path(), &["--loopback"]).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map(Result::unwrap);
        // Services and customers run.
        lines.find(|line| line.contains("calls ")).unwrap();
        (child, lines)
    };
    let (mut child, lines) = start();
    child.kill().unwrap();
    child.wait().unwrap();
    drop(lines);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !processes(place.path()).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", processes(place.path()));
        std::thread::sleep(Duration::from_millis(20));
    }
    let left: Vec<PathBuf> = std::fs::read_dir(place.path()).unwrap().map(|it| it.unwrap().path()).collect();
    assert_eq!(left.len(), 1, "{left:?}");

    let (mut child, lines) = start();
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    drop(lines);
    leaves_nothing(place.path());
}
