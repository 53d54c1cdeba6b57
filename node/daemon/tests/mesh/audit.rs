//! What the audit tells of what people did.

use store::Seq;
use types::event::Priority;

use crate::town::{Machine, founder};

/// What was done, to whom, and by whom, as the node's database has it. The node must not run.
fn told(of: &Machine) -> Vec<(String, String, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let config = store::Config { dir: of.state(), ..store::Config::default() };
        let store = daemon::state::open(&config).unwrap();
        let events = store.handle().events_after(Seq::default(), 1000).await.unwrap();
        store.close().await.unwrap();
        let events = events.into_iter().map(|it| it.event).filter(|it| it.priority == Priority::Audit);
        events
            .map(|it| (it.kind, it.subject, it.data["by"].as_str().unwrap_or_default().to_owned()))
            .collect()
    })
}

#[test]
fn the_audit_names_who_asked_for_what() {
    let mut pi = founder("");
    let files = pi.path("ada");
    pi.does(&["operator", "add", "ada", "--role", "admin", "--out", files.to_str().unwrap()]);
    let identity = files.join("ada");
    let port = format!("pi.home.mesh@{}:7443", pi.ip);
    let ada = ["--api", &port, "--identity", identity.to_str().unwrap()];
    let token = pi.does(&[&ada[..], &["invite", "--name", "tv"]].concat());
    let tv = Machine::new();
    tv.does(&["join", token.trim()]);
    pi.does(&["scope", "tv", "+svc/web"]);
    pi.does(&["service", "add", "api", "--selector", "uid:1"]);
    pi.does(&["service", "remove", "api"]);
    pi.does(&["reload"]);
    pi.is_refused(&["service", "remove", "api"], 3, "");
    let long = format!("exe:/{}", "a".repeat(1000));
    let many = [&["service", "add", "big"][..], &["--selector", &long].repeat(40)].concat();
    pi.is_refused(&many, 3, "32768 are allowed");
    pi.does(&["revoke", "tv"]);
    pi.does(&["operator", "remove", "ada"]);
    pi.does(&["leave"]);
    pi.ended();

    let local = |by: &str| {
        let uid = rustix::process::geteuid().as_raw();
        let pid = by.strip_prefix("process ").and_then(|it| it.strip_suffix(&format!(" of user {uid}")));
        pid.is_some_and(|pid| pid.parse::<u32>().is_ok())
    };
    let told = told(&pi);
    let told: Vec<_> = told
        .iter()
        .map(|(kind, subject, by)| (kind.as_str(), subject.as_str(), if local(by) { "here" } else { by }))
        .collect();
    assert_eq!(
        told,
        [
            ("identity.operator.set.v1", "ada", "here"),
            ("identity.invitation.created.v1", "tv", "spiffe://home.mesh/operator/ada"),
            ("identity.member.admitted.v1", "tv", "spiffe://tv.home.mesh/node"),
            ("identity.member.scoped.v1", "tv", "here"),
            ("service.declaration.added.v1", "api", "here"),
            ("service.declaration.removed.v1", "api", "here"),
            ("service.configuration.reloaded.v1", "", "here"),
            ("identity.member.revoked.v1", "tv", "here"),
            ("identity.operator.set.v1", "ada", "here"),
            ("mesh.node.left.v1", "", "here"),
        ]
    );
}
