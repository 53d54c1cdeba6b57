//! Lends links to the proxy, so that services on nodes that nobody can dial are called over the links that these
//! nodes made: streams of `/sagemesh/tunnel/1`, which carry the same mutual TLS as the inbound port.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::unfold;
use tokio::sync::watch;

use identity::Members;
use mesh::{Limits, Protocol};
use proxy::{Lent, LinkStream, Links};
use types::{Reason, Refusal, TrustDomain, chain};

/// What is spoken over such a stream: TLS, as at the inbound port.
pub const TUNNEL: Protocol = Protocol::new("/sagemesh/tunnel/1");
/// Streams of all nodes together. Each costs two sockets and what their buffers and its window hold.
const STREAMS_MAX: u16 = 512;
/// How long a stream may wait to be taken.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Opens streams over the node's links.
pub struct Tunnels {
    links: mesh::Handle,
    members: watch::Receiver<Arc<Members>>,
}

impl Tunnels {
    /// Over `links`, to the nodes that `members` knows.
    pub const fn new(links: mesh::Handle, members: watch::Receiver<Arc<Members>>) -> Self {
        Self { links, members }
    }

    /// Serves the protocol and lends the links. Of the `peer_streams_max` streams that a link may have, half are
    /// left to others.
    ///
    /// # Errors
    /// It is served already, or the node stops.
    pub fn lend(self, peer_streams_max: u16) -> Result<Lent, mesh::Error> {
        let per_peer = (peer_streams_max / 2).max(1);
        let limits = Limits { per_peer, total: STREAMS_MAX, waiting: per_peer * 2, wait_max: WAIT_MAX };
        let incoming = self.links.accept(TUNNEL, limits)?;
        let arrivals = unfold(incoming, |mut incoming| async {
            let stream = incoming.next().await?;
            Some((lent(stream), incoming))
        });
        // A link whose peer is no node of the mesh is none.
        let arrivals = arrivals.filter_map(async |stream| stream).boxed();
        Ok(Lent { links: Arc::new(self), arrivals })
    }
}

impl Links for Tunnels {
    fn open(&self, node: TrustDomain) -> BoxFuture<'static, Result<LinkStream, Refusal>> {
        let (links, members) = (self.links.clone(), Arc::clone(&self.members.borrow()));
        Box::pin(async move {
            let member = members.get(&node).ok_or_else(|| members.why_not(&node))?;
            let stream = links.open(member.peer, TUNNEL).await.map_err(|err| refusal(&node, &err))?;
            lent(stream).ok_or_else(|| members.why_not(&node))
        })
    }
}

fn lent(stream: mesh::Stream) -> Option<LinkStream> {
    let link = stream.link();
    let (node, address) = (link.tls().caller.member()?.domain.clone(), link.address);
    Some(LinkStream { bytes: Box::new(stream), node, address })
}

/// Why a node is not reached over the mesh, and what to do.
fn refusal(node: &TrustDomain, err: &mesh::Error) -> Refusal {
    let name = node.node();
    Reason::EndpointUnreachable.because(match err {
        mesh::Error::Unlinked(_) => format!("there is no mesh link to `{name}`: see `sagemesh peers`"),
        mesh::Error::Unsupported(_) => format!(
            "`{name}` runs a release that takes no calls over mesh links: upgrade it, or let others reach its \
             inbound port"
        ),
        err => chain(err),
    })
}
