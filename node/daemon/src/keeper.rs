//! The one owner of the member map: merges what peers give, signs what this node may sign, keeps it on disk and
//! shows it to all other rooms.
//!
//! What is signed here is on disk before anyone sees it: a signer whose count went back after a crash would
//! contradict itself. What peers gave counts at once, even while the disk is full: a revocation must not wait.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use identity::author::{BEACON_EVERY, MEMBER_RENEW_AFTER};
use identity::join::Invitations;
use identity::{AuthorityId, Members, SoftKeys};
use mesh::sync::Given;
use store::{Change, Durability};
use tls::random;
use types::event::{Event, EventId, Priority};
use types::key::Keys;
use types::{Digest, Envelope, Now, Reason, Refusal, SpiffeId, TrustDomain};

use crate::state;

/// Jobs that wait. Beyond that whoever asks waits.
const JOBS_MAX: usize = 64;
/// Batches of statements that wait. Beyond that comparisons with peers wait.
const GIVEN_MAX: usize = 16;
/// How often what time brings is looked at: beacons, renewals, records that ended.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Most records renewed at one look: the rest follows a minute later.
const RENEWALS_MAX: usize = 16;
/// How often what ended long ago is dropped.
const PRUNE_EVERY: Duration = Duration::from_secs(86_400);

/// What a job may change, and what it may sign with.
#[derive(Clone)]
pub struct Draft {
    /// The map.
    pub members: Members,
    /// Invitations that this node made.
    pub invitations: Invitations,
    /// This node.
    pub own: TrustDomain,
    /// Its keys.
    pub keys: Arc<dyn Keys>,
    /// The keys of a signer, if it is one.
    pub signer: Option<Arc<SoftKeys>>,
    changes: Vec<Change>,
    events: Vec<Event>,
}

impl Draft {
    /// The keys that this node signs statements with.
    ///
    /// # Errors
    /// [`Reason::NotASigner`].
    pub fn signer(&self) -> Result<Arc<SoftKeys>, Refusal> {
        let none = || Reason::NotASigner.because(format!("`{}` holds no keys of a signer", self.own.node()));
        self.signer.clone().ok_or_else(none)
    }

    /// Merges what was signed here, and notes for the audit who did what.
    ///
    /// # Errors
    /// What [`Members::merge`] says.
    pub fn sign(
        &mut self,
        statement: Envelope,
        now: Now,
        kind: &'static str,
        subject: &str,
        data: serde_json::Value,
    ) -> Result<(), Refusal> {
        self.members.merge(statement)?;
        self.events.push(Event {
            id: EventId(random::bytes()),
            kind: kind.to_owned(),
            source: SpiffeId::node(self.own.clone()).to_string(),
            subject: subject.to_owned(),
            time: now.wall,
            priority: Priority::Audit,
            data,
        });
        Ok(())
    }
}

/// Runs on the draft; answers whether to keep it, and what to do once it is kept or was not.
type Job = Box<dyn FnOnce(&mut Draft, Now) -> (bool, Answer) + Send>;
type Answer = Box<dyn FnOnce(Result<(), Refusal>) + Send>;

/// What other rooms hold of the keeper. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    jobs: mpsc::Sender<Job>,
    given: mpsc::Sender<Given>,
    members: watch::Receiver<Arc<Members>>,
}

impl Handle {
    /// The map, now and in future.
    pub fn members(&self) -> watch::Receiver<Arc<Members>> {
        self.members.clone()
    }

    /// Where statements of peers go.
    pub fn given(&self) -> mpsc::Sender<Given> {
        self.given.clone()
    }

    /// Changes the map: all that `job` did counts and is on disk, or nothing did.
    ///
    /// # Errors
    /// What `job` says, or [`Reason::NotServing`] if the node stops or cannot write.
    pub async fn change<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Draft, Now) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |draft, now| {
            let result = job(draft, now);
            let is_kept = result.is_ok();
            let tell: Answer = Box::new(move |kept| {
                // Whoever asked may have gone.
                let _ = answer.send(result.and_then(|done| kept.map(|()| done)));
            });
            (is_kept, tell)
        });
        let stopping = || Reason::NotServing.because("the node is stopping");
        self.jobs.send(job).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }

    /// Notes that a peer was verified: it stays welcome when beacons fail to come.
    pub async fn verified(&self, authority: AuthorityId) {
        if self.members.borrow().is_verified(authority) {
            return;
        }
        let noted = self.change(move |draft, _| {
            draft.members.mark_verified(authority);
            draft.changes.push(state::put_verified(authority));
            Ok(())
        });
        if let Err(refusal) = noted.await {
            warn!(error = %refusal, "failed to note a verified peer");
        }
    }
}

/// The owner of the map, not yet running.
pub struct Keeper {
    draft: Draft,
    store: store::Handle,
    /// What the database holds.
    kept: BTreeSet<Digest>,
    members: watch::Sender<Arc<Members>>,
    jobs: mpsc::Receiver<Job>,
    given: mpsc::Receiver<Given>,
}

impl Keeper {
    /// Takes over what the state directory holds.
    pub fn new(known: state::Known, store: store::Handle) -> (Self, Handle) {
        let (jobs, queue) = mpsc::channel(JOBS_MAX);
        let (given, batches) = mpsc::channel(GIVEN_MAX);
        let kept = digests(&known.members);
        let (members, seen) = watch::channel(Arc::new(known.members.clone()));
        let draft = Draft {
            members: known.members,
            invitations: known.invitations,
            own: known.own,
            keys: known.keys,
            signer: known.signer.map(Arc::new),
            changes: Vec::new(),
            events: Vec::new(),
        };
        let keeper = Self { draft, store, kept, members, jobs: queue, given: batches };
        (keeper, Handle { jobs, given, members: seen })
    }

    /// Serves until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pruned = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(job) = self.jobs.recv() => self.job(job).await,
                Some(given) = self.given.recv() => self.merge(given).await,
                _ = look.tick() => {
                    let now = Now::read();
                    if pruned.is_none_or(|at: Instant| now.mono.duration_since(at) >= PRUNE_EVERY) {
                        self.draft.members.prune(now);
                        pruned = Some(now.mono);
                    }
                    self.sign_what_is_due(now).await;
                }
            }
        }
    }

    async fn job(&mut self, job: Job) {
        let mut draft = self.draft.clone();
        let (is_kept, answer) = job(&mut draft, Now::read());
        if !is_kept {
            return answer(Ok(()));
        }
        let changed = state::changed_invitations(&self.draft.invitations, &draft.invitations);
        draft.changes.extend(changed);
        let kept = self.keep(&mut draft).await;
        if kept.is_ok() {
            self.draft = draft;
            self.publish();
        }
        answer(kept);
    }

    async fn merge(&mut self, given: Given) {
        let n_given = given.statements.len();
        let results = self.draft.members.merge_all(given.statements);
        let n_new = results.iter().filter(|(_, it)| matches!(it, Ok(identity::Merged::Added))).count();
        let refused = results.iter().find_map(|(_, it)| it.as_ref().err());
        if let Some(refusal) = refused {
            info!(peer.id = %given.from, error.type = %refusal.reason, error = %refusal, "refused a statement of a peer");
        }
        if n_new == 0 && refused.is_none() {
            return;
        }
        info!(peer.id = %given.from, n_given, n_new, "learnt of members");
        let mut draft = self.draft.clone();
        // What cannot be written now is written with the next change.
        if let Err(refusal) = self.keep(&mut draft).await {
            warn!(error = %refusal, "failed to keep what a peer gave");
        }
        self.publish();
    }

    /// Beacons and renewals, if this node is a signer.
    async fn sign_what_is_due(&mut self, now: Now) {
        let mut draft = self.draft.clone();
        let Some(signer) = draft.signer.clone() else { return };
        let due: Vec<_> = draft
            .members
            .iter()
            .filter(|it| it.not_after > now.wall && now.wall.since(it.issued_at) > MEMBER_RENEW_AFTER)
            .map(|it| it.domain.clone())
            .take(RENEWALS_MAX)
            .collect();
        let is_beacon_due = !due.is_empty() || draft.members.beacon_age(&*signer, now) >= BEACON_EVERY;
        if !is_beacon_due {
            return;
        }
        for domain in due {
            let renewed = draft.members.renew(&*signer, &domain, None, now).and_then(|record| {
                draft.sign(record, now, "identity.member.renewed.v1", domain.node().as_str(), json!({}))
            });
            if let Err(refusal) = renewed {
                warn!(sagemesh.node = %domain.node(), error.type = %refusal.reason, error = %refusal, "failed to renew a member");
            }
        }
        let beacon = draft.members.beacon(&*signer, now).and_then(|it| draft.members.merge(it));
        if let Err(refusal) = beacon {
            return warn!(error.type = %refusal.reason, error = %refusal, "failed to make a beacon");
        }
        match self.keep(&mut draft).await {
            Ok(()) => {
                self.draft = draft;
                self.publish();
            }
            Err(refusal) => warn!(error = %refusal, "failed to keep a beacon"),
        }
    }

    /// Writes what the draft changed, all or nothing.
    async fn keep(&mut self, draft: &mut Draft) -> Result<(), Refusal> {
        let mut changes = std::mem::take(&mut draft.changes);
        let events = std::mem::take(&mut draft.events);
        let now = digests(&draft.members);
        for digest in now.difference(&self.kept) {
            changes.extend(draft.members.item(digest).map(|signed| state::put_statement(signed)));
        }
        changes.extend(self.kept.difference(&now).map(state::delete_statement));
        if changes.is_empty() && events.is_empty() {
            return Ok(());
        }
        let kept = self.store.commit(Durability::Durable, changes, events).await;
        kept.map_err(|err| Reason::NotServing.because(format!("failed to write the database: {err}")))?;
        self.kept = now;
        Ok(())
    }

    fn publish(&self) {
        self.members.send_replace(Arc::new(self.draft.members.clone()));
    }
}

fn digests(members: &Members) -> BTreeSet<Digest> {
    members.items().map(|signed| signed.digest).collect()
}
