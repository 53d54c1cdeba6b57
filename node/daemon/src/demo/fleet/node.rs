//! One node of a fleet: its folder, its configuration and where it is reached.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tokio::process::Child;
use tonic::transport::{Channel, Endpoint};

use super::Plan;
use super::network::{Place, Wires};
use crate::config::{API_SOCKET, OUTBOUND_SOCKET, RawConfig, RawService};

/// The name of the node's own log.
pub(super) const LOG: &str = "sagemesh";
/// The longest path of a Unix socket (unix(7): 108 bytes and a zero).
const SOCKET_PATH_MAX: usize = 107;

/// One node.
#[derive(Debug)]
pub struct Node {
    /// Its name in the mesh, such as `node-1`.
    pub name: String,
    /// Its network namespace.
    pub namespace: Option<String>,
    /// Where node links are accepted.
    pub mesh: SocketAddr,
    /// Where services of other nodes arrive.
    pub inbound: SocketAddr,
    /// Where operators call and newcomers join.
    pub api: SocketAddr,
    /// Where services of this node call. In its own namespace.
    pub outbound: SocketAddr,
    /// Where `/metrics` is. In its own namespace.
    pub metrics: SocketAddr,
    /// Its folder: state, sockets, logs.
    pub dir: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
    /// The API's Unix socket, reached from any namespace.
    pub api_socket: PathBuf,
    /// The Unix socket where services call.
    pub outbound_socket: PathBuf,
    /// Its log.
    pub log: PathBuf,
    /// Its services, with the ports that were chosen.
    pub services: Vec<RawService>,
    /// Its process, while it runs.
    pub(super) child: Option<Child>,
}

impl Node {
    /// Makes the folder and writes the configuration.
    pub(super) fn make(
        fleet: &Path,
        idx: usize,
        place: Place,
        plan: Plan,
        wires: &mut Wires,
    ) -> anyhow::Result<Self> {
        let name = format!("node-{}", idx + 1);
        let dir = fleet.join(&name);
        let run = dir.join("run");
        let mut builder = DirBuilder::new();
        builder.mode(0o700).create(&dir).with_context(|| format!("failed to make {}", dir.display()))?;
        let mut services = plan.services;
        for listen in services.iter_mut().filter_map(|it| it.listen.as_mut()).filter(|it| it.port() == 0) {
            listen.set_port(wires.free_port()?);
        }
        let is_alone = place.namespace.is_some();
        let mut at = |host: Ipv4Addr, port: u16| {
            let port = if is_alone { port } else { wires.free_port()? };
            anyhow::Ok(SocketAddr::from((host, port)))
        };
        let node = Self {
            mesh: at(place.host, 7400)?,
            inbound: at(place.host, 7450)?,
            api: at(place.host, 7443)?,
            outbound: at(Ipv4Addr::LOCALHOST, 7480)?,
            metrics: at(Ipv4Addr::LOCALHOST, 7470)?,
            config: dir.join("config.toml"),
            api_socket: run.join(API_SOCKET),
            outbound_socket: run.join(OUTBOUND_SOCKET),
            log: dir.join(format!("{LOG}.log")),
            namespace: place.namespace,
            child: None,
            services,
            name,
            dir,
        };
        if node.outbound_socket.as_os_str().len() > SOCKET_PATH_MAX {
            bail!(
                "{} is too long for a Unix socket: choose a shorter folder",
                node.outbound_socket.display()
            );
        }
        let text = toml::to_string(&node.raw_config(run)).context("failed to write a configuration")?;
        fs::write(&node.config, text)
            .with_context(|| format!("failed to write {}", node.config.display()))?;
        Ok(node)
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// A way to its API that connects when it is first used, and again after the node was started anew.
    ///
    /// # Errors
    /// The path is no UTF-8.
    pub fn channel(&self) -> anyhow::Result<Channel> {
        let path = self.api_socket.to_str().context("the work folder's name is not UTF-8")?;
        let endpoint = Endpoint::from_shared(format!("unix:{path}")).context("no path of a socket")?;
        Ok(endpoint.connect_lazy())
    }

    /// Opens the log of a process beside this node, to add to it.
    pub(super) fn open_log(&self, name: &str) -> anyhow::Result<File> {
        let path = self.dir.join(format!("{name}.log"));
        let file = OpenOptions::new().create(true).append(true).open(&path);
        file.with_context(|| format!("failed to open {}", path.display()))
    }

    fn raw_config(&self, run: PathBuf) -> RawConfig {
        let state = self.dir.join("state");
        let mut raw = RawConfig { state: Some(state), run: Some(run), ..RawConfig::default() };
        raw.mesh.listen = Some(vec![self.mesh]);
        raw.api.listen = Some(self.api);
        raw.proxy.inbound = Some(self.inbound);
        raw.proxy.outbound = Some(self.outbound);
        raw.telemetry.listen = Some(self.metrics);
        raw.services.clone_from(&self.services);
        raw
    }
}
