//! What happened so far, from what was said: who is there, how calls fare, and what the loss of a node did.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use proto::mesh::v1::{Liveness, Peer};
use proto::service::v1::{Health, Service};
use types::Reason;

use super::watch::Said;
use crate::shop::Line;

/// Lines of the customers that make up "now": a second.
pub(super) const NOW_LINES: usize = 4;
/// How long after a node was killed the calls are told of that were in flight on it: a customer waits for two
/// seconds at most, and prints every quarter of one.
const IN_FLIGHT_FOR: Duration = Duration::from_millis(2500);
/// Remarks that are kept.
const REMARKS_MAX: usize = 200;

/// One node, as it and the others have it.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) address: String,
    /// What it says of the others. Empty while it does not answer.
    pub(super) peers: Vec<Peer>,
}

/// A node that was killed, and what followed.
#[derive(Clone, Debug)]
pub(super) struct Loss {
    pub(super) node: usize,
    pub(super) at: Instant,
    /// By survivor, when it no longer held the node alive, and when it held it dead.
    noticed: BTreeMap<usize, Instant>,
    dead: BTreeMap<usize, Instant>,
    /// The last time that calls failed, or were answered there.
    last_touched: Option<Instant>,
    pub(super) failed: u64,
    /// Those of them that had been sent and not answered when the node died: none but the caller can know
    /// whether they may be repeated.
    pub(super) in_flight: u64,
    /// Calls that went well after the last that did not.
    ok_since: u64,
    pub(super) restarted: Option<Instant>,
    back: BTreeSet<usize>,
    all_back: Option<Duration>,
    serves: Option<Duration>,
}

/// What happened so far.
#[derive(Debug)]
pub(super) struct Story {
    start: Instant,
    pub(super) nodes: Vec<Seen>,
    pub(super) services: Vec<Service>,
    pub(super) recent: VecDeque<Line>,
    pub(super) total: Option<Line>,
    pub(super) calls: u64,
    pub(super) failed: u64,
    pub(super) by_reason: BTreeMap<String, u64>,
    pub(super) by_node: BTreeMap<String, u64>,
    pub(super) loss: Option<Loss>,
    /// Key-exchange groups and signatures of links that were seen.
    pub(super) groups: BTreeSet<String>,
    pub(super) signatures: BTreeSet<String>,
    /// What was worth a line, and when.
    pub(super) remarks: VecDeque<(Duration, String)>,
    /// How many there were in all.
    pub(super) n_remarks: usize,
    pub(super) has_ended: bool,
}

impl Story {
    pub(super) fn new(nodes: Vec<Seen>) -> Self {
        Self {
            start: Instant::now(),
            nodes,
            services: Vec::new(),
            recent: VecDeque::new(),
            total: None,
            calls: 0,
            failed: 0,
            by_reason: BTreeMap::new(),
            by_node: BTreeMap::new(),
            loss: None,
            groups: BTreeSet::new(),
            signatures: BTreeSet::new(),
            remarks: VecDeque::new(),
            n_remarks: 0,
            has_ended: false,
        }
    }

    /// From now on time counts.
    pub(super) fn begin(&mut self) {
        self.start = Instant::now();
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub(super) fn hear(&mut self, said: Said) {
        match said {
            Said::Peers(idx, peers) => self.hear_peers(idx, peers),
            Said::Services(services) => self.services = services,
            Said::Nothing(idx) => self.nodes[idx].peers.clear(),
            Said::Calls(line) => self.hear_calls(line),
            Said::End => self.has_ended = true,
        }
    }

    /// What the others have of a node: the worst of it, unless nobody says anything.
    pub(super) fn standing(&self, node: usize) -> Option<&Peer> {
        let own = &self.nodes[node].name;
        let others = self.nodes.iter().enumerate().filter(|(idx, _)| *idx != node);
        let seen = others.filter_map(|(_, other)| other.peers.iter().find(|peer| peer.node == *own));
        seen.max_by_key(|peer| (peer.liveness() as i32, !peer.linked))
    }

    /// What is not as it should be before customers may come. Empty: nothing.
    pub(super) fn missing(&self, n_services: usize) -> String {
        let mut missing = Vec::new();
        for node in &self.nodes {
            let others = self.nodes.iter().filter(|other| other.name != node.name);
            let is_there = |name: &str| {
                let peer = node.peers.iter().find(|peer| peer.node == name);
                peer.is_some_and(|peer| peer.linked && peer.liveness() == Liveness::Alive)
            };
            let unseen: Vec<_> = others.map(|it| it.name.as_str()).filter(|name| !is_there(name)).collect();
            if !unseen.is_empty() {
                missing.push(format!("{} has no link to {}", node.name, unseen.join(", ")));
            }
        }
        let served = self.services.iter().filter(|it| it.name != "load");
        let ill = served.clone().filter(|it| it.health() != Health::Healthy);
        missing.extend(ill.map(|it| format!("{} on {}: {} {}", it.name, it.node, it.reason, it.detail)));
        let n_seen = served.count();
        if n_seen < n_services {
            missing.push(format!("{n_seen} of {n_services} services are known"));
        }
        missing.join("; ")
    }

    pub(super) fn lose(&mut self, node: usize) {
        self.remark(format!("{} is killed (SIGKILL)", self.nodes[node].name));
        self.loss = Some(Loss {
            node,
            at: Instant::now(),
            noticed: BTreeMap::new(),
            dead: BTreeMap::new(),
            last_touched: None,
            failed: 0,
            in_flight: 0,
            ok_since: 0,
            restarted: None,
            back: BTreeSet::new(),
            all_back: None,
            serves: None,
        });
    }

    pub(super) fn restart(&mut self) {
        let Some(loss) = self.loss.as_mut() else { return };
        loss.restarted = Some(Instant::now());
        let text = format!("{} is started again", self.nodes[loss.node].name);
        self.remark(text);
    }

    pub(super) fn remark(&mut self, text: String) {
        if self.remarks.len() == REMARKS_MAX {
            self.remarks.pop_front();
        }
        self.n_remarks += 1;
        self.remarks.push_back((self.elapsed(), text));
    }

    fn hear_peers(&mut self, idx: usize, peers: Vec<Peer>) {
        for peer in peers.iter().filter(|peer| peer.linked) {
            self.groups.insert(peer.tls_group.clone());
            self.signatures.insert(peer.tls_signature.clone());
        }
        let n_nodes = self.nodes.len();
        let mut remarks = Vec::new();
        if let Some(loss) = self.loss.as_mut().filter(|loss| loss.node != idx) {
            let (observer, lost) = (&self.nodes[idx].name, &self.nodes[loss.node].name);
            if let Some(peer) = peers.iter().find(|peer| peer.node == *lost) {
                remarks = loss.hear(idx, observer, peer, n_nodes);
            }
        }
        for remark in remarks {
            self.remark(remark);
        }
        self.nodes[idx].peers = peers;
    }

    fn hear_calls(&mut self, line: Line) {
        if line.is_total {
            (self.calls, self.failed) = (line.calls, line.failed);
            self.by_reason.clone_from(&line.by_reason);
            self.total = Some(line);
            return;
        }
        self.calls += line.calls;
        self.failed += line.failed;
        for (of, from) in [(&mut self.by_reason, &line.by_reason), (&mut self.by_node, &line.by_node)] {
            for (name, n) in from {
                *of.entry(name.clone()).or_default() += n;
            }
        }
        let mut remarks = Vec::new();
        if let Some(loss) = self.loss.as_mut() {
            let lost = &self.nodes[loss.node].name;
            remarks = loss.count(lost, &line);
        }
        if line.failed > 0 {
            let reasons = line.by_reason.iter().map(|(reason, n)| format!("{n} {reason}"));
            remarks.push(format!("failed: {}", reasons.collect::<Vec<_>>().join(", ")));
        }
        for remark in remarks {
            self.remark(remark);
        }
        if self.recent.len() == NOW_LINES {
            self.recent.pop_front();
        }
        self.recent.push_back(line);
    }
}

impl Loss {
    /// What one survivor has of the node now. Answers what is worth a line.
    fn hear(&mut self, idx: usize, observer: &str, peer: &Peer, n_nodes: usize) -> Vec<String> {
        let lost = &peer.node;
        let since = |at: Instant| at.elapsed().as_secs_f64();
        let n_others = n_nodes - 1;
        let mut remarks = Vec::new();
        let mut note = |times: &mut BTreeMap<usize, Instant>, (one, all): (&str, &str)| {
            let Entry::Vacant(first) = times.entry(idx) else { return };
            first.insert(Instant::now());
            let after = since(self.at);
            if times.len() == 1 {
                remarks.push(format!("{observer} {one} after {after:.1} s, as the first"));
            }
            if times.len() == n_others {
                remarks.push(format!("all nodes {all} after {after:.1} s"));
            }
        };
        match (peer.liveness(), self.restarted) {
            (Liveness::Suspect, None) => {
                note(&mut self.noticed, (&format!("misses {lost}"), &format!("miss {lost}")));
            }
            (Liveness::Dead, None) => {
                note(&mut self.noticed, (&format!("misses {lost}"), &format!("miss {lost}")));
                note(&mut self.dead, (&format!("holds {lost} dead"), &format!("hold {lost} dead")));
            }
            (Liveness::Alive, Some(restarted))
                if peer.linked && self.back.insert(idx) && self.back.len() == n_others =>
            {
                self.all_back = Some(restarted.elapsed());
                remarks.push(format!("all nodes have {lost} back after {:.1} s", since(restarted)));
            }
            _ => {}
        }
        remarks
    }

    /// How calls fared since the line before. Answers what is worth a line.
    fn count(&mut self, lost: &str, line: &Line) -> Vec<String> {
        let is_there = line.by_node.get(lost).is_some_and(|n| *n > 0);
        let Some(restarted) = self.restarted else {
            self.failed += line.failed;
            if self.at.elapsed() <= IN_FLIGHT_FOR {
                let lost = line.by_reason.iter().filter(|(reason, _)| is_lost(reason));
                self.in_flight += lost.map(|(_, n)| n).sum::<u64>();
            }
            if line.failed > 0 || is_there {
                self.last_touched = Some(Instant::now());
                self.ok_since = 0;
            }
            self.ok_since += if line.failed == 0 { line.ok } else { 0 };
            return Vec::new();
        };
        if is_there && self.serves.is_none() {
            self.serves = Some(restarted.elapsed());
            return vec![format!(
                "{lost} answers calls again after {:.1} s",
                restarted.elapsed().as_secs_f64()
            )];
        }
        Vec::new()
    }

    /// Until every survivor missed the node. `None`: one never did.
    pub(super) fn detected(&self, n_nodes: usize) -> Option<Duration> {
        let all = self.noticed.len() + 1 >= n_nodes;
        self.noticed.values().max().filter(|_| all).map(|last| *last - self.at)
    }

    /// Until every survivor held the node dead.
    pub(super) fn dead(&self, n_nodes: usize) -> Option<Duration> {
        let all = self.dead.len() + 1 >= n_nodes;
        self.dead.values().max().filter(|_| all).map(|last| *last - self.at)
    }

    /// Until the last call that failed, or was answered by the node: calls go elsewhere from then on. `None`:
    /// none went well since.
    pub(super) fn shifted(&self) -> Option<Duration> {
        let last = self.last_touched.map_or(Duration::ZERO, |last| last - self.at);
        (self.ok_since > 0).then_some(last)
    }

    /// From the restart until all nodes had it back.
    pub(super) fn back(&self) -> Option<Duration> {
        self.all_back
    }

    /// From the restart until it answered calls.
    pub(super) fn serves(&self) -> Option<Duration> {
        self.serves
    }
}

/// Whether the mesh says of a call that it broke off after it had been sent; what it has not sent, it sends
/// elsewhere.
fn is_lost(reason: &str) -> bool {
    reason.split_once('/').is_some_and(|(_, mesh)| mesh == Reason::CallLost.code())
}
