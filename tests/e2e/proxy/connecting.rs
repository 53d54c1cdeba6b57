//! Connections: who may make them, what they are for, how many there are, and tunnels.

use std::time::Duration;

use types::Reason;

use super::backend::{Service, send};
use super::street::{self, Street, grpc, message, receive, request};
use crate::town::within;

#[tokio::test]
async fn an_inbound_connection_is_for_the_service_that_its_hello_names() {
    let (street, pi, nas, service) = Street::pair().await;
    let echo = nas.node.service("echo");
    let mut client = pi.direct(&street.net, "web", &echo, nas.inbound).await.unwrap();
    for authority in ["echo", "echo.svc.home.mesh", "echo.nas.home.mesh:7450"] {
        let mut asked = request(authority, "Echo");
        asked.headers_mut().insert("x-forwarded-client-cert", "URI=spiffe://root".parse().unwrap());
        let answer = client.ask(asked, message(0, b"x")).await;
        answer.is_ok();
        assert!(!answer.headers.contains_key("sagemesh-server-us"), "nobody asked for it");
        let cert = format!("By={echo};URI={}", pi.node.service("web"));
        assert_eq!(service.seen.last().headers["x-forwarded-client-cert"], cert);
    }
    for authority in ["web", "nas.home.mesh", "echo.pi.home.mesh", "echo.svc.other.mesh"] {
        client.ask(request(authority, "Echo"), message(0, b"")).await.is_refused(Reason::ServiceUnknown);
    }
    assert_eq!(service.seen.n(), 3);
    // Who calls past a proxy is counted where the call arrives.
    let stats = nas.handle.stats();
    assert_eq!((stats.len(), stats[0].1.by_status[0], stats[0].1.by_status[5]), (1, 3, 4));
    let other = pi.direct(&street.net, "web", &nas.node.service("nope"), nas.inbound).await;
    assert!(other.is_err());
    nas.refuses(Reason::ServiceUnknown, 5).await;
    let nobody = pi.direct(&street.net, "web", &nas.node.id(), nas.inbound).await;
    assert!(nobody.is_err());
    nas.refuses(Reason::ServiceUnknown, 6).await;
    assert_eq!(nas.handle.count(proxy::Count::InboundRefused), 2);
}

#[tokio::test]
async fn callers_connect_by_a_unix_socket_as_well() {
    let mut street = Street::new();
    let service = Service::start("nas").await;
    let _nas = street.house("nas", "echo", grpc(service.address), "*").await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("proxy.sock");
    let config = proxy::Config { socket: Some(path.clone()), ..street::config() };
    let pi = street.house_with("pi", "web", None, "", config).await;
    let stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    street::Client::over(stream).await.echo(b"x").await.is_ok();
    pi.stop.cancel();
    within("a stop", pi.stopped.cancelled()).await;
    assert!(!path.exists());
}

#[tokio::test]
async fn tunnels_carry_bytes_and_half_closed_ends() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut street = Street::new();
    // A service that answers only once its caller has finished.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    street.tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut all = Vec::new();
            if stream.read_to_end(&mut all).await.is_ok() {
                all.reverse();
                let _ = stream.write_all(&all).await;
            }
        }
    });
    let backend = proxy::Backend { address, protocol: proxy::Protocol::Tcp, health: Ok(()) };
    let nas = street.house("nas", "db", Some(backend), "svc/web").await;
    let tunnel = proxy::Tunnel { listen: "127.0.0.1:0".parse().unwrap(), service: "db".parse().unwrap() };
    let config = proxy::Config { tunnels: vec![tunnel], ..street::config() };
    let pi = street.house_with("pi", "web", None, "", config).await;
    // The caller half-closes once it has been attested: before, the kernel could not tell who it is.
    let talk = async |bytes: &[u8]| {
        let n_before = nas.handle.count(proxy::Count::InboundTunnel);
        let mut stream = tokio::net::TcpStream::connect(pi.tunnels[0]).await.unwrap();
        let mut back = Vec::new();
        let spoken = async {
            let (mut reader, mut writer) = stream.split();
            let write = async {
                writer.write_all(bytes).await?;
                while nas.handle.count(proxy::Count::InboundTunnel) == n_before {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                writer.shutdown().await
            };
            let (_, read) = tokio::join!(write, reader.read_to_end(&mut back));
            read
        };
        within("an answer", spoken).await.map(|_| back)
    };
    assert_eq!(talk(b"abc").await.unwrap(), b"cba");
    let big: Vec<u8> = (0..1_u32 << 20).flat_map(u32::to_be_bytes).collect();
    let back = talk(&big).await.unwrap();
    assert!(back.iter().rev().eq(&big));
    // gRPC to it is refused with advice, and so is a tunnel to who does not want it.
    pi.client().await.ask(request("db", "Echo"), message(0, b"")).await.is_refused(Reason::RequestMalformed);
    nas.change(|table| table.local.values_mut().for_each(|local| local.policy.allow.clear()));
    assert!(talk(b"abc").await.is_ok_and(|back| back.is_empty()) || talk(b"abc").await.is_err());
    pi.refuses(Reason::PolicyDenied, 1).await;
    nas.refuses(Reason::PolicyDenied, 1).await;
    pi.change(|table| table.local.values_mut().for_each(|local| local.selectors.clear()));
    let mut stream = tokio::net::TcpStream::connect(pi.tunnels[0]).await.unwrap();
    assert!(!within("an end", stream.read(&mut [0])).await.is_ok_and(|n| n > 0));
    pi.refuses(Reason::CallerUnmapped, 1).await;
}

#[tokio::test]
async fn a_full_connection_gets_one_sister_and_further_calls_wait() {
    let mut street = Street::new();
    let service = Service::start("nas").await;
    let config = proxy::Config { streams_max: 5, ..street::config() };
    let nas = street.house_with("nas", "echo", grpc(service.address), "*", config).await;
    let pi = street.house("pi", "web", None, "").await;
    let mut client = pi.client().await;
    client.echo(b"").await.is_ok();
    let calls: Vec<_> = (0..40)
        .map(|_| {
            let (response, mut sink) = client.begin(request("echo", "Slow"));
            sink.send_data(message(0, b""), true).unwrap();
            response
        })
        .collect();
    for call in calls {
        let (head, body) = within("an answer", call).await.unwrap().into_parts();
        within("an end", receive(head, body)).await.unwrap().is_ok();
    }
    assert_eq!((pi.handle.connections().len(), nas.handle.connections().len()), (2, 2));
}

#[tokio::test]
async fn new_certificates_get_a_new_connection_and_calls_on_the_old_one_go_on() {
    let (street, pi, _nas, service) = Street::pair().await;
    let mut client = pi.client().await;
    let (response, mut sink) = client.begin(request("echo", "Echo"));
    send(&mut sink, message(0, b"old")).await.unwrap();
    let (head, body) = within("headers", response).await.unwrap().into_parts();
    let before = pi.handle.connections();
    pi.change(|table| {
        table
            .local
            .values_mut()
            .for_each(|web| web.svids = Ok(street.net.svids(&pi.node, &pi.node.service("web"))));
    });
    client.echo(b"new").await.is_ok();
    let both = pi.handle.connections();
    assert_eq!((before.len(), both.len()), (1, 2), "{both:?}");
    sink.send_data(message(0, b"still"), true).unwrap();
    within("an end", receive(head, body)).await.unwrap().is_ok();
    within("the end of the old connection", async {
        while pi.handle.connections().len() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    client.echo(b"new").await.is_ok();
    assert_eq!((service.seen.n(), pi.handle.count(proxy::Count::UpstreamConnection)), (3, 2));
}

#[tokio::test]
async fn a_stock_client_is_served_by_the_name_that_its_resolver_knows() {
    use rustls::pki_types::ServerName;
    let (_street, pi, nas, service) = Street::pair().await;
    nas.change(|table| {
        table.local.values_mut().for_each(|echo| echo.policy.allow = vec!["node/pi".parse().unwrap()]);
    });
    // P-256 only, as gRPC-core and Go are.
    let connector =
        tokio_rustls::TlsConnector::from(std::sync::Arc::new(crate::tls::Stock::of(&pi.node).config()));
    let stream = tokio::net::TcpStream::connect(nas.inbound).await.unwrap();
    let name = ServerName::try_from("echo.svc.home.mesh").unwrap();
    let stream = connector.connect(name, stream).await.unwrap();
    let mut client = street::Client::over(stream).await;
    let answer = client.ask(request("echo.svc.home.mesh:7450", "Echo"), message(0, b"x")).await;
    answer.is_ok();
    let cert = format!("By={};URI={}", nas.node.service("echo"), pi.node.id());
    assert_eq!(service.seen.last().headers["x-forwarded-client-cert"], cert);
    let seen = nas.handle.connections();
    assert_eq!(
        (&seen[0].caller, seen[0].direction, seen[0].in_flight),
        (&pi.node.id(), proxy::Direction::Inbound, 0)
    );
    // A name of no service gets the alert that TLS has for it.
    let stream = tokio::net::TcpStream::connect(nas.inbound).await.unwrap();
    let name = ServerName::try_from("nope.svc.home.mesh").unwrap();
    let refused = connector.connect(name, stream).await.unwrap_err();
    assert!(refused.to_string().contains("UnrecognisedName"), "{refused}");
}

#[tokio::test]
async fn beyond_the_bound_connections_are_closed_at_once() {
    let mut street = Street::new();
    let config = proxy::Config { connections_max: 8, ..street::config() };
    let pi = street.house_with("pi", "web", None, "", config).await;
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut client = pi.client().await;
        client.echo(b"").await.is_refused(Reason::ServiceUnknown);
        held.push(client);
    }
    let mut ninth = tokio::net::TcpStream::connect(pi.outbound).await.unwrap();
    let closed = within("an end", tokio::io::AsyncReadExt::read(&mut ninth, &mut [0])).await;
    assert!(!closed.is_ok_and(|n| n > 0));
    assert_eq!(pi.handle.count(proxy::Count::ConnectionShed), 1);
    held.pop();
    within("room again", async {
        loop {
            let stream = tokio::net::TcpStream::connect(pi.outbound).await.unwrap();
            let mut client = street::Client::over(stream).await;
            if client.try_ask(request("echo", "Echo"), message(0, b"")).await.is_ok() {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_nobody_uses_is_let_go() {
    let mut street = Street::new();
    let service = Service::start("nas").await;
    let nas = street.house("nas", "echo", grpc(service.address), "*").await;
    let config = proxy::Config { idle_timeout: Duration::from_secs(1), ..street::config() };
    let pi = street.house_with("pi", "web", None, "", config).await;
    let mut client = pi.client().await;
    client.echo(b"").await.is_ok();
    within("no connection", async {
        while !pi.handle.connections().is_empty() || !nas.handle.connections().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    client.echo(b"").await.is_ok();
    assert_eq!(pi.handle.count(proxy::Count::UpstreamConnection), 2);
}

#[tokio::test]
async fn who_is_no_service_is_told_so_and_does_not_stay() {
    let (_street, pi, _nas, _service) = Street::pair().await;
    let select = |selectors: Vec<attest::Selector>| {
        pi.change(|table| table.local.values_mut().for_each(|local| local.selectors.clone_from(&selectors)));
    };
    select(Vec::new());
    let mut refused = pi.client().await;
    refused.echo(b"x").await.is_refused(Reason::CallerUnmapped);
    // It says no more than that it speaks HTTP/2.
    let mut silent = tokio::net::TcpStream::connect(pi.outbound).await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    tokio::io::AsyncWriteExt::write_all(&mut silent, preface).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut kept = pi.client().await;
    let mut rest = Vec::new();
    let end = tokio::io::AsyncReadExt::read_to_end(&mut silent, &mut rest);
    within("an end", end).await.unwrap();
    within("an end for who was refused, too", async {
        while refused.try_begin(request("echo", "Echo")).is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // One that became a service in time stays.
    select(street::me());
    tokio::time::sleep(Duration::from_secs(2)).await;
    kept.echo(b"x").await.is_ok();
}

#[tokio::test]
async fn strangers_at_the_handshake_leave_room_for_who_is_known() {
    let mut street = Street::new();
    let service = Service::start("nas").await;
    let config = proxy::Config { connections_max: 8, ..street::config() };
    let nas = street.house_with("nas", "echo", grpc(service.address), "*", config).await;
    let pi = street.house("pi", "web", None, "").await;
    let mut client = pi.client().await;
    client.echo(b"x").await.is_ok();
    let mut held = Vec::new();
    within("strangers kept out", async {
        while nas.handle.count(proxy::Count::ConnectionShed) == 0 {
            held.push(tokio::net::TcpStream::connect(nas.inbound).await.unwrap());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!((5..8).contains(&held.len()), "{} when half of eight may", held.len());
    client.echo(b"x").await.is_ok();
}
