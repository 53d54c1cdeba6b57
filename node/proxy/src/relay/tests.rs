//! A proxy by itself, called by a client on this machine.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use h2::client::SendRequest;
use http::{Request, StatusCode};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use identity::soft_keys::Secret;
use identity::{KeySet, Members, SoftKeys, author};
use types::key::KeySlot;
use types::{MeshName, Now, Reason, TrustDomain};

use crate::config::Config;
use crate::metrics::Count;
use crate::room::Proxy;
use crate::table::Table;

use super::slab::Key;
use super::{Newcomer, Reply, Socket};

fn members() -> Members {
    let keys = |byte: u8| {
        let secret = Secret::new([byte; 32]);
        SoftKeys::new(KeySlot::ROOT.iter().map(|slot| (*slot, &secret))).expect("keys")
    };
    let promised = KeySet::of(&keys(2), KeySlot::ROOT).expect("both slots").digest();
    let first = author::root(&keys(1), mesh(), promised, Now::read()).expect("keys");
    Members::new(Arc::new(SoftKeys::default()), first.digest(), first).expect("its own root")
}

fn mesh() -> MeshName {
    "home.mesh".parse().expect("a name")
}

async fn within<T>(act: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), act).await.expect("in time")
}

/// A client, and what keeps its connection.
async fn client(proxy: &Proxy) -> (SendRequest<bytes::Bytes>, JoinSet<()>) {
    let stream = TcpStream::connect(proxy.outbound_addr()).await.expect("a connection");
    let (send, connection) = h2::client::handshake(stream).await.expect("a connection");
    let mut tasks = JoinSet::new();
    tasks.spawn(async {
        let _ = connection.await;
    });
    (send, tasks)
}

async fn ask(send: &mut SendRequest<bytes::Bytes>, path: &str) -> Result<StatusCode, h2::Error> {
    let request = Request::post(format!("http://echo{path}")).body(()).expect("a request");
    let mut ready = send.clone().ready().await?;
    let (response, _) = ready.send_request(request, true)?;
    Ok(response.await?.status())
}

/// A proxy with one worker and no services, and what holds its table and its map.
async fn proxy() -> (Proxy, impl Sized) {
    let local = "127.0.0.1:0".parse().expect("an address");
    let config = Config { outbound: local, inbound: local, workers: 1, ..Config::default() };
    let node = "pi".parse().expect("a name");
    let table = Table {
        mesh: mesh(),
        node: TrustDomain::new(node, mesh()),
        local: BTreeMap::new(),
        endpoints: BTreeMap::new(),
    };
    let (tables, maps) = (watch::Sender::new(Arc::new(table)), watch::Sender::new(Arc::new(members())));
    let proxy =
        Proxy::bind(config, tables.subscribe(), maps.subscribe(), tls::news().0, None).await.expect("ports");
    (proxy, (tables, maps))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_panics_ends_its_connection_and_harms_no_other() {
    let (proxy, _kept) = proxy().await;
    let (handle, stop) = (proxy.handle(), CancellationToken::new());
    let (mut one, _one) = client(&proxy).await;
    let (mut other, _other) = client(&proxy).await;
    let mut running = JoinSet::new();
    running.spawn(proxy.run(stop.clone()));
    assert_eq!(within(ask(&mut one, "/a")).await.expect("an answer"), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    within(ask(&mut one, "/panic")).await.expect_err("no answer");
    assert_eq!(handle.count(Count::ConnectionPanicked), 1);
    assert_eq!(within(ask(&mut other, "/a")).await.expect("an answer"), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    stop.cancel();
    within(running.join_next()).await.expect("it ran").expect("it stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_cannot_be_taken_over_ends_and_harms_no_other() {
    let (proxy, _kept) = proxy().await;
    let (handle, stop) = (proxy.handle(), CancellationToken::new());
    let (mut other, _other) = client(&proxy).await;
    let mut running = JoinSet::new();
    running.spawn(proxy.run(stop.clone()));
    assert_eq!(within(ask(&mut other, "/a")).await.expect("an answer"), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let crew = &handle.shared.crew;
    let (mut ours, theirs) = UnixStream::pair().expect("two sockets");
    theirs.set_nonblocking(true).expect("a socket");
    let permits = Arc::new(Semaphore::new(1));
    let permit = Arc::clone(&permits).try_acquire_owned().expect("a permit");
    // This is how a test says that taking it over panics.
    let owner = Err(Reason::RequestMalformed.because("a test"));
    crew.adopt(Newcomer::Near { socket: Socket::Unix(theirs), owner, share: None, permit });
    drop(within(permits.acquire()).await.expect("it came back"));
    within(spawn_blocking(move || ours.read_to_end(&mut Vec::new()))).await.expect("it ran").expect("an end");
    assert_eq!((handle.count(Count::ConnectionPanicked), crew.inboxes[0].load()), (1, 1));
    // And so it does with what was made for nobody's lane.
    let reply = Reply { inbox: Arc::clone(&crew.inboxes[0]), lane: Some(Key::from_bits(0)) };
    reply.send(Err(Reason::EndpointUnreachable.because("a test")));
    within(async {
        while handle.count(Count::ConnectionPanicked) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(within(ask(&mut other, "/a")).await.expect("an answer"), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    stop.cancel();
    within(running.join_next()).await.expect("it ran").expect("it stopped");
}
