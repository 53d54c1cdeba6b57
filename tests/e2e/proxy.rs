//! Calls between services of real members: what arrives, what is refused, and what a failure does to a call.

mod backend;
mod street;

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use types::Reason;

use self::backend::{Service, send};
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
        assert_eq!((&answer.headers["reply-bin"], &answer.trailers["trailing-bin"]), (&"AAEC".parse().unwrap(), &"//8".parse().unwrap()));
    }
    let made = pi.handle.connections();
    assert_eq!(made.len(), 1, "one connection carries all: {made:?}");
    assert_eq!((&made[0].caller, &made[0].target), (&pi.node.service("web"), &nas.node.service("echo")));
    assert_eq!((made[0].group, made[0].signature), ("X25519MLKEM768", "ML_DSA_65"));
    assert_eq!(service.seen.n(), 4);
}
