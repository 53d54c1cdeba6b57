//! One HTTP/2 connection that calls are sent over: how it is made, watched, and given up.
//!
//! It counts as made once its other end has answered a first PING. In TLS 1.3 a client that is refused sees its
//! handshake succeed; so does one that connects to a port where nothing but the kernel answers. Whatever
//! fails before has sent no call.

use std::future::pending;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, SendStream};
use http::Request;
use tls::{Client, Expect, Peer, Svids};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use types::{Now, Reason, Refusal, SpiffeId, Timestamp, chain};

use crate::config::Config;
use crate::connections::{Connections, Direction, Listed, Load, Open};
use crate::edges::{Edge, Edges};
use crate::metrics::{Count, Counts};
use crate::pulse::{Felt, Pulse};
use crate::socket;

/// What gRPC calls are carried by.
pub(crate) const H2: &[u8] = b"h2";

/// Whom a connection leads to.
#[derive(Clone)]
pub(crate) enum To {
    /// A service on this machine, in the clear.
    Backend(SocketAddr),
    /// A service on another node.
    Node(Box<Far>),
}

/// A service on another node, and as whom it is called.
#[derive(Clone)]
pub(crate) struct Far {
    pub(crate) client: Client,
    pub(crate) svids: watch::Receiver<Arc<Svids>>,
    pub(crate) target: SpiffeId,
    pub(crate) address: SocketAddr,
}

/// How often it is looked whether a sign of life has come.
const SIGN_EVERY: Duration = Duration::from_millis(2);

/// What connections need of the room.
pub(crate) struct Ground {
    pub(crate) config: Config,
    pub(crate) counts: Arc<Counts>,
    pub(crate) edges: Arc<Edges>,
    pub(crate) connections: Arc<Connections>,
}

/// Where a connection stands.
#[derive(Clone)]
pub(crate) enum State {
    /// It is being made.
    Dialing,
    /// It takes calls.
    Open(Arc<Link>),
    /// It takes none any more; why not, if it never did.
    Ended(Option<Refusal>),
}

/// An open connection.
pub(crate) struct Link {
    send: SendRequest<Bytes>,
    signals: Arc<Signals>,
    far: Option<Presented>,
    address: SocketAddr,
    /// Between whom; absent for backends, whose callers differ from call to call.
    pub(crate) edge: Option<Arc<Edge>>,
}

/// The certificates under which a connection was made.
struct Presented {
    own: Arc<Svids>,
    /// When the first of both ends' certificates ends.
    not_after: Timestamp,
}

#[derive(Default)]
struct Signals {
    load: Arc<Load>,
    /// Told when a call comes to an idle connection.
    busy: Notify,
    /// Told when somebody wants a sign of life.
    asked: Notify,
    pulse: Pulse,
    retired: CancellationToken,
}

/// A place for one call on a connection.
pub(crate) struct Lease {
    pub(crate) link: Arc<Link>,
}

impl Link {
    /// Takes a call, unless the connection is ending.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Lease> {
        let was_idle = self.signals.load.n() == 0;
        if !self.signals.load.enter() {
            return None;
        }
        if was_idle {
            self.signals.busy.notify_one();
        }
        Some(Lease { link: Arc::clone(self) })
    }

    /// Whether its other end is another node's proxy.
    pub(crate) const fn is_to_proxy(&self) -> bool {
        self.far.is_some()
    }

    /// Waits until the other proxy gives a sign of life.
    pub(crate) async fn gives_sign(&self) {
        let n_before = self.signals.pulse.n();
        self.signals.asked.notify_one();
        while self.signals.pulse.n() == n_before {
            sleep(SIGN_EVERY).await;
        }
    }

    /// Calls on it now.
    pub(crate) fn n_calls(&self) -> usize {
        self.signals.load.n() as usize
    }

    /// Whether its other end takes one more call at once.
    pub(crate) fn has_room(&self) -> bool {
        self.n_calls() < self.send.current_max_send_streams()
    }

    /// Whether new calls to there may use it: its other end takes calls still, and both ends' certificates are
    /// the current ones as far as this end knows. If not, it is let go after the calls that it carries.
    pub(crate) fn is_current(&self, to: &To) -> bool {
        let is_fresh = match (&self.far, to) {
            (Some(made), To::Node(far)) => {
                Arc::ptr_eq(&made.own, &far.svids.borrow()) && made.not_after > Now::read().wall
            }
            (_, to) => matches!(to, To::Backend(address) if *address == self.address),
        };
        let mut send = self.send.clone();
        let takes_calls = std::future::poll_fn(|cx| send.poll_ready(cx)).now_or_never();
        let is_current = is_fresh && !matches!(takes_calls, Some(Err(_)));
        if !is_current {
            self.signals.load.close();
            self.signals.retired.cancel();
        }
        is_current
    }
}

impl Lease {
    /// Begins a call.
    pub(crate) fn send(
        &mut self,
        head: Request<()>,
        is_whole: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.link.send.clone().send_request(head, is_whole)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.link.signals.load.leave();
    }
}

/// Makes a connection, tells of it by `state`, and keeps it until it ends.
pub(crate) async fn run(to: To, ground: Arc<Ground>, state: watch::Sender<State>) {
    let made = match &to {
        To::Backend(address) => backend(*address, &ground, &state).await,
        To::Node(far) => node(far, &ground, &state).await,
    };
    if let Err(refusal) = made {
        if let To::Node(far) = &to {
            ground.counts.add(Count::UpstreamFailed);
            info!(
                sagemesh.target = %far.target,
                network.peer.address = %far.address,
                error.type = refusal.reason.code(),
                error = %refusal,
                "failed to connect"
            );
        }
        state.send_replace(State::Ended(Some(refusal)));
    }
}

async fn backend(address: SocketAddr, ground: &Ground, state: &watch::Sender<State>) -> Result<(), Refusal> {
    let stream = connect(address, ground.config.connect_timeout, socket::SILENCE_MAX).await?;
    let making = handshake(stream, ground, address).await?;
    making.keep(Signals::default(), None, ground, state).await;
    Ok(())
}

async fn node(far: &Far, ground: &Ground, state: &watch::Sender<State>) -> Result<(), Refusal> {
    let (address, target) = (far.address, &far.target);
    let own = Arc::clone(&far.svids.borrow());
    let (stream, peer) = secure(far, ground).await?;
    let making = handshake(stream, ground, address).await?;
    ground.counts.add(Count::UpstreamConnection);
    let not_after = own.not_after.min(peer.caller.not_after);
    let edge = ground.edges.of(own.id.clone(), target.clone());
    let listed = ground.connections.list(Open::new(peer, address, Direction::Outbound));
    let signals = Signals { load: Arc::clone(&listed.open.load), ..Signals::default() };
    let presented = Presented { own, not_after };
    making.keep(signals, Some((presented, edge, listed)), ground, state).await;
    Ok(())
}

/// Connects to a service on another node, and shakes hands.
pub(crate) async fn secure(
    far: &Far,
    ground: &Ground,
) -> Result<(tokio_rustls::client::TlsStream<TcpStream>, Peer), Refusal> {
    let config = &ground.config;
    let silence_max = config.ping_interval + config.ping_timeout;
    let stream = connect(far.address, config.connect_timeout, silence_max).await?;
    let shaking = far.client.connect(stream, Expect::Id(far.target.clone()));
    match timeout(config.connect_timeout, shaking).await {
        Ok(Ok(met)) => Ok(met),
        Ok(Err(tls::Error::Refused(refusal))) => Err(refusal),
        Ok(Err(err)) => Err(unreachable(far.address, &chain(&err))),
        Err(_) => Err(unreachable(far.address, "no TLS handshake in time")),
    }
}

/// Connects to a port.
pub(crate) async fn connect(
    address: SocketAddr,
    within: Duration,
    silence_max: Duration,
) -> Result<TcpStream, Refusal> {
    let connecting = async {
        let stream = TcpStream::connect(address).await?;
        socket::prepare(&stream, silence_max)?;
        Ok::<_, std::io::Error>(stream)
    };
    match timeout(within, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(err)) => Err(unreachable(address, &err.to_string())),
        Err(_) => Err(unreachable(address, "no connection in time")),
    }
}

pub(crate) fn unreachable(address: SocketAddr, why: &str) -> Refusal {
    Reason::EndpointUnreachable.because(format!("failed to connect to {address}: {why}"))
}

/// A connection whose other end has answered.
struct Made<T: AsyncRead + AsyncWrite + Unpin> {
    send: SendRequest<Bytes>,
    connection: Connection<Felt<T>, Bytes>,
    ping: PingPong,
    pulse: Pulse,
    address: SocketAddr,
}

async fn handshake<T: AsyncRead + AsyncWrite + Unpin>(
    stream: T,
    ground: &Ground,
    address: SocketAddr,
) -> Result<Made<T>, Refusal> {
    let config = &ground.config;
    let pulse = Pulse::default();
    let stream = Felt::new(stream, pulse.clone());
    let shaking = async {
        let (send, mut connection) = builder(config).handshake(stream).await?;
        let mut ping = connection.ping_pong().expect("it is taken but once");
        tokio::select! {
            ended = &mut connection => {
                ended?;
                Err(h2::Reason::NO_ERROR.into())
            }
            answered = ping.ping(Ping::opaque()) => answered.map(|_| Made { send, connection, ping, pulse, address }),
        }
    };
    match timeout(config.connect_timeout, shaking).await {
        Ok(Ok(made)) => Ok(made),
        Ok(Err(err)) => {
            Err(unreachable(address, &format!("it does not let this node in, or speaks no HTTP/2: {err}")))
        }
        Err(_) => Err(unreachable(address, "it accepts connections and does not answer")),
    }
}

fn builder(config: &Config) -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(config.window_bytes)
        .initial_connection_window_size(config.connection_window())
        .max_header_list_size(config.header_bytes_max)
        .max_send_buffer_size(config.window_bytes as usize)
        .data_frame_budget(config.piece_budget())
        .max_concurrent_streams(0)
        .initial_max_send_streams(config.streams_max as usize)
        .max_concurrent_reset_streams(config.streams_max as usize)
        .enable_push(false);
    builder
}

impl<T: AsyncRead + AsyncWrite + Unpin> Made<T> {
    /// Offers the connection, and drives it until it ends.
    async fn keep(
        self,
        signals: Signals,
        far: Option<(Presented, Arc<Edge>, Listed)>,
        ground: &Ground,
        state: &watch::Sender<State>,
    ) {
        let Self { send, mut connection, ping, pulse, address } = self;
        let signals = Arc::new(Signals { pulse, ..signals });
        let (far, edge, listed) = match far {
            Some((far, edge, listed)) => (Some(far), Some(edge), Some(listed)),
            None => (None, None, None),
        };
        let link = Link { send, signals: Arc::clone(&signals), far, address, edge };
        state.send_replace(State::Open(Arc::new(link)));
        let retire = || {
            signals.load.close();
            state.send_replace(State::Ended(None));
        };
        let cut = listed.as_ref().map(|listed| listed.open.cut.clone()).unwrap_or_default();
        // Servers that are not ours may take pings for an attack.
        let ping = listed.is_some().then_some(ping);
        let watching = pin!(watch_over(&signals, ping, &ground.config, retire));
        tokio::select! {
            ended = &mut connection => debug!(result = ?ended, "a connection ended"),
            () = cut.cancelled() => {}
            () = watching => {
                ground.counts.add(Count::UpstreamSilent);
                info!(network.peer.address = %address, "gave up a connection that fell silent");
            }
        }
        retire();
    }
}

/// Ends when the other end gives no sign of life while calls are in flight. Lets the connection go when it has
/// been idle for long, or when it was replaced; it then ends by itself after its last call.
async fn watch_over(signals: &Signals, mut ping: Option<PingPong>, config: &Config, retire: impl Fn()) {
    let mut is_retired = false;
    loop {
        let is_idle = signals.load.n() == 0;
        if is_idle && is_retired {
            return pending().await;
        }
        let pause = if is_idle { config.idle_timeout } else { config.ping_interval };
        tokio::select! {
            () = signals.busy.notified(), if is_idle => continue,
            () = signals.asked.notified(), if !is_idle => {}
            () = signals.retired.cancelled(), if !is_retired => {
                retire();
                is_retired = true;
                continue;
            }
            () = sleep(pause) => {}
        }
        if is_idle {
            is_retired = signals.load.close_if_idle();
            if is_retired {
                retire();
            }
        } else if signals.load.n() > 0
            && let Some(ping) = &mut ping
            && is_silent(ping, &signals.pulse, config.ping_timeout).await
        {
            return;
        }
    }
}

/// Whether the other end answers no PING while nothing else comes from it either.
async fn is_silent(ping: &mut PingPong, pulse: &Pulse, within: Duration) -> bool {
    let mut pong = pin!(ping.ping(Ping::opaque()));
    loop {
        let n_before = pulse.n();
        match timeout(within, &mut pong).await {
            Ok(answered) => return answered.is_err(),
            Err(_) if pulse.n() == n_before => return true,
            Err(_) => {}
        }
    }
}
