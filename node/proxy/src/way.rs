//! Which way a connection to another node goes: to its port, or over the mesh link to it.
//!
//! The port is dialled first, and the link tried as well once that took long (as in RFC 8305, with two ways in the
//! place of two addresses). Either way the same TLS is shaken hands by, with the same service at the other end.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use tls::{Expect, Peer};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use types::{Now, Reason, Refusal, chain};

use crate::bridge;
use crate::carrier::Carrier;
use crate::detours::Detour;
use crate::dial::{Far, Ground, connect, unreachable};
use crate::links::Links;

/// How long a port is dialled before the link is tried beside it (RFC 8305, section 8: the delay that it recommends).
const HEAD_START: Duration = Duration::from_millis(250);

/// Which way a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Between the two machines.
    Direct,
    /// Over a stream of the mesh link between the two nodes.
    Mesh,
}

impl Way {
    /// As logs call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Mesh => "mesh",
        }
    }
}

/// The other end of a connection, as far as it can be seen from here.
#[derive(Clone, Debug)]
pub(crate) struct End {
    /// Where bytes go: over a mesh link, that link's other end.
    pub(crate) address: SocketAddr,
    pub(crate) way: Way,
    /// The detour that the connection takes; absent if there is no other way.
    pub(crate) detour: Option<Arc<Detour>>,
}

impl End {
    pub(crate) const fn direct(address: SocketAddr) -> Self {
        Self { address, way: Way::Direct, detour: None }
    }

    /// Whether there is a better way by now.
    pub(crate) fn is_outdated(&self) -> bool {
        self.detour.as_ref().is_some_and(|detour| detour.is_over())
    }
}

/// A connection to a service on another node, after the handshake.
pub(crate) type Secured = (TlsStream<Carrier>, Peer, End);

/// Connects to a service on another node, and shakes hands.
///
/// # Errors
/// Why no way leads there.
pub(crate) async fn secure(far: &Far, ground: &Ground) -> Result<Secured, Refusal> {
    let own = Arc::clone(&far.svids.borrow());
    if own.not_after <= Now::read().wall {
        // The other end would refuse it, and could not say why.
        let how = format!("the certificate of {} ended at {} and was not replaced", own.id, own.not_after);
        return Err(Reason::SvidExpired.because(how));
    }
    let Some(links) = &ground.links else { return direct(far, ground).await };
    if far.has_no_port() {
        return by_mesh(far, &**links, None, ground).await;
    }
    let Some(detour) = ground.detours.of(&far.place()) else { return race(far, &**links, ground).await };
    let over_link = match by_mesh(far, &**links, Some(detour), ground).await {
        Ok(secured) => return Ok(secured),
        Err(over_link) => over_link,
    };
    let secured = direct(far, ground).await.map_err(|of_port| neither(&of_port, &over_link))?;
    ground.detours.end(&far.place());
    Ok(secured)
}

/// Tries the port, and then the link.
async fn race(far: &Far, links: &dyn Links, ground: &Ground) -> Result<Secured, Refusal> {
    let mut connecting = pin!(port(far, ground));
    let over_link = pin!(by_mesh(far, links, None, ground));
    let (of_port, over_link) = match timeout(HEAD_START, &mut connecting).await {
        // Somebody is there, perhaps busy: a second handshake beside the first would make that worse.
        Ok(stream) => match at_port(far, stream, ground).await {
            Ok(secured) => return Ok(secured),
            Err(of_port) => (of_port, over_link.await),
        },
        Err(_) => {
            let direct = pin!(async { at_port(far, connecting.await, ground).await });
            match select(direct, over_link).await {
                Either::Left((Ok(secured), _)) => return Ok(secured),
                Either::Left((Err(of_port), over_link)) => (of_port, over_link.await),
                Either::Right((Err(over_link), direct)) => {
                    return direct.await.map_err(|of_port| neither(&of_port, &over_link));
                }
                Either::Right((secured, _)) => (unreachable(far.address, "it takes long"), secured),
            }
        }
    };
    match over_link {
        Ok((stream, peer, end)) => {
            let detour = ground.detours.begin(far.place(), far, &of_port.detail);
            Ok((stream, peer, End { detour, ..end }))
        }
        Err(over_link) => Err(neither(&of_port, &over_link)),
    }
}

/// Connects by the port alone.
///
/// # Errors
/// Why that does not lead there.
pub(crate) async fn direct(far: &Far, ground: &Ground) -> Result<Secured, Refusal> {
    at_port(far, port(far, ground).await, ground).await
}

async fn at_port(far: &Far, stream: Result<TcpStream, Refusal>, ground: &Ground) -> Result<Secured, Refusal> {
    shake(far, Carrier::Left(stream?), End::direct(far.address), ground).await
}

async fn port(far: &Far, ground: &Ground) -> Result<TcpStream, Refusal> {
    let config = &ground.config;
    connect(far.address, config.connect_timeout, config.ping_interval + config.ping_timeout).await
}

async fn by_mesh(
    far: &Far,
    links: &dyn Links,
    detour: Option<Arc<Detour>>,
    ground: &Ground,
) -> Result<Secured, Refusal> {
    let opened = timeout(ground.config.connect_timeout, links.open(far.node.clone())).await;
    let late = || Reason::EndpointUnreachable.because("the other node opens no stream in time");
    let stream = opened.map_err(|_| late())??;
    let end = End { address: stream.address, way: Way::Mesh, detour };
    let carrier =
        bridge::lay(stream.bytes, ground).map_err(|err| unreachable(end.address, &err.to_string()))?;
    shake(far, carrier, end, ground).await
}

async fn shake(far: &Far, carrier: Carrier, end: End, ground: &Ground) -> Result<Secured, Refusal> {
    let shaking = far.client.connect(carrier, Expect::Id(far.target.clone()));
    match timeout(ground.config.connect_timeout, shaking).await {
        Ok(Ok((stream, peer))) => Ok((stream, peer, end)),
        Ok(Err(tls::Error::Refused(refusal))) => Err(refusal),
        Ok(Err(err)) => Err(unreachable(end.address, &chain(&err))),
        Err(_) => Err(unreachable(end.address, "no TLS handshake in time")),
    }
}

/// What is said if neither way leads there.
fn neither(of_port: &Refusal, over_link: &Refusal) -> Refusal {
    of_port.reason.because(format!("{}; nor over the mesh: {}", of_port.detail, over_link.detail))
}
