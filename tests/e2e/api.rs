//! The API as operators, members, newcomers and stock clients meet it.

mod backend;
mod place;
mod socket;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;

use api::node::{Liveness, Peer};
use api::roles::{Least, TABLE};
use api::{Count, refusal};
use identity::join::Newcomer;
use identity::token::Token;
use identity::{Role, SoftKeys};
use proto::identity::v1::identity_service_client::IdentityServiceClient;
use proto::identity::v1::{self as identity_wire, CreateInvitationRequest, ListMembersRequest};
use proto::mesh::v1::mesh_service_client::MeshServiceClient;
use proto::mesh::v1::{GetStatusRequest, LeaveRequest, ReloadRequest, WatchPeersRequest};
use proto::service::v1::service_service_client::ServiceServiceClient;
use proto::service::v1::{
    AddServiceRequest, Declaration, DeregisterRequest, ExplainServiceRequest, ListServicesRequest,
    RegisterServiceRequest, RenewLeaseRequest,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::client::Grpc;
use tonic::codec::CompressionEncoding;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use types::key::KeySlot;
use types::{Now, Reason};

use self::place::{Place, fails, grpcurl, succeeds, within};
use crate::tls::Stock;
use crate::world::fresh_keys;

#[track_caller]
fn refused<T>(result: Result<T, Status>, reason: Reason) {
    match result {
        Ok(_) => panic!("answered what {reason} should refuse"),
        Err(status) => assert_eq!(refusal::read(&status).map(|it| it.reason), Some(reason), "{status:?}"),
    }
}

/// Makes a call with an empty message, whatever it is.
async fn call(channel: &Channel, path: &'static str) -> Result<(), Status> {
    let mut client = Grpc::new(channel.clone());
    within("a channel", client.ready()).await.map_err(|err| Status::unavailable(format!("{err:?}")))?;
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let stream = client.server_streaming(Request::new(()), path.parse().unwrap(), codec).await?;
    drop(stream);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_gossip_has_not_told_of_yet_is_made_known() {
    let mut place = Place::start().await;
    let before = place.backend.map.borrow().clone();
    let tv = place.backend.with(|mesh| mesh.admit("tv", ""));
    let record = place.backend.with(|mesh| mesh.record(&tv));
    let channel = place.member(&tv, &tv.id()).await;
    place.backend.map.send_replace(before);
    MeshServiceClient::new(channel).get_status(GetStatusRequest {}).await.unwrap();
    let brought = within("the caller's record", place.brought.recv()).await.unwrap();
    assert_eq!((brought.from, &brought.record), (record.member().peer, record.envelope()));
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_finds_its_way_on_the_port() {
    let place = Place::start().await;
    place.operator("ann", Role::View);
    let at = format!("127.0.0.1:{}", place.port);
    let services = succeeds(place.grpcurl("ann").args([&at, "list"]), "");
    let services: Vec<_> = services.lines().collect();
    assert_eq!(
        services,
        [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "sagemesh.identity.v1.IdentityService",
            "sagemesh.mesh.v1.MeshService",
            "sagemesh.service.v1.ServiceService"
        ]
    );
    for service in services {
        let described = succeeds(place.grpcurl("ann").args([&at, "describe", service]), "");
        assert!(described.contains("rpc "), "{described}");
    }
    let status = succeeds(place.grpcurl("ann").args([&at, "sagemesh.mesh.v1.MeshService/GetStatus"]), "");
    assert!(status.contains("\"node\": \"one.home.mesh\""), "{status}");
    let call = [at.as_str(), "sagemesh.mesh.v1.MeshService/Leave"];
    let told = fails(place.grpcurl("ann").args(call), "");
    assert!(told.contains("PermissionDenied") && told.contains("ROLE_REQUIRED"), "{told}");
    assert!(told.contains("google.rpc.ErrorInfo"), "the detail can be read by the client: {told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_finds_its_way_on_the_socket() {
    let place = Place::start().await;
    let at = format!("unix://{}", place.path("api.sock").display());
    let unix = |args: &[&str]| {
        let mut command = grpcurl();
        command.arg("-plaintext").args(args);
        command
    };
    assert!(succeeds(&mut unix(&[&at, "list"]), "").contains("sagemesh.mesh.v1.MeshService"));
    let described = succeeds(&mut unix(&[&at, "describe", "sagemesh.mesh.v1.MeshService.GetStatus"]), "");
    assert!(described.contains("GetStatusResponse"), "{described}");
    let health = succeeds(&mut unix(&[&at, "grpc.health.v1.Health/Check"]), "");
    assert!(health.contains("SERVING"), "{health}");
    let invite = ["-d", r#"{"node": "pi", "scope": ["svc/api"]}"#, &at];
    let invite = [&invite[..], &["sagemesh.identity.v1.IdentityService/CreateInvitation"]].concat();
    assert!(succeeds(&mut unix(&invite), "").contains("smj1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_of_the_machine_may_look_and_no_more() {
    // Nobody's user and group.
    const OTHER: &str = "65534";
    let place = Place::start().await;
    fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = place.path("grpcurl");
    fs::copy(grpcurl().get_program(), &program).expect("run `make setup`, which installs grpcurl");
    let at = format!("unix://{}", place.path("api.sock").display());
    let as_other = |call: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", OTHER, "--regid", OTHER, "--clear-groups"]).arg(&program);
        command.args(["-plaintext", &at, call]);
        command
    };
    if !as_other("list").output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: only root can be another user");
        return;
    }
    assert!(succeeds(&mut as_other("sagemesh.mesh.v1.MeshService/GetStatus"), "").contains("one.home.mesh"));
    let told = fails(&mut as_other("sagemesh.mesh.v1.MeshService/Leave"), "");
    assert!(told.contains("ROLE_REQUIRED") && told.contains("user 65534"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_finds_its_way_compressed() {
    let place = Place::start().await;
    place.operator("ann", Role::View);
    assert_eq!(place.python("ann", &["health"]), "SERVING\n");
    assert!(place.python("ann", &["reflection"]).contains("sagemesh.service.v1.ServiceService"));
    assert_eq!(place.python("ann", &["status"]), "one.home.mesh\n");
    place.backend.ready.send_replace(false);
    within("health to turn", async {
        while place.python("ann", &["health"]) != "NOT_SERVING\n" {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_no_certificate_is_refused() {
    let place = Place::start().await;
    let at = format!("127.0.0.1:{}", place.port);
    let mut stranger = grpcurl();
    stranger.arg("-cacert").arg(place.path("ca.crt")).args([
        "-authority",
        "one.home.mesh",
        "-max-time",
        "10",
    ]);
    let told = fails(stranger.args([&at, "list"]), "");
    // In TLS 1.3 a client that is refused sees its handshake succeed, and nothing after it.
    assert!(told.contains("Failed to dial"), "{told}");
    place.counts(Count::ConnectionRefused, 1).await;
    let nobody = Stock { leaf: Vec::new(), ..Stock::of(&place.backend.own) };
    let channel = place.stock(nobody).await;
    assert!(call(&channel, "/grpc.health.v1.Health/Check").await.is_err());
    assert_eq!(place.counts.of(Count::Connected), 1, "the one that asked for the certificates");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_roles_holds_for_every_call_and_caller() {
    let place = Place::start().await;
    for (name, role) in [("vera", Role::View), ("otto", Role::Operate), ("ada", Role::Admin)] {
        place.operator(name, role);
    }
    let node = place.backend.with(|mesh| mesh.admit("pi", "svc/api"));
    let service = place.member(&node, &node.service("api")).await;
    let callers = [
        (place.remote("vera").await, Some(Role::View), false),
        (place.remote("otto").await, Some(Role::Operate), false),
        (place.remote("ada").await, Some(Role::Admin), false),
        (place.local().await, Some(Role::Admin), true),
        (place.member(&node, &node.id()).await, Some(Role::View), false),
        (service, Some(Role::View), true),
    ];
    for (idx, (channel, role, is_workload)) in callers.iter().enumerate() {
        for (path, least) in TABLE {
            let may = match least {
                Least::Anyone => true,
                Least::Role(least) => *role >= Some(*least),
                Least::Workload => *is_workload,
            };
            let answer = call(channel, path).await;
            let reason = answer.err().and_then(|status| refusal::read(&status)).map(|it| it.reason);
            assert_eq!(reason == Some(Reason::RoleRequired), !may, "caller {idx} at {path}: {reason:?}");
        }
        let unknown = call(channel, "/sagemesh.mesh.v1.MeshService/Nothing").await.unwrap_err();
        assert_eq!(unknown.code(), Code::Unimplemented);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_taken_away_acts_at_once_on_open_connections() {
    let place = Place::start().await;
    place.operator("ada", Role::Admin);
    let mut client = MeshServiceClient::new(place.remote("ada").await);
    let mut watch = client.watch_peers(WatchPeersRequest {}).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());
    refused(client.reload(ReloadRequest {}).await, Reason::ConfigInvalid);

    place.change_role("ada", Some(Role::View));
    assert!(within("the end of the stream", watch.message()).await.is_err());
    place.counts(Count::ConnectionCut, 1).await;
    let mut client = MeshServiceClient::new(place.remote("ada").await);
    refused(client.reload(ReloadRequest {}).await, Reason::RoleRequired);
    assert!(client.get_status(GetStatusRequest {}).await.is_ok());

    place.change_role("ada", None);
    assert!(client.get_status(GetStatusRequest {}).await.is_err());
    assert!(call(&place.remote("ada").await, "/grpc.health.v1.Health/Check").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_node_is_cut_off_in_the_middle() {
    let place = Place::start().await;
    let node = place.backend.with(|mesh| mesh.admit("pi", ""));
    let mut client = MeshServiceClient::new(place.member(&node, &node.id()).await);
    let mut watch = client.watch_peers(WatchPeersRequest {}).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());
    let mut admin = IdentityServiceClient::new(place.local().await);
    let request = identity_wire::RevokeMemberRequest { node: "pi".to_owned(), note: "stolen".to_owned() };
    admin.revoke_member(request).await.unwrap();
    assert!(within("the end of the stream", watch.message()).await.is_err());
    assert!(client.get_status(GetStatusRequest {}).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_told_whole_and_again_when_they_change() {
    let place = Place::start().await;
    let mut mesh = MeshServiceClient::new(place.local().await);
    let mut watch = mesh.watch_peers(WatchPeersRequest {}).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().peers.len(), 0);
    let node = place.backend.with(|mesh| mesh.admit("pi", "svc/api"));
    let record = place.backend.map.borrow().get(&node.domain).unwrap().clone();
    let peer = Peer {
        node: "pi".parse().unwrap(),
        id: record.peer,
        liveness: Liveness::Alive,
        is_admitted: true,
        address: Some("192.0.2.1:7400".parse().unwrap()),
        group: Some("X25519MLKEM768".to_owned()),
        signature: Some("ML_DSA_65".to_owned()),
        since: Some(Now::read().wall),
        services: vec!["api".parse().unwrap()],
    };
    place.backend.peers.send_replace(Arc::new(vec![peer]));
    let told = within("a change", watch.message()).await.unwrap().unwrap().peers;
    assert_eq!(
        (told[0].node.as_str(), told[0].liveness(), told[0].linked),
        ("pi", proto::mesh::v1::Liveness::Alive, true)
    );

    let mut identity = IdentityServiceClient::new(place.local().await);
    let members = identity.list_members(ListMembersRequest {}).await.unwrap().into_inner().members;
    let told: Vec<_> = members.iter().map(|it| (it.node.as_str(), it.signer, it.scope.join(","))).collect();
    assert_eq!(told, [("one", true, "svc/*".to_owned()), ("pi", false, "svc/api".to_owned())]);

    place.stop.cancel();
    let ended = within("the end of the stream", watch.message()).await;
    refused(ended, Reason::NotServing);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_by_a_call_is_seen_by_the_next() {
    let place = Place::start().await;
    let channel = place.local().await;
    let mut services = ServiceServiceClient::new(channel.clone());
    let api =
        Declaration { name: "api".to_owned(), listen: "127.0.0.1:8080".to_owned(), ..Default::default() };
    services.add_service(AddServiceRequest { service: Some(api.clone()) }).await.unwrap();
    let listed = services.list_services(ListServicesRequest {}).await.unwrap().into_inner().services;
    assert_eq!((listed[0].name.as_str(), listed[0].reason.as_str()), ("api", "SERVICE_UNHEALTHY"));
    refused(services.add_service(AddServiceRequest::default()).await, Reason::ArgumentInvalid);

    let register = RegisterServiceRequest { service: Some(api), ttl_s: 0 };
    let lease = services.register_service(register).await.unwrap().into_inner();
    assert_eq!(lease.ttl_s, 30);
    services.renew_lease(RenewLeaseRequest { lease: lease.lease.clone() }).await.unwrap();
    services.deregister(DeregisterRequest { lease: lease.lease.clone() }).await.unwrap();
    refused(services.renew_lease(RenewLeaseRequest { lease: lease.lease }).await, Reason::LeaseUnknown);

    let mut identity = IdentityServiceClient::new(channel.clone());
    let scope = identity_wire::UpdateScopeRequest {
        node: "one".to_owned(),
        add: vec!["svc/web".to_owned()],
        remove: Vec::new(),
    };
    assert_eq!(identity.update_scope(scope).await.unwrap().into_inner().scope, ["svc/web"]);
    let mut mesh = MeshServiceClient::new(channel);
    mesh.leave(LeaveRequest {}).await.unwrap();
    assert!(*place.backend.left.borrow());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_long_is_refused_compressed_or_not() {
    let place = Place::start().await;
    let request = || identity_wire::RevokeMemberRequest { node: "pi".to_owned(), note: "x".repeat(2 << 20) };
    let mut client = IdentityServiceClient::new(place.local().await);
    assert_eq!(client.revoke_member(request()).await.unwrap_err().code(), Code::OutOfRange);
    let mut client = client.send_compressed(CompressionEncoding::Gzip);
    assert_eq!(client.revoke_member(request()).await.unwrap_err().code(), Code::ResourceExhausted);
    let mut long = Request::new(ListMembersRequest {});
    long.metadata_mut().insert("x-long", "y".repeat(100 << 10).parse().unwrap());
    assert!(client.list_members(long).await.is_err());
    assert!(client.list_members(ListMembersRequest {}).await.is_ok(), "others are served on");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_bound_are_shed_and_places_come_back() {
    let place = Place::start_with(|config| config.connections_max = 4).await;
    // The one that asked for the certificates is closed by now, or will be.
    let mut held = Vec::new();
    within("a full house", async {
        while place.counts.of(Count::ConnectionShed) == 0 {
            held.push(tokio::net::UnixStream::connect(place.path("api.sock")).await.unwrap());
            tokio::task::yield_now().await;
        }
    })
    .await;
    place.operator("ann", Role::View);
    let remote = place.remote("ann").await;
    assert!(call(&remote, "/grpc.health.v1.Health/Check").await.is_ok(), "the port has places of its own");
    held.clear();
    // The server learns of each end in its own time.
    within("a place", async {
        loop {
            let Ok(channel) = place.try_local().await else { continue };
            if call(&channel, "/grpc.health.v1.Health/Check").await.is_ok() {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_is_closed_that_makes_no_call_in_time_and_no_other() {
    let place = Place::start().await;
    let busy = place.local().await;
    call(&busy, "/grpc.health.v1.Health/Check").await.unwrap();
    let n_before = place.counts.of(Count::Connected);
    // It does not even say that it speaks HTTP/2.
    let mut silent = tokio::net::UnixStream::connect(place.path("api.sock")).await.unwrap();
    place.counts(Count::Connected, n_before + 1).await;
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    let mut rest = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut silent, &mut rest).await.unwrap();
    // The connection was there a moment before the clock was looked at.
    assert!(begun.elapsed() >= api::config::FIRST_CALL_WITHIN * 9 / 10, "{:?}", begun.elapsed());
    tokio::time::sleep(api::config::FIRST_CALL_WITHIN).await;
    tokio::time::resume();
    call(&busy, "/grpc.health.v1.Health/Check").await.unwrap();
    assert_eq!(place.counts.of(Count::Connected), n_before + 1, "it is the same connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_panics_takes_its_connection_along_and_no_other() {
    let place = Place::start().await;
    let mut other = MeshServiceClient::new(place.local().await);
    let mut watch = other.watch_peers(WatchPeersRequest {}).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());
    let mut client = ServiceServiceClient::new(place.local().await);
    let request = ExplainServiceRequest { name: backend::PANICS.to_owned() };
    assert!(client.explain_service(request).await.is_err());
    place.counts(Count::ConnectionPanicked, 1).await;
    place.backend.peers.send_replace(Arc::default());
    assert!(within("a list", watch.message()).await.unwrap().is_some());
    let request = ExplainServiceRequest { name: "api".to_owned() };
    let mut client = ServiceServiceClient::new(place.local().await);
    let layers = client.explain_service(request).await.unwrap().into_inner().layers;
    assert_eq!((layers[1].reason.as_str(), layers.len()), ("SERVICE_UNKNOWN", 3));
}

/// Joins as the daemon of a new machine would.
async fn join(token: &Token, keys: &SoftKeys) -> Result<identity::Members, types::Refusal> {
    let stream = TcpStream::connect(&token.addresses[0]).await.unwrap();
    let (mut stream, chain, exporter) = tls::client::connect_to_inviter(stream, token).await.unwrap();
    let newcomer = Newcomer::invited(keys, token);
    let welcome = receive(&mut stream).await.unwrap();
    let verifier = Arc::new(SoftKeys::default());
    let (mut known, request) = newcomer.greet(verifier, &chain, &exporter, &welcome, Now::read())?;
    stream.write_u32(u32::try_from(request.len()).unwrap()).await.unwrap();
    stream.write_all(&request).await.unwrap();
    stream.flush().await.unwrap();
    newcomer.settle(&mut known, &receive(&mut stream).await.unwrap())?;
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "nothing follows, and the end is told");
    Ok(known)
}

async fn receive<S: tokio::io::AsyncRead + Unpin>(stream: &mut S) -> std::io::Result<Vec<u8>> {
    let len = stream.read_u32().await? as usize;
    let mut message = vec![0; len];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn invite(place: &Place, node: &str) -> Token {
    let mut client = IdentityServiceClient::new(place.local().await);
    let request =
        CreateInvitationRequest { node: node.to_owned(), scope: vec!["svc/api".to_owned()], ttl_s: 60 };
    client.create_invitation(request).await.unwrap().into_inner().token.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_joins_at_the_port_and_is_let_in_as_a_member() {
    let place = Place::start().await;
    let token = invite(&place, "pi").await;
    let keys = fresh_keys(&KeySlot::NODE);
    let known = within("a record", join(&token, &keys)).await.unwrap();
    assert!(known.get(&token.domain).is_some());
    place.counts(Count::Joined, 1).await;
    let node = crate::world::Node { domain: token.domain.clone(), keys: Arc::new(keys) };
    let mut client = MeshServiceClient::new(place.member(&node, &node.service("api")).await);
    assert_eq!(client.get_status(GetStatusRequest {}).await.unwrap().into_inner().n_members, 2);

    let other = fresh_keys(&KeySlot::NODE);
    let refusal = within("a refusal", join(&token, &other)).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::TokenUsed);
    place.counts(Count::JoinRefused, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn newcomers_beyond_the_bound_wait_outside() {
    let place = Place::start().await;
    let token = invite(&place, "pi").await;
    let mut held = Vec::new();
    for _ in 0..api::config::JOINERS_MAX {
        let stream = TcpStream::connect(&token.addresses[0]).await.unwrap();
        let (mut stream, ..) = tls::client::connect_to_inviter(stream, &token).await.unwrap();
        within("a welcome", receive(&mut stream)).await.unwrap();
        held.push(stream);
    }
    let stream = TcpStream::connect(&token.addresses[0]).await.unwrap();
    let (mut late, ..) = tls::client::connect_to_inviter(stream, &token).await.unwrap();
    assert!(within("a refusal", receive(&mut late)).await.is_err());
    place.counts(Count::JoinShed, 1).await;
    let greedy = (u32::MAX).to_be_bytes();
    held[0].write_all(&greedy).await.unwrap();
    held[0].flush().await.unwrap();
    place.counts(Count::JoinRefused, 1).await;
    drop(held);
    place.counts(Count::JoinRefused, api::config::JOINERS_MAX as u64).await;
    let keys = fresh_keys(&KeySlot::NODE);
    within("a record", join(&token, &keys)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_ends_in_time_and_leaves_no_socket() {
    let mut place = Place::start_with(|config| config.drain = std::time::Duration::from_millis(300)).await;
    let channel = place.local().await;
    let mut health = Grpc::new(channel);
    health.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let path = "/grpc.health.v1.Health/Watch".parse().unwrap();
    let stream = health.server_streaming(Request::new(()), path, codec).await.unwrap();
    place.stop.cancel();
    within("the end", place.tasks.join_next()).await.unwrap().unwrap();
    assert!(!place.path("api.sock").exists());
    drop(stream);
}
