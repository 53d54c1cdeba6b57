//! What a hostile caller can do: nothing to others.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::backend::Service;
use super::street::{self, Street, grpc, message, receive, request};
use crate::town::within;

#[tokio::test]
async fn ten_thousand_streams_of_one_peer_are_bounded_and_harm_nobody_else() {
    let (street, pi, nas, service) = Street::pair().await;
    let mut other = pi.client().await;
    other.echo(b"before").await.is_ok();
    let svids = street.net.svids(&pi.node, &pi.node.service("web"));
    let client = tls::Client::new(tls::Pq::Require, vec![b"h2".to_vec()], svids, street.net.map.subscribe());
    let stream = TcpStream::connect(nas.inbound).await.unwrap();
    let expected = tls::Expect::Id(nas.node.service("echo"));
    let (stream, _) = client.connect(stream, expected).await.unwrap();
    // One that takes no notice of how many streams it may have.
    let mut builder = h2::client::Builder::new();
    let builder = builder.initial_max_send_streams(10_000).max_local_error_reset_streams(None);
    let (mut send, connection) = builder.handshake::<_, Bytes>(stream).await.unwrap();
    let mut calls = Vec::new();
    while calls.len() < 10_000
        && let Ok(call) = send.send_request(request("echo", "Hang"), false)
    {
        calls.push(call);
    }
    assert_eq!(calls.len(), 10_000);
    let mut flood = tokio::task::JoinSet::new();
    flood.spawn(async {
        let _ = connection.await;
    });
    let n_max = proxy::Config::default().streams_max as usize;
    within("a refusal of what is too much", async {
        let (last, _) = calls.pop().unwrap();
        last.await.unwrap_err();
    })
    .await;
    other.echo(b"during").await.is_ok();
    // The calls of another are among them.
    assert!(service.seen.n() <= n_max + 2, "{} calls came through", service.seen.n());
    drop((calls, send, flood));
    other.echo(b"after").await.is_ok();
    within("the end of all it began", async {
        while nas.handle.connections().iter().any(|it| it.in_flight > 0) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(nas.handle.count(proxy::Count::ConnectionPanicked), 0);
}

#[tokio::test]
async fn what_speaks_another_protocol_is_hung_up_on() {
    let (_street, pi, nas, _service) = Street::pair().await;
    for port in [pi.outbound, nas.inbound] {
        let mut stream = TcpStream::connect(port).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: echo\r\n\r\n").await.unwrap();
        let mut told = Vec::new();
        let ended = within("an end", stream.read_to_end(&mut told)).await;
        // Where TLS is expected it is that which hangs up.
        assert!(port == nas.inbound || ended.is_ok(), "closed and not reset: {ended:?}");
        assert!(told.len() < 256, "{told:?}");
    }
}

#[tokio::test]
async fn who_leaves_an_answer_unread_loses_that_call_and_no_more() {
    let mut street = Street::new();
    let service = Service::start("nas").await;
    let _nas = street.house("nas", "echo", grpc(service.address), "*").await;
    let config = proxy::Config { unread_timeout: Duration::from_secs(1), ..street::config() };
    let pi = street.house_with("pi", "web", None, "", config).await;
    let mut client = pi.client().await;
    let (response, mut sink) = client.begin(request("echo", "Drip"));
    sink.send_data(message(0, b""), true).unwrap();
    let (head, body) = within("headers", response).await.unwrap().into_parts();
    within("an end of patience", async {
        while pi.handle.count(proxy::Count::CallUnread) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    within("a reset", receive(head, body)).await.unwrap_err();
    client.echo(b"others go on").await.is_ok();
    pi.settles().await;
}
