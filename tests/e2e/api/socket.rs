//! The Unix socket, where clients name its path as authority and h2 refuses them if nobody helps.

use std::sync::Arc;

use api::node::{Liveness, Peer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use wire::Code;
use wire::frame::{HEAD_LEN, Head, PREFACE, flag, kind, write_settings};

use super::call;
use super::place::{Place, grpcurl, succeeds, within};
use crate::stock::{python, script};

/// Peers whose list takes several windows of a stream.
const N_PEERS: usize = 3000;

fn many_peers(place: &Place) -> Vec<Peer> {
    let node = place.backend.with(|mesh| mesh.admit("pi", ""));
    let id = place.backend.map.borrow().get(&node.domain).unwrap().peer;
    let peer = Peer {
        node: "pi".parse().unwrap(),
        id,
        liveness: Liveness::Alive,
        is_admitted: true,
        address: Some("192.0.2.1:7400".parse().unwrap()),
        group: Some("X25519MLKEM768".to_owned()),
        signature: Some("ML_DSA_65".to_owned()),
        since: None,
        services: vec!["api".parse().unwrap()],
    };
    vec![peer; N_PEERS]
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_grpc_core_are_served_with_no_option_set() {
    let place = Place::start().await;
    place.backend.peers.send_replace(Arc::new(many_peers(&place)));
    let expected = "SERVING\nSERVING\nSERVING\n200 {'one.home.mesh'}\n3000\nINVALID_ARGUMENT\nOK\n\
                    True\n3000\nCANCELLED\nDEADLINE_EXCEEDED\nSERVING\none.home.mesh\n";
    let path = place.path("api.sock");
    let clients = [path.clone(), path].map(|path| {
        tokio::task::spawn_blocking(move || succeeds(python().arg(script("api/unix.py")).arg(path), ""))
    });
    for client in clients {
        assert_eq!(client.await.unwrap(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn others_are_served_whatever_authority_they_name() {
    let place = Place::start().await;
    let path = place.path("api.sock");
    for at in [format!("unix:{}", path.display()), format!("unix://{}", path.display())] {
        let health = [&at, "grpc.health.v1.Health/Check"];
        assert!(succeeds(grpcurl().arg("-plaintext").args(health), "").contains("SERVING"));
        for authority in ["one.home.mesh:7443", "[::1]:80"] {
            let told = succeeds(grpcurl().args(["-plaintext", "-authority", authority]).args(health), "");
            assert!(told.contains("SERVING"), "{authority}: {told}");
        }
    }
}

/// A frame of HEADERS or CONTINUATION for the first stream.
fn block(kind: u8, flags: u8, block: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Head { len: u32::try_from(block.len()).unwrap(), kind, flags, stream: 1 }.write(&mut bytes);
    [&bytes, block].concat()
}

/// Says something to the API behind the preface, until it is told that the connection ends, and why.
async fn told_for(place: &Place, frames: impl Iterator<Item = Vec<u8>>) -> Option<Code> {
    let (mut read, mut write) = UnixStream::connect(place.path("api.sock")).await.unwrap().into_split();
    let saying = async {
        let mut opening = PREFACE.to_vec();
        write_settings(&[], &mut opening);
        // Whoever is cut off cannot say the rest.
        let _ = write.write_all(&opening).await;
        for frame in frames {
            if write.write_all(&frame).await.is_err() {
                break;
            }
        }
        // It stays open: the API shall close it.
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    let hearing = async {
        // What was not read yet may have been lost with the connection.
        let _ = read.read_to_end(&mut answer).await;
    };
    tokio::select! {
        () = saying => {}
        () = within("the end of the connection", hearing) => {}
    }
    let mut rest = &answer[..];
    while let Some(head) = Head::read(rest) {
        let (payload, after) = rest[HEAD_LEN..].split_at(head.len as usize);
        if head.kind == kind::GOAWAY {
            return Some(Code(u32::from_be_bytes(*payload[4..].first_chunk().unwrap())));
        }
        rest = after;
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn who_breaks_http2_is_cut_off_as_if_nothing_stood_before_the_server() {
    let place = Place::start().await;
    let channel = place.local().await;
    let end = flag::END_HEADERS | flag::END_STREAM;
    let once = |frame: Vec<u8>| std::iter::once(frame);
    // An entry that no table has, a field that ends early, a number without an end.
    for broken in
        [&[0x80_u8][..], &[0x41, 0x20, b'%', b'2'], &[0x41, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]]
    {
        let told = told_for(&place, once(block(kind::HEADERS, end, broken))).await;
        assert!(
            matches!(told, Some(Code::COMPRESSION_ERROR | Code::PROTOCOL_ERROR)),
            "{broken:x?}: {told:?}"
        );
    }
    let padded = block(kind::HEADERS, end | flag::PADDED, &[200, 0x83]);
    assert_eq!(told_for(&place, once(padded)).await, Some(Code::PROTOCOL_ERROR));
    let alone = block(kind::CONTINUATION, flag::END_HEADERS, &[0x83]);
    assert_eq!(told_for(&place, once(alone)).await, Some(Code::PROTOCOL_ERROR));
    // A block that never ends, in an authority that never ends.
    let begun = block(kind::HEADERS, 0, &[0x41, 0x7f, 0xff, 0xff, 0xff, 0x7f]);
    let flood = std::iter::repeat_with(|| block(kind::CONTINUATION, 0, b"%2F%2F%2F"));
    let told = told_for(&place, once(begun).chain(flood)).await;
    assert!(told.is_none_or(|code| code == Code::ENHANCE_YOUR_CALM), "{told:?}");
    // Half a preface, and one of something else.
    for opening in [&PREFACE[..12], b"GET / HTTP/1.1\r\nHost: %2Frun%2Fapi.sock\r\n\r\n"] {
        let mut stream = UnixStream::connect(place.path("api.sock")).await.unwrap();
        stream.write_all(opening).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let _ = within("the end", stream.read_to_end(&mut rest)).await;
    }
    call(&channel, "/grpc.health.v1.Health/Check").await.unwrap();
    call(&place.local().await, "/grpc.health.v1.Health/Check").await.unwrap();
}
