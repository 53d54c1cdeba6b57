//! What the nodes say while the demo runs: of their peers, of services, and what became of calls.

use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use proto::mesh::v1::mesh_service_client::MeshServiceClient;
use proto::mesh::v1::{Peer, WatchPeersRequest};
use proto::service::v1::service_service_client::ServiceServiceClient;
use proto::service::v1::{Service, WatchServicesRequest};

use crate::shop::Line;

/// How long until a node that does not answer is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// One thing that was said.
#[derive(Clone, Debug)]
pub(super) enum Said {
    /// A node, of its peers.
    Peers(usize, Vec<Peer>),
    /// A node, of the services of the mesh.
    Services(Vec<Service>),
    /// A node does not answer.
    Nothing(usize),
    /// The customers.
    Calls(Line),
    /// The customers have ended.
    End,
}

/// Follows what one node says of its peers, for ever: it may be started again.
pub(super) async fn peers(idx: usize, node: Channel, out: mpsc::Sender<Said>) {
    loop {
        let mut client = MeshServiceClient::new(node.clone());
        if let Ok(answer) = client.watch_peers(WatchPeersRequest {}).await {
            let say = |it: proto::mesh::v1::WatchPeersResponse| Said::Peers(idx, it.peers);
            // It ends with the node.
            let _ = follow(answer.into_inner(), say, &out).await;
        }
        if out.send(Said::Nothing(idx)).await.is_err() {
            return;
        }
        sleep(RETRY_AFTER).await;
    }
}

/// Follows what one node says of services, for ever.
pub(super) async fn services(node: Channel, out: mpsc::Sender<Said>) {
    while !out.is_closed() {
        let mut client = ServiceServiceClient::new(node.clone());
        if let Ok(answer) = client.watch_services(WatchServicesRequest {}).await {
            let say = |it: proto::service::v1::WatchServicesResponse| Said::Services(it.services);
            let _ = follow(answer.into_inner(), say, &out).await;
        }
        sleep(RETRY_AFTER).await;
    }
}

async fn follow<T>(
    mut stream: Streaming<T>,
    say: impl Fn(T) -> Said,
    out: &mpsc::Sender<Said>,
) -> Result<(), Status> {
    while let Some(said) = stream.message().await? {
        if out.send(say(said)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads what the customers print, to the end.
///
/// # Errors
/// A line cannot be read.
pub(super) async fn calls(printed: impl AsyncRead + Unpin, out: mpsc::Sender<Said>) -> anyhow::Result<()> {
    let mut lines = BufReader::new(printed).lines();
    while let Some(line) = lines.next_line().await.context("failed to read what the customers print")? {
        let line = serde_json::from_str(&line).context("the customers printed what is no line of theirs")?;
        if out.send(Said::Calls(line)).await.is_err() {
            return Ok(());
        }
    }
    // Whoever listens no longer needs it no more.
    let _ = out.send(Said::End).await;
    Ok(())
}
