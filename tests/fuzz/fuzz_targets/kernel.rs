//! What the kernel says of sockets and processes, and selectors: processes name themselves, and control groups
//! and mounts have the names that somebody gave them.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

use attest::{Selector, fuzz};

/// The kernel cuts names of processes (`TASK_COMM_LEN`).
const COMM_BYTES_MAX: usize = 15;

#[derive(Arbitrary, Debug)]
enum Input {
    /// A line of `/proc/PID/stat` by a process of that name.
    Stat { name: Vec<u8>, started: u64 },
    /// Any of it.
    Proc(Vec<u8>),
    /// What an operator writes.
    Selector(String),
    /// A line of `/proc/self/mountinfo` about a folder and a group of these names.
    Mount { folder: String, group: String },
    /// What `sock_diag` answers, with a header whose length is right.
    Answer { kind: u16, body: Vec<u8> },
    /// With any header.
    Bytes(Vec<u8>),
}

fuzz_target!(|input: Input| match input {
    Input::Stat { mut name, started } => {
        name.truncate(COMM_BYTES_MAX);
        let before =
            [b"4242 (".as_slice(), &name, b") S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 "].concat();
        let line = [&before, started.to_string().as_bytes(), b" 23 24\n"].concat();
        assert_eq!(fuzz::started(&line), Some(started));
    }
    Input::Proc(bytes) => {
        let _ = fuzz::started(&bytes);
        if let Some(group) = fuzz::group(&bytes) {
            assert!(!group.starts_with("/..") && !group.ends_with(" (deleted)") && !group.contains('\n'));
        }
        if let Some((folder, group)) = fuzz::mount(&bytes) {
            let folder = folder.to_str().expect("it was read as text");
            check_mount(folder, &group);
        }
    }
    Input::Selector(text) => {
        if let Ok(selector) = text.parse::<Selector>() {
            assert_eq!(selector.to_string().parse(), Ok(selector));
            assert!(!text.contains(char::is_control));
        }
    }
    Input::Mount { folder, group } => check_mount(&format!("/{folder}"), &format!("/{group}")),
    Input::Answer { kind, body } => {
        let len = u32::try_from(16 + body.len()).expect("it is short").to_ne_bytes();
        let header = [len.as_slice(), &kind.to_ne_bytes(), &[0; 2], &7_u32.to_ne_bytes(), &[0; 4]].concat();
        if let Ok((sequence, _)) = fuzz::answer(&[header, body].concat()) {
            assert_eq!(sequence, 7);
        }
    }
    Input::Bytes(bytes) => drop(fuzz::answer(&bytes)),
});

/// Whether a mount is found by what the kernel writes of it: paths from the root, one to which this process has a
/// way. What its neighbours are called makes no difference.
fn check_mount(folder: &str, group: &str) {
    if !folder.starts_with('/') || !group.starts_with('/') || group.starts_with("/..") {
        return;
    }
    let line =
        format!("42 32 0:39 {} {} rw,nosuid shared:4 - cgroup2 none rw\n", escape(group), escape(folder));
    let lines = [b"41 32 0:38 / /media/\xff rw - fuse x rw\n", line.as_bytes()].concat();
    assert_eq!(fuzz::mount(&lines), Some((folder.into(), group.to_owned())));
}

/// As the kernel writes names (`mangle` in fs/proc_namespace.c, man 5 proc).
fn escape(name: &str) -> String {
    let escaped = |c: char| match c {
        ' ' => "\\040".to_owned(),
        '\t' => "\\011".to_owned(),
        '\n' => "\\012".to_owned(),
        '\\' => "\\134".to_owned(),
        '#' => "\\043".to_owned(),
        other => other.to_string(),
    };
    name.chars().map(escaped).collect()
}
