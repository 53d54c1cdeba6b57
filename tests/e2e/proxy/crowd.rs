//! Many callers at once, at a node that carries calls by several threads.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use proxy::Config;
use tokio::task::JoinSet;

use super::backend::{Service, send};
use super::street::{self, Client, House, Street, grpc, message, receive, request};
use crate::town::within;

const WORKERS: usize = 3;
const CLIENTS: usize = 12;

async fn crowd() -> (Street, House, House, Service, Vec<Client>) {
    let config = || Config { workers: WORKERS, ..street::config() };
    let mut street = Street::new();
    let service = Service::start("nas").await;
    let nas = street.house_with("nas", "echo", grpc(service.address), "*", config()).await;
    let pi = street.house_with("pi", "web", None, "", config()).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(pi.client().await);
    }
    (street, pi, nas, service, clients)
}

/// What a client sends as its `n`th call, which no other call is like.
fn body(client: usize, n: usize) -> Bytes {
    message(0, format!("{client} says {n}").repeat(1 + n * 7).as_bytes())
}

/// A call of one message, one after the other of many, or one of many messages, in turn.
async fn converse(client: &mut Client, id: usize, n: usize) {
    let sent = body(id, n);
    match n % 3 {
        0 => {
            let answer = client.ask(request("echo", "Echo"), sent.clone()).await;
            answer.is_ok();
            assert!(answer.body == sent, "an answer to another");
        }
        1 => {
            let (response, mut sink) = client.begin(request("echo", "Echo"));
            send(&mut sink, sent.clone()).await.unwrap();
            let (head, mut body) = within("headers", response).await.unwrap().into_parts();
            let mut all = Vec::new();
            for round in 1..=5 {
                while all.len() < sent.len() * round {
                    let piece = within("an echo", body.data()).await.unwrap().unwrap();
                    body.flow_control().release_capacity(piece.len()).unwrap();
                    all.extend_from_slice(&piece);
                }
                if round < 5 {
                    send(&mut sink, sent.clone()).await.unwrap();
                }
            }
            assert!(all == sent.repeat(5), "an answer to another");
            sink.send_data(Bytes::new(), true).unwrap();
            within("an end", receive(head, body)).await.unwrap().is_ok();
        }
        _ => {
            let answer = client.ask(request("echo", "Collect"), sent.clone()).await;
            answer.is_ok();
            assert_eq!(answer.body, sent.len().to_string());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_calls_over_several_workers_are_all_answered_and_none_mixed_up() {
    let (_street, pi, nas, service, clients) = crowd().await;
    let mut talking = JoinSet::new();
    for (id, mut client) in clients.into_iter().enumerate() {
        talking.spawn(async move {
            for n in 0..48 {
                converse(&mut client, id, n).await;
            }
            client
        });
    }
    let clients: Vec<Client> = within("all answers", async {
        let mut clients = Vec::new();
        while let Some(client) = talking.join_next().await {
            clients.push(client.unwrap());
        }
        clients
    })
    .await;
    assert_eq!(service.seen.n(), CLIENTS * 48);
    // Each worker has connections of its own to the other node, and that one spreads them as well.
    assert_eq!((pi.handle.connections().len(), nas.handle.connections().len()), (WORKERS, WORKERS));
    assert_eq!(service.seen.n_connections.load(Ordering::Relaxed), WORKERS);
    let counted: u64 = pi.handle.stats().iter().map(|(_, stats)| stats.by_status[0]).sum();
    assert_eq!(counted, (CLIENTS * 48) as u64);
    pi.settles().await;
    nas.settles().await;
    drop(clients);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_workers_let_their_calls_end_before_the_node_stops() {
    let (_street, pi, nas, _service, mut clients) = crowd().await;
    let mut calls = Vec::new();
    for (id, client) in clients.iter_mut().enumerate() {
        let (response, mut sink) = client.begin(request("echo", "Echo"));
        send(&mut sink, body(id, 1)).await.unwrap();
        calls.push((within("headers", response).await.unwrap().into_parts(), sink));
    }
    pi.stop.cancel();
    nas.stop.cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!pi.stopped.is_cancelled() && !nas.stopped.is_cancelled());
    for (id, ((head, answer), mut sink)) in calls.into_iter().enumerate() {
        send(&mut sink, body(id, 2)).await.unwrap();
        sink.send_data(Bytes::new(), true).unwrap();
        let answer = within("an end", receive(head, answer)).await.unwrap();
        answer.is_ok();
        assert!(answer.body == [body(id, 1), body(id, 2)].concat());
    }
    // All connections were told to go, so both stop before their time to drain is over.
    let both = async { tokio::join!(pi.stopped.cancelled(), nas.stopped.cancelled()) };
    tokio::time::timeout(Duration::from_secs(4), both).await.expect("they stop as soon as nothing is left");
    assert!(clients.iter_mut().all(|client| client.try_begin(request("echo", "Echo")).is_none()));
}
