//! Opening streams over one link: the part that libp2p calls a connection handler.
//!
//! Each side names the protocol by multistream-select (libp2p specifications, connections). The accepting
//! side then says with one byte whether it has room, so that the opener can tell a full peer from a lost one.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedOutbound};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Interval, interval};
use tokio_util::compat::FuturesAsyncReadCompatExt;
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::error::Error;
use crate::link::Link;
use crate::metrics::Count;
use crate::protocol::{Full, Protocol, Registry};
use crate::stream::Stream;

/// How often a retired link is looked at for streams.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Said by the accepting side.
const ROOM: u8 = 0;
/// Said by the accepting side when a limit was reached.
const NO_ROOM: u8 = 1;

/// A wish to open a stream.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) protocol: Protocol,
    pub(crate) permit: OwnedSemaphorePermit,
    pub(crate) answer: oneshot::Sender<Result<Stream, Error>>,
}

/// Opens and accepts streams on one link until it ends.
pub(crate) struct Negotiation {
    link: Arc<Link>,
    asks: mpsc::Receiver<Ask>,
    registry: Registry,
    /// How long one stream may take.
    timeout: Duration,
    retire: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Ticks once the link is retired. libp2p looks for streams before it hears that the last one went, and
    /// would not look again.
    retired: Option<Interval>,
}

impl Negotiation {
    pub(crate) fn new(
        link: Arc<Link>,
        asks: mpsc::Receiver<Ask>,
        registry: Registry,
        timeout: Duration,
    ) -> Self {
        let retire = Box::pin(link.retire.clone().cancelled_owned());
        Self { link, asks, registry, timeout, retire, retired: None }
    }
}

impl ConnectionHandler for Negotiation {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = Accepting;
    type OutboundProtocol = Opening;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = (Protocol, oneshot::Sender<Result<Stream, Error>>);

    fn listen_protocol(&self) -> SubstreamProtocol<Accepting, ()> {
        let accepting = Accepting { link: Arc::clone(&self.link), registry: self.registry.clone() };
        SubstreamProtocol::new(accepting, ()).with_timeout(self.timeout)
    }

    /// A link is kept without streams too: there is nothing to gain from making it anew.
    fn connection_keep_alive(&self) -> bool {
        self.retired.is_none()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Opening, Self::OutboundOpenInfo, Infallible>> {
        if self.retired.is_none() && self.retire.as_mut().poll(cx).is_ready() {
            self.retired = Some(interval(LOOK_EVERY));
        }
        if let Some(retired) = &mut self.retired {
            while retired.poll_tick(cx).is_ready() {}
        }
        let Poll::Ready(Some(ask)) = self.asks.poll_recv(cx) else { return Poll::Pending };
        let Ask { protocol, permit, answer } = ask;
        let opening = Opening { link: Arc::clone(&self.link), protocol, permit };
        let protocol = SubstreamProtocol::new(opening, (protocol, answer)).with_timeout(self.timeout);
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Accepting, Opening, (), Self::OutboundOpenInfo>,
    ) {
        // Who asked may have gone; the stream then goes too.
        match event {
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: stream,
                info: (_, answer),
            }) => drop(answer.send(Ok(stream))),
            ConnectionEvent::DialUpgradeError(failed) => {
                let (protocol, answer) = failed.info;
                let err = match failed.error {
                    StreamUpgradeError::Timeout => Error::Timeout(protocol),
                    StreamUpgradeError::NegotiationFailed => Error::Unsupported(protocol),
                    StreamUpgradeError::Apply(err) => err,
                    StreamUpgradeError::Io(_) => Error::Lost(protocol),
                };
                drop(answer.send(Err(err)));
            }
            _ => {}
        }
    }
}

/// Takes a stream that the peer opens, if there is room.
pub(crate) struct Accepting {
    link: Arc<Link>,
    registry: Registry,
}

impl UpgradeInfo for Accepting {
    type Info = Protocol;
    type InfoIter = Vec<Protocol>;

    fn protocol_info(&self) -> Vec<Protocol> {
        self.registry.protocols()
    }
}

impl InboundUpgrade<libp2p::Stream> for Accepting {
    type Output = ();
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<()>>;

    fn upgrade_inbound(self, socket: libp2p::Stream, protocol: Protocol) -> Self::Future {
        Box::pin(async move {
            let mut inner = socket.compat();
            let place = Arc::clone(&self.link.inbound)
                .try_acquire_owned()
                .map_err(|_| Full)
                .and_then(|permit| Ok((permit, self.registry.admit(protocol, self.link.peer)?)));
            match place {
                Ok((of_link, place)) => {
                    inner.write_u8(ROOM).await?;
                    inner.flush().await?;
                    place.fill(|of_protocol| Stream {
                        inner,
                        link: self.link,
                        _of_link: of_link,
                        _of_protocol: Some(of_protocol),
                    });
                    Ok(())
                }
                Err(Full) => {
                    self.registry.counts().add(Count::StreamRefused);
                    inner.write_u8(NO_ROOM).await?;
                    inner.shutdown().await
                }
            }
        })
    }
}

/// Opens a stream, and hears whether the peer has room.
pub(crate) struct Opening {
    link: Arc<Link>,
    protocol: Protocol,
    permit: OwnedSemaphorePermit,
}

impl UpgradeInfo for Opening {
    type Info = Protocol;
    type InfoIter = std::iter::Once<Protocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(self.protocol)
    }
}

impl OutboundUpgrade<libp2p::Stream> for Opening {
    type Output = Stream;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Stream, Error>>;

    fn upgrade_outbound(self, socket: libp2p::Stream, protocol: Protocol) -> Self::Future {
        Box::pin(async move {
            let mut inner = socket.compat();
            match inner.read_u8().await {
                Ok(ROOM) => Ok(Stream { inner, link: self.link, _of_link: self.permit, _of_protocol: None }),
                Ok(_) => Err(Error::Full(protocol)),
                Err(_) => Err(Error::Lost(protocol)),
            }
        })
    }
}
