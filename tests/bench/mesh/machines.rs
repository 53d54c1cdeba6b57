//! The nodes that are measured: a fleet as the demo has it, in network namespaces of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::time::sleep;
use tonic::transport::Channel;

use daemon::config::RawService;
use daemon::demo::fleet::{self, Config, Fleet, Network, Plan};
use proto::mesh::v1::mesh_service_client::MeshServiceClient;
use proto::mesh::v1::{ListPeersRequest, Liveness, Peer};

/// How long nodes may take to see each other.
const UP_WITHIN: Duration = Duration::from_secs(60);
/// The node whose service calls, where one does.
pub(crate) const CALLER: usize = 0;
/// Where the services of the others listen.
pub(crate) const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9000);
/// How often a state is asked for that is waited for.
pub(crate) const ASK_EVERY: Duration = Duration::from_millis(10);

/// Nodes that all know each other, each with its services. Those but the first may speak for any service. Only one
/// fleet of a name runs at a time.
pub(crate) async fn start(
    binary: &Path,
    name: &str,
    n: usize,
    services: impl Fn(usize) -> Vec<RawService>,
) -> anyhow::Result<Fleet> {
    let config = Config {
        program: binary.to_owned(),
        nodes: (0..n).map(|idx| plan(services(idx))).collect(),
        prefix: format!("{}-{name}", fleet::PREFIX),
        // Always the same, so that the next run ends what a crash left.
        dir: std::env::temp_dir().canonicalize()?.join(format!("sagemesh-{name}")),
        network: Network::Namespaces,
        mesh: "home.mesh".parse()?,
        links: Vec::new(),
    };
    let fleet = Fleet::start(config).await?;
    let mut nodes = watched(&fleet)?;
    let began = Instant::now();
    loop {
        let mut n_unaware = 0;
        for node in &mut nodes {
            let seen = peers(node).await.unwrap_or_default();
            n_unaware += usize::from(seen.iter().filter(|peer| is_there(peer)).count() + 1 < n);
        }
        if n_unaware == 0 {
            return Ok(fleet);
        }
        if began.elapsed() > UP_WITHIN {
            bail!("{n_unaware} nodes do not see all others{}", fleet::tail(&fleet.node(0).log));
        }
        sleep(ASK_EVERY).await;
    }
}

/// Services of a fleet in which one node calls and all others serve `api` at the same port of their own. `own` is the
/// program of both.
pub(crate) fn caller_and_services(own: &Path) -> impl Fn(usize) -> Vec<RawService> {
    let selectors = vec![format!("exe:{}", own.display())];
    move |idx| {
        let of = |name: &str| RawService {
            name: name.to_owned(),
            selectors: selectors.clone(),
            ..RawService::default()
        };
        vec![match idx {
            CALLER => of("caller"),
            _ => RawService {
                listen: Some(LOCAL),
                health: Some("tcp".to_owned()),
                allow: vec!["svc/caller".to_owned()],
                ..of("api")
            },
        }]
    }
}

/// What a node is given.
pub(crate) fn plan(services: Vec<RawService>) -> Plan {
    Plan { services, scope: vec!["svc/*".to_owned()] }
}

/// Ways to ask each node, which outlive a restart of it.
pub(crate) fn watched(fleet: &Fleet) -> anyhow::Result<Vec<MeshServiceClient<Channel>>> {
    fleet.nodes().iter().map(|node| Ok(MeshServiceClient::new(node.channel()?))).collect()
}

/// What a node says of its peers.
pub(crate) async fn peers(node: &mut MeshServiceClient<Channel>) -> anyhow::Result<Vec<Peer>> {
    Ok(node.list_peers(ListPeersRequest {}).await?.into_inner().peers)
}

/// Whether a peer is linked and alive.
pub(crate) fn is_there(peer: &Peer) -> bool {
    peer.linked && peer.liveness() == Liveness::Alive
}
