//! What can be configured: defaults, then the file, then the environment, then flags.
//!
//! [`RawConfig`] is what people write; it becomes [`Config`] once, with everything checked.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::node::Source;
use mesh::reach::{HOSTS_MAX, is_one_machine};

use crate::services::Declared;
use crate::telemetry;

mod raw;

pub use raw::{RawConfig, RawOutbound, RawService, RawTelemetry};

/// Where the file is looked for by root.
pub const FILE: &str = "/etc/sagemesh/config.toml";
/// The API's Unix socket, in the directory of sockets.
pub const API_SOCKET: &str = "api.sock";
/// The Unix socket where services call, beside it.
pub const OUTBOUND_SOCKET: &str = "outbound.sock";
/// What is told where a node without a proxy is to have a service.
pub const PROXY_IS_OFF: &str = "it is false, and such a node has no services and no [[outbound]]: \
                                set it to true, and restart the node if it runs";
/// Where a node that runs for the whole machine is asked.
pub const SOCKET: &str = "/run/sagemesh/api.sock";

/// The configuration in effect.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory of keys and database.
    pub state: PathBuf,
    /// Directory of the Unix sockets.
    pub run: PathBuf,
    /// How long rooms may take to end.
    pub shutdown_grace: Duration,
    /// The store.
    pub store: store::Config,
    /// Links.
    pub mesh: mesh::Config,
    /// What to say in place of the machine's own addresses; empty to find them.
    pub advertise: Vec<IpAddr>,
    /// What operators and workloads ask.
    pub api: api::Config,
    /// Calls between services; none if this node carries none.
    pub proxy: Option<proxy::Config>,
    /// Whether other nodes are told to dial the inbound port.
    pub is_inbound_direct: bool,
    /// Services that run on this node.
    pub services: Vec<Declared>,
    /// What the node tells of itself.
    pub telemetry: telemetry::Config,
    raw: RawConfig,
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
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A setting of links is out of bounds.
    #[error(transparent)]
    Mesh(#[from] mesh::Error),
    /// A setting of the API is out of bounds.
    #[error(transparent)]
    Api(#[from] api::Error),
    /// A setting of calls is out of bounds.
    #[error(transparent)]
    Proxy(#[from] proxy::Error),
    /// A setting is out of bounds.
    #[error("`{field}` is out of bounds: set it to {bounds}")]
    Bounds {
        /// The field.
        field: &'static str,
        /// What it may be.
        bounds: String,
    },
    /// A setting cannot be understood.
    #[error("`{field}` cannot be understood: {detail}")]
    Invalid {
        /// The field.
        field: String,
        /// What is wrong, and what would be right.
        detail: String,
    },
    /// No directory for the state can be told.
    #[error("neither HOME nor XDG_STATE_HOME is set: name a state directory with --state")]
    NoHome,
}

impl Error {
    /// A room's field, by the key that people write for it.
    fn bounds(field: &'static str, bounds: &str) -> Self {
        let field = match field {
            "route.timeout" => "proxy.timeout_ms",
            "store.commit_delay" => "store.commit_delay_ms",
            other => other,
        };
        Self::Bounds { field, bounds: bounds.to_owned() }
    }
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
    let run = std::env::var_os("SAGEMESH_RUN").map(PathBuf::from).or_else(|| raw.run.clone());
    let run = run.unwrap_or_else(|| default_run(is_root, &state));
    let absolute = |field: &str, path: PathBuf| {
        if path.to_str().is_none() {
            let detail = format!("{} is not UTF-8: choose another directory", path.display());
            return Err(invalid(field, &detail));
        }
        std::path::absolute(&path).map_err(|source| Error::Read { path, source })
    };
    let (state, run) = (absolute("state", state)?, absolute("run", run)?);
    Config::new(RawConfig { state: Some(state), run: Some(run), ..raw })
}

impl Config {
    /// Checks what is written; `state` and `run` are set by now.
    fn new(raw: RawConfig) -> Result<Self, Error> {
        let state = raw.state.clone().unwrap_or_default();
        let run = raw.run.clone().unwrap_or_default();
        let grace = millis(raw.shutdown_grace_ms, 10_000, 0..=300_000, "shutdown_grace_ms")?;
        let defaults = store::Config::default();
        let store = store::Config {
            dir: state.clone(),
            commit_delay: raw.store.commit_delay_ms.map_or(defaults.commit_delay, Duration::from_millis),
            info_rows_max: raw.store.info_rows_max.unwrap_or(defaults.info_rows_max),
            notice_rows_max: raw.store.notice_rows_max.unwrap_or(defaults.notice_rows_max),
            ..defaults
        };
        store.check().map_err(|err| match err {
            store::Error::Bounds { field, bounds } => Error::bounds(field, bounds),
            other => other.into(),
        })?;
        let defaults = mesh::Config::default();
        let mesh = mesh::Config {
            listen: raw.mesh.listen.clone().unwrap_or(defaults.listen),
            seeds: raw.mesh.seeds.clone().unwrap_or_default(),
            mdns: raw.mesh.mdns.unwrap_or(defaults.mdns),
            links_max: raw.mesh.links_max.unwrap_or(defaults.links_max),
            ..defaults
        };
        mesh.check()?;
        let defaults = api::Config::default();
        let listen = raw.api.listen.unwrap_or(defaults.listen);
        let api = api::Config { listen, socket: run.join(API_SOCKET), ..defaults };
        api.check()?;
        let proxy = proxy_config(&raw, &run, grace)?;
        let telemetry = telemetry::Config::new(&raw.telemetry)?;
        let advertise = advertised(raw.mesh.advertise.clone().unwrap_or_default())?;
        let services = raw.services.iter().map(|it| Declared::of_raw(it, Source::Config));
        let services: Vec<_> =
            services.collect::<Result<_, _>>().map_err(|refusal| invalid("service", &refusal.detail))?;
        let proxy = Some(proxy).filter(|_| raw.proxy.enabled.unwrap_or(true));
        if proxy.is_none() && !(services.is_empty() && raw.outbounds.is_empty()) {
            return Err(invalid("proxy.enabled", &PROXY_IS_OFF));
        }
        let shutdown_grace = grace;
        let is_inbound_direct = raw.proxy.direct.unwrap_or(true);
        Ok(Self {
            state,
            run,
            shutdown_grace,
            store,
            mesh,
            advertise,
            api,
            proxy,
            is_inbound_direct,
            services,
            telemetry,
            raw,
        })
    }

    /// What is written otherwise than in `other` and cannot change while the node runs: all but services.
    pub fn fixed_changes(&self, other: &Self) -> Vec<&'static str> {
        let (mine, theirs) = (&self.raw, &other.raw);
        let sections = [
            ("state", mine.state == theirs.state),
            ("run", mine.run == theirs.run),
            ("shutdown_grace_ms", mine.shutdown_grace_ms == theirs.shutdown_grace_ms),
            ("[store]", mine.store == theirs.store),
            ("[mesh]", mine.mesh == theirs.mesh),
            ("[api]", mine.api == theirs.api),
            ("[proxy]", mine.proxy == theirs.proxy),
            ("[telemetry]", mine.telemetry == theirs.telemetry),
            ("[[outbound]]", mine.outbounds == theirs.outbounds),
        ];
        sections.into_iter().filter(|(_, is_same)| !is_same).map(|(name, _)| name).collect()
    }

    /// The configuration in effect, in the form of the file.
    pub fn to_toml(&self) -> String {
        let mut raw = self.raw.clone();
        raw.shutdown_grace_ms = u64::try_from(self.shutdown_grace.as_millis()).ok();
        raw.store.commit_delay_ms = u64::try_from(self.store.commit_delay.as_millis()).ok();
        raw.store.info_rows_max = Some(self.store.info_rows_max);
        raw.store.notice_rows_max = Some(self.store.notice_rows_max);
        raw.mesh.listen = Some(self.mesh.listen.clone());
        raw.mesh.seeds = Some(self.mesh.seeds.clone());
        raw.mesh.mdns = Some(self.mesh.mdns);
        raw.mesh.advertise = Some(self.advertise.clone());
        raw.mesh.links_max = Some(self.mesh.links_max);
        raw.api.listen = Some(self.api.listen);
        raw.proxy.enabled = Some(self.proxy.is_some());
        if let Some(proxy) = &self.proxy {
            raw.proxy.inbound = Some(proxy.inbound);
            raw.proxy.direct = Some(self.is_inbound_direct);
            raw.proxy.outbound = Some(proxy.outbound);
            raw.proxy.workers = Some(proxy.workers);
            raw.proxy.timeout_ms = u64::try_from(proxy.route.timeout.as_millis()).ok();
        }
        raw.telemetry.listen = Some(self.telemetry.listen);
        raw.telemetry.log = Some(self.telemetry.log.clone());
        toml::to_string(&raw).expect("paths, names and numbers can be written")
    }
}

fn proxy_config(raw: &RawConfig, run: &Path, grace: Duration) -> Result<proxy::Config, Error> {
    let defaults = proxy::Config::default();
    let tunnel = |it: &RawOutbound| {
        let service =
            it.service.parse().map_err(|err: types::name::Error| invalid("outbound.service", &err))?;
        Ok::<_, Error>(proxy::Tunnel { listen: it.listen, service })
    };
    let timeout = raw.proxy.timeout_ms.map_or(defaults.route.timeout, Duration::from_millis);
    let config = proxy::Config {
        inbound: raw.proxy.inbound.unwrap_or(defaults.inbound),
        outbound: raw.proxy.outbound.unwrap_or(defaults.outbound),
        socket: Some(run.join(OUTBOUND_SOCKET)),
        tunnels: raw.outbounds.iter().map(tunnel).collect::<Result<_, _>>()?,
        workers: raw.proxy.workers.unwrap_or(defaults.workers),
        route: route::Config { timeout, ..defaults.route },
        // Less than the grace, so that there is time to close what is left.
        drain_timeout: grace.mul_f64(0.8),
        ..defaults
    };
    config.check().map_err(|err| match err {
        proxy::Error::Route(route::Error::Bounds { field, bounds }) => Error::bounds(field, bounds),
        other => other.into(),
    })?;
    Ok(config)
}

/// What the node says of where it is, checked.
fn advertised(hosts: Vec<IpAddr>) -> Result<Vec<IpAddr>, Error> {
    const FIELD: &str = "mesh.advertise";
    if hosts.len() > HOSTS_MAX {
        return Err(Error::Bounds { field: FIELD, bounds: format!("at most {HOSTS_MAX} addresses") });
    }
    let Some(other) = hosts.iter().find(|host| !is_one_machine(host)) else { return Ok(hosts) };
    let detail = format!(
        "`{other}` is no machine's: write addresses of this one that others can reach, such as 192.0.2.1, or \
         leave the key out to have them found"
    );
    Err(invalid(FIELD, &detail))
}

fn invalid(field: &str, detail: &impl std::fmt::Display) -> Error {
    Error::Invalid { field: field.to_owned(), detail: detail.to_string() }
}

/// A duration in milliseconds within its bounds.
fn millis(
    set: Option<u64>,
    default: u64,
    bounds: std::ops::RangeInclusive<u64>,
    field: &'static str,
) -> Result<Duration, Error> {
    let ms = set.unwrap_or(default);
    if bounds.contains(&ms) {
        return Ok(Duration::from_millis(ms));
    }
    Err(Error::Bounds { field, bounds: format!("{} to {} ms", bounds.start(), bounds.end()) })
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

/// Where sockets are made if nothing is said: in the usual place for the usual state directory, else in it, so
/// that several nodes of one machine do not meet.
fn default_run(is_root: bool, state: &Path) -> PathBuf {
    if !is_default_state(state) {
        return state.join("run");
    }
    if is_root {
        return PathBuf::from("/run/sagemesh");
    }
    let set = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    set.map_or_else(|| state.join("run"), |dir| dir.join("sagemesh"))
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
        check("[mesh]\nmdsn = false", "did you mean `mdns`?");
        let detail = parse("zzz = 1").expect_err("an unknown key");
        assert!(!detail.contains("did you mean"), "{detail}");
        check("state = 5", "string");
        // One that would do nothing is no key.
        check("[[service]]\nname = \"web\"\ncalls = [\"api\"]", "unknown field `calls`");
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
    fn what_is_out_of_bounds_is_named_as_it_was_written() {
        fn read(text: &str) -> RawConfig {
            RawConfig { run: Some("/run/x".into()), ..parse(text).expect("known keys") }
        }
        #[track_caller]
        fn check(text: &str, expected: &[&str]) {
            let told = Config::new(read(text)).expect_err("a value out of bounds").to_string();
            assert!(expected.iter().all(|it| told.contains(it)), "{told}");
        }
        check("[proxy]\ntimeout_ms = 5", &["`proxy.timeout_ms`", "100 ms to 1 h"]);
        check("[store]\ncommit_delay_ms = 0", &["`store.commit_delay_ms`", "1 ms to 10 s"]);
        check("shutdown_grace_ms = 300001", &["`shutdown_grace_ms`"]);
        for rest in
            ["[[service]]\nname = \"web\"", "[[outbound]]\nlisten = \"127.0.0.1:1\"\nservice = \"db\""]
        {
            check(&format!("[proxy]\nenabled = false\n{rest}"), &["`proxy.enabled`", "set it to true"]);
        }
        let off = Config::new(read("[proxy]\nenabled = false")).expect("a node without a proxy");
        assert!(off.proxy.is_none() && off.to_toml().contains("[proxy]\nenabled = false\n"));
        for host in ["0.0.0.0", "::", "224.0.0.1", "ff02::1"] {
            let text = format!("[mesh]\nadvertise = [\"192.0.2.1\", \"{host}\"]");
            check(&text, &["`mesh.advertise`", host, "such as 192.0.2.1"]);
        }
        let many = ["\"192.0.2.1\""; HOSTS_MAX + 1].join(", ");
        check(&format!("[mesh]\nadvertise = [{many}]"), &["`mesh.advertise`", "at most 8 addresses"]);
        let fine = read("[mesh]\nadvertise = [\"192.0.2.1\", \"2001:db8::1\"]");
        assert_eq!(Config::new(fine).expect("addresses").advertise.len(), 2);
    }

    #[test]
    fn a_file_that_is_named_must_be_there() {
        let sources = Sources { file: Some(PathBuf::from("/nowhere/config.toml")), state: None };
        let err = load(&sources).expect_err("no file");
        assert!(err.to_string().contains("--config"), "{err}");
    }
}
