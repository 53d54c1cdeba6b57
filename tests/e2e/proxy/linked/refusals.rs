//! What is refused over links, and what ends there.

use std::time::Duration;

use daemon::tunnels::TUNNEL;
use proxy::Count;
use tls::{Client, Expect, Pq};
use tokio::io::AsyncReadExt;
use types::Reason;

use super::super::backend::{Service, send};
use super::super::street::{Street, grpc, message, receive, request};
use super::{Linked, World, config, shut_port};
use crate::town::within;

#[tokio::test]
async fn a_release_without_tunnels_is_named_as_what_is_in_the_way() {
    let mut street = Street::new();
    let (pi, nas) = (street.net.admit("pi", "svc/*"), street.net.admit("nas", "svc/*"));
    let here = Linked::start(&mut street, &pi, None).await;
    let there = Linked::start(&mut street, &nas, Some(here.address)).await;
    let service = Service::start("nas").await;
    let nas = street.house_of(nas, ("echo", grpc(service.address), "svc/web"), config(), None).await;
    let port = shut_port().await;
    street.offer(&nas, "echo", port);
    let lent = here.lend(&street);
    let pi = street.house_of(pi, ("web", None, ""), config(), Some(lent)).await;
    here.links_to(&there).await;
    let answer = pi.client().await.echo(b"").await;
    answer.is_refused(Reason::EndpointUnreachable);
    let told = answer.message();
    assert!(
        told.contains(&port.to_string()) && told.contains("`nas` runs a release that takes no"),
        "{told}"
    );
}

#[tokio::test]
async fn a_revoked_node_is_cut_off_in_the_middle_of_its_calls() {
    let mut world = World::new(shut_port().await).await;
    let mut client = world.pi.client().await;
    client.echo(b"").await.is_ok();
    let (response, mut sink) = client.begin(request("echo", "Hang"));
    send(&mut sink, message(0, b"")).await.unwrap();
    within("a call", async {
        while world.service.seen.n() < 2 {
            world.service.seen.begun.notified().await;
        }
    })
    .await;
    world.street.net.mesh.revoke(&world.nas.node);
    world.street.net.publish();
    let (head, body) = within("an end", response).await.unwrap().into_parts();
    within("an end", receive(head, body)).await.unwrap().is_refused(Reason::CallLost);
    world.links[0].loses(&world.links[1]).await;
    client.echo(b"").await.is_refused(Reason::EndpointUnreachable);
    assert_eq!(world.pi.handle.connections().len(), 0);
}

#[tokio::test]
async fn a_peer_has_half_the_streams_of_its_link_and_takes_nobody_elses() {
    let mut world = World::new(shut_port().await).await;
    let mallory = world.street.net.admit("mallory", "svc/*");
    let hers = Linked::start(&mut world.street, &mallory, Some(world.links[1].address)).await;
    hers.links_to(&world.links[1]).await;
    let nas = world.links[1].peer;
    let mut silent = Vec::new();
    let mut n_refused = 0;
    for _ in 0..2_000 {
        match within("an answer", hers.handle.open(nas, TUNNEL)).await {
            Ok(stream) => silent.push(stream),
            Err(mesh::Error::Full(_)) => n_refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((silent.len(), n_refused), (8, 1_992));
    world.pi.client().await.echo(b"meanwhile").await.is_ok();
    // Those that say nothing are ended, and leave their places to others.
    within("an end of all", async {
        while world.nas.handle.count(Count::InboundFailed) < 8 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    for stream in &mut silent {
        assert_eq!(within("an end", stream.read(&mut [0])).await.unwrap_or(0), 0);
    }
    drop(silent);
    within("room", async {
        while hers.handle.open(nas, TUNNEL).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn who_brings_anothers_certificate_over_its_own_link_is_refused() {
    let mut world = World::new(shut_port().await).await;
    let mallory = world.street.net.admit("mallory", "svc/*");
    let hers = Linked::start(&mut world.street, &mallory, Some(world.links[1].address)).await;
    hers.links_to(&world.links[1]).await;
    let net = &world.street.net;
    let stolen = net.svids(&world.pi.node, &world.pi.node.service("web"));
    let client = Client::new(Pq::Require, vec![b"h2".to_vec()], stolen, net.map.subscribe());
    let stream = within("a stream", hers.handle.open(world.links[1].peer, TUNNEL)).await.unwrap();
    let (mut stream, _) = client.connect(stream, Expect::Id(world.nas.node.service("echo"))).await.unwrap();
    assert!(!within("an end", stream.read(&mut [0; 64])).await.is_ok_and(|n| n > 0));
    world.nas.refuses(Reason::PeerMismatch, 1).await;
    assert_eq!(world.nas.handle.connections().len(), 0);
}
