//! Those who take their time, at both of the relay's listeners: they hold no more than a bound, and not for ever.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use proxy::{Config, Count};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::backend::{Service, send};
use super::raw::{
    Door, END_STREAM, HEADERS, PREFACE, Pipe, RST_STREAM, Raw, WINDOW_UPDATE, begin, call, frame, settings,
};
use super::street::{self, Client, House, Street, grpc, message, request};
use crate::town::within;

const INITIAL_WINDOW_SIZE: u16 = 4;
const WINDOW_MAX: u32 = (1 << 31) - 1;
/// What one call may hold at one proxy.
const WINDOW: usize = 256 << 10;

/// Two nodes that lose patience soon, and clients beside the slow one at either.
async fn scene() -> (Street, House, House, Service, [Client; 2]) {
    let second = Duration::from_secs(1);
    let config = || Config { stuck_timeout: second, unread_timeout: second, ..street::config() };
    let mut street = Street::new();
    let service = Service::start("nas").await;
    let nas = street.house_with("nas", "echo", grpc(service.address), "svc/web", config()).await;
    let pi = street.house_with("pi", "web", None, "", config()).await;
    let tv = street.net.admit("tv", "svc/*");
    let svids = street.net.svids(&tv, &tv.service("web"));
    let client = tls::Client::new(tls::Pq::Require, vec![b"h2".to_vec()], svids, street.net.map.subscribe());
    let stream = TcpStream::connect(nas.inbound).await.unwrap();
    let (stream, _) = client.connect(stream, tls::Expect::Id(nas.node.service("echo"))).await.unwrap();
    let others = [pi.client().await, Client::over(stream).await];
    (street, pi, nas, service, others)
}

/// Waits for a count of any of these, and all the while somebody else is answered.
async fn until(houses: &[&House], count: Count, n: u64, other: &mut Client) {
    within("an end of patience", async {
        while houses.iter().map(|house| house.handle.count(count)).sum::<u64>() < n {
            other.echo(b"meanwhile").await.is_ok();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// How much a service could send, once it can send no more.
async fn poured(service: &Service) -> usize {
    let mut before = 0;
    within("a stop", async {
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = service.seen.n_poured.load(Ordering::Relaxed);
            if now == before {
                return now;
            }
            before = now;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_opens_a_window_holds_a_window_of_each_call_and_loses_them() {
    for (at, door) in Door::BOTH.into_iter().enumerate() {
        let (street, pi, nas, service, mut others) = scene().await;
        let mut raw = Raw::over(door.connect(&street, &pi, &nas).await, &[(INITIAL_WINDOW_SIZE, 0)]).await;
        for n in 0..8 {
            raw.send(&begin(2 * n + 1, "Pour")).await.unwrap();
        }
        // A window at each proxy on the way.
        let n_bytes = poured(&service).await;
        assert!(n_bytes <= 8 * WINDOW * (2 - at), "{n_bytes} bytes at {door:?}");
        // Whichever of the two notices first.
        until(&[&pi, &nas], Count::CallUnread, 8, &mut others[at]).await;
        let mut n_reset = 0;
        while n_reset < 8 {
            let frame = within("a reset", raw.next()).await.expect("the connection stays");
            n_reset += usize::from(frame.kind == RST_STREAM);
        }
        raw.send(&begin(99, "Echo")).await.unwrap();
        assert_eq!(within("an answer", raw.next_of(99)).await.unwrap().kind, HEADERS);
        drop(raw);
        pi.settles().await;
        nas.settles().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_nothing_at_all_is_hung_up_on_and_held_little_for() {
    for (at, door) in Door::BOTH.into_iter().enumerate() {
        let (street, pi, nas, service, mut others) = scene().await;
        let house = door.of(&pi, &nas);
        let ours = [(INITIAL_WINDOW_SIZE, WINDOW_MAX)];
        let mut raw = Raw::over(door.connect(&street, &pi, &nas).await, &ours).await;
        let wide = (WINDOW_MAX - 65_535).to_be_bytes();
        raw.send(&frame(WINDOW_UPDATE, 0, 0, &wide)).await.unwrap();
        for n in 0..4 {
            raw.send(&begin(2 * n + 1, "Pour")).await.unwrap();
        }
        // A window of each call at each proxy, a mebibyte that waits to be written, and what the system holds.
        let n_bytes = poured(&service).await;
        assert!(n_bytes <= 4 * 2 * WINDOW + (24 << 20), "{n_bytes} bytes at {door:?}");
        until(&[house], Count::ConnectionStuck, 1, &mut others[at]).await;
        within("an end", raw.goodbye()).await;
        pi.settles().await;
        nas.settles().await;
    }
}

/// Says `first`, then a byte of `rest` every now and then, until it is hung up on.
async fn trickles(mut pipe: Box<dyn Pipe>, first: &[u8], rest: &[u8]) {
    pipe.write_all(first).await.unwrap();
    pipe.flush().await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(pipe);
    let reading = async {
        let mut told = [0; 1024];
        while reader.read(&mut told).await.is_ok_and(|n| n > 0) {}
    };
    let writing = async {
        for byte in rest {
            tokio::time::sleep(Duration::from_millis(300)).await;
            if writer.write_all(&[*byte]).await.is_err() || writer.flush().await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    within("an end", async {
        tokio::select! {
            () = reading => {}
            () = writing => {}
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_finishes_what_it_says_is_hung_up_on() {
    let (street, pi, nas, service, mut others) = scene().await;
    let hello = [PREFACE, &settings(&[])].concat();
    let request = begin(1, "Echo");
    let begun = [&hello[..], &request[..20]].concat();
    let half = [&hello[..], &frame(HEADERS, END_STREAM, 1, &call("Echo", &[]))].concat();
    for (at, door) in Door::BOTH.into_iter().enumerate() {
        let houses = [door.of(&pi, &nas)];
        let pipe = async || door.connect(&street, &pi, &nas).await;
        let all = async {
            tokio::join!(
                // No preface, or a byte of it every now and then.
                trickles(pipe().await, &[], &[]),
                trickles(pipe().await, &[], &PREFACE[..23]),
                // A frame, the same way, and nothing after its first half.
                trickles(pipe().await, &hello, &request),
                trickles(pipe().await, &begun, &[]),
                // Headers of which more is said to come.
                trickles(pipe().await, &half, &[]),
            )
        };
        tokio::join!(all, until(&houses, Count::ConnectionStuck, 5, &mut others[at]));
        assert_eq!(houses[0].handle.count(Count::ConnectionStuck), 5, "{door:?}");
    }
    // Where TLS is to be spoken first, silence ends as well.
    let mut silent = TcpStream::connect(nas.inbound).await.unwrap();
    let ended = within("an end", silent.read(&mut [0])).await;
    assert!(!ended.is_ok_and(|n| n > 0));
    assert_eq!(nas.handle.count(Count::InboundFailed), 1);
    let heads = service.seen.heads.lock().unwrap();
    assert!(heads.iter().all(|head| head.uri.path() == "/t.T/Echo"), "nothing of it came through");
}

/// Two nodes that have one worker each, so that all calls share their connections, and two clients.
async fn narrow() -> (Street, House, House, Service, [Client; 2]) {
    let config = || Config { workers: 1, ..street::config() };
    let mut street = Street::new();
    let service = Service::start("nas").await;
    let nas = street.house_with("nas", "echo", grpc(service.address), "svc/web", config()).await;
    let pi = street.house_with("pi", "web", None, "", config()).await;
    let clients = [pi.client().await, pi.client().await];
    (street, pi, nas, service, clients)
}

/// Endless answers to calls of one client, of which it reads nothing.
async fn unread(client: &mut Client, n: usize) -> Vec<http::Response<h2::RecvStream>> {
    let mut unread = Vec::new();
    for _ in 0..n {
        let (response, mut sink) = client.begin(request("echo", "Pour"));
        sink.send_data(message(0, b""), true).unwrap();
        unread.push(within("headers", response).await.unwrap());
    }
    unread
}

/// Sends to calls of which the service reads nothing until nothing more goes, `n` times.
async fn stuffed(
    client: &mut Client,
    n: usize,
) -> Vec<(http::Response<h2::RecvStream>, h2::SendStream<Bytes>)> {
    let mut stuffed = Vec::new();
    for _ in 0..n {
        let (response, mut sink) = client.begin(request("echo", "Begin"));
        let begun = within("headers", response).await.unwrap();
        let piece = Bytes::from_static(&[7; 16 << 10]);
        while tokio::time::timeout(Duration::from_millis(300), send(&mut sink, piece.clone())).await.is_ok() {
        }
        stuffed.push((begun, sink));
    }
    stuffed
}

#[tokio::test]
async fn answers_that_nobody_reads_hold_up_no_other_call() {
    let (_street, pi, nas, service, [mut slow, mut other]) = narrow().await;
    // Together they fill the window of the connection that both clients' calls share twice.
    let unread = unread(&mut slow, 2 * 16).await;
    assert!(poured(&service).await > 3 * (4 << 20));
    other.echo(&vec![7; 1 << 20]).await.is_ok();
    assert_eq!((pi.handle.connections().len(), nas.handle.connections().len()), (1, 1));
    drop((slow, unread));
    pi.settles().await;
    nas.settles().await;
}

#[tokio::test]
async fn answers_that_nobody_reads_are_bounded_all_together() {
    let (_street, pi, nas, service, [mut slow, mut other]) = narrow().await;
    let unread = unread(&mut slow, 400).await;
    // At each node 32 MiB and what one connection may still send then, and what the client takes of each.
    let bound = 2 * ((32 << 20) + (8 << 20)) + 400 * (64 << 10);
    let n = poured(&service).await;
    assert!(n > 2 * (32 << 20) && n < bound, "{n} of {bound}");
    drop((slow, unread));
    other.echo(&vec![7; 1 << 20]).await.is_ok();
    pi.settles().await;
    nas.settles().await;
}

#[tokio::test]
async fn a_service_that_leaves_requests_unread_answers_others_on_a_second_connection() {
    let (_street, pi, nas, service, [mut slow, mut other]) = narrow().await;
    // Four of them fill the window of the connection to the service.
    let stuffed = stuffed(&mut slow, 4).await;
    other.echo(b"meanwhile").await.is_ok();
    assert_eq!(service.seen.n_connections.load(Ordering::Relaxed), 2);
    drop((slow, stuffed));
    pi.settles().await;
    nas.settles().await;
}

#[tokio::test]
async fn where_no_second_connection_can_be_made_calls_share_the_first() {
    let (_street, pi, nas, service, [mut slow, mut other]) = narrow().await;
    other.echo(b"").await.is_ok();
    service.shut.cancel();
    let stuffed = stuffed(&mut slow, 4).await;
    // It answers before it has the body, for which there is no window.
    other.ask(request("echo", "Slow"), message(0, b"meanwhile")).await.is_ok();
    assert_eq!(service.seen.n_connections.load(Ordering::Relaxed), 1);
    drop((slow, stuffed));
    pi.settles().await;
    nas.settles().await;
}
