//! Rules for Rust files.

use crate::crates::CORES;
use crate::lex::{Code, Token, imports, item_len, lex, lines_naming, starts_with};
use crate::{Finding, Source};

/// Most lines of a file, the tests at its end not counted.
const LINES_MAX: usize = 500;
/// A `main.rs` has fewer lines than this.
const MAIN_LINES: usize = 50;
/// What a core is given, or must not do at all.
const NOT_IN_CORES: [&str; 11] = [
    "Instant::now",
    "Now::read",
    "SystemTime::now",
    "std::fs",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::os::unix::net",
    "std::process",
    "std::thread",
];
/// Where the clock is read for all: `Now::read`.
const CLOCK: &str = "node/types/src/time.rs";
/// Words that tell a unit, which OpenTelemetry keeps apart from a metric's name, or that Prometheus adds.
const NOT_IN_METRICS: [&str; 11] =
    ["total", "seconds", "secs", "milliseconds", "millis", "ms", "us", "ns", "bytes", "percent", "ratio"];
/// Globs that stand: the generated code is one table of contents and has no names of its own to list.
const GLOBS_ALLOWED: [(&str, &str); 1] = [("proto/src/lib.rs", "generated::sagemesh::*")];

pub(crate) fn check(source: &Source, room: Option<&str>) -> Vec<Finding> {
    let mut findings = lengths(source);
    if !source.text.starts_with("//!") {
        findings.push(source.finding(
            1,
            "header",
            "begin the file with `//!`: what it does, and what it does not",
        ));
    }
    if source.file_name() == "mod.rs" {
        findings.push(source.finding(1, "mod-rs", "call it `room.rs` beside `room/`"));
    }
    match lex(&source.text) {
        Err(error) => findings.push(source.finding(error.span().start().line, "lex", error.to_string())),
        Ok(mut code) => {
            if is_of_tests(&source.path) {
                code.tests.append(&mut code.shipped);
            }
            findings.extend(words(source, &code));
            findings.extend(globs(source, &code));
            if room.is_some_and(|room| CORES.contains(&room)) {
                findings.extend(core(source, &code.shipped));
            }
            if let Some(room) = room
                && source.file_name() == "metrics.rs"
            {
                findings.extend(metrics(source, room, &code.shipped));
            }
        }
    }
    findings
}

/// Whether a file of a crate's sources is a module of tests: those too long to stand below their subject.
fn is_of_tests(path: &str) -> bool {
    let Some((_, inside)) = path.split_once("/src/") else { return false };
    inside.ends_with("tests.rs") || inside.ends_with("testing.rs") || inside.contains("tests/")
}

fn lengths(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let code = source.text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
    let n_lines = code.lines().count();
    if n_lines > LINES_MAX {
        findings.push(source.finding(
            LINES_MAX + 1,
            "file-size",
            format!("{n_lines} lines before the tests: split it by meaning at {LINES_MAX}"),
        ));
    }
    let n_lines = source.text.lines().count();
    if source.file_name() == "main.rs" && n_lines >= MAIN_LINES {
        findings.push(source.finding(
            MAIN_LINES,
            "main-size",
            format!("{n_lines} lines: parse, configure, build, run and report; the rest belongs to rooms"),
        ));
    }
    findings
}

fn words(source: &Source, code: &Code) -> Vec<Finding> {
    let mut findings = Vec::new();
    for tokens in [&code.shipped, &code.tests] {
        for path in ["tokio::spawn", "task::spawn"] {
            findings.extend(lines_naming(tokens, path).into_iter().map(|line| {
                source.finding(line, "detached-task", "spawn it in a `JoinSet` that its parent holds")
            }));
        }
        for window in tokens.windows(2) {
            if window[1].text == "!" && matches!(window[0].text.as_str(), "todo" | "unimplemented") {
                findings.push(source.finding(window[0].line, "unfinished", "write it or leave it out"));
            }
        }
    }
    findings
}

fn globs(source: &Source, code: &Code) -> Vec<Finding> {
    let in_tests = ["super::*", "super::super::*", "proptest::prelude::*"];
    let shipped = imports(&code.shipped).into_iter().map(|import| (import, false));
    let tests = imports(&code.tests).into_iter().map(|import| (import, true));
    let globs = shipped.chain(tests).filter(|((path, _), is_test)| {
        path.ends_with("::*")
            && !(*is_test && in_tests.contains(&path.as_str()))
            && !GLOBS_ALLOWED.contains(&(source.path.as_str(), path.as_str()))
    });
    globs
        .map(|((path, line), _)| source.finding(line, "glob", format!("name what `{path}` brings in")))
        .collect()
}

fn core(source: &Source, tokens: &[Token]) -> Vec<Finding> {
    let mut tokens = tokens.to_vec();
    if source.path == CLOCK
        && let Some(at) = (0..tokens.len()).find(|&at| starts_with(&tokens[at..], &["fn", "read", "("]))
    {
        tokens.drain(at..at + item_len(&tokens[at..]));
    }
    let lines = NOT_IN_CORES
        .iter()
        .flat_map(|path| lines_naming(&tokens, path).into_iter().map(move |line| (line, path)));
    lines
        .map(|(line, path)| {
            source.finding(line, "core", format!("a core does not use `{path}`: let its shell do it"))
        })
        .collect()
}

fn metrics(source: &Source, room: &str, tokens: &[Token]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for token in tokens {
        let Some(name) = token.text.strip_prefix("\"sagemesh.").and_then(|rest| rest.strip_suffix('"'))
        else {
            continue;
        };
        let words: Vec<&str> = name.split('.').collect();
        let is_word = |word: &&str| {
            !word.is_empty()
                && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        let mut complain = |what: String| findings.push(source.finding(token.line, "metric", what));
        if words[0] != room && room != "daemon" {
            complain(format!("`sagemesh.{name}` does not begin with `sagemesh.{room}.`"));
        }
        if words.len() < 2 || !words.iter().all(is_word) {
            complain(format!("`sagemesh.{name}` is not `sagemesh.ROOM.WHAT` in lower case"));
        }
        if let Some(unit) = name.split(['.', '_']).find(|word| NOT_IN_METRICS.contains(word)) {
            complain(format!("`{unit}` is no part of a name: declare the unit beside it"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broken;

    #[track_caller]
    fn check_as(room: &str, path: &str, body: &str, expected: &[(usize, &str)]) {
        let text = format!("//! A file.\n{body}");
        assert_eq!(broken(path, &text, |source| check(source, Some(room))), expected, "{body}");
    }

    #[track_caller]
    fn check_shell(body: &str, expected: &[(usize, &str)]) {
        check_as("store", "node/store/src/lib.rs", body, expected);
    }

    #[test]
    fn modules_of_tests_may_do_what_tests_may() {
        let body = "use super::*;\nfn now() { Instant::now(); }\n";
        for path in
            ["node/heal/src/tests.rs", "node/heal/src/plan/tests/order.rs", "node/heal/src/testing.rs"]
        {
            let text = format!("//! A file.\n{body}");
            assert_eq!(broken(path, &text, |source| check(source, Some("heal"))), [], "{path}");
        }
        check_as("heal", "node/heal/src/plan.rs", body, &[(2, "glob"), (3, "core")]);
    }

    #[test]
    fn a_file_says_what_it_is() {
        let rules = |source: &Source| check(source, None);
        assert_eq!(broken("a.rs", "// Not a header.\n", rules), [(1, "header")]);
        assert_eq!(broken("a.rs", "", rules), [(1, "header")]);
        assert_eq!(broken("a.rs", "//! A header.\n", rules), []);
    }

    #[test]
    fn a_file_that_is_not_rust_is_found() {
        check_shell("fn f() {", &[(2, "lex")]);
    }

    #[test]
    fn modules_lie_beside_their_folder() {
        check_as("store", "node/store/src/read/mod.rs", "", &[(1, "mod-rs")]);
    }

    #[test]
    fn a_file_has_500_lines_before_its_tests() {
        let line = "const _: () = ();\n";
        let tests = format!("\n#[cfg(test)]\nmod tests {{\n{}}}\n", line.repeat(600));
        check_shell(&(line.repeat(498) + &tests), &[]);
        check_shell(&(line.repeat(500) + &tests), &[(501, "file-size")]);
        check_shell(&line.repeat(600), &[(501, "file-size")]);
    }

    #[test]
    fn main_has_fewer_than_50_lines() {
        let path = "node/daemon/src/main.rs";
        check_as("daemon", path, &"const _: () = ();\n".repeat(48), &[]);
        check_as("daemon", path, &"const _: () = ();\n".repeat(49), &[(50, "main-size")]);
    }

    #[test]
    fn nothing_is_left_unfinished() {
        check_shell("fn f() {\n    todo!()\n}", &[(3, "unfinished")]);
        check_shell(
            "#[cfg(test)]\nmod tests {\n    fn f() { unimplemented!(\"later\") }\n}",
            &[(4, "unfinished")],
        );
        check_shell("fn todo() { f(\"todo!\") } // todo!", &[]);
    }

    #[test]
    fn no_task_is_detached() {
        check_shell("fn f() { tokio::spawn(g()); }", &[(2, "detached-task")]);
        check_shell("fn f() { tokio::task::spawn(g()); }", &[(2, "detached-task")]);
        check_shell("use tokio::{spawn, select};", &[(2, "detached-task")]);
        check_shell("fn f() { tasks.spawn(g()); tokio::task::spawn_blocking(h); }", &[]);
    }

    #[test]
    fn globs_are_for_tests() {
        check_shell("use std::io::{self, prelude::*};", &[(2, "glob")]);
        check_shell("use super::*;", &[(2, "glob")]);
        check_shell("#[cfg(test)]\nmod tests {\n    use super::*;\n    use proptest::prelude::*;\n}", &[]);
        check_shell("#[cfg(test)]\nmod tests {\n    use crate::*;\n}", &[(4, "glob")]);
        check_as("proto", "proto/src/lib.rs", "pub use generated::sagemesh::*;", &[]);
    }

    #[test]
    fn a_core_has_no_clock_no_file_no_socket_and_no_thread() {
        let body = "use std::time::Instant;\nuse std::{net::{IpAddr, TcpStream}, thread};\nfn f() -> Instant {\n    Instant::now()\n}\n";
        check_as("heal", "node/heal/src/lib.rs", body, &[(3, "core"), (3, "core"), (5, "core")]);
        check_as("store", "node/store/src/lib.rs", body, &[]);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{body}}}\n");
        check_as("heal", "node/heal/src/lib.rs", &tests, &[]);
        check_as("heal", "node/heal/src/lib.rs", "use std::net::{IpAddr, SocketAddr};", &[]);
        check_as("heal", "node/heal/src/lib.rs", "fn f() { g(Now::read()) }", &[(2, "core")]);
    }

    #[test]
    fn the_clock_is_read_in_one_function_only() {
        let body = "impl Now {\n    fn read() -> Self { f(Instant::now(), SystemTime::now()) }\n}\n";
        check_as("types", "node/types/src/time.rs", body, &[]);
        check_as("types", "node/types/src/edge.rs", body, &[(3, "core"), (3, "core")]);
        let more = format!("{body}fn f() {{ Instant::now(); }}\n");
        check_as("types", "node/types/src/time.rs", &more, &[(5, "core")]);
    }

    #[test]
    fn metrics_are_named_after_their_room_and_without_units() {
        #[track_caller]
        fn check(name: &str, is_good: bool) {
            let body = format!("const X: &str = \"{name}\";");
            let expected: &[_] = if is_good { &[] } else { &[(2, "metric")] };
            check_as("flow", "node/flow/src/metrics.rs", &body, expected);
            check_as("flow", "node/flow/src/lib.rs", &body, &[]);
        }
        check("sagemesh.flow.records", true);
        check("sagemesh.flow.window.lag", true);
        check("sagemesh.score.duration", false);
        check("sagemesh.flow", false);
        check("sagemesh.flow.Records", false);
        check("sagemesh.flow.records_total", false);
        check("sagemesh.flow.duration.seconds", false);
    }
}
