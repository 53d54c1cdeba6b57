//! A proxy by itself, called by a client on this machine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use h2::client::SendRequest;
use http::{Request, StatusCode};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use identity::soft_keys::Secret;
use identity::{KeySet, Members, SoftKeys, author};
use types::key::KeySlot;
use types::{MeshName, Now, TrustDomain};

use crate::config::Config;
use crate::metrics::Count;
use crate::room::Proxy;
use crate::table::Table;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_panics_ends_its_connection_and_harms_no_other() {
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
