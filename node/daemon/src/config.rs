//! What can be configured: defaults, then the file, then the environment, then flags.
//!
//! [`RawConfig`] is what people write; it becomes [`Config`] once, with everything checked. An unknown key is
//! refused, since a misspelt one would be silently without effect.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where the file is looked for by root.
pub const FILE: &str = "/etc/sagemesh/config.toml";

/// Where root's node is asked.
pub const SOCKET: &str = "/run/sagemesh/api.sock";

/// The configuration as people write it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    /// Directory of keys and database. Default `/var/lib/sagemesh` for root, else
    /// `$XDG_STATE_HOME/sagemesh`. Environment: `SAGEMESH_STATE`.
    pub state: Option<PathBuf>,
    /// The store.
    #[serde(default)]
    pub store: RawStore,
}

/// Section `[store]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawStore {
    /// Milliseconds that a commit may wait which need not be durable. Default 1000, from 1 to 10,000; more
    /// spares flash memory.
    pub commit_delay_ms: Option<u64>,
    /// Events of priority `info` that are kept. Default 50,000, from 100 to 10,000,000.
    pub info_rows_max: Option<u32>,
    /// Events of priority `notice` that are kept. Default 50,000, from 100 to 10,000,000.
    pub notice_rows_max: Option<u32>,
}

/// The configuration in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Directory of keys and database.
    pub state: PathBuf,
    /// The store.
    pub store: store::Config,
}

/// The configuration cannot be used. Nothing was done with it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("failed to read the configuration {}: give another with --config, or correct its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not valid.
    #[error("failed to understand the configuration {}: {detail}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what, and what may have been meant.
        detail: String,
    },
    /// A setting of the store is out of bounds.
    #[error("{0}")]
    Store(#[from] store::Error),
    /// No directory for the state can be told.
    #[error("neither HOME nor XDG_STATE_HOME is set: name a state directory with --state")]
    NoHome,
}

/// Where settings come from beside the file.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`: must be there if given.
    pub file: Option<PathBuf>,
    /// `--state` or `SAGEMESH_STATE`.
    pub state: Option<PathBuf>,
}

/// Reads the configuration in effect.
///
/// # Errors
/// Why it cannot be used.
pub fn load(sources: &Sources) -> Result<Config, Error> {
    let is_root = rustix::process::geteuid().is_root();
    let raw = match &sources.file {
        Some(path) => read(path)?,
        None => match default_file(is_root).filter(|path| path.exists()) {
            Some(path) => read(&path)?,
            None => RawConfig::default(),
        },
    };
    let state = match sources.state.clone().or_else(|| raw.state.clone()) {
        Some(state) => state,
        None => default_state(is_root).ok_or(Error::NoHome)?,
    };
    let defaults = store::Config::default();
    let store = store::Config {
        dir: state.clone(),
        commit_delay: raw
            .store
            .commit_delay_ms
            .map_or(defaults.commit_delay, std::time::Duration::from_millis),
        info_rows_max: raw.store.info_rows_max.unwrap_or(defaults.info_rows_max),
        notice_rows_max: raw.store.notice_rows_max.unwrap_or(defaults.notice_rows_max),
        ..defaults
    };
    store.check()?;
    Ok(Config { state, store })
}

impl Config {
    /// The configuration in effect, in the form of the file.
    pub fn to_toml(&self) -> String {
        #[derive(Serialize)]
        struct Effective<'a> {
            state: &'a Path,
            store: EffectiveStore,
        }
        #[derive(Serialize)]
        struct EffectiveStore {
            commit_delay_ms: u128,
            info_rows_max: u32,
            notice_rows_max: u32,
        }
        let store = EffectiveStore {
            commit_delay_ms: self.store.commit_delay.as_millis(),
            info_rows_max: self.store.info_rows_max,
            notice_rows_max: self.store.notice_rows_max,
        };
        toml::to_string(&Effective { state: &self.state, store }).expect("paths and numbers can be written")
    }
}

fn read(path: &Path) -> Result<RawConfig, Error> {
    let io = |source| Error::Read { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(io)?;
    parse(&text).map_err(|detail| Error::Parse { path: path.to_owned(), detail })
}

/// Reads the file's text; the error says where and what, and what may have been meant.
fn parse(text: &str) -> Result<RawConfig, String> {
    toml::from_str(text).map_err(|err: toml::de::Error| {
        let mut detail = err.to_string().trim_end().to_owned();
        if let Some(meant) = suggestion(err.message()) {
            let _ = write!(detail, "\ndid you mean `{meant}`?");
        }
        detail
    })
}

/// The known key most like the unknown one that the message names, if any is like it.
fn suggestion(message: &str) -> Option<&str> {
    let mut quoted = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    quoted
        .map(|known| (strsim::jaro_winkler(unknown, known), known))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

fn default_file(is_root: bool) -> Option<PathBuf> {
    if is_root {
        return Some(PathBuf::from(FILE));
    }
    under("XDG_CONFIG_HOME", ".config").map(|dir| dir.join("config.toml"))
}

fn default_state(is_root: bool) -> Option<PathBuf> {
    if is_root {
        return Some(store::Config::default().dir);
    }
    under("XDG_STATE_HOME", ".local/state")
}

/// Where the node with the state directory `state` is asked, if nothing else is configured: in the usual place
/// for the usual directory, else beside the state, so that several nodes of one machine do not meet.
pub fn default_socket(state: &Path) -> PathBuf {
    if !is_default_state(state) {
        return state.join("api.sock");
    }
    if rustix::process::geteuid().is_root() {
        return PathBuf::from(SOCKET);
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    runtime.map_or_else(|| state.join("api.sock"), |dir| dir.join("sagemesh/api.sock"))
}

/// Whether `state` is where this user's state lies if nothing else is said.
pub fn is_default_state(state: &Path) -> bool {
    default_state(rustix::process::geteuid().is_root()).as_deref() == Some(state)
}

/// Our folder under an XDG base directory (XDG Base Directory Specification 0.8).
fn under(variable: &str, default: &str) -> Option<PathBuf> {
    let set = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = set.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(default)));
    base.map(|base| base.join("sagemesh"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_refused_with_a_suggestion() {
        #[track_caller]
        fn check(text: &str, expected: &str) {
            let detail = parse(text).expect_err("an unknown key");
            assert!(detail.contains(expected), "{detail}");
        }
        check("stat = \"/tmp\"", "did you mean `state`?");
        check("[store]\ncommit_delay = 5", "did you mean `commit_delay_ms`?");
        check("[store]\ncommit_delay = 5", "line 2");
        let detail = parse("zzz = 1").expect_err("an unknown key");
        assert!(!detail.contains("did you mean"), "{detail}");
        check("state = 5", "string");
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("config.toml");
        std::fs::write(&file, "state = \"/srv/mesh\"\n[store]\ninfo_rows_max = 200\n").expect("a write");
        let mut sources = Sources { file: Some(file), state: None };
        let config = load(&sources).expect("a valid file");
        assert_eq!(
            (config.state.as_path(), config.store.dir.as_path()),
            (Path::new("/srv/mesh"), Path::new("/srv/mesh"))
        );
        assert_eq!((config.store.info_rows_max, config.store.notice_rows_max), (200, 50_000));
        sources.state = Some(PathBuf::from("/srv/other"));
        let config = load(&sources).expect("a valid file");
        assert_eq!(config.store.dir, Path::new("/srv/other"));
        let printed = toml::from_str::<RawConfig>(&config.to_toml()).expect("what is printed can be read");
        assert_eq!(printed.store.info_rows_max, Some(200));
    }

    #[test]
    fn a_file_that_is_named_must_be_there() {
        let sources = Sources { file: Some(PathBuf::from("/nowhere/config.toml")), state: None };
        let err = load(&sources).expect_err("no file");
        assert!(err.to_string().contains("--config"), "{err}");
    }
}
