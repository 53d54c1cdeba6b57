//! Finds nodes of the same mesh on the links of this machine, by mDNS (RFC 6762, RFC 6763).
//!
//! A node says where its mesh port is when it comes, when its addresses change and when it is asked; it asks
//! while a member is not linked. What is heard becomes a hint of where to dial and is never trusted. There is no
//! cache: a packet that tells less than all of a node tells nothing. What is heard is bounded by `hints`, what is
//! read and said by `ear` and `voice`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use identity::Members;
use types::PeerId;

use crate::gossip::unless_panicked;
use crate::handle::Handle;
use crate::metrics::Count;
use types::chain;

mod card;
mod ear;
mod hints;
mod mates;
mod voice;
mod wires;

use card::{Card, Found};
use ear::Ear;
use hints::{Hints, Verdict};
use mates::Mates;
use wires::{WIRES_MAX, Wire, wires};

/// How often the machine's interfaces are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Nodes that were heard and wait to be looked at. Beyond that they are shed and counted.
const FOUND_MAX: usize = 64;

/// mDNS, not yet running.
pub(crate) struct Mdns {
    listen: Vec<SocketAddr>,
    card: Arc<Card>,
    mates: Mates,
    hints: Hints,
    ears: BTreeMap<String, (Wire, CancellationToken, AbortHandle)>,
    tasks: JoinSet<()>,
    /// Interfaces that were complained of.
    failing: BTreeSet<String>,
    is_over: bool,
}

impl Mdns {
    /// mDNS for a node that listens on `listen`; `None` if only this machine can reach that.
    pub(crate) fn new(
        own: PeerId,
        listen: &[SocketAddr],
        members: watch::Receiver<Arc<Members>>,
        links: Handle,
    ) -> Option<Self> {
        if listen.iter().all(|it| it.ip().is_loopback()) {
            debug!("mDNS is off: the mesh listens on the loopback only");
            return None;
        }
        let card = Card::new(&members.borrow().fingerprint(), own);
        Some(Self {
            listen: listen.to_vec(),
            card: Arc::new(card),
            mates: Mates { own, members, links },
            hints: Hints::default(),
            ears: BTreeMap::new(),
            tasks: JoinSet::new(),
            failing: BTreeSet::new(),
            is_over: false,
        })
    }

    /// Speaks and listens on every interface until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let (heard, mut found) = mpsc::channel(FOUND_MAX);
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = look.tick() => self.look(&heard, &shutdown),
                Some(node) = found.recv() => self.on_found(&node),
                Some(ended) = self.tasks.join_next() => unless_panicked(ended),
            }
        }
        while let Some(ended) = self.tasks.join_next().await {
            unless_panicked(ended);
        }
        self.mates.links.mdns_wires.store(0, Ordering::Relaxed);
    }

    /// Has an ear on every wire as it is now, and on no other.
    fn look(&mut self, heard: &mpsc::Sender<Found>, shutdown: &CancellationToken) {
        let (now, n_left_out) = match if_addrs::get_if_addrs() {
            Ok(interfaces) => wires(&interfaces, &self.listen),
            Err(err) => {
                warn!(error = %err, "failed to list the interfaces for mDNS: set mesh.seeds instead");
                return;
            }
        };
        if n_left_out > 0 && !std::mem::replace(&mut self.is_over, true) {
            warn!(
                n_left_out,
                "mDNS is on for the first {WIRES_MAX} interfaces only: set mesh.listen to fewer"
            );
        }
        self.ears.retain(|name, (wire, stop, task)| {
            let is_kept = now.get(name) == Some(wire) && !task.is_finished();
            if !is_kept {
                stop.cancel();
            }
            is_kept
        });
        self.failing.retain(|name| now.contains_key(name));
        for (name, wire) in now {
            if self.ears.contains_key(&name) {
                continue;
            }
            match Ear::open(wire.clone(), Arc::clone(&self.card), self.mates.clone(), heard.clone()) {
                Ok(ear) => {
                    info!(network.interface.name = name, "mDNS is on");
                    self.failing.remove(&name);
                    let stop = shutdown.child_token();
                    let task = self.tasks.spawn(ear.run(stop.clone()));
                    self.ears.insert(name, (wire, stop, task));
                }
                Err(err) if self.failing.insert(name.clone()) => {
                    let advice = advice(err.kind());
                    warn!(
                        network.interface.name = name,
                        error = chain(&err),
                        "failed to start mDNS: {advice}"
                    );
                }
                Err(_) => {}
            }
        }
        self.mates.links.mdns_wires.store(self.ears.len(), Ordering::Relaxed);
    }

    fn on_found(&mut self, node: &Found) {
        let Some(standing) = self.mates.wants(node.peer) else { return };
        for host in &node.hosts {
            let address = SocketAddr::new(*host, node.port);
            match self.hints.offer(Instant::now(), node.peer, standing, address) {
                Verdict::Taken => {
                    debug!(peer.id = %node.peer, network.peer.address = %address, "found a node by mDNS");
                    self.mates.count(Count::MdnsFound);
                    self.mates.links.hint(node.peer, address);
                }
                Verdict::Shed => self.mates.count(Count::MdnsShed),
                Verdict::Known => {}
            }
        }
    }
}

/// What to do when the network refuses multicast. The node runs on without.
const fn advice(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::AddrInUse => {
            "another program keeps UDP port 5353 for itself: stop it, or set mesh.mdns = false"
        }
        io::ErrorKind::PermissionDenied => {
            "allow UDP port 5353 in the firewall and the sandbox, or set mesh.mdns = false"
        }
        _ => "the interface carries no multicast: mend that, or set mesh.mdns = false and mesh.seeds",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_says_what_to_do() {
        #[track_caller]
        fn check(kind: io::ErrorKind, expected: &str) {
            assert!(advice(kind).contains(expected), "{}", advice(kind));
            assert!(advice(kind).contains("mesh.mdns = false"));
        }
        check(io::ErrorKind::AddrInUse, "stop it");
        check(io::ErrorKind::PermissionDenied, "firewall");
        check(io::ErrorKind::NetworkUnreachable, "no multicast");
    }
}
