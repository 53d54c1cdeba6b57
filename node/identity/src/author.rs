//! Making statements: what the root, a signer or a node signs, with the epochs and counts that the map asks
//! for. Each answers an envelope that the caller merges and gossips like any other.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use types::key::{KeySlot, Keys, Unavailable};
use types::{
    Digest, Envelope, MeshName, NodeName, Now, PublicKey, Reason, Refusal, ServiceName, Timestamp,
    TrustDomain,
};

use crate::keyset::{AuthorityId, KeySet, SignerId};
use crate::members::{Members, REJOIN_MAX};
use crate::scope::Scope;
use crate::statement::{
    Beacon, Company, CutOff, Grant, Handover, JwtKey, Kind, Member, Operator, Right, Role, Root, Signed,
    Statement, Tombstone,
};

/// How long a member record is valid.
pub const MEMBER_VALID: Duration = Duration::from_secs(90 * 86_400);
/// The age from which a member record is renewed.
pub const MEMBER_RENEW_AFTER: Duration = Duration::from_secs(30 * 86_400);
/// How long an operator record is valid.
pub const OPERATOR_VALID: Duration = Duration::from_secs(365 * 86_400);
/// How often a signer makes a beacon.
pub const BEACON_EVERY: Duration = Duration::from_secs(3600);

/// The keys of a node that is to become a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeKeys {
    /// Its Ed25519 key.
    pub peer: types::PeerId,
    /// Its authority.
    pub authority: KeySet,
    /// Its JWT keys.
    pub jwt: Vec<JwtKey>,
}

impl NodeKeys {
    /// The public halves of a node's own keys.
    ///
    /// # Errors
    /// If one is not at hand.
    pub fn of(keys: &dyn Keys) -> Result<Self, Unavailable> {
        let peer = keys.public(KeySlot::Node)?.as_bytes().try_into();
        let jwt = keys.public(KeySlot::Jwt)?.clone();
        Ok(Self {
            peer: types::PeerId(peer.map_err(|_| Unavailable(KeySlot::Node))?),
            authority: KeySet::of(keys, KeySlot::AUTHORITY)?,
            jwt: vec![JwtKey { kid: jwt.digest().to_string()[..16].to_owned(), key: jwt }],
        })
    }
}

/// Makes the first root of a mesh. `next_keys` is the digest of keys made now and kept apart.
///
/// # Errors
/// If the root's keys are not at hand.
pub fn root(keys: &dyn Keys, mesh: MeshName, next_keys: Digest, now: Now) -> Result<Envelope, Unavailable> {
    let root = Root {
        mesh,
        generation: 1,
        keys: KeySet::of(keys, KeySlot::ROOT)?,
        next_keys,
        issued_at: whole(now),
        company: Company::default(),
    };
    Envelope::seal(Root::DOMAIN, root.encode(), keys, &KeySlot::ROOT)
}

/// Hands a name over from the keys at hand to a new authority.
///
/// # Errors
/// If the old authority's keys are not at hand.
pub fn handover(
    keys: &dyn Keys,
    domain: TrustDomain,
    new: AuthorityId,
    now: Now,
) -> Result<Envelope, Unavailable> {
    let old = KeySet::of(keys, KeySlot::AUTHORITY)?;
    let handover = Handover { domain, old, new, issued_at: whole(now) };
    Envelope::seal(Handover::DOMAIN, handover.encode(), keys, &KeySlot::AUTHORITY)
}

/// What the holder of the root's keys makes. `keys` holds them.
impl Members {
    /// Makes a signer, or changes what it may.
    ///
    /// # Errors
    /// [`Reason::RootMismatch`] unless `keys` are those of the root in force.
    pub fn grant(
        &self,
        keys: &dyn Keys,
        node: NodeName,
        signer: KeySet,
        rights: BTreeSet<Right>,
        scope: Scope,
        now: Now,
    ) -> Result<Envelope, Refusal> {
        let root = self.own_root(keys)?;
        let held = self.signers().get(&signer.signer()).map_or(0, |standing| standing.grant().epoch);
        let grant = Grant {
            mesh: self.mesh().clone(),
            node,
            keys: signer,
            rights,
            scope,
            epoch: held.saturating_add(1),
            issued_at: whole(now),
            root,
        };
        seal::<Grant>(&grant, keys, &KeySlot::ROOT)
    }

    /// Cuts a signer off. What has a digest in `keep` stays valid.
    ///
    /// # Errors
    /// [`Reason::RootMismatch`] unless `keys` are those of the root in force; [`Reason::SignerUnknown`].
    pub fn cut_off(
        &self,
        keys: &dyn Keys,
        signer: SignerId,
        keep: BTreeSet<Digest>,
        now: Now,
    ) -> Result<Envelope, Refusal> {
        let root = self.own_root(keys)?;
        let standing = self
            .signers()
            .get(&signer)
            .ok_or_else(|| Reason::SignerUnknown.because(format!("{signer:?} was never granted")))?;
        let held = standing.cut.as_ref().map_or(0, |cut| cut.epoch);
        let cut = CutOff {
            mesh: self.mesh().clone(),
            signer,
            keep,
            epoch: held.saturating_add(1),
            issued_at: whole(now),
            root,
        };
        seal::<CutOff>(&cut, keys, &KeySlot::ROOT)
    }

    /// Makes the next root, and makes again under it every grant and cut-off in force and what the last root
    /// itself said of members and operators: nothing that an earlier root signed counts. `keys` are those
    /// promised by the root in force. All are to be merged and gossiped in one batch, by a node that lacks
    /// nothing: what it does not know is lost.
    ///
    /// # Errors
    /// [`Reason::RootMismatch`] unless `keys` are those that were promised.
    pub fn rotate_root(
        &self,
        keys: &dyn Keys,
        next_keys: Digest,
        now: Now,
    ) -> Result<Vec<Envelope>, Refusal> {
        let own = KeySet::of(keys, KeySlot::ROOT).map_err(unavailable)?;
        if own.digest() != self.root().next_keys {
            return Err(
                Reason::RootMismatch.because("these are not the keys that the root in force promised")
            );
        }
        let mut root = Root {
            mesh: self.mesh().clone(),
            generation: self.root().generation.saturating_add(1),
            keys: own,
            next_keys,
            issued_at: whole(now),
            company: Company::default(),
        };
        let mut out = Vec::new();
        let (old, new) = (self.root().id(), root.id());
        let is_by_root = |signed: &&Arc<Signed>| signed.statement.signer().is_none_or(|id| id == old);
        for signed in self.known().filter(is_by_root) {
            let again = match signed.statement.clone() {
                Statement::Grant(it) => {
                    root.company.granted.insert(it.keys.signer().0);
                    seal::<Grant>(&Grant { root: new, ..it }, keys, &KeySlot::ROOT)
                }
                Statement::CutOff(it) => {
                    root.company.cut_off.insert(it.signer.0);
                    seal::<CutOff>(&CutOff { root: new, ..it }, keys, &KeySlot::ROOT)
                }
                Statement::Member(it) => {
                    let member = Member { signer: new, ..Member::clone(&it) };
                    seal::<Member>(&member, keys, &KeySlot::ROOT)
                }
                Statement::Tombstone(it) => {
                    root.company.buried.insert(it.authority().0);
                    seal::<Tombstone>(&Tombstone { signer: new, ..it }, keys, &KeySlot::ROOT)
                }
                Statement::Operator(it) => {
                    seal::<Operator>(&Operator { signer: new, ..it }, keys, &KeySlot::ROOT)
                }
                Statement::Root(_) | Statement::Handover(_) | Statement::Beacon(_) => continue,
            };
            out.push(again?);
        }
        out.insert(0, seal::<Root>(&root, keys, &KeySlot::ROOT)?);
        Ok(out)
    }

    fn own_root(&self, keys: &dyn Keys) -> Result<SignerId, Refusal> {
        let id = KeySet::of(keys, KeySlot::ROOT).map_err(unavailable)?.signer();
        if id != self.root().id() {
            return Err(Reason::RootMismatch.because("the keys at hand are not those of the root in force"));
        }
        Ok(id)
    }
}

/// What a signer makes. `keys` holds its keys, or those of the root.
impl Members {
    /// Makes a node a member. The caller has seen it prove that it holds its keys.
    ///
    /// # Errors
    /// [`Reason::NotASigner`], [`Reason::BeyondRights`], and what stands in the way: [`Reason::NameBound`],
    /// [`Reason::KeyInUse`], [`Reason::MemberRevoked`].
    pub fn sign_member(
        &self,
        keys: &dyn Keys,
        node: NodeName,
        node_keys: &NodeKeys,
        scope: Scope,
        now: Now,
    ) -> Result<Envelope, Refusal> {
        let (signer, slots, serial) = self.own_signer(keys)?;
        let domain = TrustDomain::new(node, self.mesh().clone());
        let held = self.get(&domain).filter(|held| held.authority == node_keys.authority);
        // Also of records that do not count: some signer's slot may hold one that would be the higher.
        let known = self.records_of(domain.node(), node_keys.authority.authority());
        let epoch = next_epoch(known.filter_map(|signed| match &signed.statement {
            Statement::Member(member) => Some((member.epoch, member.signer)),
            _ => None,
        }))?;
        let member = Member {
            domain,
            peer: node_keys.peer,
            authority: node_keys.authority.clone(),
            jwt: node_keys.jwt.clone(),
            scope,
            epoch,
            bound_at: held.map_or(whole(now), |held| held.bound_at),
            issued_at: whole(now),
            not_after: whole(now) + MEMBER_VALID,
            signer,
            serial,
        };
        self.tried(seal::<Member>(&member, keys, &slots)?, &member)
    }

    /// Renews a member, with another scope if one is given.
    ///
    /// # Errors
    /// As [`Members::sign_member`]; [`Reason::MemberUnknown`], and [`Reason::MemberExpired`] once it ended
    /// longer ago than [`REJOIN_MAX`].
    pub fn renew(
        &self,
        keys: &dyn Keys,
        domain: &TrustDomain,
        scope: Option<Scope>,
        now: Now,
    ) -> Result<Envelope, Refusal> {
        let held = self.get(domain).ok_or_else(|| {
            Reason::MemberUnknown.because(format!("no record of `{}` counts", domain.node()))
        })?;
        if held.not_after + REJOIN_MAX < now.wall {
            let detail = format!("the record of `{}` ended at {}", domain.node(), held.not_after);
            return Err(Reason::MemberExpired.because(detail));
        }
        let node_keys =
            NodeKeys { peer: held.peer, authority: held.authority.clone(), jwt: held.jwt.clone() };
        let scope = scope.unwrap_or_else(|| held.scope.clone());
        self.sign_member(keys, domain.node().clone(), &node_keys, scope, now)
    }

    /// Ends the membership of a node's keys for ever.
    ///
    /// # Errors
    /// [`Reason::NotASigner`], [`Reason::BeyondRights`], [`Reason::MemberUnknown`].
    pub fn revoke(
        &self,
        keys: &dyn Keys,
        domain: &TrustDomain,
        note: &str,
        now: Now,
    ) -> Result<Envelope, Refusal> {
        let (signer, slots, serial) = self.own_signer(keys)?;
        let held = self.get(domain).ok_or_else(|| {
            Reason::MemberUnknown.because(format!("no record of `{}` counts", domain.node()))
        })?;
        let tombstone = Tombstone {
            mesh: self.mesh().clone(),
            keys: held.authority.digests(),
            node: domain.node().clone(),
            note: note.to_owned(),
            issued_at: whole(now),
            signer,
            serial,
        };
        let sealed = seal::<Tombstone>(&tombstone, keys, &slots)?;
        self.clone().merge(sealed.clone()).map(|_| sealed)
    }

    /// Gives an operator a role, or takes it away.
    ///
    /// # Errors
    /// [`Reason::NotASigner`], [`Reason::BeyondRights`].
    pub fn sign_operator(
        &self,
        keys: &dyn Keys,
        name: ServiceName,
        role: Option<Role>,
        key: PublicKey,
        now: Now,
    ) -> Result<Envelope, Refusal> {
        let (signer, slots, serial) = self.own_signer(keys)?;
        let epoch = next_epoch(self.known().filter_map(|signed| match &signed.statement {
            Statement::Operator(it) if it.name == name => Some((it.epoch, it.signer)),
            _ => None,
        }))?;
        let operator = Operator {
            mesh: self.mesh().clone(),
            name,
            role,
            key,
            epoch,
            issued_at: whole(now),
            not_after: whole(now) + OPERATOR_VALID,
            signer,
            serial,
        };
        let sealed = seal::<Operator>(&operator, keys, &slots)?;
        self.clone().merge(sealed.clone()).map(|_| sealed)
    }

    /// Says what the signer stands by.
    ///
    /// # Errors
    /// [`Reason::NotASigner`].
    pub fn beacon(&self, keys: &dyn Keys, now: Now) -> Result<Envelope, Refusal> {
        let (signer, slots, serial) = self.own_signer(keys)?;
        let leaves = self.leaves(signer);
        let beacon = Beacon {
            mesh: self.mesh().clone(),
            signer,
            serial,
            merkle_root: merkle_root(&leaves),
            n_leaves: leaves.len() as u64,
            issued_at: whole(now),
        };
        seal::<Beacon>(&beacon, keys, &slots)
    }

    /// Whether the signer at hand may renew that member.
    pub fn may_renew(&self, keys: &dyn Keys, member: &Member) -> bool {
        let Ok((signer, ..)) = self.own_signer(keys) else { return false };
        self.signers().get(&signer).is_none_or(|standing| {
            standing.grant().rights.contains(&Right::Members) && standing.grant().scope.covers(&member.scope)
        })
    }

    /// How old the newest beacon of the signer at hand is; as old as can be without one.
    pub fn beacon_age(&self, keys: &dyn Keys, now: Now) -> Duration {
        let own = self.own_signer(keys).ok().map(|(signer, ..)| signer);
        let newest = self.beacons().find(|beacon| Some(beacon.signer) == own);
        newest.map_or(Duration::MAX, |beacon| now.wall.since(beacon.issued_at))
    }

    /// Compares what is known of a signer's statements with its newest beacon; `None` without one.
    pub fn audit(&self, signer: SignerId) -> Option<Audit> {
        let beacon = self.beacons().find(|beacon| beacon.signer == signer)?;
        let leaves = self.leaves(signer);
        let newest = self.serial(signer);
        Some(match leaves.len() as u64 {
            n if merkle_root(&leaves) == beacon.merkle_root => Audit::Complete { n },
            _ if newest > beacon.serial => Audit::Newer,
            n => Audit::Gap { known: n, due: beacon.n_leaves },
        })
    }

    /// The signer whose keys are at hand, their slots, and its next count.
    pub(crate) fn own_signer(&self, keys: &dyn Keys) -> Result<(SignerId, [KeySlot; 2], u64), Refusal> {
        for slots in [KeySlot::SIGNER, KeySlot::ROOT] {
            let Ok(id) = KeySet::of(keys, slots).map(|set| set.signer()) else { continue };
            let is_granted = self.signers().get(&id).is_some_and(|standing| !standing.is_cut_off());
            if is_granted || id == self.root().id() {
                return Ok((id, slots, self.serial(id).saturating_add(1)));
            }
        }
        Err(Reason::NotASigner.because("this node holds no keys of a signer in force"))
    }

    /// Digests of what a signer said, whether or not it still may, in order; beacons are not among them.
    fn leaves(&self, signer: SignerId) -> Vec<Digest> {
        let is_leaf = |signed: &&Arc<Signed>| {
            signed.statement.signer() == Some(signer) && !matches!(signed.statement, Statement::Beacon(_))
        };
        let mut leaves: Vec<_> = self.known().filter(is_leaf).map(|signed| signed.digest).collect();
        leaves.sort_unstable();
        leaves
    }

    /// Answers a new record only if it would count, and takes nothing from a member that counts now. The
    /// second matters where this signer's clock is behind that of another.
    fn tried(&self, sealed: Envelope, new: &Member) -> Result<Envelope, Refusal> {
        let mut after = self.clone();
        after.merge(sealed.clone())?;
        if let Some(refusal) = after.refusal(&new.domain, &new.authority) {
            return Err(refusal);
        }
        let is_free = |held: &Member| {
            new.signer == self.root().id()
                || self.is_handed_over(&held.domain, &held.authority, &new.authority)
        };
        let is_lost =
            |held: &&Arc<Member>| after.get(&held.domain).is_none_or(|it| it.authority != held.authority);
        for held in self.iter().filter(is_lost) {
            let node = held.node();
            if held.domain != new.domain {
                return Err(
                    Reason::KeyInUse.because(format!("a key of `{}` is already `{node}`'s", new.node()))
                );
            }
            if !is_free(held) {
                let detail = format!("`{node}` is bound to other keys since {}", held.bound_at);
                return Err(Reason::NameBound.because(detail));
            }
        }
        Ok(sealed)
    }

    fn is_handed_over(&self, domain: &TrustDomain, old: &KeySet, new: &KeySet) -> bool {
        self.known().any(|signed| {
            matches!(&signed.statement, Statement::Handover(it)
                if it.domain == *domain && it.old == *old && it.new == new.authority())
        })
    }
}

/// One more than the highest.
fn next_epoch(known: impl Iterator<Item = (u64, SignerId)>) -> Result<u64, Refusal> {
    let Some((epoch, signer)) = known.max() else { return Ok(1) };
    epoch.checked_add(1).ok_or_else(|| {
        Reason::SignerQuota.because(format!("{signer:?} has used the last epoch, so nothing can follow it"))
    })
}

/// What a comparison with a signer's beacon shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audit {
    /// All `n` statements are here.
    Complete {
        /// How many.
        n: u64,
    },
    /// Statements younger than the beacon are here, so it cannot tell.
    Newer,
    /// Some are missing, or the signer said different things in different places.
    Gap {
        /// How many are here.
        known: u64,
        /// How many there should be.
        due: u64,
    },
}

/// The Merkle tree hash of RFC 9162 §2.1.1 over digests as leaves, with this project's digest in the place
/// of plain SHA-256.
fn merkle_root(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => Digest::of(&[]),
        [leaf] => Digest::of(&[&[0], leaf.as_bytes()]),
        _ => {
            let half = leaves.len().next_power_of_two() / 2;
            let (left, right) = leaves.split_at(half);
            Digest::of(&[&[1], merkle_root(left).as_bytes(), merkle_root(right).as_bytes()])
        }
    }
}

fn seal<K: Kind>(statement: &K, keys: &dyn Keys, slots: &[KeySlot]) -> Result<Envelope, Refusal> {
    Envelope::seal(K::DOMAIN, statement.encode(), keys, slots).map_err(unavailable)
}

fn unavailable(err: Unavailable) -> Refusal {
    Reason::NotASigner.because(err.to_string())
}

/// Records hold whole seconds.
fn whole(now: Now) -> Timestamp {
    Timestamp::from_secs(now.wall.as_secs())
}
