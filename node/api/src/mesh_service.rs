//! MeshService: the node itself and its peers.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use proto::mesh::v1 as wire;
use tls::Svids;
use types::Refusal;

use crate::convert;
use crate::node::{Asker, Node, Peer};
use crate::origin::Origin;
use crate::refusal;
use crate::watching::{Lists, latest};

/// What the handlers of all services hold.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) node: Arc<dyn Node>,
    pub(crate) svids: watch::Receiver<Arc<Svids>>,
    /// Where the port is.
    pub(crate) address: SocketAddr,
    /// Ends what would go on for ever.
    pub(crate) stop: CancellationToken,
}

/// A refusal as the answer of a handler.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(crate) fn refuse(refusal: Refusal) -> Status {
    refusal::status(&refusal)
}

/// Who asks.
pub(crate) fn asker<T>(request: &Request<T>) -> Result<Asker, Status> {
    Origin::of(request.extensions()).map(Origin::asker).map_err(refuse)
}

#[tonic::async_trait]
impl wire::mesh_service_server::MeshService for Api {
    type WatchPeersStream = Lists<wire::WatchPeersResponse>;

    async fn get_status(
        &self,
        _: Request<wire::GetStatusRequest>,
    ) -> Result<Response<wire::GetStatusResponse>, Status> {
        let status = self.node.status().await.map_err(refuse)?;
        Ok(Response::new(wire::GetStatusResponse {
            svid_until_s: self.svids.borrow().not_after.as_secs(),
            api_address: self.address.to_string(),
            ..convert::status(status)
        }))
    }

    async fn list_peers(
        &self,
        _: Request<wire::ListPeersRequest>,
    ) -> Result<Response<wire::ListPeersResponse>, Status> {
        let peers = peers(&self.node.peers().borrow());
        Ok(Response::new(wire::ListPeersResponse { peers }))
    }

    async fn watch_peers(
        &self,
        _: Request<wire::WatchPeersRequest>,
    ) -> Result<Response<Self::WatchPeersStream>, Status> {
        let convert = |list: &Vec<Peer>| wire::WatchPeersResponse { peers: peers(list) };
        Ok(Response::new(latest(self.node.peers(), self.stop.clone(), convert)))
    }

    async fn leave(
        &self,
        request: Request<wire::LeaveRequest>,
    ) -> Result<Response<wire::LeaveResponse>, Status> {
        self.node.leave(asker(&request)?).await.map_err(refuse)?;
        Ok(Response::new(wire::LeaveResponse {}))
    }

    async fn reload(
        &self,
        request: Request<wire::ReloadRequest>,
    ) -> Result<Response<wire::ReloadResponse>, Status> {
        let changes = self.node.reload(asker(&request)?).await.map_err(refuse)?;
        Ok(Response::new(wire::ReloadResponse { changes }))
    }
}

fn peers(list: &[Peer]) -> Vec<wire::Peer> {
    list.iter().map(convert::peer).collect()
}
