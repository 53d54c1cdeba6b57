//! A worker of the relay whose callers and services say anything, in pieces cut anywhere, while time passes and tables
//! change. Whatever they do, it breaks no rule of HTTP/2 towards them, every call ends, and nothing of it is left.
#![no_main]

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

use attest::{Owner, Selector};
use identity::statement::SignedRecord;
use identity::{Caller, Who};
use proxy::fuzz::{Held, Rig, Scene};
use proxy::{Backend, Config, Count, Local, Protocol, Table};
use route::{Endpoint, EndpointId, Policy};
use sagemesh_fuzz::end::{End, Step};
use sagemesh_fuzz::mesh::{Mesh, dawn, domain, name};
use tls::{Peer, Svids};
use tokio::sync::watch;
use types::{Algorithm, Reason, ServiceName, SpiffeId};

/// Most steps of one case, and most ends that it has.
const STEPS_MAX: usize = 300;
const ENDS_MAX: usize = 6;
/// The uid of the process that is a service here.
const CALLER_UID: u32 = 7;

#[derive(Arbitrary, Debug)]
struct Case {
    opening: u8,
    steps: Vec<Step>,
}

struct World {
    rig: Rig,
    ends: Vec<End>,
}

fn service() -> ServiceName {
    "api".parse().expect("a name")
}

/// The peer at the other end of a connection between a service of `pi` and one of this node.
fn peer(mesh: &Mesh, own: &SpiffeId) -> Peer {
    let id: SpiffeId = "spiffe://pi.home.mesh/svc/api".parse().expect("an id");
    let member = mesh.members.get(&domain("pi")).expect("it is a member");
    let caller = Caller {
        id,
        who: Who::Member(member.clone()),
        algorithm: Algorithm::MlDsa65,
        not_after: member.not_after,
        carried: None,
    };
    Peer { caller, own: own.clone(), group: None, signature: None, own_signature: None, alpn: b"h2".to_vec() }
}

/// The node `db`, where a process is `web` and `api` is served, here and on `pi`.
fn scene() -> &'static (Scene, Peer) {
    static SCENE: OnceLock<(Scene, Peer)> = OnceLock::new();
    SCENE.get_or_init(|| {
        let mesh = Mesh::found();
        let own: SpiffeId = "spiffe://db.home.mesh/svc/api".parse().expect("an id");
        let record = SignedRecord::of(&mesh.members, &own).expect("db's record");
        let svids = Arc::new(Svids::issue(&mesh.nodes[1], &record, &own, dawn()).expect("it is in scope"));
        let issued = watch::Sender::new(Arc::clone(&svids)).subscribe();
        let address = |port| ([127, 0, 0, 1], port).into();
        let backend = Backend { address: address(1), protocol: Protocol::Grpc, health: Ok(()) };
        let allow = vec!["svc/api".parse().expect("a rule")];
        let local = |selectors, backend| Local {
            selectors,
            backend,
            policy: Policy { allow: allow.clone() },
            svids: Ok(issued.clone()),
        };
        let web = local(vec![Selector::Uid(CALLER_UID)], None);
        let endpoint = |node, port| Endpoint {
            id: EndpointId { node: domain(node), service: service() },
            address: address(port),
            is_healthy: true,
        };
        let table = Table {
            mesh: name(),
            node: domain("db"),
            local: [("web".parse().expect("a name"), web), (service(), local(Vec::new(), Some(backend)))]
                .into(),
            endpoints: [(service(), vec![endpoint("pi", 2), endpoint("db", 3)])].into(),
        };
        let config = Config {
            streams_max: 8,
            header_bytes_max: 4 << 10,
            window_bytes: 64 << 10,
            unread_timeout: Duration::from_secs(10),
            ..Config::default()
        };
        let guest = peer(&mesh, &own);
        let members = watch::Sender::new(Arc::new(mesh.members)).subscribe();
        (Scene::new(config, table, members, (guest.clone(), svids), dawn()), guest)
    })
}

fuzz_target!(|case: Case| {
    let mut world = World { rig: scene().0.rig(), ends: Vec::new() };
    world.open(case.opening);
    for step in case.steps.into_iter().take(STEPS_MAX) {
        world.step(step);
        world.round();
    }
    world.finish();
});

impl World {
    /// Begins somewhere on the way, so that not every case has to find it.
    fn open(&mut self, opening: u8) {
        if opening & 3 == 0 {
            return;
        }
        self.step(Step::Connect { who: opening & 1, is_mute: false });
        self.step(Step::Request { end: 0, shape: 0, is_end: opening & 4 != 0 });
        self.round();
        self.step(Step::Dial { nth: 0, is_refused: false, is_mute: false });
        (0..3).for_each(|_| self.round());
        if opening & 8 != 0 {
            self.step(Step::Answer { end: 1, stream: 0, shape: 0, is_end: false });
            self.round();
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Connect { who, is_mute } => {
                let owner = |uid| Owner { uid, pid: None, exe: None, cgroup: None, inode: 1 };
                let socket = match who % 4 {
                    _ if self.ends.len() >= ENDS_MAX => return,
                    0 => self.rig.guest(&scene().1),
                    1 => self.rig.near(Ok(owner(CALLER_UID))),
                    2 => self.rig.near(Ok(owner(CALLER_UID + 1))),
                    _ => self.rig.near(Err(Reason::CallerUnmapped.because("nobody knows"))),
                };
                self.ends.extend(socket.map(|socket| End::new(socket, true, is_mute)));
            }
            Step::Dial { nth, is_refused: true, .. } => {
                self.rig.refuse(nth.into());
            }
            Step::Dial { .. } if self.ends.len() >= ENDS_MAX => {}
            Step::Dial { nth, is_mute, .. } => {
                let socket = self.rig.accept(&scene().0, nth.into());
                self.ends.extend(socket.map(|socket| End::new(socket, false, is_mute)));
            }
            Step::Wait { ms } => self.rig.pass(Duration::from_millis(ms.into())),
            Step::Change(what) => self.rig.change(|table| change(table, what)),
            Step::Drain => self.rig.drain(),
            Step::Request { end, .. }
            | Step::Answer { end, .. }
            | Step::Trailers { end, .. }
            | Step::Data { end, .. }
            | Step::Reset { end, .. }
            | Step::Window { end, .. }
            | Step::Settings { end, .. }
            | Step::Ping { end, .. }
            | Step::GoAway { end, .. }
            | Step::Frame { end, .. }
            | Step::Raw { end, .. }
            | Step::Hold { end, .. }
            | Step::Close { end } => {
                let n = self.ends.len().max(1);
                if let Some(end) = self.ends.get_mut(usize::from(end) % n) {
                    end.step(step);
                }
            }
        }
    }

    /// Everybody writes, the relay has a turn, and everybody reads.
    fn round(&mut self) {
        self.ends.iter_mut().for_each(End::write);
        self.rig.turn();
        self.ends.iter_mut().for_each(End::read);
        assert_eq!(self.rig.handle().count(Count::ConnectionPanicked), 0);
    }

    /// Goes on until nothing happens any more.
    fn settle(&mut self) {
        for _ in 0..200 {
            self.round();
            let is_writing = |end: &End| end.socket.is_some() && !end.out.is_empty();
            if !self.rig.is_busy() && !self.ends.iter().any(is_writing) {
                break;
            }
        }
        self.round();
    }

    /// Services go away and nobody is reached any more: all calls end. Then callers go, and nothing is left.
    fn finish(mut self) {
        for end in &mut self.ends {
            (end.write_max, end.read_max) = (usize::MAX, usize::MAX);
        }
        self.settle();
        for _ in 0..20 {
            self.ends.retain(|end| end.is_near);
            while self.rig.refuse(0) {
                self.round();
            }
            self.rig.pass(Duration::from_secs(60));
            self.settle();
            let held = self.rig.held();
            if held.calls == 0 && held.near_streams == 0 {
                break;
            }
        }
        let held = self.rig.held();
        let ended = Held {
            near: held.near,
            connections: held.near,
            lanes: held.lanes,
            timers: held.timers,
            ..Held::default()
        };
        assert_eq!(held, ended, "calls do not end");
        self.ends.iter().for_each(End::check_ended);
        self.ends.clear();
        for _ in 0..2 {
            self.settle();
            self.rig.pass(Duration::from_secs(60));
        }
        self.settle();
        assert_eq!(self.rig.held(), Held::default(), "something is left");
    }
}

/// One of the things that a table can come to say.
fn change(table: &mut Table, what: u8) {
    let service = service();
    let Some(local) = table.local.get_mut(&service) else { return };
    match what % 6 {
        0 => local.policy.allow.clear(),
        1 => local.policy.allow = vec!["svc/api".parse().expect("a rule")],
        2 => {
            table.endpoints.remove(&service);
        }
        3 => {
            table.local.remove(&service);
        }
        4 => {
            if let Some(backend) = &mut local.backend {
                backend.health = Err(Reason::ServiceUnhealthy.because("on purpose"));
            }
        }
        _ => {
            if let Some(backend) = &mut local.backend {
                backend.address.set_port(backend.address.port() ^ 64);
                backend.health = Ok(());
            }
        }
    }
}
