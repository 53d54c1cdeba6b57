//! The one owner of the member map: merges what peers give, signs what this node may sign, keeps it on disk and
//! shows it to all other rooms.
//!
//! What is signed here is on disk before anyone sees it: a signer whose count went back after a crash would
//! contradict itself. What peers gave counts at once and is written when the disk lets us: a revocation must not
//! wait.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use identity::author::{BEACON_EVERY, MEMBER_RENEW_AFTER};
use identity::join::Invitations;
use identity::statement::Signed;
use identity::{AuthorityId, Member, Members, Merged, SoftKeys};
use mesh::sync::Given;
use store::{Change, Durability};
use types::event::Event;
use types::key::Keys;
use types::{Digest, Envelope, Now, Reason, Refusal, TrustDomain};

use crate::audit;
use crate::state::{self, digests};

/// Jobs that wait. Beyond that whoever asks waits.
const JOBS_MAX: usize = 64;
/// Batches of statements that wait. Beyond that comparisons with peers wait.
const GIVEN_MAX: usize = 4;
/// How long writing what peers gave may take before other work goes on.
const WRITE_WITHIN: Duration = Duration::from_secs(5);
/// How often what time brings is looked at: beacons, renewals, records that ended.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Not at once: a node that was restored from a backup first hears from others what it has signed since.
const FIRST_LOOK_AFTER: Duration = Duration::from_secs(15);
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

    /// Notes for the audit who did what. It is kept with what the draft changes, or not at all.
    pub fn note(&mut self, now: Now, kind: &'static str, subject: &str, data: serde_json::Value) {
        self.events.push(audit::event(&self.own, now, kind, subject, data));
    }

    /// Merges what was signed here, and notes it for the audit.
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
        if self.members.merge(statement)? != Merged::Added {
            return Ok(());
        }
        self.note(now, kind, subject, data);
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
        let mut look = interval_at(tokio::time::Instant::now() + FIRST_LOOK_AFTER, LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pruned = None;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                // First: a job may be about what was given just before.
                Some(given) = self.given.recv() => self.merge(given).await,
                Some(job) = self.jobs.recv() => self.job(job).await,
                _ = look.tick() => {
                    let now = Now::read();
                    let is_due = pruned.is_none_or(|at: Instant| now.mono.duration_since(at) >= PRUNE_EVERY);
                    // Without a beacon of these days the clock may be wrong, and all records seem to have ended.
                    if is_due && !self.draft.members.is_stale(now) {
                        self.draft.members.prune(now);
                        self.publish();
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
        let kept = self.adopt(draft).await;
        answer(kept);
    }

    /// Writes what a draft changed, and then has it count. Nothing happened if it cannot be written.
    async fn adopt(&mut self, mut draft: Draft) -> Result<(), Refusal> {
        self.flush().await?;
        self.keep(&mut draft).await?;
        self.draft = draft;
        self.publish();
        Ok(())
    }

    async fn merge(&mut self, given: Given) {
        let (from, n_given) = (given.from, given.statements.len());
        let mut members = self.draft.members.clone();
        // Thousands of signatures take seconds.
        let merged = spawn_blocking(move || {
            let results = members.merge_all(given.statements);
            (members, results)
        });
        let (members, results) = match merged.await {
            Ok(merged) => merged,
            Err(err) => std::panic::resume_unwind(err.into_panic()),
        };
        if let Some(refusal) = results.iter().find_map(|(_, it)| it.as_ref().err()) {
            debug!(peer.id = %from, error.type = %refusal.reason, error = %refusal, "refused a statement of a peer");
        }
        let n_new = results.iter().filter(|(_, it)| is_kept(it)).count();
        if n_new == 0 {
            return;
        }
        info!(peer.id = %from, n_given, n_new, "learnt of members");
        self.draft.members = members;
        self.publish();
        // What cannot be written now is written with the next change.
        match timeout(WRITE_WITHIN, self.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(refusal)) => warn!(error = %refusal, "failed to keep what a peer gave"),
            Err(_) => warn!("the disk is slow: what a peer gave is not written yet"),
        }
    }

    /// Beacons and renewals, if this node is a signer.
    async fn sign_what_is_due(&mut self, now: Now) {
        let mut draft = self.draft.clone();
        let Some(signer) = draft.signer.clone() else { return };
        let is_due = |it: &&Arc<Member>| {
            let is_old = it.not_after > now.wall && now.wall.since(it.issued_at) > MEMBER_RENEW_AFTER;
            is_old && draft.members.may_renew(&*signer, it)
        };
        let due: Vec<_> =
            draft.members.iter().filter(is_due).map(|it| it.domain.clone()).take(RENEWALS_MAX).collect();
        let mut n_renewed = 0;
        for domain in due {
            let renewed = draft.members.renew(&*signer, &domain, None, now).and_then(|record| {
                draft.sign(record, now, "identity.member.renewed.v1", domain.node().as_str(), json!({}))
            });
            match renewed {
                Ok(()) => n_renewed += 1,
                Err(refusal) => {
                    warn!(sagemesh.node = %domain.node(), error.type = %refusal.reason, error = %refusal, "failed to renew a member");
                }
            }
        }
        if n_renewed == 0 && draft.members.beacon_age(&*signer, now) < BEACON_EVERY {
            return;
        }
        match draft.members.beacon(&*signer, now).and_then(|it| draft.members.merge(it)) {
            Ok(_) => {}
            // Its keys were cut off, and are still here.
            Err(refusal) if refusal.reason == Reason::NotASigner => return,
            Err(refusal) => {
                return warn!(error.type = %refusal.reason, error = %refusal, "failed to make a beacon");
            }
        }
        if let Err(refusal) = self.adopt(draft).await {
            warn!(error = %refusal, "failed to keep a beacon");
        }
    }

    /// Writes what peers gave and is not on disk yet, in parts; then drops what was replaced. A part is no
    /// unit of meaning: what a crash leaves out comes again from peers.
    async fn flush(&mut self) -> Result<(), Refusal> {
        let (mut part, mut len) = (Vec::new(), 0);
        let members = &self.draft.members;
        let now = digests(members);
        let is_new = |signed: &&Arc<Signed>| !self.kept.contains(&signed.digest);
        let new: Vec<_> = members.items().filter(is_new).cloned().collect();
        for signed in new {
            let change = state::put_statement(&signed);
            len += signed.envelope.payload.len();
            part.push((signed.digest, change));
            if len > state::PART_LEN_MAX {
                self.write(std::mem::take(&mut part)).await?;
                len = 0;
            }
        }
        self.write(part).await?;
        let gone: Vec<_> = self.kept.difference(&now).copied().collect();
        if !gone.is_empty() {
            self.commit(gone.iter().map(state::delete_statement).collect(), Vec::new()).await?;
            self.kept = now;
        }
        Ok(())
    }

    async fn write(&mut self, part: Vec<(Digest, Change)>) -> Result<(), Refusal> {
        if part.is_empty() {
            return Ok(());
        }
        let (digests, changes): (Vec<_>, Vec<_>) = part.into_iter().unzip();
        self.commit(changes, Vec::new()).await?;
        self.kept.extend(digests);
        Ok(())
    }

    /// Writes what the draft changed beyond what is on disk, all or nothing.
    async fn keep(&mut self, draft: &mut Draft) -> Result<(), Refusal> {
        let mut changes = std::mem::take(&mut draft.changes);
        let events = std::mem::take(&mut draft.events);
        let now = digests(&draft.members);
        for digest in now.difference(&self.kept) {
            changes.extend(draft.members.item(digest).map(|signed| state::put_statement(signed)));
        }
        changes.extend(self.kept.difference(&now).map(state::delete_statement));
        if !changes.is_empty() || !events.is_empty() {
            self.commit(changes, events).await?;
            self.kept = now;
        }
        Ok(())
    }

    async fn commit(&self, changes: Vec<Change>, events: Vec<Event>) -> Result<(), Refusal> {
        let kept = self.store.commit(Durability::Durable, changes, events).await;
        kept.map_err(|err| Reason::NotServing.because(format!("failed to write the database: {err}")))
    }

    fn publish(&self) {
        self.members.send_replace(Arc::new(self.draft.members.clone()));
    }
}

/// Whether a statement is new, or holds its slot though it counts for nothing.
fn is_kept(result: &Result<Merged, Refusal>) -> bool {
    match result {
        Ok(merged) => *merged == Merged::Added,
        Err(refusal) => refusal.reason == Reason::BeyondRights,
    }
}
