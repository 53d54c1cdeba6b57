//! Where one part of the shop stands, and how it reaches the others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use tonic::transport::{Channel, Endpoint, Uri};

use proto::shop::v1::Stop;

use super::{At, Role};

/// How long a connection to the mesh may take: it is on the same machine.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// One part of the shop. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Site {
    pub(super) role: Role,
    node: Arc<str>,
    channels: Arc<BTreeMap<Role, Channel>>,
    endpoints: Arc<BTreeMap<Role, Endpoint>>,
}

impl Site {
    /// A part that runs on `node` and calls the others through `mesh`, but for those in `at`. It connects when
    /// it first calls.
    ///
    /// # Errors
    /// The mesh's address is none.
    pub fn new(role: Role, node: &str, mesh: &Uri, at: &[At]) -> anyhow::Result<Self> {
        let mut endpoints = BTreeMap::new();
        for role in Role::value_variants() {
            // One address for all: the mesh reads from `:authority` whom the call is for.
            let through_mesh =
                Endpoint::from(mesh.clone()).origin(format!("http://{}", role.name()).parse()?);
            let direct = at.iter().find(|at| at.role == *role).map(|at| Endpoint::from(at.uri.clone()));
            endpoints.insert(*role, direct.unwrap_or(through_mesh).connect_timeout(CONNECT_MAX));
        }
        let channels = endpoints.iter().map(|(role, endpoint)| (*role, endpoint.connect_lazy())).collect();
        Ok(Self { role, node: node.into(), channels: Arc::new(channels), endpoints: Arc::new(endpoints) })
    }

    /// The way to another part.
    pub(super) fn channel(&self, role: Role) -> Channel {
        self.channels[&role].clone()
    }

    /// A way to another part over a connection of its own.
    pub(super) fn new_channel(&self, role: Role) -> Channel {
        self.endpoints[&role].connect_lazy()
    }

    /// What an answer says of who gave it.
    pub(super) fn stop(&self) -> Stop {
        Stop { service: self.role.name().to_owned(), node: self.node.to_string() }
    }
}
