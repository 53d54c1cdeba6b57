//! The way in and the way out: TCP, our own mTLS, yamux, and nothing negotiated but by TLS itself.
//!
//! Built by hand rather than by libp2p's builder, because a dialler must name its peer inside the handshake,
//! listening ports must not be shared (libp2p-tcp sets `SO_REUSEPORT`, so a second node would take half of
//! the first one's connections), and sockets need options. The protocol is fixed by ALPN. Port reuse for
//! punching holes is absent.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use libp2p::Multiaddr;
use libp2p::core::Endpoint;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{DialOpts, ListenerId, Transport, TransportError, TransportEvent};
use tls::{Accepted, Client, Expect, Peer, Server};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::compat::TokioAsyncReadCompatExt;
use tokio_util::sync::CancellationToken;
use yamux::Mode;

use types::{PeerId, Reason, SpiffeId};

use crate::address::{multiaddr, place, to_libp2p};
use crate::link::Direction;
use crate::metrics::Counts;
use crate::muxer::Muxer;
use crate::socket;

/// The application protocol of node links.
pub const ALPN: &[u8] = b"sagemesh-mesh/1";
/// What a server says once it has let a peer in. In TLS 1.3 a dialler that is refused sees its handshake
/// succeed, so it waits for this.
const ADMITTED: u8 = 1;
/// How long connecting by TCP may take, and how long a dialler waits for its admission.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long nothing is accepted after accepting failed, as when file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type Output = (libp2p::PeerId, StreamMuxerBox);
type Upgrade = BoxFuture<'static, io::Result<Output>>;

/// A peer that the handshake let in.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) tls: Peer,
    /// Ends the connection at once, whatever state it is in.
    pub(crate) cut: CancellationToken,
}

type Key = (PeerId, SocketAddr, Direction);

/// Hands what a handshake showed past libp2p, which has no place for it.
#[derive(Clone, Default)]
pub(crate) struct Lobby(Arc<Mutex<HashMap<Key, Weak<Admitted>>>>);

impl Lobby {
    fn enter(&self, key: Key, admitted: &Arc<Admitted>) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Connections that ended on the way left theirs behind.
        waiting.retain(|_, admitted| admitted.strong_count() > 0);
        waiting.insert(key, Arc::downgrade(admitted));
    }

    /// Takes what was found of the peer whose connection is a link now.
    pub(crate) fn take(
        &self,
        peer: PeerId,
        address: SocketAddr,
        direction: Direction,
    ) -> Option<Arc<Admitted>> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.remove(&(peer, address, direction))?.upgrade()
    }
}

/// How connections are made, whichever side began.
pub(crate) struct Door {
    pub(crate) server: Server,
    pub(crate) client: Client,
    pub(crate) yamux: yamux::Config,
    pub(crate) silence_max: Duration,
    pub(crate) lobby: Lobby,
    pub(crate) counts: Arc<Counts>,
}

impl Door {
    async fn answer(&self, stream: TcpStream, address: SocketAddr) -> io::Result<Output> {
        socket::prepare(&stream, self.silence_max)?;
        let accepted = self.server.accept(stream).await.map_err(io::Error::other)?;
        let Accepted::Peer(mut stream, peer) = accepted else {
            return Err(refused("a newcomer: it cannot join here"));
        };
        let Some(id) = node(&peer) else {
            return Err(refused(&format!("{} is no node of its own", peer.caller.id)));
        };
        let admit = async {
            stream.write_u8(ADMITTED).await?;
            stream.flush().await
        };
        timeout(CONNECT_TIMEOUT, admit).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(self.let_in(id, (address, Direction::Inbound), *peer, *stream))
    }

    async fn call(&self, address: SocketAddr, expect: Expect) -> io::Result<Output> {
        let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect(address));
        let stream = connecting.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        socket::prepare(&stream, self.silence_max)?;
        let (mut stream, peer) = self.client.connect(stream, expect).await.map_err(io::Error::other)?;
        let id = node(&peer).ok_or_else(|| refused(&format!("{} is no node of its own", peer.caller.id)))?;
        let admission = timeout(CONNECT_TIMEOUT, stream.read_u8());
        match admission.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))? {
            Ok(ADMITTED) => Ok(self.let_in(id, (address, Direction::Outbound), peer, stream)),
            Ok(_) => Err(io::Error::other("the peer speaks another version of sagemesh-mesh/1")),
            Err(err) => Err(io::Error::new(
                err.kind(),
                format!("the peer did not let us in ({err}): its log says why"),
            )),
        }
    }

    fn let_in<S>(&self, id: PeerId, end: (SocketAddr, Direction), tls: Peer, stream: S) -> Output
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (address, direction) = end;
        let admitted = Arc::new(Admitted { tls, cut: CancellationToken::new() });
        self.lobby.enter((id, address, direction), &admitted);
        let mode = match direction {
            Direction::Inbound => Mode::Server,
            Direction::Outbound => Mode::Client,
        };
        let counts = Arc::clone(&self.counts);
        let muxer = Muxer::new(stream.compat(), self.yamux.clone(), mode, admitted, counts);
        (to_libp2p(id), StreamMuxerBox::new(muxer))
    }
}

/// The peer's id, if it is a node and not a service or an operator.
fn node(peer: &Peer) -> Option<PeerId> {
    let member = peer.caller.member()?;
    (peer.caller.id == SpiffeId::node(member.domain.clone())).then_some(member.peer)
}

fn refused(what: &str) -> io::Error {
    io::Error::other(tls::Error::from(Reason::NotANode.because(what)))
}

struct Listener {
    socket: TcpListener,
    address: Multiaddr,
    /// Set once libp2p has asked to listen.
    id: Option<ListenerId>,
    is_announced: bool,
    pause: Option<Pin<Box<Sleep>>>,
}

/// The transport that libp2p drives.
pub(crate) struct Tcp {
    door: Arc<Door>,
    listeners: Vec<Listener>,
    /// Whose turn it is.
    next: usize,
}

impl Tcp {
    /// A transport that accepts on `sockets`, once libp2p asks for their addresses.
    ///
    /// # Errors
    /// If a socket does not know its address.
    pub(crate) fn new(door: Door, sockets: Vec<TcpListener>) -> io::Result<Self> {
        let listener = |socket: TcpListener| {
            let address = multiaddr(socket.local_addr()?);
            Ok(Listener { socket, address, id: None, is_announced: false, pause: None })
        };
        let listeners = sockets.into_iter().map(listener).collect::<io::Result<_>>()?;
        Ok(Self { door: Arc::new(door), listeners, next: 0 })
    }
}

impl Transport for Tcp {
    type Output = Output;
    type Error = io::Error;
    type ListenerUpgrade = Upgrade;
    type Dial = Upgrade;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        let wanted = |it: &&mut Listener| it.address == address && it.id.is_none();
        let Some(listener) = self.listeners.iter_mut().find(wanted) else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        listener.id = Some(id);
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let n_before = self.listeners.len();
        self.listeners.retain(|it| it.id != Some(id));
        self.listeners.len() < n_before
    }

    fn dial(&mut self, address: Multiaddr, opts: DialOpts) -> Result<Upgrade, TransportError<io::Error>> {
        // A dialler that takes the listener's role is punching a hole, which is not served yet.
        match (place(&address), opts.role) {
            (Some((to, peer)), Endpoint::Dialer) if to.port() != 0 && !to.ip().is_unspecified() => {
                let door = Arc::clone(&self.door);
                let expect = peer.map_or(Expect::AnyNode, Expect::Peer);
                Ok(Box::pin(async move { door.call(to, expect).await }))
            }
            _ => Err(TransportError::MultiaddrNotSupported(address)),
        }
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        let this = &mut *self;
        for _ in 0..this.listeners.len() {
            this.next = (this.next + 1) % this.listeners.len();
            if let Poll::Ready(event) = this.listeners[this.next].poll(&this.door, cx) {
                return Poll::Ready(event);
            }
        }
        Poll::Pending
    }
}

impl Listener {
    fn poll(&mut self, door: &Arc<Door>, cx: &mut Context<'_>) -> Poll<TransportEvent<Upgrade, io::Error>> {
        let Some(listener_id) = self.id else { return Poll::Pending };
        if !self.is_announced {
            self.is_announced = true;
            return Poll::Ready(TransportEvent::NewAddress {
                listener_id,
                listen_addr: self.address.clone(),
            });
        }
        if let Some(pause) = &mut self.pause {
            futures::ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        match futures::ready!(self.socket.poll_accept(cx)) {
            Ok((stream, address)) => {
                let door = Arc::clone(door);
                Poll::Ready(TransportEvent::Incoming {
                    listener_id,
                    upgrade: Box::pin(async move { door.answer(stream, address).await }),
                    local_addr: self.address.clone(),
                    send_back_addr: multiaddr(address),
                })
            }
            Err(error) => {
                self.pause = Some(Box::pin(sleep(ACCEPT_PAUSE)));
                Poll::Ready(TransportEvent::ListenerError { listener_id, error })
            }
        }
    }
}
