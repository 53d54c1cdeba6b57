//! What a failure does to calls, and what their callers hear of it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use types::Reason;

use super::backend::{EARLY_BYTES, LIAR, Service, send};
use super::street::{self, Street, grpc, message, receive, request};
use crate::town::within;

#[tokio::test]
async fn when_no_endpoint_can_be_reached_the_caller_hears_why() {
    let (_street, pi, nas, service) = Street::pair().await;
    let mut client = pi.client().await;
    // The service is gone and its node is there.
    service.stop.cancel();
    let answer = within("a refusal", async {
        loop {
            // Its connections break a moment after it stopped.
            let answer = client.echo(b"").await;
            if answer.reason() == Some(Reason::ServiceUnreachable) {
                return answer;
            }
        }
    });
    let message = answer.await.message().to_owned();
    assert!(message.contains("/svc/echo`: ") && message.contains(&service.address.to_string()), "{message}");
    nas.change(|table| {
        let backend = table.local.values_mut().next().unwrap().backend.as_mut().unwrap();
        backend.health = Err(Reason::ServiceUnhealthy.because("its check says so"));
    });
    let answer = client.echo(b"").await;
    answer.is_refused(Reason::ServiceUnhealthy);
    assert!(answer.message().starts_with("its check says so (SERVICE_UNHEALTHY): "), "{answer:?}");
    // The node is gone.
    nas.stop.cancel();
    within("a stop", nas.stopped.cancelled()).await;
    client.echo(b"").await.is_refused(Reason::EndpointUnreachable);
    pi.settles().await;
}

#[tokio::test]
async fn an_endpoint_that_accepts_and_never_answers_costs_a_second_and_no_more() {
    let (mut street, pi, nas, _service) = Street::pair().await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    street.offer(&nas, "echo", silent.local_addr().unwrap());
    let endpoints = street.endpoints();
    pi.change(|table| table.endpoints = endpoints);
    let begun = Instant::now();
    let answer = pi.client().await.echo(b"").await;
    answer.is_refused(Reason::EndpointUnreachable);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    // A trial of an endpoint that failed waits for half of the call's time, and leaves the rest to others.
    let mut asked = request("echo", "Echo");
    asked.headers_mut().insert("grpc-timeout", "200m".parse().unwrap());
    let begun = Instant::now();
    pi.client().await.ask(asked, message(0, b"")).await.is_refused(Reason::EndpointUnreachable);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    pi.settles().await;
}

#[tokio::test]
async fn a_service_that_dies_in_the_middle_of_a_call_loses_it_and_says_so() {
    let (_street, pi, _nas, _service) = Street::pair().await;
    let mut client = pi.client().await;
    let answer = client.ask(request("echo", "Die"), message(0, b"")).await;
    assert_eq!((&*answer.body, answer.reason()), (&b"begun"[..], Some(Reason::CallLost)));
    client.echo(b"it is back").await.is_ok();
}

#[tokio::test]
async fn a_service_that_resets_a_call_stays_where_calls_go() {
    let (_street, pi, _nas, _service) = Street::pair().await;
    let mut client = pi.client().await;
    for _ in 0..10 {
        let ended = client.try_ask(request("echo", "Reset"), message(0, b"")).await.unwrap_err();
        assert_eq!(ended.reason(), Some(h2::Reason::ENHANCE_YOUR_CALM));
    }
    let views = pi.handle.explain(&"echo".parse().unwrap());
    assert!(views.iter().all(|view| view.state == route::State::Ready), "{views:?}");
    let stats = pi.handle.stats();
    assert_eq!(stats[0].1.by_status[8], 10, "{stats:?}");
    client.echo(b"").await.is_ok();
}

#[tokio::test]
async fn answers_that_come_before_the_end_of_their_requests_cost_no_window() {
    let (_street, pi, _nas, _service) = Street::pair().await;
    let mut client = pi.client().await;
    // As many as would fill the connection's window twice, if what their callers read late were not given back.
    for _ in 0..(2 * 16 * (256 << 10)) / EARLY_BYTES {
        let (response, mut sink) = client.begin(request("echo", "Early"));
        sink.send_data(message(0, b"first"), false).unwrap();
        let (head, body) = within("headers", response).await.unwrap().into_parts();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let answer = within("an answer", receive(head, body)).await.unwrap();
        answer.is_ok();
        assert_eq!(answer.body.len(), EARLY_BYTES);
    }
    client.echo(&vec![7; 1 << 20]).await.is_ok();
    drop(client);
    pi.settles().await;
}

#[tokio::test]
async fn a_revoked_peer_is_cut_off_in_the_middle_of_its_calls() {
    let (mut street, pi, nas, service) = Street::pair().await;
    let mut client = pi.client().await;
    client.echo(b"").await.is_ok();
    let (response, mut sink) = client.begin(request("echo", "Hang"));
    send(&mut sink, message(0, b"")).await.unwrap();
    within("a call", async {
        while service.seen.n() < 2 {
            service.seen.begun.notified().await;
        }
    })
    .await;
    street.net.mesh.revoke(&pi.node);
    street.net.publish();
    let (head, body) = within("an end", response).await.unwrap().into_parts();
    within("an end", receive(head, body)).await.unwrap().is_refused(Reason::CallLost);
    within("a reset", service.seen.was_reset.notified()).await;
    assert_eq!(nas.handle.count(proxy::Count::ConnectionCut), 1);
    client.echo(b"").await.is_refused(Reason::EndpointUnreachable);
    nas.refuses(Reason::MemberRevoked, 1).await;
    assert_eq!(service.seen.n(), 2);
    pi.settles().await;
    nas.settles().await;
}

#[tokio::test]
async fn calls_shift_to_the_endpoint_that_is_left() {
    let (mut street, pi, nas, one) = Street::pair().await;
    let two = Service::start("tv").await;
    let tv = street.house("tv", "echo", grpc(two.address), "svc/web").await;
    let endpoints = street.endpoints();
    pi.change(|table| table.endpoints = endpoints);
    let mut client = pi.client().await;
    within("calls at both", async {
        while one.seen.n() == 0 || two.seen.n() == 0 {
            client.echo(b"").await.is_ok();
        }
    })
    .await;
    // A service that dies while its node lives: no call is lost that it has not seen.
    one.stop.cancel();
    let mut n_lost = 0;
    for _ in 0..50 {
        let answer = client.echo(b"x").await;
        match answer.reason() {
            None => {
                answer.is_ok();
                assert_eq!(answer.body, message(0, b"x"), "what was sent again is the same");
            }
            Some(_) => n_lost += 1,
        }
    }
    assert!(n_lost <= 1, "{n_lost} calls failed");
    // A node that stops tells its callers first: none is lost.
    nas.stop.cancel();
    for _ in 0..50 {
        client.echo(b"x").await.is_ok();
    }
    within("a stop", nas.stopped.cancelled()).await;
    for _ in 0..50 {
        client.echo(b"x").await.is_ok();
    }
    drop(tv);
    pi.settles().await;
}

#[tokio::test]
async fn a_service_that_lies_about_its_health_loses_its_calls_to_another() {
    let (mut street, pi, _nas, honest) = Street::pair().await;
    let liar = Service::start(LIAR).await;
    // Its node believes it and offers it as well.
    let tv = street.house("tv", "echo", grpc(liar.address), "svc/web").await;
    let endpoints = street.endpoints();
    pi.change(|table| table.endpoints = endpoints);
    let mut client = pi.client().await;
    let (service, node) = ("echo".parse().unwrap(), &tv.node.domain);
    let is_ejected = || {
        let view = pi.handle.explain(&service).into_iter().find(|it| it.endpoint.id.node == *node);
        matches!(view.unwrap().state, route::State::Ejected { .. })
    };
    let (mut n_failed, mut was_ejected) = (0, false);
    for _ in 0..500 {
        if client.echo(b"").await.status() != Some(0) {
            n_failed += 1;
            was_ejected |= is_ejected();
        }
    }
    assert!(n_failed > 0, "it was believed at first");
    assert!(n_failed <= 20, "{n_failed} of 500 calls failed");
    assert_eq!(liar.seen.n(), n_failed, "every call that it got, and no more");
    assert_eq!(honest.seen.n(), 500 - n_failed);
    // Where all takes long its price alone may keep calls from it.
    assert!(was_ejected || n_failed < route::Config::default().eject_failures as usize, "{n_failed} failed");
    pi.settles().await;
}

#[tokio::test]
async fn a_path_that_falls_silent_is_noticed_and_its_calls_are_lost() {
    let (mut street, pi, nas, _service) = Street::pair().await;
    let path = street::Path::to(nas.inbound).await;
    street.offer(&nas, "echo", path.address);
    let endpoints = street.endpoints();
    pi.change(|table| table.endpoints = endpoints);
    let mut client = pi.client().await;
    client.echo(b"").await.is_ok();
    let (response, mut sink) = client.begin(request("echo", "Begin"));
    send(&mut sink, message(0, b"")).await.unwrap();
    let (head, body) = within("headers", response).await.unwrap().into_parts();
    path.falls_silent();
    let begun = Instant::now();
    let answer = within("an end", receive(head, body)).await.unwrap();
    assert_eq!(answer.reason(), Some(Reason::CallLost));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(pi.handle.count(proxy::Count::UpstreamSilent), 1);
    pi.settles().await;
}

#[tokio::test]
async fn no_call_waits_in_vain_for_a_connection_to_a_node_that_was_cut_off() {
    let mut street = Street::new();
    let (service, other) = (Service::start("nas").await, Service::start("tv").await);
    let nas = street.house("nas", "echo", grpc(service.address), "svc/web").await;
    let _tv = street.house("tv", "echo", grpc(other.address), "svc/web").await;
    let path = street::Path::to(nas.inbound).await;
    street.offer(&nas, "echo", path.address);
    let pi = street.house("pi", "web", None, "").await;
    let mut client = pi.client().await;
    let mut call = async || {
        let mut asked = request("echo", "Echo");
        asked.headers_mut().insert("grpc-timeout", "600m".parse().unwrap());
        client.ask(asked, message(0, b"")).await
    };
    // Often enough that what the first call cost is forgotten.
    while service.seen.n() < 10 || other.seen.n() < 10 {
        call().await.is_ok();
    }
    path.falls_silent();
    let (begun, mut failed) = (Instant::now(), Vec::new());
    while begun.elapsed() < Duration::from_secs(6) {
        if call().await.status() != Some(0) {
            failed.push(begun.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // One finds out. Those that see whether it is back ask before they are sent.
    assert!(failed.len() <= 1, "{failed:?}");
    assert!(pi.handle.count(proxy::Count::CallRetried) > 0, "none saw whether it was back");
}

#[tokio::test]
async fn calls_end_before_the_node_does() {
    let (_street, pi, nas, _service) = Street::pair().await;
    let mut client = pi.client().await;
    client.echo(b"").await.is_ok();
    for house in [&nas, &pi] {
        let (response, mut sink) = client.begin(request("echo", "Echo"));
        send(&mut sink, message(0, b"first")).await.unwrap();
        let (head, body) = within("headers", response).await.unwrap().into_parts();
        house.stop.cancel();
        tokio::time::sleep(Duration::from_millis(50)).await;
        send(&mut sink, message(0, b"last")).await.unwrap();
        sink.send_data(Bytes::new(), true).unwrap();
        let answer = within("an end", receive(head, body)).await.unwrap();
        answer.is_ok();
        assert_eq!(answer.body, [message(0, b"first"), message(0, b"last")].concat());
        within("a stop", house.stopped.cancelled()).await;
        if house.inbound == nas.inbound {
            return;
        }
    }
}
