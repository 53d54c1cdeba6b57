//! This node's own record: what it says, and how often it signs.

use std::time::{Duration, Instant};

use types::key::Unavailable;
use types::{Keys, Now, PeerId, Refusal};

use crate::config::Config;
use crate::core::{Membership, Outbox};
use crate::gossip::Kind;
use crate::member::ShortId;
use crate::record::{Delta, Entry, Record, Stamp, check_bounds, check_entry, put};
use crate::wire::{Packet, Step};

/// Least time between two refutations, so that nobody can make this node sign all day.
const REFUTE_INTERVAL: Duration = Duration::from_secs(1);

/// The own record and what is to become of it.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) peer: PeerId,
    record: Record,
    /// The entries as they shall be signed next.
    staged: Vec<Entry>,
    /// Version of the last removal, a staged one included.
    floor: u64,
    version_before: u64,
    sign_due: Option<Instant>,
    /// When the changes signed so far would have been signed at an even pace (the theoretical arrival time of
    /// GCRA, ITU-T I.371).
    signed_until: Option<Instant>,
    refute_due: Option<Instant>,
    refuted_at: Option<Instant>,
}

impl Own {
    /// The first record of this life. Its numbers begin with the seconds of the clock, and so beyond those of
    /// any former life, unless the clock went back: [`Membership::meet_former_self`] mends that.
    pub(crate) fn new(now: Now, peer: PeerId, keys: &dyn Keys) -> Result<Self, Unavailable> {
        let start = now.wall.as_secs().max(1);
        let stamp = Stamp { incarnation: start, version: start };
        Ok(Self {
            peer,
            record: Record::sign(stamp, start, false, Vec::new(), keys)?,
            staged: Vec::new(),
            floor: start,
            version_before: 0,
            sign_due: None,
            signed_until: None,
            refute_due: None,
            refuted_at: None,
        })
    }

    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    pub(crate) fn stamp(&self) -> Stamp {
        self.record.stamp()
    }

    /// The version before the last change, which neighbours probably hold.
    pub(crate) fn version_before(&self) -> u64 {
        self.version_before
    }

    pub(crate) fn has_left(&self) -> bool {
        self.record.head.has_left
    }

    /// Whether a refutation waits for its time.
    pub(crate) fn is_refuting(&self) -> bool {
        self.refute_due.is_some()
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.sign_due.into_iter().chain(self.refute_due).min()
    }

    /// The version that the staged entries will have.
    fn next_version(&self) -> u64 {
        self.stamp().version + 1
    }

    fn stage(&mut self, now: Now, config: &Config) {
        let ahead = config.sign_interval * config.sign_burst.saturating_sub(1);
        let free_at = self.signed_until.map_or(now.mono, |at| at.checked_sub(ahead).unwrap_or(now.mono));
        self.sign_due.get_or_insert(free_at.max(now.mono));
    }

    /// Signs what is staged, at `incarnation`.
    fn sign(
        &mut self,
        now: Now,
        incarnation: u64,
        leaves: bool,
        interval: Duration,
        keys: &dyn Keys,
    ) -> Result<(), Unavailable> {
        let is_changed = self.sign_due.is_some();
        let version = if is_changed { self.next_version() } else { self.stamp().version };
        let stamp = Stamp { incarnation, version };
        let record = Record::sign(stamp, self.floor, leaves, self.staged.clone(), keys)?;
        self.version_before = self.stamp().version;
        self.record = record;
        if is_changed {
            self.sign_due = None;
            self.signed_until = Some(self.signed_until.map_or(now.mono, |at| at.max(now.mono)) + interval);
        }
        Ok(())
    }
}

impl Membership {
    /// Sets one entry of this node's record. It is signed and spread soon, together with all others of these
    /// seconds; setting what is set already costs nothing.
    ///
    /// # Errors
    /// [`types::Reason::StateTooLarge`] beyond a bound; nothing is changed.
    pub fn put(&mut self, now: Now, key: &str, value: &[u8]) -> Result<(), Refusal> {
        check_entry(key, value)?;
        if self.own.staged.iter().any(|entry| &*entry.key == key && *entry.value == *value) {
            return Ok(());
        }
        let mut entries = self.own.staged.clone();
        let version = self.own.next_version();
        put(&mut entries, Entry { key: key.into(), value: value.into(), version });
        check_bounds(&entries)?;
        self.own.staged = entries;
        self.own.stage(now, &self.config);
        Ok(())
    }

    /// Takes one entry out of this node's record.
    pub fn delete(&mut self, now: Now, key: &str) {
        let len = self.own.staged.len();
        self.own.staged.retain(|entry| &*entry.key != key);
        if self.own.staged.len() < len {
            self.own.floor = self.own.next_version();
            self.own.stage(now, &self.config);
        }
    }

    /// Signs what is due.
    pub(crate) fn run_own(&mut self, now: Now, out: &mut Outbox) {
        if self.own.refute_due.is_some_and(|at| at <= now.mono) {
            self.own.refute_due = None;
            self.refute(now, out);
        }
        if self.own.sign_due.is_some_and(|at| at <= now.mono) {
            let incarnation = self.own.stamp().incarnation;
            self.publish(now, incarnation, false, out);
        }
    }

    /// Answers an accusation with a higher incarnation: now, or when the last answer is old enough.
    pub(crate) fn refute(&mut self, now: Now, out: &mut Outbox) {
        let free_at = self.own.refuted_at.map_or(now.mono, |at| at + REFUTE_INTERVAL);
        if free_at > now.mono {
            self.own.refute_due = Some(free_at);
            return;
        }
        self.own.refuted_at = Some(now.mono);
        // Who must defend itself was too slow for someone (Lifeguard section IV.A).
        self.health.worsen(1);
        self.publish(now, self.own.stamp().incarnation + 1, false, out);
    }

    /// Says that this node leaves. It does nothing else afterwards.
    pub(crate) fn leave(&mut self, now: Now, out: &mut Outbox) {
        // Who was met just now is to hear it as well: there is no later.
        self.gossip.spoil_at_once();
        // Its record is empty then, and so whole for whoever missed a change of it: there is nobody left to ask.
        self.own.staged.clear();
        self.own.floor = self.own.next_version();
        self.own.sign_due = Some(now.mono);
        self.publish(now, self.own.stamp().incarnation + 1, true, out);
    }

    fn publish(&mut self, now: Now, incarnation: u64, leaves: bool, out: &mut Outbox) {
        if let Err(err) = self.own.sign(now, incarnation, leaves, self.config.sign_interval, &*self.keys) {
            // Staged entries wait for another try; whoever accuses will do so again.
            self.own.sign_due = self.own.sign_due.map(|_| now.mono + self.config.sign_interval);
            return out.unavailable(err);
        }
        let hops = self.eager_hops();
        self.push_for(now, self.me, Kind::Delta, hops, None, out);
    }

    /// Adds the own head, without entries, for someone who is behind.
    pub(crate) fn tell_own_head(&self, reply: &mut Packet) {
        if reply.deltas.is_empty() {
            let delta = self.own.record.delta(self.own.stamp().version);
            reply.deltas.push(Step { author: self.me, delta, hops: 0 });
        }
    }

    /// A peer holds a record of this node's. If this node did sign it and it is not behind the present one, it
    /// is from a former life under a clock that ran ahead: goes beyond it.
    pub(crate) fn meet_former_self(&mut self, now: Now, from: ShortId, delta: &Delta, out: &mut Outbox) {
        let own = self.own.stamp();
        if delta.head.stamp < own || delta.head == self.own.record.head {
            return;
        }
        if let Err(refusal) = delta.signed.open_head(self.own.peer, &*self.keys) {
            return self.refuse(Some(from), refusal, out);
        }
        let version = own.version.max(delta.head.stamp.version) + 1;
        for entry in &mut self.own.staged {
            entry.version = version;
        }
        self.own.floor = version;
        self.own.record.head.stamp.version = version - 1;
        self.own.sign_due = Some(now.mono);
        self.publish(now, own.incarnation.max(delta.head.stamp.incarnation) + 1, false, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Input;
    use crate::testing::Story;

    #[test]
    fn a_few_changes_are_signed_at_once_and_then_one_at_a_time() {
        let mut story = Story::new(3);
        let config = Config::default();
        let change = |story: &mut Story, value: u8| {
            story.core.put(story.now, "a/x", &[value]).expect("small");
            story.input(Input::Tick);
            story.core.own_record().value("a/x") == Some(&[value])
        };
        for value in 0..u8::try_from(config.sign_burst).expect("few") {
            assert!(change(&mut story, value), "change {value} is signed at once");
        }
        assert!(!change(&mut story, 100), "the next one waits");
        story.waits(config.sign_interval);
        assert!(story.core.own_record().value("a/x") == Some(&[100]), "for its turn");
        assert!(!change(&mut story, 101), "and so does the one after it");
        story.waits(config.sign_interval * (config.sign_burst + 1));
        assert!(change(&mut story, 102), "a quiet time is made up for");
    }
}
