//! The relay by hand: a worker between one caller and one service that this test is, step by step.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use identity::{Caller, Who};
use proxy::fuzz::{Held, Rig, Scene};
use proxy::{Config, Local, Table};
use tls::Peer;
use types::{Algorithm, Now, Reason};
use wire::hpack::{Fields, Name};
use wire::{Code, Conn, Event, Role, Stream};

use super::street::grpc;
use crate::tls::Net;

/// One end that the relay talks to.
struct End {
    socket: UnixStream,
    conn: Conn,
    out: Vec<u8>,
    input: Vec<u8>,
    streams: Vec<Stream>,
    /// Bytes of bodies that came.
    n_bytes: usize,
    /// Whether it gives windows back.
    is_reading: bool,
}

fn fields(list: &[(Name, &str)]) -> Fields {
    let mut fields = Fields::new();
    list.iter().for_each(|(name, value)| fields.push_known(*name, value.as_bytes()));
    fields
}

impl End {
    fn new(socket: UnixStream, role: Role) -> Self {
        let mut out = Vec::new();
        let conn = Conn::new(role, Arc::default(), Instant::now(), &mut out);
        Self { socket, conn, out, input: Vec::new(), streams: Vec::new(), n_bytes: 0, is_reading: true }
    }

    fn asks(&mut self) {
        let request = fields(&[
            (Name::Method, "POST"),
            (Name::Scheme, "http"),
            (Name::Path, "/t.T/Echo"),
            (Name::Authority, "echo"),
            (Name::Te, "trailers"),
            (Name::ContentType, "application/grpc"),
        ]);
        self.streams.push(self.conn.open(0, &request, false, &mut self.out).unwrap());
    }

    /// Writes all, and takes all that came.
    fn goes_on(&mut self) {
        while !self.out.is_empty() {
            let Ok(n) = self.socket.write(&self.out) else { break };
            self.out.drain(..n);
        }
        let mut buffer = [0; 1 << 14];
        while let Ok(n) = self.socket.read(&mut buffer) {
            assert!(n > 0, "the relay has closed the connection");
            self.input.extend_from_slice(&buffer[..n]);
        }
        let (mut input, mut scratch) = (&self.input[..], Fields::new());
        let now = Instant::now();
        while let Some(event) = self.conn.receive(now, &mut input, &mut scratch, &mut self.out).unwrap() {
            match event {
                Event::Headers { stream, .. } if self.conn.role() == Role::Server => {
                    self.streams.push(stream);
                }
                Event::Data { stream, bytes, .. } => {
                    self.n_bytes += bytes.len();
                    if self.is_reading {
                        self.conn.release(stream, bytes.len(), &mut self.out);
                    }
                }
                _ => {}
            }
        }
        self.input = input.to_vec();
    }
}

/// A node where `echo` is served, and its caller from another.
fn scene() -> (Scene, Peer) {
    let mut net = Net::new();
    let (node, other) = (net.admit("nas", "svc/*"), net.admit("pi", "svc/*"));
    let svids = net.svids(&node, &node.service("echo"));
    let local = Local {
        selectors: Vec::new(),
        backend: grpc(([127, 0, 0, 1], 1).into()),
        policy: route::Policy { allow: vec!["*".parse().unwrap()] },
        svids: Ok(svids.clone()),
    };
    let table = Table {
        mesh: node.domain.mesh().clone(),
        node: node.domain.clone(),
        local: [("echo".parse().unwrap(), local)].into(),
        endpoints: Default::default(),
    };
    let member = net.mesh.members.get(&other.domain).unwrap().clone();
    let caller = Caller {
        id: other.service("web"),
        not_after: member.not_after,
        who: Who::Member(member),
        algorithm: Algorithm::MlDsa65,
        carried: None,
    };
    let own = node.service("echo");
    let (group, signature, own_signature, alpn) = (None, None, None, b"h2".to_vec());
    let peer = Peer { caller, own, group, signature, own_signature, alpn };
    let own = svids.borrow().clone();
    (Scene::new(Config::default(), table, net.map.subscribe(), (peer.clone(), own), Now::read()), peer)
}

/// Lets all of them act until nothing happens any more.
fn settle(rig: &mut Rig, ends: &mut [&mut End]) {
    for _ in 0..50 {
        rig.turn();
        ends.iter_mut().for_each(|end| end.goes_on());
    }
}

/// A call that has come to its service.
fn called(scene: &Scene, peer: &Peer) -> (Rig, End, End) {
    let mut rig = scene.rig();
    let mut caller = End::new(rig.guest(peer).unwrap(), Role::Client);
    caller.asks();
    settle(&mut rig, &mut [&mut caller]);
    let mut service = End::new(rig.accept(scene, 0).unwrap(), Role::Server);
    settle(&mut rig, &mut [&mut caller, &mut service]);
    assert_eq!(service.streams.len(), 1);
    (rig, caller, service)
}

#[test]
fn a_call_that_a_service_refuses_to_look_at_is_sent_once_more() {
    let (scene, peer) = scene();
    let (mut rig, mut caller, mut service) = called(&scene, &peer);
    for n_sent in [2, 2] {
        let stream = *service.streams.last().unwrap();
        service.conn.reset(stream, Code::REFUSED_STREAM, &mut service.out);
        settle(&mut rig, &mut [&mut caller, &mut service]);
        assert_eq!(service.streams.len(), n_sent);
    }
    assert_eq!((rig.held().calls, caller.conn.n_streams()), (0, 0), "its caller was told");
    assert_eq!(rig.handle().refused(Reason::ServiceUnreachable), 1);
}

#[test]
fn an_answer_that_waits_when_its_stream_is_reset_gives_its_window_back() {
    let (scene, peer) = scene();
    let (mut rig, mut caller, mut service) = called(&scene, &peer);
    caller.is_reading = false;
    // The caller's windows are shut, and nothing more is wanted of the request.
    let settings = [(4, 1000)];
    wire::frame::write_settings(&settings, &mut caller.out);
    settle(&mut rig, &mut [&mut caller, &mut service]);
    let (stream, out) = (service.streams[0], &mut service.out);
    let head = fields(&[(Name::Status, "200"), (Name::ContentType, "application/grpc")]);
    service.conn.send_headers(stream, &head, false, out).unwrap();
    let sent = service.conn.send_data(Instant::now(), stream, &[7; 50_000], true, out);
    assert_eq!(sent, Ok(50_000));
    service.conn.reset(stream, Code::NO_ERROR, out);
    settle(&mut rig, &mut [&mut caller, &mut service]);
    assert_eq!((caller.n_bytes, rig.held().bytes, rig.held().calls), (1000, 49_000, 1));
    wire::frame::write_window_update(caller.streams[0].id(), 100_000, &mut caller.out);
    settle(&mut rig, &mut [&mut caller, &mut service]);
    assert_eq!((caller.n_bytes, rig.held().bytes), (50_000, 0));
    drop((caller, service));
    for _ in 0..4 {
        rig.turn();
        rig.pass(Duration::from_secs(60));
    }
    assert_eq!(rig.held(), Held::default());
}
