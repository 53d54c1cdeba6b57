//! Bad input: which status, reason and advice its sender reads, and that nothing hangs.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode};
use proto::Message;
use proto::google::rpc::{ErrorInfo, Status};
use proxy::Config;
use tls::Svids;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use types::{Now, Reason};

use super::backend::{Service, send};
use super::raw::{DATA, Door, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, Raw, begin, call, frame};
use super::street::{self, Client, House, Street, grpc, message, receive, request};
use crate::town::within;

const STREAM_CLOSED: [u8; 4] = [0, 0, 0, 5];

/// A client at each of the relay's listeners.
async fn both(street: &Street, pi: &House, nas: &House) -> [Client; 2] {
    let echo = nas.node.service("echo");
    [pi.client().await, pi.direct(&street.net, "web", &echo, nas.inbound).await.unwrap()]
}

/// What a gRPC library makes of a refusal: its code, and reason and advice from the details.
async fn told(channel: &Channel, timeout: Option<Duration>) -> (Code, String, String) {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let mut asked = Request::new(());
    if let Some(timeout) = timeout {
        asked.set_timeout(timeout);
    }
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let refused = client.unary(asked, "/t.T/Hang".parse().unwrap(), codec).await.unwrap_err();
    let Ok(status) = Status::decode(refused.details()) else { panic!("no details: {refused}") };
    let Some(detail) = status.details.first() else { return (refused.code(), String::new(), String::new()) };
    let info = ErrorInfo::decode(&detail.value[..]).unwrap();
    assert!(refused.message().ends_with(&info.metadata["advice"]), "{refused}");
    (refused.code(), info.reason, info.metadata["advice"].clone())
}

#[tokio::test]
async fn a_grpc_library_reads_each_refusal_with_its_status_reason_and_advice() {
    let (_street, pi, nas, service) = Street::pair().await;
    let channel = |name: &str| {
        let endpoint = Endpoint::from_shared(format!("http://{}", pi.outbound)).unwrap();
        endpoint.origin(format!("http://{name}").parse().unwrap()).connect_lazy()
    };
    let check = async |name: &str, timeout: Option<Duration>, reason: Reason, code: Code| {
        let expected = (code, reason.code().to_owned(), reason.advice().to_owned());
        assert_eq!(within("a refusal", told(&channel(name), timeout)).await, expected);
    };
    check("nobody", None, Reason::ServiceUnknown, Code::NotFound).await;
    nas.change(|table| table.local.values_mut().for_each(|local| local.policy.allow.clear()));
    check("echo", None, Reason::PolicyDenied, Code::PermissionDenied).await;
    nas.change(|table| {
        table.local.values_mut().for_each(|local| local.policy.allow.push("*".parse().unwrap()));
    });
    pi.change(|table| table.local.values_mut().for_each(|local| local.selectors.clear()));
    check("echo", None, Reason::CallerUnmapped, Code::Unauthenticated).await;
    pi.change(|table| table.local.values_mut().for_each(|local| local.selectors = street::me()));
    service.stop.cancel();
    within("a refusal", async {
        // Its port closes a moment after it stopped.
        while told(&channel("echo"), Some(Duration::from_secs(1))).await.1
            != Reason::ServiceUnreachable.code()
        {}
    })
    .await;
    check("echo", None, Reason::ServiceUnreachable, Code::Unavailable).await;
    nas.stop.cancel();
    within("a stop", nas.stopped.cancelled()).await;
    check("echo", None, Reason::EndpointUnreachable, Code::Unavailable).await;
    pi.settles().await;
}

#[tokio::test]
async fn a_deadline_that_has_passed_is_refused_at_once_and_no_server_sees_the_call() {
    let (street, pi, nas, service) = Street::pair().await;
    for mut client in both(&street, &pi, &nas).await {
        for timeout in ["0n", "0S"] {
            let mut asked = request("echo", "Hang");
            asked.headers_mut().insert("grpc-timeout", timeout.parse().unwrap());
            client.ask(asked, message(0, b"")).await.is_refused(Reason::DeadlineExceeded);
        }
    }
    assert_eq!(service.seen.n(), 0);
}

#[tokio::test]
async fn a_stock_client_s_deadline_is_kept_as_well() {
    let (street, pi, nas, service) = Street::pair().await;
    let [_, mut client] = both(&street, &pi, &nas).await;
    for method in ["Hang", "Begin"] {
        let mut asked = request("echo", method);
        asked.headers_mut().insert("grpc-timeout", "200m".parse().unwrap());
        let begun = Instant::now();
        client.ask(asked, message(0, b"")).await.is_refused(Reason::DeadlineExceeded);
        assert!(begun.elapsed() >= Duration::from_millis(190));
        within("a reset", service.seen.was_reset.notified()).await;
    }
    assert!(service.seen.last().headers.contains_key("grpc-timeout"));
    let mut wrong = request("echo", "Echo");
    wrong.headers_mut().insert("grpc-timeout", "soon".parse().unwrap());
    client.ask(wrong, message(0, b"")).await.is_refused(Reason::RequestMalformed);
    nas.settles().await;
}

#[tokio::test]
async fn what_is_no_grpc_call_is_refused_by_either_listener() {
    let (street, pi, nas, service) = Street::pair().await;
    for mut client in both(&street, &pi, &nas).await {
        let mut no_te = request("echo", "Echo");
        no_te.headers_mut().remove("te");
        let answer = client.ask(no_te, message(0, b"")).await;
        answer.is_refused(Reason::RequestMalformed);
        assert!(answer.message().contains("`te: trailers` is missing"), "{answer:?}");
        let mut get = request("echo", "Echo");
        *get.method_mut() = Method::GET;
        let answer = client.ask(get, Bytes::new()).await;
        answer.is_refused(Reason::RequestMalformed);
        assert!(answer.message().contains("GET and not POST"), "{answer:?}");
        for kind in ["application/json", "application/grpcweb"] {
            let mut other = request("echo", "Echo");
            other.headers_mut().insert("content-type", kind.parse().unwrap());
            let answer = client.ask(other, Bytes::from_static(b"{}")).await;
            assert_eq!(answer.http, StatusCode::UNSUPPORTED_MEDIA_TYPE);
            assert!(answer.body.starts_with(b"This port carries gRPC"), "{answer:?}");
        }
        client.echo(b"the connection stays").await.is_ok();
    }
    assert_eq!(service.seen.n(), 2);
}

#[tokio::test]
async fn headers_beyond_the_bound_are_refused_by_the_bound_s_name_and_the_connection_stays() {
    let (street, pi, nas, service) = Street::pair().await;
    for mut client in both(&street, &pi, &nas).await {
        let mut asked = request("echo", "Echo");
        for n in 0..4 {
            let name: http::HeaderName = format!("x-large-{n}").parse().unwrap();
            asked.headers_mut().insert(name, "x".repeat(10 << 10).parse().unwrap());
        }
        let answer = client.ask(asked, message(0, b"")).await;
        answer.is_refused(Reason::Overloaded);
        assert!(answer.message().contains("`proxy.header_bytes_max`, which is 32768 bytes"), "{answer:?}");
        client.echo(b"it stays").await.is_ok();
    }
    assert_eq!(service.seen.n(), 2);
    // What both proxies add does not make a call too large on its way, and if it does its caller is told.
    let mut client = pi.client().await;
    let mut asked = request("echo", "Echo");
    let usual: usize = 6 * 32
        + ":methodPOST:schemehttp:authorityecho:path/t.T/Echote".len()
        + "content-typeapplication/grpctrailers".len();
    let room = (32 << 10) - usual - 32 - "x-large".len();
    asked.headers_mut().insert("x-large", "x".repeat(room).parse().unwrap());
    client.ask(asked, message(0, b"")).await.is_refused(Reason::Overloaded);
    assert_eq!((nas.handle.refused(Reason::Overloaded), pi.handle.refused(Reason::Overloaded)), (2, 1));
}

#[tokio::test]
async fn data_after_the_end_of_a_stream_ends_that_call_and_no_other() {
    for door in Door::BOTH {
        let (street, pi, nas, service) = Street::pair().await;
        let mut raw = Raw::over(door.connect(&street, &pi, &nas).await, &[]).await;
        let whole = frame(HEADERS, END_STREAM | END_HEADERS, 1, &call("Hang", &[]));
        raw.send(&[whole, frame(DATA, END_STREAM, 1, b"late")].concat()).await.unwrap();
        let reset = within("a reset", raw.next_of(1)).await.unwrap();
        assert_eq!((reset.kind, &reset.payload[..]), (RST_STREAM, &STREAM_CLOSED[..]), "{door:?}");
        raw.send(&[begin(3, "Echo"), frame(DATA, END_STREAM, 3, &message(0, b"x"))].concat()).await.unwrap();
        let mut came = Vec::new();
        while came.last() != Some(&(HEADERS, END_STREAM | END_HEADERS)) {
            let frame = within("an answer", raw.next_of(3)).await.unwrap();
            came.push((frame.kind, frame.flags));
        }
        assert_eq!(came.len(), 3, "headers, a message, trailers: {came:?}");
        pi.settles().await;
        nas.settles().await;
        drop(service);
    }
}

#[tokio::test]
async fn a_call_ends_whose_caller_finished_it_and_went_away() {
    for door in Door::BOTH {
        let (street, pi, nas, service) = Street::pair().await;
        let mut raw = Raw::over(door.connect(&street, &pi, &nas).await, &[]).await;
        raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &call("Hang", &[]))).await.unwrap();
        within("a call", service.seen.begun.notified()).await;
        // It closes its half of the connection, and the stream is over for it already.
        raw.ends().await;
        within("a reset", service.seen.was_reset.notified()).await;
        within("an end", raw.goodbye()).await;
        pi.settles().await;
        nas.settles().await;
    }
}

#[tokio::test]
async fn a_service_that_accepts_and_speaks_no_http_2_is_unreachable_within_seconds() {
    let mut street = Street::new();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nas = street.house("nas", "echo", grpc(silent.local_addr().unwrap()), "*").await;
    let pi = street.house("pi", "web", None, "").await;
    let begun = Instant::now();
    for mut client in both(&street, &pi, &nas).await {
        let answer = client.echo(b"").await;
        answer.is_refused(Reason::ServiceUnreachable);
        assert!(answer.message().contains("it accepts connections and does not answer"), "{answer:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    pi.settles().await;
    nas.settles().await;
}

#[tokio::test]
async fn a_call_without_a_deadline_that_is_never_answered_ends_by_the_timeout() {
    let mut street = Street::new();
    let service = Service::start("nas").await;
    let nas = street.house("nas", "echo", grpc(service.address), "*").await;
    let route = route::Config { timeout: Duration::from_millis(500), ..route::Config::default() };
    let pi = street.house_with("pi", "web", None, "", Config { route, ..street::config() }).await;
    let begun = Instant::now();
    pi.client()
        .await
        .ask(request("echo", "Hang"), message(0, b""))
        .await
        .is_refused(Reason::DeadlineExceeded);
    assert!(begun.elapsed() >= Duration::from_millis(490), "{:?}", begun.elapsed());
    within("a reset", service.seen.was_reset.notified()).await;
    pi.settles().await;
    nas.settles().await;
}

/// Certificates end with a second.
const ROUNDED: Duration = Duration::from_millis(1100);

/// Certificates of a node's service that end in `left`.
fn ending(
    street: &Street,
    house: &House,
    name: &str,
    left: Duration,
) -> watch::Receiver<std::sync::Arc<Svids>> {
    let now = Now::read();
    let issued = Now { wall: now.wall - identity::svid::SVID_VALID + left, ..now };
    let record = street.net.mesh.record(&house.node);
    let svids = Svids::issue(&*house.node.keys, &record, &house.node.service(name), issued).unwrap();
    watch::Sender::new(std::sync::Arc::new(svids)).subscribe()
}

#[tokio::test]
async fn a_certificate_that_ends_stops_new_calls_with_a_reason_until_there_is_another() {
    let (street, pi, nas, service) = Street::pair().await;
    let left = Duration::from_secs(3);
    let short = ending(&street, &pi, "web", left);
    pi.change(|table| table.local.values_mut().for_each(|web| web.svids = Ok(short.clone())));
    let ends_at = Instant::now() + left;
    let mut client = pi.client().await;
    let (response, mut sink) = client.begin(request("echo", "Echo"));
    send(&mut sink, message(0, b"begun")).await.unwrap();
    let (head, body) = within("headers", response).await.unwrap().into_parts();
    client.echo(b"before its end").await.is_ok();
    tokio::time::sleep(ends_at.saturating_duration_since(Instant::now()) + ROUNDED).await;
    let answer = client.echo(b"after its end").await;
    answer.is_refused(Reason::SvidExpired);
    assert!(answer.message().contains("/svc/web ended at "), "{answer:?}");
    // What was let in goes on.
    sink.send_data(message(0, b"ended"), true).unwrap();
    let answer = within("an end", receive(head, body)).await.unwrap();
    answer.is_ok();
    assert_eq!(answer.body, [message(0, b"begun"), message(0, b"ended")].concat());
    let fresh = street.net.svids(&pi.node, &pi.node.service("web"));
    pi.change(|table| table.local.values_mut().for_each(|web| web.svids = Ok(fresh.clone())));
    client.echo(b"with another").await.is_ok();
    assert_eq!(service.seen.n(), 3);
    pi.settles().await;
    nas.settles().await;
}

#[tokio::test]
async fn a_service_whose_certificate_ended_is_refused_by_its_callers_with_that_reason() {
    let (street, pi, nas, service) = Street::pair().await;
    let left = Duration::from_secs(3);
    let short = ending(&street, &nas, "echo", left);
    nas.change(|table| table.local.values_mut().for_each(|echo| echo.svids = Ok(short.clone())));
    let ends_at = Instant::now() + left;
    let mut client = pi.client().await;
    client.echo(b"before its end").await.is_ok();
    tokio::time::sleep(ends_at.saturating_duration_since(Instant::now()) + ROUNDED).await;
    client.echo(b"after its end").await.is_refused(Reason::SvidExpired);
    let fresh = street.net.svids(&nas.node, &nas.node.service("echo"));
    nas.change(|table| table.local.values_mut().for_each(|echo| echo.svids = Ok(fresh.clone())));
    within("a way back", async {
        while client.echo(b"with another").await.status() != Some(0) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(service.seen.n(), 2);
    pi.settles().await;
    nas.settles().await;
}

#[tokio::test]
async fn a_caller_whose_record_ends_is_cut_off_with_a_reason_and_nothing_hangs() {
    let mut street = Street::new();
    let service = Service::start("nas").await;
    let nas = street.house("nas", "echo", grpc(service.address), "*").await;
    let left = Duration::from_secs(6);
    let present = street.net.mesh.now;
    let ends_at = Instant::now() + left;
    street.net.mesh.now = Now { wall: present.wall - identity::author::MEMBER_VALID + left, ..present };
    let node = street.net.admit("pi", "svc/*");
    street.net.mesh.now = present;
    let pi = street.house_of(node, ("web", None, ""), street::config(), None).await;
    let mut client = pi.client().await;
    let (response, mut sink) = client.begin(request("echo", "Echo"));
    send(&mut sink, message(0, b"begun")).await.unwrap();
    let (head, body) = within("headers", response).await.unwrap().into_parts();
    tokio::time::sleep(ends_at.saturating_duration_since(Instant::now()) + ROUNDED).await;
    within("an end", receive(head, body)).await.unwrap().is_refused(Reason::CallLost);
    client.echo(b"after its end").await.is_refused(Reason::SvidExpired);
    assert_eq!(nas.handle.count(proxy::Count::ConnectionCut), 1);
    pi.settles().await;
    nas.settles().await;
}
