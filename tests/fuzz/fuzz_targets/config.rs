//! The configuration file: what is accepted is printed as a file that says the same.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

use daemon::config::{self, Config, Sources};

const SEED: &str = r#"state = "/srv/mesh"
run = "/run/mesh"
shutdown_grace_ms = 5000
[store]
commit_delay_ms = 500
info_rows_max = 1000
notice_rows_max = 1000
[mesh]
listen = ["[::]:7400"]
seeds = ["pi.example:7400"]
advertise = ["192.0.2.1"]
links_max = 64
[api]
listen = "[::]:7443"
[proxy]
inbound = "[::]:7450"
outbound = "127.0.0.1:7480"
timeout_ms = 1000
[telemetry]
listen = "127.0.0.1:7470"
log = "info,sagemesh_mesh=debug"
otlp = "http://127.0.0.1:4317"
[[service]]
name = "orders"
listen = "127.0.0.1:9001"
protocol = "grpc"
health = "tcp"
selectors = ["uid:1000", "exe:/usr/bin/orders"]
allow = ["svc/web", "*"]
calls = ["payment"]
[[outbound]]
listen = "127.0.0.1:5432"
service = "db"
"#;

static FILE: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("sagemesh-fuzz-{}.toml", std::process::id())));

fuzz_target!(init: sagemesh_fuzz::seed::write([SEED]), |bytes: &[u8]| {
    let config = match load(bytes) {
        Ok(config) => config,
        Err(err) => return assert!(!err.to_string().is_empty()),
    };
    let printed = config.to_toml();
    let again = load(printed.as_bytes()).unwrap_or_else(|err| panic!("{err}\n{printed}"));
    assert_eq!(again.to_toml(), printed);
    assert_eq!(again.services, config.services);
    assert!(config.fixed_changes(&config).is_empty());
});

fn load(text: &[u8]) -> Result<Config, config::Error> {
    std::fs::write(&*FILE, text).expect("a file of our own");
    config::load(&Sources { file: Some(FILE.clone()), state: None })
}
