//! Rules for manifests: which room may import which, and what no core depends on.
//!
//! A room's own dev-dependencies may add `types` and `proto` and nothing else of ours: a test that needs two
//! rooms is a test of the whole and belongs to `tests`. Crates of others are free there, but not in cores.

use crate::{Finding, Source};

/// Rooms that decide and do nothing: no runtime, no socket, no file, no thread, no clock.
pub(crate) const CORES: [&str; 12] = [
    "types",
    "identity",
    "membership",
    "route",
    "flow",
    "heal",
    "event",
    "knowledge",
    "wire",
    "graph",
    "detect",
    "federate",
];
/// What cores reach through shells only. A name stands for its family, such as `tokio` for `tokio-util`.
const NOT_IN_CORES: [&str; 8] =
    ["async-std", "hyper", "libp2p", "mio", "rusqlite", "socket2", "tokio", "tonic"];
/// Ours that a room's tests may use though the room does not.
const IN_DEV: [&str; 2] = ["types", "proto"];

/// Who may import whom: the table of DESIGN section 2. A room that is not here gets a line, and an ADR if the
/// line is new.
const MAY_IMPORT: [(&str, &[&str]); 22] = [
    ("types", &[]),
    ("proto", &[]),
    ("identity", &["types", "proto"]),
    ("membership", &["types", "proto"]),
    ("route", &["types"]),
    ("flow", &["types"]),
    ("heal", &["types"]),
    ("event", &["types"]),
    ("knowledge", &["types"]),
    ("wire", &["types"]),
    ("graph", &["types"]),
    ("federate", &["types"]),
    ("detect", &["types", "graph"]),
    ("sage", &["types", "graph"]),
    ("attest", &["types"]),
    ("store", &["types"]),
    ("tls", &["types", "identity"]),
    ("probe", &["types", "attest"]),
    ("mesh", &["types", "proto", "identity", "membership", "tls"]),
    ("proxy", &["types", "proto", "identity", "tls", "attest", "route", "wire"]),
    (
        "api",
        &[
            "types",
            "identity",
            "membership",
            "route",
            "flow",
            "heal",
            "event",
            "knowledge",
            "wire",
            "attest",
            "tls",
            "store",
            "proto",
            "graph",
            "detect",
            "federate",
        ],
    ),
    (
        "daemon",
        &[
            "types",
            "proto",
            "identity",
            "membership",
            "route",
            "flow",
            "heal",
            "event",
            "knowledge",
            "wire",
            "graph",
            "federate",
            "detect",
            "sage",
            "attest",
            "store",
            "tls",
            "probe",
            "mesh",
            "proxy",
            "api",
        ],
    ),
];

/// Workspaces of their own, which hold no rooms: what only nightly builds, and what needs other crates than a node.
const OWN_WORKSPACES: [&str; 2] = ["tests/fuzz/", "tests/bench/dataplane/pd/"];

/// One crate of ours.
#[derive(Debug)]
pub(crate) struct Crate {
    /// Where its manifest lies, without a trailing `/`.
    dir: String,
    /// Its one word.
    room: String,
}

/// Whether the file at `path` belongs to one of those.
fn is_apart(path: &str) -> bool {
    OWN_WORKSPACES.iter().any(|workspace| path.starts_with(workspace))
}

/// The crates whose manifests are among `sources`.
pub(crate) fn find(sources: &[Source]) -> Vec<Crate> {
    let manifests = sources.iter().filter(|source| source.path.ends_with("/Cargo.toml"));
    let ours = manifests.filter(|source| !is_apart(&source.path));
    ours.filter_map(|source| {
        let manifest: toml::Table = source.text.parse().ok()?;
        let name = manifest.get("package")?.get("name")?.as_str()?;
        let room = room_named(name)?;
        Some(Crate { dir: source.path.trim_end_matches("/Cargo.toml").to_owned(), room: room.to_owned() })
    })
    .collect()
}

/// The room to which the file at `path` belongs.
pub(crate) fn room_of<'a>(crates: &'a [Crate], path: &str) -> Option<&'a str> {
    let holds = |it: &&Crate| path.strip_prefix(&it.dir).is_some_and(|rest| rest.starts_with('/'));
    crates.iter().filter(holds).max_by_key(|it| it.dir.len()).map(|it| it.room.as_str())
}

/// The room whose package has this name; the binary's is the daemon's.
fn room_named(package: &str) -> Option<&str> {
    if package == "sagemesh" { Some("daemon") } else { package.strip_prefix("sagemesh-") }
}

/// Checks all manifests.
pub(crate) fn check(sources: &[Source], crates: &[Crate]) -> Vec<Finding> {
    let Some(root) = sources.iter().find(|source| source.path == "Cargo.toml") else {
        return Vec::new();
    };
    let workspace = match root.text.parse::<toml::Table>() {
        Ok(manifest) => manifest,
        Err(error) => return vec![root.finding(1, "manifest", error.message())],
    };
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.path.ends_with("/Cargo.toml")) {
        match source.text.parse::<toml::Table>() {
            Err(error) => findings.push(source.finding(1, "manifest", error.message())),
            Ok(manifest) => match crates.iter().find(|it| source.path == format!("{}/Cargo.toml", it.dir)) {
                Some(it) => findings.extend(check_manifest(source, &it.room, &manifest, &workspace)),
                None if is_apart(&source.path) => {}
                None => findings.push(source.finding(1, "package-name", "call the package `sagemesh-ROOM`")),
            },
        }
    }
    findings
}

fn check_manifest(
    source: &Source,
    room: &str,
    manifest: &toml::Table,
    workspace: &toml::Table,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is_linted = manifest.get("lints").and_then(|lints| lints.get("workspace")) == Some(&true.into());
    if !is_linted {
        findings.push(source.finding(1, "lints", "add `[lints] workspace = true`"));
    }
    let allowed = MAY_IMPORT.iter().find(|(name, _)| *name == room).map(|(_, allowed)| *allowed);
    if allowed.is_none() && room != "tests" {
        findings.push(source.finding(1, "new-room", format!("`{room}` is missing in the table of imports")));
    }
    for dependency in dependencies(manifest, workspace) {
        let Dependency { key, package, is_dev } = dependency;
        let line = line_of(source, &key);
        if let Some(ours) = room_named(&package) {
            let is_allowed = room == "tests"
                || allowed.is_some_and(|allowed| allowed.contains(&ours))
                || (is_dev && IN_DEV.contains(&ours));
            if !is_allowed {
                findings.push(source.finding(line, "import", format!("`{room}` may not import `{ours}`")));
            }
        }
        let is_of = |family: &&str| package == **family || package.starts_with(&format!("{family}-"));
        if CORES.contains(&room) && NOT_IN_CORES.iter().any(is_of) {
            let what = format!("`{room}` is a core and may not depend on `{package}`");
            findings.push(source.finding(line, "core-dependency", what));
        }
    }
    findings
}

struct Dependency {
    key: String,
    package: String,
    is_dev: bool,
}

/// Every dependency of every kind, for whatever target.
fn dependencies(manifest: &toml::Table, workspace: &toml::Table) -> Vec<Dependency> {
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let targets = targets.into_iter().flat_map(|targets| targets.values()).filter_map(toml::Value::as_table);
    let mut found = Vec::new();
    for table in std::iter::once(manifest).chain(targets) {
        for kind in ["dependencies", "build-dependencies", "dev-dependencies"] {
            let entries = table.get(kind).and_then(toml::Value::as_table);
            for (key, entry) in entries.into_iter().flatten() {
                let package = package_of(entry)
                    .or_else(|| package_of(workspace.get("workspace")?.get("dependencies")?.get(key)?))
                    .unwrap_or(key);
                let (key, package) = (key.clone(), package.to_owned());
                found.push(Dependency { key, package, is_dev: kind == "dev-dependencies" });
            }
        }
    }
    found
}

fn package_of(entry: &toml::Value) -> Option<&str> {
    entry.get("package")?.as_str()
}

/// The line that begins with `key`, 1 if there is none.
fn line_of(source: &Source, key: &str) -> usize {
    let is_key = |line: &str| line.strip_prefix(key).is_some_and(|rest| rest.starts_with([' ', '.', '=']));
    source.text.lines().position(is_key).map_or(1, |idx| idx + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKSPACE: &str = "
        [workspace.dependencies]
        types = { path = \"node/types\", package = \"sagemesh-types\" }
        store = { path = \"node/store\", package = \"sagemesh-store\" }
        runtime = { version = \"1\", package = \"tokio\" }
    ";

    #[track_caller]
    fn check_as(package: &str, rest: &str, expected: &[(usize, &str)]) {
        let text = format!("[package]\nname = \"{package}\"\n[lints]\nworkspace = true\n{rest}");
        let source = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
        let sources = [source("Cargo.toml", WORKSPACE), source("node/it/Cargo.toml", &text)];
        let found = check(&sources, &find(&sources));
        let found: Vec<_> = found.iter().map(|finding| (finding.line, finding.rule)).collect();
        assert_eq!(found, expected, "{rest}");
    }

    #[test]
    fn a_room_imports_what_the_table_allows() {
        check_as("sagemesh-store", "[dependencies]\ntypes.workspace = true", &[]);
        check_as("sagemesh-types", "[dependencies]\nstore.workspace = true", &[(6, "import")]);
        check_as("sagemesh-mesh", "[build-dependencies]\nstore.workspace = true", &[(6, "import")]);
        check_as(
            "sagemesh-mesh",
            "[target.'cfg(unix)'.dependencies]\nstore = { workspace = true }",
            &[(6, "import")],
        );
        check_as("sagemesh-mesh", "[dependencies]\nx = { package = \"sagemesh-store\" }", &[(6, "import")]);
        check_as("sagemesh", "[dependencies]\nstore.workspace = true", &[]);
        check_as("sagemesh", "[dependencies]\nsagemesh-lab = \"1\"", &[(6, "import")]);
        check_as("sagemesh-tests", "[dependencies]\nstore.workspace = true", &[]);
    }

    #[test]
    fn tests_of_a_room_add_types_and_proto_only() {
        check_as("sagemesh-proto", "[dev-dependencies]\ntypes.workspace = true", &[]);
        check_as("sagemesh-tls", "[dev-dependencies]\nstore.workspace = true", &[(6, "import")]);
    }

    #[test]
    fn a_core_has_no_runtime() {
        check_as("sagemesh-heal", "[dependencies]\nruntime.workspace = true", &[(6, "core-dependency")]);
        check_as("sagemesh-heal", "[dev-dependencies]\ntokio-util = \"0.7\"", &[(6, "core-dependency")]);
        check_as("sagemesh-heal", "[dependencies]\ntokioish = \"1\"", &[]);
        check_as("sagemesh-mesh", "[dependencies]\nruntime.workspace = true", &[]);
    }

    #[test]
    fn a_room_is_known_and_linted() {
        check_as("sagemesh-cellar", "", &[(1, "new-room")]);
        check_as("cellar", "", &[(1, "package-name")]);
        let sources = ["Cargo.toml", "node/it/Cargo.toml"].map(|path| Source {
            path: path.to_owned(),
            text: "[package]\nname = \"sagemesh-types\"".to_owned(),
        });
        assert_eq!(check(&sources, &find(&sources))[0].rule, "lints");
    }

    #[test]
    fn every_row_of_the_table_names_rooms_of_the_table() {
        let rooms: Vec<&str> = MAY_IMPORT.iter().map(|(room, _)| *room).collect();
        for (room, allowed) in MAY_IMPORT {
            assert!(allowed.iter().all(|name| rooms.contains(name) && *name != room), "{room}");
        }
        assert!(CORES.iter().all(|core| rooms.contains(core)));
    }

    #[test]
    fn a_file_belongs_to_the_innermost_crate() {
        let it = |dir: &str, room: &str| Crate { dir: dir.to_owned(), room: room.to_owned() };
        let crates = [it("tests", "tests"), it("node/store", "store")];
        assert_eq!(room_of(&crates, "node/store/src/lib.rs"), Some("store"));
        assert_eq!(room_of(&crates, "tests/tidy.rs"), Some("tests"));
        assert_eq!(room_of(&crates, "node/storefront/src/lib.rs"), None);
    }
}
