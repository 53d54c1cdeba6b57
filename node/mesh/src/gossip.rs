//! Runs the membership core over streams: who is alive, and what each node says of itself.
//!
//! One task owns the core. Others see a [`Snapshot`], and put entries into this node's own record by message.
//! Whom the map admits is followed; whom to trust is not decided here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tls::{frame, random};
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use identity::Members;
use membership::{Effect, Input, Liveness, Membership, Outbox, PACKET_LEN_MAX, Record};
use types::{Keys, Now, PeerId, Refusal, Timestamp};

use crate::error::Error;
use crate::handle::Handle;
use crate::link;
use crate::metrics::Count;
use crate::protocol::{Incoming, Limits, Protocol};
use crate::reach::{self, Reach};
use crate::stream::Stream;

/// Packets of the membership core, one way on each stream.
pub const PROTOCOL: Protocol = Protocol::new("/sagemesh/membership/1");
/// A peer opens one stream, and a second one if it lost the first and this side has not noticed.
const LIMITS: Limits = Limits { per_peer: 2, total: 1024, waiting: 64, wait_max: Duration::from_secs(10) };
/// Packets that wait to be read by the core, of all peers. Beyond that readers wait.
const INBOX_MAX: usize = 256;
/// Packets that wait to be written to one peer. Beyond that they are shed and counted.
const LINE_MAX: usize = 64;
/// How long one packet may take to be written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Packets kept for a peer that is about to be linked, and for how long.
const WAITING_MAX: usize = 4;
const WAITING_FOR: Duration = Duration::from_secs(3);
/// Commands that wait. Beyond that their senders wait.
const COMMANDS_MAX: usize = 64;
/// Least time from one snapshot to the next.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);
/// How often the map is looked at though nothing changed: records end by themselves.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the last words may take to be sent.
const LEAVE_WITHIN: Duration = Duration::from_millis(500);

/// What is known of one admitted peer.
#[derive(Clone, Debug)]
pub struct Known {
    /// Whether it is there.
    pub liveness: Liveness,
    /// What it last said of itself.
    pub record: Option<Arc<Record>>,
    /// Since when its liveness is what it is.
    pub since: Timestamp,
}

impl Known {
    /// Where it says that it can be reached.
    pub fn reach(&self) -> Option<Reach> {
        Reach::from_bytes(self.record.as_ref()?.value(reach::KEY)?)
    }
}

/// All admitted peers but this node.
pub type Snapshot = Arc<BTreeMap<PeerId, Known>>;

/// Entries of this node's record, by key: what to set, and `None` to remove.
pub type Entries = BTreeMap<String, Option<Vec<u8>>>;

struct Command {
    entries: Entries,
    answer: oneshot::Sender<Result<(), Refusal>>,
}

/// What other rooms hold of gossip. Cheap to clone.
#[derive(Clone)]
pub struct Gossiping {
    commands: mpsc::Sender<Command>,
    peers: watch::Receiver<Snapshot>,
}

impl Gossiping {
    /// Sets entries of this node's record; they are signed and spread soon, together.
    ///
    /// # Errors
    /// If an entry or the record becomes too large: those before it are set. Once the node stops, nothing is
    /// set and nothing is said of it.
    pub async fn put(&self, entries: Entries) -> Result<(), Refusal> {
        let (answer, answered) = oneshot::channel();
        if self.commands.send(Command { entries, answer }).await.is_err() {
            return Ok(());
        }
        answered.await.unwrap_or(Ok(()))
    }

    /// Who is there, and what each says.
    pub fn peers(&self) -> watch::Receiver<Snapshot> {
        self.peers.clone()
    }
}

/// The membership core with its streams, not yet running.
pub struct Gossip {
    core: Membership,
    out: Outbox,
    links: Handle,
    members: watch::Receiver<Arc<Members>>,
    incoming: Incoming,
    commands: mpsc::Receiver<Command>,
    known: BTreeMap<PeerId, Known>,
    /// Where peers were when this node ran last.
    remembered: BTreeMap<PeerId, Reach>,
    snapshot: watch::Sender<Snapshot>,
    publish_at: Option<Instant>,
    differing: mpsc::Sender<PeerId>,
    lines: BTreeMap<PeerId, mpsc::Sender<Vec<u8>>>,
    writers: JoinSet<()>,
    waiting: BTreeMap<PeerId, VecDeque<(Instant, Vec<u8>)>>,
}

impl Gossip {
    /// Takes up the protocol. `remembered` says where peers were found before; whose identity items differ is
    /// told to `differing`, and not again while that is full.
    ///
    /// # Errors
    /// If the node's key is not at hand, or the protocol is served already.
    pub fn new(
        config: membership::Config,
        keys: Arc<dyn Keys>,
        links: Handle,
        members: watch::Receiver<Arc<Members>>,
        remembered: BTreeMap<PeerId, Reach>,
        differing: mpsc::Sender<PeerId>,
    ) -> Result<(Self, Gossiping), Error> {
        let rng = ChaCha8Rng::from_seed(random::bytes());
        let core = Membership::new(Now::read(), config, keys, rng).map_err(|_| Error::NotAMember)?;
        let incoming = links.accept(PROTOCOL, LIMITS)?;
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let (snapshot, peers) = watch::channel(Snapshot::default());
        let gossip = Self {
            core,
            out: Outbox::default(),
            links,
            members,
            incoming,
            commands,
            known: BTreeMap::new(),
            remembered,
            snapshot,
            publish_at: None,
            differing,
            lines: BTreeMap::new(),
            writers: JoinSet::new(),
            waiting: BTreeMap::new(),
        };
        Ok((gossip, Gossiping { commands: sender, peers }))
    }

    /// Follows the members until `shutdown`, then says that this node leaves.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let (post, mut inbox) = mpsc::channel(INBOX_MAX);
        let mut readers = JoinSet::new();
        let mut linked = self.links.peers();
        let mut held = linked.borrow_and_update().clone();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.admit();
        self.tell_items();
        loop {
            let due = self.core.next_deadline().into_iter().chain(self.publish_at).min();
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(stream) = self.incoming.next() => {
                    readers.spawn(read(stream, post.clone()));
                }
                Some((from, bytes)) = inbox.recv() => {
                    self.handle(Input::Received { from, bytes: &bytes });
                }
                Some(command) = self.commands.recv() => self.command(command),
                Ok(()) = self.members.changed() => {
                    self.admit();
                    self.tell_items();
                }
                Ok(()) = linked.changed() => {
                    let now = linked.borrow_and_update().clone();
                    self.relink(&held, &now);
                    held = now;
                }
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {
                    self.handle(Input::Tick);
                }
                Some(ended) = readers.join_next() => unless_panicked(ended),
                Some(ended) = self.writers.join_next() => unless_panicked(ended),
                _ = look.tick() => {
                    self.admit();
                    self.expire();
                }
            }
            if self.publish_at.is_some_and(|at| at <= Instant::now()) {
                self.publish_at = None;
                self.snapshot.send_replace(Arc::new(self.known.clone()));
            }
        }
        self.leave().await;
    }

    fn handle(&mut self, input: Input<'_>) {
        self.core.handle(Now::read(), input, &mut self.out);
        for effect in std::mem::take(&mut self.out.effects) {
            self.act(effect);
        }
    }

    fn act(&mut self, effect: Effect) {
        match effect {
            Effect::Send { to, bytes } => self.send(to, bytes),
            Effect::LivenessChanged { peer, liveness } => {
                let Some(known) = self.known.get_mut(&peer) else { return };
                info!(peer.id = %peer, sagemesh.liveness = ?liveness, "saw a member change");
                *known = Known { liveness, since: Now::read().wall, ..known.clone() };
                self.changed();
            }
            Effect::RecordChanged(peer) => {
                let record = self.core.record(peer).cloned().map(Arc::new);
                if let Some(known) = self.known.get_mut(&peer) {
                    known.record = record;
                }
                self.changed();
                self.seek(peer);
            }
            Effect::LinksChanged => {
                let wanted: Vec<_> = self.core.links().collect();
                for peer in wanted {
                    self.seek(peer);
                }
            }
            // It is told again by the next exchange.
            Effect::ItemsDiffer(peer) => drop(self.differing.try_send(peer)),
            Effect::Refused { peer, refusal } => {
                debug!(peer.id = peer.map(|it| it.to_string()), error.type = %refusal.reason, error = %refusal, "refused gossip");
            }
            Effect::Unavailable(err) => warn!(error = %err, "failed to sign this node's record"),
        }
    }

    fn command(&mut self, command: Command) {
        let now = Now::read();
        let put = |(key, value): (&String, &Option<Vec<u8>>)| match value {
            Some(value) => self.core.put(now, key, value),
            None => {
                self.core.delete(now, key);
                Ok(())
            }
        };
        let result = command.entries.iter().try_for_each(put);
        // Whoever asked may have gone.
        let _ = command.answer.send(result);
        self.handle(Input::Tick);
    }

    /// Follows whom the map admits now, and nobody else.
    fn admit(&mut self) {
        let members = Arc::clone(&self.members.borrow_and_update());
        let now = Now::read();
        let is_there = |peer: &PeerId| {
            *peer != self.core.me() && members.by_peer(peer).is_some_and(|it| it.not_after > now.wall)
        };
        let gone: Vec<_> = self.known.keys().filter(|peer| !is_there(peer)).copied().collect();
        let peers = members.iter().map(|member| member.peer);
        let come: Vec<_> = peers.filter(|peer| is_there(peer) && !self.known.contains_key(peer)).collect();
        for peer in gone {
            self.known.remove(&peer);
            self.waiting.remove(&peer);
            self.changed();
            self.handle(Input::Removed(peer));
        }
        for peer in come {
            let known = Known { liveness: Liveness::Unknown, record: None, since: now.wall };
            self.known.insert(peer, known);
            self.changed();
            self.handle(Input::Admitted(peer));
            match self.links.link(&peer) {
                // It brought its record with its link.
                Some(_) => self.handle(Input::Connected(peer)),
                None => self.seek(peer),
            }
        }
    }

    /// Notes what this node's map holds now. Dear: only when it changed.
    fn tell_items(&mut self) {
        let summary = self.members.borrow().summary();
        self.handle(Input::Items(summary));
    }

    fn relink(&mut self, before: &link::Snapshot, now: &link::Snapshot) {
        for peer in before.keys().filter(|peer| !now.contains_key(peer)) {
            self.lines.remove(peer);
            self.handle(Input::Disconnected(*peer));
        }
        for peer in now.keys().filter(|peer| !before.contains_key(peer)) {
            for (_, bytes) in self.waiting.remove(peer).unwrap_or_default() {
                self.send(*peer, bytes);
            }
            self.handle(Input::Connected(*peer));
        }
    }

    fn send(&mut self, to: PeerId, bytes: Vec<u8>) {
        let bytes = match self.lines.get(&to).map(|line| line.try_reserve()) {
            Some(Ok(place)) => return place.send(bytes),
            Some(Err(mpsc::error::TrySendError::Full(()))) => {
                return self.links.counts.add(Count::PacketShed);
            }
            Some(Err(mpsc::error::TrySendError::Closed(()))) | None => bytes,
        };
        if self.links.link(&to).is_none() {
            return self.wait(to, bytes);
        }
        let (line, packets) = mpsc::channel(LINE_MAX);
        if line.try_send(bytes).is_ok() {
            self.lines.insert(to, line);
            self.writers.spawn(write(self.links.clone(), to, packets));
        }
    }

    /// Keeps a packet for a peer that may be linked in a moment.
    fn wait(&mut self, to: PeerId, bytes: Vec<u8>) {
        // INVARIANT: only of admitted peers, so the map is as bounded as they are.
        if !self.known.contains_key(&to) {
            return;
        }
        let waiting = self.waiting.entry(to).or_default();
        let is_first = waiting.is_empty();
        if waiting.len() == WAITING_MAX {
            waiting.pop_front();
        }
        waiting.push_back((Instant::now(), bytes));
        if is_first {
            self.seek(to);
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        for packets in self.waiting.values_mut() {
            packets.retain(|(at, _)| now.saturating_duration_since(*at) < WAITING_FOR);
        }
        self.waiting.retain(|_, packets| !packets.is_empty());
        self.lines.retain(|_, line| !line.is_closed());
    }

    /// Says where a peer may be found that is not linked.
    fn seek(&self, peer: PeerId) {
        let has_left = self.known.get(&peer).is_some_and(|known| known.liveness == Liveness::Left);
        if has_left || self.links.link(&peer).is_some() {
            return;
        }
        let said = self.known.get(&peer).and_then(Known::reach);
        for reach in [said.as_ref(), self.remembered.get(&peer)].into_iter().flatten() {
            for address in reach.links() {
                self.links.hint(peer, address);
            }
        }
    }

    fn changed(&mut self) {
        self.publish_at.get_or_insert_with(|| Instant::now() + PUBLISH_EVERY);
    }

    async fn leave(mut self) {
        self.handle(Input::Leave);
        // The core lets last words wait for company as any other.
        let say = async {
            while let Some(due) = self.core.next_deadline() {
                sleep_until(due.into()).await;
                self.handle(Input::Tick);
            }
        };
        // What is cut short concerns others.
        let _ = timeout(LEAVE_WITHIN, say).await;
        // Closing the lines ends their writers once they have written what waits.
        self.lines.clear();
        let all = async { while self.writers.join_next().await.is_some() {} };
        if timeout(LEAVE_WITHIN, all).await.is_err() {
            info!("left before all peers had heard of it");
        }
    }
}

/// A panic in a stream's task is a fault of this node's own: it stops the node.
pub(crate) fn unless_panicked(ended: Result<(), JoinError>) {
    if let Err(err) = ended
        && err.is_panic()
    {
        std::panic::resume_unwind(err.into_panic());
    }
}

/// Reads the packets of one stream until it ends.
async fn read(mut stream: Stream, post: mpsc::Sender<(PeerId, Vec<u8>)>) {
    let peer = stream.peer();
    loop {
        match frame::read(&mut stream, PACKET_LEN_MAX).await {
            Ok(Some(bytes)) => {
                if post.send((peer, bytes)).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(err) => return debug!(peer.id = %peer, error = %err, "lost a stream of gossip"),
        }
    }
}

/// Writes packets to one peer until nobody has any, or the stream breaks. What waits then is lost, as the core
/// expects.
async fn write(links: Handle, peer: PeerId, mut packets: mpsc::Receiver<Vec<u8>>) {
    let mut stream = match links.open(peer, PROTOCOL).await {
        Ok(stream) => stream,
        Err(err) => return debug!(peer.id = %peer, error = %err, "opened no stream for gossip"),
    };
    while let Some(bytes) = packets.recv().await {
        match timeout(WRITE_TIMEOUT, frame::write(&mut stream, &bytes)).await {
            Ok(Ok(())) => {}
            Ok(Err(err)) => return debug!(peer.id = %peer, error = %err, "lost a stream for gossip"),
            Err(_) => return debug!(peer.id = %peer, "gave up a stream for gossip: the peer does not read"),
        }
    }
    // Fails if the peer has gone, and then there is nothing to end.
    let _ = stream.shutdown().await;
}
