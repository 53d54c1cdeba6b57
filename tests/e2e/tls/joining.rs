//! Joining over real connections, which do nothing else.

use std::sync::Arc;
use std::time::Duration;

use identity::SoftKeys;
use identity::join::{Invitation, Invitations, Newcomer, reply, welcome};
use tls::server::Newcomers;
use tls::{Accepted, Pq};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex};
use types::Reason;
use types::key::KeySlot;

use super::{Net, refused};
use crate::world::{Mesh, fresh_keys};

#[tokio::test]
async fn a_machine_joins_over_a_connection_that_only_joins() {
    let mut net = Net::new();
    let one = net.admit("one", "svc/*");
    let server = net.server_with(&one, Pq::Prefer, Newcomers::Welcome);
    let mut invitations = Invitations::default();
    let invitation = Invitation {
        secret: tls::random::secret(KeySlot::Node),
        domain: "pi.home.mesh".parse().unwrap(),
        scope: "svc/api".parse().unwrap(),
        not_after: net.mesh.now.wall + Duration::from_secs(60),
        redeemed_by: None,
    };
    let Mesh { members, signer, now, .. } = &net.mesh;
    let token = invitations.invite(members, signer, &one.domain, invitation, Vec::new(), *now).unwrap();

    let (here, there) = duplex(64 * 1024);
    let inviter = async {
        let Accepted::Newcomer(mut stream, exporter) = server.accept(there).await.unwrap() else {
            panic!("a peer where a newcomer was due");
        };
        send(&mut *stream, &welcome(members, &one.domain, *now).unwrap()).await;
        let request = receive(&mut *stream).await;
        let record = invitations.redeem(members, signer, &exporter, &request, *now);
        send(&mut *stream, &reply(&record, 7400)).await;
        record.unwrap()
    };
    let keys = fresh_keys(&KeySlot::NODE);
    let newcomer = async {
        let (mut stream, chain, exporter) = tls::client::connect_to_inviter(here, &token).await.unwrap();
        let newcomer = Newcomer::invited(&keys, &token);
        let greeting = receive(&mut stream).await;
        let verifier = Arc::new(SoftKeys::default());
        let (mut known, request) = newcomer.greet(verifier, &chain, &exporter, &greeting, *now).unwrap();
        send(&mut stream, &request).await;
        newcomer.settle(&mut known, &receive(&mut stream).await).unwrap()
    };
    let (record, member) = tokio::join!(inviter, newcomer);
    net.mesh.members.merge(record).unwrap();
    assert_eq!(net.mesh.members.get(&token.domain), Some(&member));
}

#[tokio::test]
async fn a_newcomer_gives_nothing_to_whoever_is_not_its_inviter() {
    let mut net = Net::new();
    let (one, two) = (net.admit("one", "svc/*"), net.admit("two", ""));
    let server = net.server_with(&two, Pq::Prefer, Newcomers::Welcome);
    let token = identity::token::Token {
        domain: "pi.home.mesh".parse().unwrap(),
        root: net.mesh.members.fingerprint(),
        inviter: net.mesh.record(&one).member().authority.authority(),
        secret: tls::random::secret(KeySlot::Node),
        addresses: Vec::new(),
    };
    let (here, there) = duplex(64 * 1024);
    let (met, _) = tokio::join!(tls::client::connect_to_inviter(here, &token), server.accept(there));
    refused(met, Reason::PeerMismatch);
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, message: &[u8]) {
    stream.write_u32(u32::try_from(message.len()).unwrap()).await.unwrap();
    stream.write_all(message).await.unwrap();
    stream.flush().await.unwrap();
}

async fn receive<S: AsyncRead + Unpin>(stream: &mut S) -> Vec<u8> {
    let len = stream.read_u32().await.unwrap() as usize;
    assert!(len <= identity::join::WELCOME_LEN_MAX);
    let mut message = vec![0; len];
    stream.read_exact(&mut message).await.unwrap();
    message
}
