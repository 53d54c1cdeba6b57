//! Holds the repository to its conventions, so that people need not.
//!
//! Each rule is a function from a file to findings, shown able to fail by the tests beside it. A finding
//! names file, line and rule. What the compiler, clippy and rustfmt see is left to them.

#[path = "tidy/crates.rs"]
mod crates;
#[path = "tidy/lex.rs"]
mod lex;
#[path = "tidy/proto.rs"]
mod proto;
#[path = "tidy/rust.rs"]
mod rust;
#[path = "tidy/text.rs"]
mod text;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Names that stand for what tools make, at any depth: build outputs, what fuzzing found, caches.
const NOT_OURS: [&str; 8] =
    [".git", "target", "corpus", "artifacts", "coverage", "__pycache__", "node_modules", ".venv"];

/// One text file of the repository.
struct Source {
    /// Relative to the repository's root, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// The name without its folders.
    fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    fn finding(&self, line: usize, rule: &'static str, what: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line, rule, what: what.into() }
    }
}

/// One breach of one rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    line: usize,
    rule: &'static str,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.rule, self.what)
    }
}

#[test]
fn the_repository_is_tidy() {
    // Asked when it runs, not when it is compiled: a target directory may outlive the checkout it was made in.
    let tests = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs this test");
    let sources = read_all(Path::new(&tests).parent().expect("tests/ lies in the root"));
    for known in ["Cargo.toml", "tests/tidy.rs", "node/types/src/lib.rs", "proto/src/lib.rs"] {
        assert!(sources.iter().any(|source| source.path == known), "{known} was not looked at");
    }
    let findings = check(&sources);
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(
        lines.is_empty(),
        "\n\n{}\n\n{} findings; see the rules in tests/tidy\n",
        lines.join("\n"),
        lines.len()
    );
}

fn check(sources: &[Source]) -> BTreeSet<Finding> {
    let mut findings = Vec::new();
    let crates = crates::find(sources);
    findings.extend(crates::check(sources, &crates));
    for source in sources {
        findings.extend(text::check(source));
        match source.file_name().rsplit_once('.') {
            Some((_, "rs")) => findings.extend(rust::check(source, crates::room_of(&crates, &source.path))),
            Some((_, "proto")) => findings.extend(proto::check(source)),
            _ => {}
        }
    }
    findings.into_iter().collect()
}

/// All text files below `root`, in the order of their paths. Links are not followed.
fn read_all(root: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository") {
            let entry = entry.expect("an entry of it");
            let kind = entry.file_type().expect("its kind");
            if NOT_OURS.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file()
                && let Ok(text) = String::from_utf8(fs::read(entry.path()).expect("a file of the repository"))
            {
                let path = entry.path();
                let path = path.strip_prefix(root).expect("it lies below").to_string_lossy().into_owned();
                sources.push(Source { path, text });
            }
        }
    }
    sources.sort_by(|one, other| one.path.cmp(&other.path));
    sources
}

/// The rules that `text`, as the file `path`, breaks, with their lines.
fn broken(path: &str, text: &str, rules: impl Fn(&Source) -> Vec<Finding>) -> Vec<(usize, &'static str)> {
    let source = Source { path: path.to_owned(), text: text.to_owned() };
    let found: BTreeSet<Finding> = rules(&source).into_iter().collect();
    found.into_iter().map(|finding| (finding.line, finding.rule)).collect()
}
