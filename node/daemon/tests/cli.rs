//! The binary as people run it: what it prints, leaves behind, and says when something is wrong.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A machine: a state directory and the commands run on it.
struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn run(&self, args: &[&str]) -> Output {
        run_in(&self.state(), args)
    }
}

fn run_in(state: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sagemesh"));
    command.arg("--state").arg(state).args(args);
    command.env_remove("SAGEMESH_STATE").env_remove("RUST_BACKTRACE").output().unwrap()
}

#[track_caller]
fn succeeds(output: &Output) -> String {
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn fails(output: &Output, code: i32, expected: &str) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{told}");
    assert!(told.contains(expected), "{told}");
    assert!(!told.contains("panicked"), "{told}");
}

#[test]
fn a_new_mesh_is_there_after_init_and_stays_the_same() {
    let pi = Machine::new();
    let made = succeeds(&pi.run(&["init", "home.mesh", "--name", "pi"]));
    assert!(made.contains("node      pi.home.mesh") && made.contains("next-root.keys"), "{made}");
    for file in ["node.keys", "signer.keys", "root.keys", "next-root.keys", "store.db"] {
        let mode = fs::metadata(pi.state().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let read = succeeds(&pi.run(&["status"]));
    assert!(made.starts_with(&read), "{read}");
    assert!(read.contains("root.keys is still here"), "{read}");
    let json: serde_json::Value =
        serde_json::from_str(&succeeds(&pi.run(&["status", "-o", "json"]))).unwrap();
    assert_eq!((json["node"].as_str(), json["n_members"].as_u64()), (Some("pi.home.mesh"), Some(1)));
    assert!(json["warnings"][0].as_str().unwrap().contains("one signer only"));

    fails(&pi.run(&["init", "other.mesh", "--name", "pi"]), 1, "--state");
    assert_eq!(succeeds(&pi.run(&["status"])), read);
}

#[test]
fn root_keys_that_were_moved_away_are_not_missed() {
    let pi = Machine::new();
    succeeds(&pi.run(&["init", "home.mesh", "--name", "pi"]));
    fs::remove_file(pi.state().join("root.keys")).unwrap();
    fs::remove_file(pi.state().join("next-root.keys")).unwrap();
    assert!(!succeeds(&pi.run(&["status"])).contains("still here"));
}

#[test]
fn an_interrupted_init_is_taken_up_where_it_stopped() {
    let pi = Machine::new();
    succeeds(&pi.run(&["init", "home.mesh", "--name", "pi"]));
    let kept = fs::read(pi.state().join("node.keys")).unwrap();
    // As if the power had gone before the database was written.
    fs::remove_file(pi.state().join("store.db")).unwrap();
    fs::write(pi.state().join("founding"), "").unwrap();
    fails(&pi.run(&["status"]), 1, "run it again");
    succeeds(&pi.run(&["init", "home.mesh", "--name", "pi"]));
    assert_eq!(fs::read(pi.state().join("node.keys")).unwrap(), kept);
    assert!(!pi.state().join("founding").exists());
}

#[test]
fn a_lost_database_does_not_found_the_mesh_anew() {
    let pi = Machine::new();
    succeeds(&pi.run(&["init", "home.mesh", "--name", "pi"]));
    fs::remove_file(pi.state().join("store.db")).unwrap();
    for command in [&["status"][..], &["init", "home.mesh", "--name", "pi"]] {
        fails(&pi.run(command), 1, "restore it from a backup");
        assert!(!pi.state().join("store.db").exists(), "none stands where one is to be restored");
    }
}

#[test]
fn asking_makes_nothing_and_says_what_to_do() {
    let pi = Machine::new();
    fails(&pi.run(&["status"]), 1, "sagemesh init");
    assert!(!pi.state().exists());
}

#[test]
fn what_is_mistyped_is_refused_before_anything_happens() {
    let pi = Machine::new();
    fails(&pi.run(&["init", "Home"]), 2, "such as `home.mesh`");
    fails(&pi.run(&["init", "home.mesh", "--name", "svc"]), 2, "reserved");
    fails(&pi.run(&["inti", "home.mesh"]), 2, "init");
    let config = pi.dir.path().join("config.toml");
    fs::write(&config, "[store]\ncommit_delay = 5\n").unwrap();
    let file = config.to_str().unwrap();
    fails(&pi.run(&["--config", file, "init", "home.mesh"]), 2, "did you mean `commit_delay_ms`?");
    fs::write(&config, "[store]\ncommit_delay_ms = 0\n").unwrap();
    fails(&pi.run(&["--config", file, "init", "home.mesh"]), 2, "1 ms to 10 s");
    fails(&pi.run(&["--config", file, "config", "check"]), 2, "1 ms to 10 s");
    assert!(!pi.state().join("node.keys").exists());
}

#[test]
fn damaged_state_is_refused_and_left_alone() {
    #[track_caller]
    fn check(file: &str, damage: fn(Vec<u8>) -> Vec<u8>, expected: &str) {
        let pi = Machine::new();
        succeeds(&pi.run(&["init", "home.mesh", "--name", "pi"]));
        let path = pi.state().join(file);
        let damaged = damage(fs::read(&path).unwrap());
        fs::write(&path, &damaged).unwrap();
        fails(&pi.run(&["status"]), 1, expected);
        fails(&pi.run(&["init", "home.mesh", "--name", "pi"]), 1, expected);
        assert_eq!(fs::read(&path).unwrap(), damaged);
    }
    check("node.keys", |whole| whole[..100].to_vec(), "restore it from a backup");
    check("signer.keys", |_| Vec::new(), "restore it from a backup");
    check("store.db", |_| b"not a database".to_vec(), "store.db");
    check("store.db", |whole| whole[..5000].to_vec(), "store.db");
}

#[test]
fn a_key_file_that_others_can_read_is_refused() {
    let pi = Machine::new();
    succeeds(&pi.run(&["init", "home.mesh", "--name", "pi"]));
    let path = pi.state().join("node.keys");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fails(&pi.run(&["status"]), 1, "chmod 600");
}

#[test]
fn a_directory_that_cannot_be_made_or_written_is_named() {
    let pi = Machine::new();
    let file = pi.dir.path().join("file");
    fs::write(&file, "").unwrap();
    fails(&run_in(&file.join("state"), &["init", "home.mesh", "--name", "pi"]), 1, "file/state");
    fails(&run_in(Path::new("/proc/sagemesh"), &["init", "home.mesh", "--name", "pi"]), 1, "/proc/sagemesh");
}

#[test]
fn the_configuration_in_effect_can_be_seen() {
    let pi = Machine::new();
    let told = succeeds(&pi.run(&["config", "check"]));
    assert!(told.contains("commit_delay_ms = 1000") && told.contains("state = "), "{told}");
    assert!(!pi.state().exists());
}

#[test]
fn a_full_state_directory_is_named_and_init_works_once_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let mounts = |args: &[&str]| {
        let mount = Command::new("mount").args(args).arg(dir.path()).stderr(Stdio::null()).status();
        mount.is_ok_and(|status| status.success())
    };
    if !mounts(&["-t", "tmpfs", "-o", "size=64k,mode=755", "sagemesh-test"]) {
        eprintln!("SKIPPED: mounting a small tmpfs needs root and CAP_SYS_ADMIN");
        return;
    }
    let state = dir.path().join("state");
    let init = || run_in(&state, &["init", "home.mesh", "--name", "pi"]);
    let on_full = init();
    let has_space = mounts(&["-o", "remount,size=64m"]);
    let with_space = init();
    let unmounted = Command::new("umount").arg("-l").arg(dir.path()).status();
    assert!(has_space && unmounted.is_ok_and(|status| status.success()));
    fails(&on_full, 1, "space");
    fails(&on_full, 1, dir.path().to_str().unwrap());
    succeeds(&with_space);
}

#[test]
fn a_path_that_is_no_text_is_refused() {
    let pi = Machine::new();
    let state = pi.dir.path().join(OsStr::from_bytes(b"st\xffte"));
    fails(&run_in(&state, &["config", "check"]), 2, "UTF-8");
    fails(&run_in(&state, &["init", "home.mesh", "--name", "pi"]), 2, "UTF-8");
    assert!(!state.exists());
}
