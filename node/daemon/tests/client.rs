//! Commands that ask the node that runs: the binary against the real API, with a node behind it whose mesh is
//! real and whose lists are made up.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::node::{
    Asker, Authority, Declaration, Health, Layer, Lease, LeaseId, Liveness, Outcome, Peer, Registrant,
    Registration, Service, Source, Status,
};
use daemon::state::Known;
use daemon::{init, state};
use identity::{Members, Role, Scope, SignedRecord};
use tls::Svids;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use types::{NodeName, Now, PublicKey, Reason, Refusal, ServiceName, SpiffeId, TrustDomain};

struct Node {
    known: Mutex<Known>,
    own: TrustDomain,
    map: watch::Sender<Arc<Members>>,
    ready: watch::Sender<bool>,
    peers: watch::Sender<Arc<Vec<Peer>>>,
    services: watch::Sender<Arc<Vec<Service>>>,
}

#[tonic::async_trait]
impl api::Node for Node {
    fn members(&self) -> watch::Receiver<Arc<Members>> {
        self.map.subscribe()
    }
    fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }
    fn peers(&self) -> watch::Receiver<Arc<Vec<Peer>>> {
        self.peers.subscribe()
    }
    fn services(&self) -> watch::Receiver<Arc<Vec<Service>>> {
        self.services.subscribe()
    }
    async fn status(&self) -> Result<Status, Refusal> {
        let members = Arc::clone(&self.map.borrow());
        let own = members.get(&self.own).ok_or_else(|| members.why_not(&self.own))?;
        Ok(Status {
            mesh: members.mesh().clone(),
            root: members.fingerprint(),
            root_generation: 1,
            node: own.domain.clone(),
            peer: own.peer,
            scope: own.scope.clone(),
            record_until: own.not_after,
            signers: vec![self.own.node().clone()],
            n_members: members.iter().count(),
            warnings: vec!["there is one signer only".to_owned()],
            is_ready: *self.ready.borrow(),
            inbound: Some(([0, 0, 0, 0], 7450).into()),
            version: "1.2.3".to_owned(),
        })
    }
    async fn authorities(&self) -> Result<Vec<Authority>, Refusal> {
        let known = self.known.lock().unwrap();
        let own = known.members.get(&self.own).unwrap();
        Ok(vec![Authority::of(&*known.keys, own)?])
    }
    async fn invite(&self, _: Asker, node: NodeName, scope: Scope, ttl: Duration) -> Result<String, Refusal> {
        Ok(format!("smj1-{node}-{scope}-{}", ttl.as_secs()))
    }
    fn welcome(&self) -> Result<Arc<[u8]>, Refusal> {
        Err(Reason::NotASigner.because("nobody joins here"))
    }
    async fn redeem(&self, _: [u8; 32], _: Vec<u8>) -> Vec<u8> {
        Vec::new()
    }
    async fn change_scope(
        &self,
        _: Asker,
        node: NodeName,
        add: Scope,
        remove: Scope,
    ) -> Result<Scope, Refusal> {
        if node.as_str() == "nobody" {
            return Err(Reason::MemberUnknown.because("no record of `nobody` counts"));
        }
        assert_eq!(remove.to_string(), "svc/old");
        Ok(add)
    }
    async fn revoke(&self, _: Asker, _: NodeName, note: String) -> Result<(), Refusal> {
        assert_eq!(note, "stolen");
        Ok(())
    }
    async fn set_operator(
        &self,
        _: Asker,
        name: ServiceName,
        role: Option<Role>,
        key: PublicKey,
    ) -> Result<(), Refusal> {
        let mut known = self.known.lock().unwrap();
        let signer = known.signer.as_ref().unwrap();
        let signed = known.members.sign_operator(signer, name, role, key, Now::read())?;
        known.members.merge(signed)?;
        self.map.send_replace(Arc::new(known.members.clone()));
        Ok(())
    }
    async fn leave(&self, _: Asker) -> Result<(), Refusal> {
        Ok(())
    }
    async fn reload(&self, _: Asker) -> Result<Vec<String>, Refusal> {
        Ok(vec!["service `api` is new".to_owned()])
    }
    async fn add_service(&self, _: Asker, declaration: Declaration) -> Result<(), Refusal> {
        let service = Service {
            name: declaration.name,
            node: self.own.node().clone(),
            address: declaration.listen,
            protocol: declaration.protocol,
            health: Health::Unknown,
            source: Some(Source::Added),
        };
        self.services.send_modify(|list| Arc::make_mut(list).push(service));
        Ok(())
    }
    async fn remove_service(&self, _: Asker, name: ServiceName) -> Result<(), Refusal> {
        self.services.send_modify(|list| Arc::make_mut(list).retain(|it| it.name != name));
        Ok(())
    }
    async fn register(&self, _: Registrant, _: Registration, ttl: Duration) -> Result<Lease, Refusal> {
        Ok(Lease { id: LeaseId(1), ttl })
    }
    async fn renew(&self, _: Registrant, id: LeaseId) -> Result<Lease, Refusal> {
        Ok(Lease { id, ttl: Duration::from_secs(30) })
    }
    async fn deregister(&self, _: Registrant, _: LeaseId) -> Result<(), Refusal> {
        Ok(())
    }
    async fn explain(&self, service: ServiceName) -> Result<Vec<Layer>, Refusal> {
        let outcome = match service.as_str() {
            "api" => Outcome::Ok,
            _ => Outcome::Failed(Reason::ServiceUnknown),
        };
        let seen = format!("who offers `{service}`");
        Ok(vec![Layer { name: "membership".to_owned(), outcome, seen, advice: None }])
    }
}

/// A machine whose node runs.
struct Machine {
    dir: tempfile::TempDir,
    node: Arc<Node>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Machine {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("state");
        let store = state::open(&store::Config { dir: home.clone(), ..store::Config::default() }).unwrap();
        let mesh = "home.mesh".parse().unwrap();
        let known =
            init::init(&home, &store.handle(), mesh, "pi".parse().unwrap(), Now::read()).await.unwrap();
        store.close().await.unwrap();
        let id = SpiffeId::node(known.own.clone());
        let record = SignedRecord::of(&known.members, &id).unwrap();
        let svids = Svids::issue(&*known.keys, &record, &id, Now::read()).unwrap();
        let svids = watch::Sender::new(Arc::new(svids)).subscribe();
        let node = Arc::new(Node {
            own: known.own.clone(),
            map: watch::Sender::new(Arc::new(known.members.clone())),
            known: Mutex::new(known),
            ready: watch::Sender::new(true),
            peers: watch::Sender::default(),
            services: watch::Sender::default(),
        });
        let listen = "127.0.0.1:0".parse().unwrap();
        let config = api::Config { listen, socket: home.join("run/api.sock"), ..api::Config::default() };
        let server = api::Server::bind(config, node.clone(), svids, tls::news().0).await.unwrap();
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        tasks.spawn(server.run(stop.clone()));
        Self { dir, node, stop, tasks }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sagemesh"));
        command.arg("--state").arg(self.path("state")).args(args);
        command.env_remove("SAGEMESH_STATE").env_remove("SAGEMESH_API").env_remove("RUST_BACKTRACE");
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    #[track_caller]
    fn tells(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.tells(&[&["-o", "json"], args].concat())).unwrap()
    }

    #[track_caller]
    fn fails(&self, args: &[&str], code: i32, expected: &str) {
        let output = self.run(args);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert!(told.contains(expected), "{told}");
    }

    async fn stop(&mut self) {
        self.stop.cancel();
        self.tasks.join_next().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_live_while_the_node_runs_and_kept_when_it_does_not() {
    let mut pi = Machine::start().await;
    let live = pi.tells(&["status"]);
    assert!(live.contains("node      pi.home.mesh") && live.contains("runs      1.2.3 (serves)"), "{live}");
    let json = pi.json(&["status"]);
    assert_eq!((json["ready"].as_bool(), json["n_members"].as_u64()), (Some(true), Some(1)));
    pi.stop().await;
    let kept = pi.tells(&["status"]);
    assert!(kept.contains("node      pi.home.mesh") && !kept.contains("runs"), "{kept}");
    pi.fails(&["peers"], 1, "sagemesh up");
    let nowhere = pi.path("nowhere.sock").display().to_string();
    pi.fails(&["--api", &nowhere, "status"], 1, "nowhere.sock");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_is_printed_alone() {
    let pi = Machine::start().await;
    assert_eq!(pi.tells(&["invite", "--name", "tv"]), "smj1-tv-none-900\n");
    let args = ["invite", "--name", "tv", "--scope", "svc/a", "--scope", "svc/b", "--ttl", "2h"];
    assert_eq!(pi.json(&args)["token"], "smj1-tv-svc/a,svc/b-7200");
    pi.fails(&["invite", "--name", "tv", "--ttl", "15"], 2, "such as 15m");
    pi.fails(&["invite", "--name", "tv", "--ttl", "8d"], 3, "ARGUMENT_INVALID");
    pi.fails(&["invite", "--name", "tv", "--scope", "api"], 3, "svc/NAME");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_is_changed_by_signs() {
    let pi = Machine::start().await;
    assert_eq!(pi.tells(&["scope", "pi", "+svc/api", "-svc/old"]), "pi may speak for svc/api\n");
    assert_eq!(pi.json(&["scope", "pi", "-svc/old"])["scope"], serde_json::json!([]));
    pi.fails(&["scope", "pi"], 2, "required");
    pi.fails(&["scope", "pi", "svc/api"], 2, "+svc/NAME");
    pi.fails(&["scope", "nobody", "+svc/api"], 3, "MEMBER_UNKNOWN");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_an_operator_work_until_the_role_is_taken_away() {
    let pi = Machine::start().await;
    let out = pi.path("ann's files").display().to_string();
    let told = pi.tells(&["operator", "add", "ann", "--role", "view", "--out", &out]);
    let line = told.lines().find(|line| line.trim().starts_with("grpcurl")).unwrap().trim().to_owned();
    let mode = fs::metadata(pi.path("ann's files/ann.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let bin = cache.unwrap().join("sagemesh/bin");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let shell = |line: &str| Command::new("sh").args(["-c", line]).env("PATH", &path).output().unwrap();
    let listed = shell(&line);
    let errors = String::from_utf8_lossy(&listed.stderr);
    assert!(listed.status.success(), "run `make setup`, which installs grpcurl: {errors}");
    assert!(String::from_utf8_lossy(&listed.stdout).contains("sagemesh.mesh.v1.MeshService"));

    let own_line = told.lines().find(|line| line.trim().starts_with("sagemesh")).unwrap().trim();
    let binary = env!("CARGO_BIN_EXE_sagemesh");
    let own_line = own_line.replacen("sagemesh", &format!("'{binary}'"), 1);
    let status = shell(&own_line);
    let errors = String::from_utf8_lossy(&status.stderr);
    assert!(String::from_utf8_lossy(&status.stdout).contains("runs      1.2.3"), "{errors}");
    let left = shell(&own_line.replace(" status", " leave"));
    assert_eq!(left.status.code(), Some(3), "a viewer may not");
    let anonymous = own_line.split(" --identity").next().unwrap();
    let told = shell(&format!("{anonymous} status"));
    assert!(String::from_utf8_lossy(&told.stderr).contains("--identity DIR/NAME"));
    let other = own_line.replace("pi.home.mesh@", "tv.home.mesh@");
    assert!(!shell(&other).status.success(), "another node than the one that was meant");

    let add = ["operator", "add", "ann", "--role", "admin", "--out", &out];
    pi.fails(&add, 1, "name another folder with --out");
    let listed = pi.json(&["operator", "list"]);
    assert_eq!((listed[0]["name"].as_str(), listed[0]["role"].as_str()), (Some("ann"), Some("view")));
    pi.tells(&["operator", "remove", "ann"]);
    assert_eq!(pi.json(&["operator", "list"])[0]["role"], "none");
    let line = line.replace("grpcurl", "grpcurl -connect-timeout 2");
    assert!(!shell(&line).status.success(), "the role is gone");
    let told = shell(&own_line);
    let errors = String::from_utf8_lossy(&told.stderr);
    assert!(errors.contains("knows no such operator"), "{errors}");
    pi.fails(&["operator", "remove", "eve"], 3, "OPERATOR_UNKNOWN");
}

#[tokio::test(flavor = "multi_thread")]
async fn services_come_and_go_and_are_explained() {
    let pi = Machine::start().await;
    assert!(pi.tells(&["services"]).contains("sagemesh service add"));
    pi.tells(&["service", "add", "api", "--listen", "127.0.0.1:8080", "--allow", "svc/web"]);
    let table = pi.tells(&["services"]);
    assert!(table.contains("api      pi    grpc    127.0.0.1:8080  added  unknown"), "{table}");
    assert_eq!(pi.json(&["service", "list"])[0]["address"], "127.0.0.1:8080");
    assert!(pi.tells(&["why", "api"]).starts_with("ok       membership"));
    pi.fails(&["why", "web"], 1, "calls to `web` fail at `membership`");
    let told = String::from_utf8(pi.run(&["-o", "json", "why", "web"]).stdout).unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(
        (told["ok"].as_bool(), told["layers"][0]["reason"].as_str()),
        (Some(false), Some("SERVICE_UNKNOWN"))
    );
    pi.tells(&["service", "remove", "api"]);
    assert_eq!(pi.json(&["services"]), serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_well_fails_the_check() {
    let pi = Machine::start().await;
    assert!(pi.tells(&["check"]).contains("warns  there is one signer only"));
    assert_eq!(pi.json(&["check"])["ok"], true);
    pi.node.ready.send_replace(false);
    pi.fails(&["check"], 1, "not well: ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_and_members_are_shown() {
    let pi = Machine::start().await;
    assert!(pi.tells(&["peers"]).contains("sagemesh invite"));
    let known = pi.node.map.borrow().get(&pi.node.own).unwrap().clone();
    let peer = Peer {
        node: "tv".parse().unwrap(),
        id: known.peer,
        liveness: Liveness::Suspect,
        is_admitted: true,
        address: Some("[2001:db8::1]:7400".parse().unwrap()),
        group: Some("X25519MLKEM768".to_owned()),
        signature: Some("ML_DSA_65".to_owned()),
        since: Some(Now::read().wall),
        services: vec!["api".parse().unwrap()],
    };
    pi.node.peers.send_replace(Arc::new(vec![peer]));
    let table = pi.tells(&["peers"]);
    assert!(table.contains("tv    suspect  linked  [2001:db8::1]:7400"), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    assert_eq!(pi.json(&["peers"])[0]["tls_group"], "X25519MLKEM768");
    assert!(pi.tells(&["members"]).contains("pi    signer"));
    assert_eq!(pi.json(&["members"])[0]["scope"][0], "svc/*");
    assert!(pi.tells(&["reload"]).contains("`api` is new"));
    assert_eq!(pi.json(&["leave"])["left"], true);
    assert_eq!(pi.json(&["revoke", "tv", "--note", "stolen"])["revoked"], "tv");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_prints_a_list_a_line_and_ends_with_the_node() {
    use std::io::{BufRead, BufReader};
    let mut pi = Machine::start().await;
    let mut child =
        pi.command(&["-o", "json", "peers", "--watch"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "[]");
    pi.node.peers.send_replace(Arc::default());
    assert_eq!(lines.next().unwrap().unwrap(), "[]");
    pi.stop().await;
    assert_eq!(child.wait().unwrap().code(), Some(3), "the node said that it stops");
}
