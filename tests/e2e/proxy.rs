//! Calls between services of real members: what arrives, what is refused, and what a failure does to a call.

mod backend;
mod connecting;
mod crowd;
mod failing;
mod floods;
mod hostile;
mod linked;
mod model;
mod raw;
mod refused;
mod rig;
mod scripted;
mod slow;
mod stock;
mod street;

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use types::Reason;

use self::backend::{DRIPS, Service, send};
use self::street::{Street, grpc, message, receive, request};
use crate::town::within;

#[tokio::test]
async fn a_call_arrives_whole_and_so_does_its_answer() {
    let (_street, pi, nas, service) = Street::pair().await;
    let mut client = pi.client().await;
    for authority in ["echo", "echo:50051", "echo.svc.home.mesh", "echo.svc.home.mesh:443"] {
        let answer = client.ask(request(authority, "Echo"), message(0, b"hello")).await;
        answer.is_ok();
        assert_eq!(answer.body, message(0, b"hello"));
        assert_eq!(answer.headers["served-by"], "nas");
        assert_eq!(
            (&answer.headers["reply-bin"], &answer.trailers["trailing-bin"]),
            (&"AAEC".parse().unwrap(), &"//8".parse().unwrap())
        );
    }
    let made = pi.handle.connections();
    assert_eq!(made.len(), 1, "one connection carries all: {made:?}");
    assert_eq!((&made[0].caller, &made[0].target), (&pi.node.service("web"), &nas.node.service("echo")));
    assert_eq!((made[0].group, made[0].signature), ("X25519MLKEM768", "ML_DSA_65"));
    assert_eq!(service.seen.n(), 4);
}

#[tokio::test]
async fn a_caller_that_gossip_has_not_told_of_yet_is_made_known() {
    let mut street = Street::new();
    let service = Service::start("nas").await;
    let mut nas = street.house("nas", "echo", grpc(service.address), "svc/web").await;
    let before = street.net.map.borrow().clone();
    let pi = street.house("pi", "web", None, "").await;
    street.net.map.send_replace(before);

    pi.client().await.ask(request("echo", "Echo"), message(0, b"hello")).await.is_ok();
    let brought = within("the caller's record", nas.brought.recv()).await.unwrap();
    let record = street.net.mesh.record(&pi.node);
    assert_eq!((brought.from, &brought.record), (record.member().peer, record.envelope()));

    street.net.publish();
    let echo = nas.node.service("echo");
    let mut again = pi.direct(&street.net, "web", &echo, nas.inbound).await.unwrap();
    again.ask(request("echo", "Echo"), message(0, b"hello")).await.is_ok();
    assert!(nas.brought.try_recv().is_err(), "what is known is no news");
}

#[tokio::test]
async fn headers_pass_but_for_those_of_the_mesh() {
    let (_street, pi, nas, service) = Street::pair().await;
    let mut client = pi.client().await;
    let mut asked = request("echo", "Echo");
    for (name, value) in [
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("authorization", "Bearer x"),
        ("key-bin", "AAECAw"),
        ("grpc-encoding", "gzip"),
        ("x-forwarded-client-cert", "By=spiffe://a/b;URI=spiffe://root"),
        ("sagemesh-timing", "7"),
        ("sagemesh-x", "1"),
    ] {
        asked.headers_mut().append(name, value.parse().unwrap());
    }
    asked.headers_mut().append("grpc-timeout", "9S".parse().unwrap());
    let body = message(1, b"not really gzip");
    let answer = client.ask(asked, body.clone()).await;
    answer.is_ok();
    assert_eq!(answer.body, body, "the flag and what it covers are nobody's business");
    assert!(!answer.headers.keys().any(|name| name.as_str().starts_with("sagemesh-")), "{answer:?}");
    let seen = service.seen.last().headers;
    assert_eq!(seen["traceparent"], "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    assert_eq!(
        (&seen["authorization"], &seen["key-bin"]),
        (&"Bearer x".parse().unwrap(), &"AAECAw".parse().unwrap())
    );
    assert_eq!(
        (&seen["te"], &seen["grpc-encoding"]),
        (&"trailers".parse().unwrap(), &"gzip".parse().unwrap())
    );
    let cert = format!("By={};URI={}", nas.node.service("echo"), pi.node.service("web"));
    assert_eq!(seen.get_all("x-forwarded-client-cert").iter().collect::<Vec<_>>(), [&cert]);
    assert!(!seen.keys().any(|name| name.as_str().starts_with("sagemesh-")), "{seen:?}");
    let left = seen["grpc-timeout"].to_str().unwrap();
    let micros: u64 = left.strip_suffix('u').expect("in microseconds").parse().unwrap();
    assert!((1_000_000..9_000_000).contains(&micros), "{left}");
}

#[tokio::test]
async fn streams_run_in_each_direction_and_in_both() {
    let (_street, pi, _nas, _service) = Street::pair().await;
    let mut client = pi.client().await;
    // Both: each message is answered before the next is sent.
    let (response, mut sink) = client.begin(request("echo", "Echo"));
    send(&mut sink, message(0, b"0")).await.unwrap();
    let (head, mut body) = within("headers", response).await.unwrap().into_parts();
    for n in 1..20_u8 {
        let piece = within("an echo", body.data()).await.unwrap().unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        assert_eq!(piece, message(0, (n - 1).to_string().as_bytes()));
        send(&mut sink, message(0, n.to_string().as_bytes())).await.unwrap();
    }
    sink.send_data(Bytes::new(), true).unwrap();
    within("the end", receive(head, body)).await.unwrap().is_ok();
    // From the client.
    let (response, mut sink) = client.begin(request("echo", "Collect"));
    for _ in 0..100 {
        send(&mut sink, message(0, &[7; 995])).await.unwrap();
    }
    sink.send_data(Bytes::new(), true).unwrap();
    let (head, body) = within("headers", response).await.unwrap().into_parts();
    let answer = within("the end", receive(head, body)).await.unwrap();
    answer.is_ok();
    assert_eq!(answer.body, "100000");
}

#[tokio::test]
async fn messages_of_eight_megabytes_pass_both_ways_and_side_by_side() {
    let (_street, pi, _nas, _service) = Street::pair().await;
    let (mut one, mut two) = (pi.client().await, pi.client().await);
    let big = message(0, &(0..2_u32 << 20).flat_map(u32::to_be_bytes).collect::<Vec<_>>());
    assert_eq!(big.len(), (8 << 20) + 5);
    let small = async {
        for _ in 0..20 {
            two.echo(b"small").await.is_ok();
        }
    };
    let (answer, ()) = tokio::join!(one.ask(request("echo", "Echo"), big.clone()), small);
    answer.is_ok();
    assert!(answer.body == big);
}

#[tokio::test]
async fn a_slow_reader_holds_no_more_than_its_window() {
    let (_street, pi, _nas, _service) = Street::pair().await;
    pi.is_not_held_up_by_a_slow_reader().await;
}

#[tokio::test]
async fn many_small_pieces_that_nobody_reads_cost_nobody_the_connection() {
    let (_street, pi, _nas, _service) = Street::pair().await;
    let (mut lazy, mut other) = (pi.client().await, pi.client().await);
    for client in [&mut lazy, &mut other] {
        client.echo(b"before").await.is_ok();
    }
    let n_before = pi.handle.count(proxy::Count::UpstreamConnection);
    let mut unread = Vec::new();
    for _ in 0..2 {
        let (response, mut sink) = lazy.begin(request("echo", "Drip"));
        sink.send_data(message(0, b""), true).unwrap();
        unread.push(within("headers", response).await.unwrap().into_parts());
    }
    for _ in 0..100 {
        other.echo(b"meanwhile").await.is_ok();
    }
    let sent: Vec<u8> = (0..DRIPS).flat_map(u32::to_be_bytes).collect();
    for (head, body) in unread {
        let answer = within("the end", receive(head, body)).await.unwrap();
        answer.is_ok();
        assert!(answer.body == sent);
    }
    assert_eq!(pi.handle.count(proxy::Count::UpstreamConnection), n_before);
}

#[tokio::test]
async fn answers_of_trailers_only_and_resets_pass_as_they_are() {
    let (_street, pi, _nas, _service) = Street::pair().await;
    let mut client = pi.client().await;
    let answer = client.ask(request("echo", "Fail"), message(0, b"")).await;
    assert_eq!((answer.status(), answer.message(), answer.reason()), (Some(5), "no%20such", None));
    assert!(answer.trailers.is_empty() && answer.body.is_empty());
    let reset = client.try_ask(request("echo", "Reset"), message(0, b"")).await.unwrap_err();
    assert_eq!(reset.reason(), Some(h2::Reason::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn a_deadline_is_kept_here_and_told_to_the_service() {
    let (_street, pi, _nas, service) = Street::pair().await;
    let mut client = pi.client().await;
    client.echo(b"warm").await.is_ok();
    for method in ["Hang", "Begin"] {
        let mut asked = request("echo", method);
        asked.headers_mut().insert("grpc-timeout", "200m".parse().unwrap());
        let begun = Instant::now();
        let answer = client.ask(asked, message(0, b"")).await;
        answer.is_refused(Reason::DeadlineExceeded);
        assert!(begun.elapsed() >= Duration::from_millis(190));
        within("a reset", service.seen.was_reset.notified()).await;
        assert_eq!(*service.seen.reset.lock().unwrap(), Some(h2::Reason::CANCEL));
    }
    let mut wrong = request("echo", "Echo");
    wrong.headers_mut().insert("grpc-timeout", "soon".parse().unwrap());
    client.ask(wrong, message(0, b"")).await.is_refused(Reason::RequestMalformed);
    pi.settles().await;
}

#[tokio::test]
async fn a_cancelled_call_is_cancelled_at_the_service() {
    let (_street, pi, nas, service) = Street::pair().await;
    let mut client = pi.client().await;
    for method in ["Hang", "Begin"] {
        let (response, mut sink) = client.begin(request("echo", method));
        send(&mut sink, message(0, b"")).await.unwrap();
        within("a call", service.seen.begun.notified()).await;
        sink.send_reset(h2::Reason::CANCEL);
        drop((response, sink));
        within("a reset", service.seen.was_reset.notified()).await;
        assert_eq!(*service.seen.reset.lock().unwrap(), Some(h2::Reason::CANCEL));
    }
    // So is one whose caller's connection breaks.
    let (response, sink) = client.begin(request("echo", "Hang"));
    within("a call", service.seen.begun.notified()).await;
    drop((response, sink, client));
    within("a reset", service.seen.was_reset.notified()).await;
    pi.settles().await;
    nas.settles().await;
}

#[tokio::test]
async fn who_is_no_service_is_told_which_selector_would_make_it_one() {
    let (_street, pi, _nas, service) = Street::pair().await;
    let mut client = pi.client().await;
    pi.change(|table| {
        table.local.values_mut().for_each(|local| local.selectors = vec![attest::Selector::Uid(1)]);
    });
    let answer = client.echo(b"").await;
    answer.is_refused(Reason::CallerUnmapped);
    let exe = std::env::current_exe().unwrap();
    assert!(answer.message().contains(exe.to_str().unwrap()), "{answer:?}");
    // Two that match equally well are none.
    pi.change(|table| {
        let web = table.local.values_mut().next().unwrap();
        web.selectors = street::me();
        let twin = web.clone();
        table.local.insert("twin".parse().unwrap(), twin);
    });
    let answer = client.echo(b"").await;
    answer.is_refused(Reason::CallerUnmapped);
    assert!(answer.message().contains("`twin` and `web`"), "{answer:?}");
    // The one with more selectors is meant.
    pi.change(|table| drop(table.local.get_mut(&"twin".parse().unwrap()).unwrap().selectors.pop()));
    client.echo(b"").await.is_ok();
    assert_eq!(service.seen.n(), 1);
}

#[tokio::test]
async fn services_that_nobody_offers_are_unknown() {
    let (_street, pi, _nas, _service) = Street::pair().await;
    let mut client = pi.client().await;
    for authority in
        ["nope", "localhost", "127.0.0.1:7480", "echo.svc.other.mesh", "echo.nas.home.mesh", "Echo"]
    {
        let answer = client.ask(request(authority, "Echo"), message(0, b"")).await;
        answer.is_refused(Reason::ServiceUnknown);
        assert!(answer.message().contains(authority.split(':').next().unwrap()), "{answer:?}");
    }
}

#[tokio::test]
async fn a_denied_caller_reads_the_line_that_would_let_it() {
    let (_street, pi, nas, service) = Street::pair().await;
    nas.change(|table| table.local.values_mut().for_each(|local| local.policy.allow.clear()));
    let mut client = pi.client().await;
    let answer = client.echo(b"").await;
    answer.is_refused(Reason::PolicyDenied);
    assert!(answer.message().contains("allow = [\"svc/web\"]"), "{answer:?}");
    assert_eq!((service.seen.n(), nas.handle.refused(Reason::PolicyDenied)), (0, 1));
    // The same connection is judged anew by a new policy.
    nas.change(|table| {
        table.local.values_mut().for_each(|local| local.policy.allow.push("*".parse().unwrap()));
    });
    client.echo(b"").await.is_ok();
}

#[tokio::test]
async fn what_is_not_grpc_is_turned_away() {
    let (_street, pi, _nas, service) = Street::pair().await;
    let mut client = pi.client().await;
    let mut json = request("echo", "Echo");
    json.headers_mut().insert("content-type", "application/json".parse().unwrap());
    let answer = client.ask(json.clone(), Bytes::from_static(b"{}")).await;
    assert_eq!(answer.http, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(String::from_utf8_lossy(&answer.body).contains("content-type: application/grpc"), "{answer:?}");
    *json.method_mut() = http::Method::HEAD;
    let answer = client.ask(json, Bytes::new()).await;
    assert_eq!((answer.http, answer.body.len()), (StatusCode::UNSUPPORTED_MEDIA_TYPE, 0));
    let mut no_te = request("echo", "Echo");
    no_te.headers_mut().remove("te");
    client.ask(no_te, Bytes::new()).await.is_refused(Reason::RequestMalformed);
    let mut get = request("echo", "Echo");
    *get.method_mut() = http::Method::GET;
    client.ask(get, Bytes::new()).await.is_refused(Reason::RequestMalformed);
    assert_eq!(service.seen.n(), 0);
}

#[tokio::test]
async fn the_gap_between_two_proxies_is_measured_and_calls_are_counted_where_they_began() {
    let (_street, pi, nas, _service) = Street::pair().await;
    let mut client = pi.client().await;
    for _ in 0..3 {
        client.ask(request("echo", "Slow"), message(0, b"x")).await.is_ok();
    }
    client.ask(request("echo", "Fail"), message(0, b"x")).await;
    let stats = pi.handle.stats();
    assert_eq!(stats.len(), 1, "{stats:?}");
    let (edge, stats) = &stats[0];
    let ends = [pi.node.service("web"), nas.node.service("echo")].map(types::Party::Member);
    assert_eq!([&edge.caller, &edge.callee], [&ends[0], &ends[1]]);
    assert_eq!((stats.by_status[0], stats.by_status[5], stats.lost, stats.latency.len()), (3, 1, 0, 4));
    assert!(stats.latency.quantile(0.9).unwrap() >= Duration::from_millis(50));
    assert_eq!(stats.gap.len(), 4);
    assert!(stats.gap.quantile(0.5).unwrap() < Duration::from_millis(40), "{stats:?}");
    assert_eq!((stats.request_bytes, stats.in_flight), (4 * 6, 0));
    assert!(pi.handle.stats().is_empty() && nas.handle.stats().is_empty());
}
