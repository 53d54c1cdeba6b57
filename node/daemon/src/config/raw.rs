//! The configuration as people write it. An unknown key is refused, since a misspelt one would be silently
//! without effect.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The file. Durations are in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    /// Directory of keys and database. Default `/var/lib/sagemesh` for root, else
    /// `$XDG_STATE_HOME/sagemesh`. Environment: `SAGEMESH_STATE`.
    pub state: Option<PathBuf>,
    /// Directory of the Unix sockets. Default `/run/sagemesh` for root, else `$XDG_RUNTIME_DIR/sagemesh`, else
    /// `run` in the state directory. Environment: `SAGEMESH_RUN`.
    pub run: Option<PathBuf>,
    /// How long rooms may take to end after the first signal. Default 10,000, from 0 to 300,000.
    pub shutdown_grace_ms: Option<u64>,
    /// The store.
    #[serde(default)]
    pub store: RawStore,
    /// Links between nodes.
    #[serde(default)]
    pub mesh: RawMesh,
    /// What operators and workloads ask.
    #[serde(default)]
    pub api: RawApi,
    /// Calls between services.
    #[serde(default)]
    pub proxy: RawProxy,
    /// What the node tells of itself.
    #[serde(default)]
    pub telemetry: RawTelemetry,
    /// Services that run on this node.
    #[serde(default, rename = "service")]
    pub services: Vec<RawService>,
    /// Local ports whose connections go to a service as bytes.
    #[serde(default, rename = "outbound")]
    pub outbounds: Vec<RawOutbound>,
}

/// Section `[store]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawStore {
    /// How long a commit may wait that need not be durable. Default 1,000, from 1 to 10,000; more spares flash
    /// memory.
    pub commit_delay_ms: Option<u64>,
    /// Events of priority `info` that are kept. Default 50,000, from 100 to 10,000,000.
    pub info_rows_max: Option<u32>,
    /// Events of priority `notice` that are kept. Default 50,000, from 100 to 10,000,000.
    pub notice_rows_max: Option<u32>,
}

/// Section `[mesh]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawMesh {
    /// Addresses to listen on. Default `["[::]:7400"]`.
    pub listen: Option<Vec<SocketAddr>>,
    /// Where to find other nodes at first, as `host:port`. Default none: the inviter is remembered.
    pub seeds: Option<Vec<String>>,
    /// Whether nodes on the same network find each other by mDNS (UDP port 5353). Default `true`; never on the
    /// loopback. A neighbour sees that this is a node of SageMesh, its address and its peer id.
    pub mdns: Option<bool>,
    /// Addresses of this machine that others can reach, at most 8. Default all that its interfaces have.
    pub advertise: Option<Vec<IpAddr>>,
    /// Most links. Default 512, from 8 to 4,096.
    pub links_max: Option<u32>,
}

/// Section `[api]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawApi {
    /// Where operators call, and newcomers join. Default `[::]:7443`.
    pub listen: Option<SocketAddr>,
}

/// Section `[proxy]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawProxy {
    /// Whether this node carries calls. Default `true`. A node that only signs, relays membership or observes needs
    /// no proxy: with `false` it has none of its ports, threads and sockets, and no `[[service]]` or `[[outbound]]`.
    pub enabled: Option<bool>,
    /// Where services of other nodes arrive. Default `[::]:7450`.
    pub inbound: Option<SocketAddr>,
    /// Whether other nodes can reach `inbound`. Default `true`. Behind NAT, or a firewall that lets nothing in, `false`
    /// spares them from trying: they call over the mesh links that this node makes.
    pub direct: Option<bool>,
    /// Where services of this node call. Default `127.0.0.1:7480`.
    pub outbound: Option<SocketAddr>,
    /// How long a call may take that names no deadline. Default 15,000, from 100 to 3,600,000.
    pub timeout_ms: Option<u64>,
    /// Threads that carry calls. Default one for each processor, from 1 to 64.
    pub workers: Option<usize>,
}

/// Section `[telemetry]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawTelemetry {
    /// Where `/metrics`, `/healthz` and `/readyz` are. Default `127.0.0.1:7470`.
    pub listen: Option<SocketAddr>,
    /// What is logged, as in `info,sagemesh_mesh=debug`. Default `info`. Environment: `SAGEMESH_LOG`.
    pub log: Option<String>,
    /// Where traces go by OTLP over gRPC, such as `http://127.0.0.1:4317`. Default nowhere. Environment:
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub otlp: Option<String>,
}

/// One `[[service]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawService {
    /// Its name; the node's scope must hold it.
    pub name: String,
    /// Where it listens on this machine. Absent: it only calls others.
    pub listen: Option<SocketAddr>,
    /// `grpc` (the default) or `tcp`.
    pub protocol: Option<String>,
    /// `grpc` (grpc.health.v1, the default for gRPC), `tcp` (a connection is taken; the default for TCP) or
    /// `none`.
    pub health: Option<String>,
    /// Which processes it is: `uid:1000`, `exe:/usr/bin/orders`, `cgroup:/system.slice/orders.service`. Each
    /// kind that is given must fit.
    #[serde(default)]
    pub selectors: Vec<String>,
    /// Who may call it: `svc/NAME`, `node/NAME`, `operator/NAME`, `spiffe://…`, or `*` for every service and
    /// node. Default nobody.
    #[serde(default)]
    pub allow: Vec<String>,
}

/// One `[[outbound]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RawOutbound {
    /// Where local processes connect: a loopback address.
    pub listen: SocketAddr,
    /// The service that they reach.
    pub service: String,
}
