//! What people do with nodes, and what they see.

use std::net::TcpListener;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::town::{Machine, Process, calls, collects, eventually, founder, python, python_selector, serves};

const CALLER: &str = "By=spiffe://tv.home.mesh/svc/echo;URI=spiffe://pi.home.mesh/svc/web";

/// `pi` runs the service `web`, which calls; `tv` runs `echo`, which lets it. Both are running.
fn pair() -> (Machine, Machine, Process) {
    let selector = python_selector();
    let pi = founder(&format!("[[service]]\nname = \"web\"\n{selector}\n"));
    let mut tv = Machine::new();
    let service = serves(&format!("{}:9000", tv.ip));
    tv.configure(&echo(&tv, "svc/web"));
    pi.admits(&mut tv, "tv", "svc/echo");
    pi.reaches("echo");
    (pi, tv, service)
}

fn echo(at: &Machine, allow: &str) -> String {
    format!(
        "[[service]]\nname = \"echo\"\nlisten = \"{}:9000\"\nhealth = \"tcp\"\nallow = [\"{allow}\"]\n{}\n",
        at.ip,
        python_selector()
    )
}

fn outbound(of: &Machine) -> String {
    format!("{}:7480", of.ip)
}

#[test]
fn stock_python_calls_in_all_four_shapes_through_two_nodes() {
    let (pi, _tv, _service) = pair();
    let expected = json!({
        "unary": ["hi", CALLER, true],
        "client": "abc",
        "server": ["x0", "x1", "x2", "x3", "x4"],
        "both": ["cba", "fed"],
        "big": true,
        "gzip": true,
        "fail": { "code": "ALREADY_EXISTS", "message": "as asked", "is_ours": false },
    });
    let names: Vec<_> = expected.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(calls(&outbound(&pi), &names), expected);
    let socket = format!("unix:{}", pi.state().join("run/outbound.sock").display());
    assert_eq!(calls(&socket, &names), expected, "over the Unix socket");
    assert_eq!(calls(&outbound(&pi), &["slow"])["slow"]["code"], "DEADLINE_EXCEEDED");
}

#[test]
fn a_collector_is_told_of_the_calls_that_their_callers_trace() {
    let mut pi = Machine::new();
    let (address, told) = (format!("{}:4317", pi.ip), pi.path("told"));
    let _collector = collects(&address, &told);
    pi.configure(&format!("otlp = \"http://{address}\"\n{}", echo(&pi, "svc/echo")));
    pi.founds();
    let _service = serves(&format!("{}:9000", pi.ip));
    pi.reaches("echo");
    calls(&outbound(&pi), &["client", "unary"]);
    pi.stop();
    let told = std::fs::read_to_string(told).unwrap();
    // Both proxies of the one call that is traced, under its trace and its caller's span.
    for (what, n) in [("0af7651916cd43dd8448eb211c80319c", 2), ("b7ad6b7169203331", 2)] {
        assert_eq!(told.matches(what).count(), n, "{what} in {told}");
    }
}

#[test]
fn a_refused_call_says_why_and_what_to_do() {
    let (pi, tv, service) = pair();
    let call = || calls(&outbound(&pi), &["unary"])["unary"].clone();
    let refused = |told: &Value, code: &str, expected: &str| {
        assert_eq!((&told["code"], &told["is_ours"]), (&json!(code), &json!(true)), "{told}");
        assert!(told["message"].as_str().unwrap().contains(expected), "{told}");
    };
    // A process that no service's selectors match, at the node where the service runs.
    tv.configure(&echo(&tv, "svc/other").replace("exe:", "exe:/another"));
    tv.does(&["reload"]);
    let told = calls(&outbound(&tv), &["unary"])["unary"].clone();
    refused(&told, "UNAUTHENTICATED", "exe:");
    tv.configure(&echo(&tv, "svc/other"));
    tv.does(&["reload"]);
    pi.reaches("echo");
    let told = eventually("a denial", || Some(call()).filter(|told| told["code"] == "PERMISSION_DENIED"));
    refused(&told, "PERMISSION_DENIED", "allow = [\"svc/web\"]");
    tv.configure("");
    assert!(tv.does(&["reload"]).contains("echo removed"));
    let told = eventually("no service", || Some(call()).filter(|told| told["code"] == "NOT_FOUND"));
    refused(&told, "NOT_FOUND", "SERVICE_UNKNOWN");
    tv.configure(&echo(&tv, "svc/web"));
    tv.does(&["reload"]);
    drop(service);
    let told = eventually("no endpoint", || Some(call()).filter(|told| told["code"] == "UNAVAILABLE"));
    refused(&told, "UNAVAILABLE", "echo");
    eventually("the cause", || {
        let told = pi.run(&["why", "echo"]);
        String::from_utf8_lossy(&told.stderr).contains("fail at `health`").then_some(())
    });
}

#[test]
fn a_reload_with_an_error_changes_nothing() {
    let (pi, tv, _service) = pair();
    let wrong = "[[service]]\nname = \"echo\"\nlistens = \"here\"\n";
    tv.configure(wrong);
    tv.is_refused(&["reload"], 2, "did you mean `listen`?");
    tv.hangs_up();
    eventually("a word in the log", || tv.log().contains("kept the configuration").then_some(()));
    tv.configure(&echo(&tv, "web"));
    tv.is_refused(&["reload"], 2, "`web`");
    tv.configure(&format!("otlp = \"http://127.0.0.1:1\"\n{}", echo(&tv, "svc/web")));
    tv.is_refused(&["reload"], 3, "[telemetry] can only be changed by a restart");
    assert_eq!(calls(&outbound(&pi), &["client"])["client"], "abc");
}

#[test]
fn grpcurl_works_on_both_addresses_with_the_files_of_operator_add() {
    let pi = founder("");
    let files = pi.path("ada");
    let told = pi.does(&["operator", "add", "ada", "--role", "view", "--out", files.to_str().unwrap()]);
    let line = told.lines().find(|line| line.trim().starts_with("grpcurl ")).unwrap();
    let words: Vec<_> = line.split_whitespace().skip(1).collect();
    let (flags, _) = words.split_at(words.len() - 2);
    let port = format!("{}:7443", pi.ip);
    let socket = format!("unix:{}", pi.state().join("run/api.sock").display());
    for (flags, address) in [(flags, port.as_str()), (&["-plaintext"], socket.as_str())] {
        let ask = |more: &[&str]| succeeds(&grpcurl(&[flags, &[address], more].concat()));
        let services = ask(&["list"]);
        for service in ["sagemesh.mesh.v1.MeshService", "grpc.health.v1.Health"] {
            assert!(services.lines().any(|line| line == service), "{services}");
        }
        assert!(ask(&["describe", "sagemesh.mesh.v1.MeshService"]).contains("rpc ListPeers"));
        assert!(ask(&["sagemesh.mesh.v1.MeshService/GetStatus"]).contains("pi.home.mesh"));
    }
    let invite = [
        flags,
        &["-d", r#"{"node":"tv"}"#, &port],
        &["sagemesh.identity.v1.IdentityService/CreateInvitation"],
    ];
    let refused = grpcurl(&invite.concat());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("PermissionDenied"), "{refused:?}");
    pi.does(&["operator", "remove", "ada"]);
    let refused = grpcurl(&[flags, &[&port, "list"]].concat());
    assert!(!refused.status.success(), "a role that was taken away gives nothing");
}

#[track_caller]
fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn grpcurl(args: &[&str]) -> Output {
    let bin = python().parent().unwrap().join("../../bin/grpcurl");
    Command::new(bin).args(args).output().unwrap_or_else(|err| panic!("run `make setup`: {err}"))
}

#[test]
fn a_service_beyond_its_nodes_scope_is_offered_to_nobody() {
    let (pi, tv, _service) = pair();
    let db = echo(&tv, "svc/web").replace("\"echo\"", "\"db\"").replace(":9000", ":9001");
    let _db = serves(&format!("{}:9001", tv.ip));
    tv.configure(&format!("{}{db}", echo(&tv, "svc/web")));
    tv.does(&["reload"]);
    let told = tv.run(&["why", "db"]);
    let told = String::from_utf8_lossy(&told.stdout);
    assert!(told.contains("SVID_OUT_OF_SCOPE") && told.contains("sagemesh scope tv +svc/db"), "{told}");
    assert_eq!(calls(&outbound(&pi), &["unary"])["unary"][0], "hi", "the other goes on");
    let shown = pi.json(&["services"]);
    let names: Vec<_> = shown.as_array().unwrap().iter().map(|it| it["name"].clone()).collect();
    assert!(names.contains(&json!("echo")) && !names.contains(&json!("db")), "{shown}");
}

#[test]
fn a_token_makes_one_machine_a_member_once() {
    let pi = founder("");
    let (tv, nas) = (Machine::new(), Machine::new());
    let token = pi.does(&["invite", "--name", "tv"]);
    let token = token.trim();
    tv.does(&["join", token]);
    // The same machine may ask again: the first answer may have been lost.
    tv.does(&["join", token]);
    nas.is_refused(&["join", token], 3, "TOKEN_USED");
    tv.is_refused(&["join", &pi.does(&["invite", "--name", "other"])], 1, "`tv.home.mesh` already");
    nas.is_refused(&["join", &token[..token.len() - 1]], 3, "TOKEN_MALFORMED");
    pi.is_refused(&["invite", "--name", "x", "--ttl", "999h"], 3, "");
    let stranger = founder("");
    let foreign = stranger.does(&["invite", "--name", "nas"]);
    drop(stranger);
    nas.is_refused(&["join", foreign.trim()], 1, "failed to reach the inviter");
    nas.does(&["join", pi.does(&["invite", "--name", "nas"]).trim()]);
}

#[test]
fn a_name_in_use_is_not_given_to_a_new_machine() {
    let pi = founder("");
    let (mut tv, new) = (Machine::new(), Machine::new());
    pi.admits(&mut tv, "tv", "");
    new.is_refused(&["join", pi.does(&["invite", "--name", "tv"]).trim()], 3, "NAME_BOUND");
    pi.does(&["revoke", "tv", "--note", "lost on the train"]);
    new.does(&["join", pi.does(&["invite", "--name", "tv"]).trim()]);
}

#[test]
fn a_revoked_node_is_cut_off_at_once() {
    let (pi, tv, _service) = pair();
    assert_eq!(calls(&outbound(&pi), &["client"])["client"], "abc");
    pi.does(&["revoke", "tv"]);
    eventually("the end of a link", || (pi.json(&["peers"]) == json!([])).then_some(()));
    let told = calls(&outbound(&pi), &["client"])["client"]["code"].clone();
    assert_eq!(told, "NOT_FOUND", "its services are nobody's");
    eventually("a refusal in the log", || pi.log().contains("MEMBER_REVOKED").then_some(()));
    tv.is_refused(&["invite", "--name", "evil"], 3, "NOT_A_SIGNER");
}

#[test]
fn a_node_that_was_killed_or_left_comes_back_as_itself() {
    let pi = founder("");
    let (mut tv, mut nas) = (Machine::new(), Machine::new());
    pi.admits(&mut tv, "tv", "");
    pi.admits(&mut nas, "nas", "");
    let before = tv.json(&["status"])["peer"].clone();
    for other in ["pi", "nas"] {
        tv.sees(other, "alive", true);
    }
    tv.stop();
    for other in [&pi, &nas] {
        other.sees("tv", "left", false);
    }
    tv.up();
    for other in [&pi, &nas] {
        other.sees("tv", "alive", true);
    }
    tv.kill();
    for other in [&pi, &nas] {
        other.sees("tv", "dead", false);
    }
    tv.up();
    for other in [&pi, &nas] {
        other.sees("tv", "alive", true);
    }
    assert_eq!(tv.json(&["status"])["peer"], before);
    let links = tv.json(&["peers"]);
    for link in links.as_array().unwrap() {
        assert_eq!(
            (&link["tls_group"], &link["tls_signature"]),
            (&json!("X25519MLKEM768"), &json!("ML-DSA-65"))
        );
    }
    for other in ["pi", "nas"] {
        tv.sees(other, "alive", true);
    }
    tv.does(&["leave"]);
    pi.sees("tv", "left", false);
}

#[test]
fn a_node_is_ready_once_it_has_gossip_of_a_peer() {
    let mut pi = founder("");
    let mut tv = Machine::new();
    pi.admits(&mut tv, "tv", "");
    tv.stop();
    pi.stop();
    tv.starts();
    eventually("a node that says what it waits for", || {
        let told = tv.readiness();
        (told.starts_with("HTTP/1.0 503") && told.contains("gossip")).then_some(())
    });
    pi.starts();
    eventually("a node that serves", || tv.is_ready().then_some(()));
    let peers = tv.json(&["peers"]);
    assert_eq!((&peers[0]["node"], &peers[0]["liveness"]), (&json!("pi"), &json!("alive")));
}

#[test]
fn a_node_without_a_proxy_serves_the_mesh_and_carries_no_calls() {
    let mut pi = Machine::new();
    let _service = serves(&format!("{}:9000", pi.ip));
    pi.configure(&echo(&pi, "svc/web"));
    pi.founds();
    let mut tv = Machine::new();
    tv.carries_no_calls();
    pi.admits(&mut tv, "tv", "svc/*");
    tv.sees("pi", "alive", true);
    for port in [7450, 7480] {
        TcpListener::bind((tv.ip.as_str(), port)).expect("a port that the node does not hold");
    }
    assert!(!tv.state().join("run/outbound.sock").exists());
    assert!(
        tv.answers("/metrics").contains("sagemesh_mesh_peers") && !tv.answers("/metrics").contains("_proxy_")
    );
    let status = tv.json(&["status"]);
    assert_eq!((&status["ready"], &status["inbound"]), (&json!(true), &Value::Null));
    assert!(pi.json(&["status"])["inbound"].as_str().is_some_and(|it| it.ends_with(":7450")));
    assert!(tv.does(&["status"]).contains("proxy.enabled is false"));
    tv.is_refused(&["service", "add", "db", "--listen", "127.0.0.1:5432"], 3, "`proxy.enabled`");
    pi.reaches("echo");
    let told = tv.run(&["why", "echo"]);
    assert!(String::from_utf8_lossy(&told.stderr).contains("fail at `routing`"), "{told:?}");
    // What cannot be is refused, and what takes a restart says so.
    tv.configure(&echo(&tv, "svc/web"));
    tv.carries_no_calls();
    for command in [&["config", "check"][..], &["reload"], &["up"]] {
        tv.is_refused(command, 2, "`proxy.enabled`");
    }
    tv.configure("");
    tv.is_refused(&["reload"], 3, "[proxy] can only be changed by a restart");
    // One that was added waits until there is a proxy again.
    tv.stop();
    tv.up();
    tv.does(&["service", "add", "db", "--listen", "127.0.0.1:5432"]);
    tv.stop();
    tv.carries_no_calls();
    tv.up();
    assert!(tv.log().contains("a service that was added waits"), "{}", tv.log());
    assert!(!tv.does(&["services"]).contains("db"));
    tv.does(&["service", "remove", "db"]);
}

#[test]
fn a_node_that_cannot_start_says_what_to_do() {
    let pi = Machine::new();
    pi.is_refused(&["up"], 1, "sagemesh init");
    pi.does(&["init", "home.mesh", "--name", "pi"]);
    for (port, field) in [
        (7400, "mesh.listen"),
        (7443, "api.listen"),
        (7450, "proxy.inbound"),
        (7470, "telemetry.listen"),
        (7480, "proxy.outbound"),
    ] {
        let _taken = TcpListener::bind((pi.ip.as_str(), port)).unwrap();
        pi.is_refused(&["up"], 1, field);
    }
    let mut pi = pi;
    pi.up();
    pi.is_refused(&["up"], 1, "");
    pi.is_refused(&["init", "other.mesh"], 1, "");
}
