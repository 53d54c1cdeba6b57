//! The state directory: key files and the database, and what is read from them at every start.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};

use identity::join::{Invitation, Invitations};
use identity::statement::Signed;
use identity::{AuthorityId, Members, SoftKeys};
use store::{Change, Durability, Handle, Room, Store};
use tls::keyfile;
use types::event::Event;
use types::key::Keys;
use types::{Digest, Envelope, Reason, Refusal, TrustDomain};

use crate::{addresses, services};

/// The node's own keys.
pub const NODE_KEYS: &str = "node.keys";
/// The keys of a signer, on nodes that are one.
pub const SIGNER_KEYS: &str = "signer.keys";
/// The root's keys, until they are moved to a safe place.
pub const ROOT_KEYS: &str = "root.keys";
/// The keys of the root's successor, likewise.
pub const NEXT_ROOT_KEYS: &str = "next-root.keys";

/// There from the first key of a new mesh until its database holds it.
pub const FOUNDING: &str = "founding";
/// The store's file.
const DATABASE: &str = "store.db";

/// Most bytes of statements in one commit, give or take one statement.
pub(crate) const PART_LEN_MAX: usize = 2 << 20;

/// What the database keeps of identity: statements by their digest, and who we are.
pub const ROOM: Room = Room { name: "identity", migrations: &[] };
const STATEMENT: &[u8] = b"statement/";
const INVITATION: &[u8] = b"invitation/";
const VERIFIED: &[u8] = b"verified/";
const FINGERPRINT: &[u8] = b"fingerprint";
const OWN_DOMAIN: &[u8] = b"own";

/// A file of the state directory.
pub fn path(dir: &Path, name: &str) -> PathBuf {
    dir.join(name)
}

/// How far a state directory has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// There is nothing.
    Empty,
    /// A mesh is being founded, or that was interrupted.
    Founding,
    /// The node belongs to a mesh.
    Founded,
}

/// Looks how far `dir` has come. Makes nothing.
///
/// # Errors
/// If it cannot be looked into, or if keys are there and the database is not.
pub fn stage(dir: &Path) -> anyhow::Result<Stage> {
    let has = |name: &str| {
        let look =
            || format!("failed to look into {}: run as root, or as the user who owns it", dir.display());
        path(dir, name).try_exists().with_context(look)
    };
    match (has(FOUNDING)?, has(NODE_KEYS)?, has(DATABASE)?) {
        (true, ..) => Ok(Stage::Founding),
        (false, true, true) => Ok(Stage::Founded),
        (false, true, false) => bail!(
            "the keys in {} belong to a mesh, and its database {DATABASE} is missing: restore it from a backup",
            dir.display()
        ),
        (false, false, _) => Ok(Stage::Empty),
    }
}

/// What a node knows of itself and its mesh when it starts.
pub struct Known {
    /// The member map.
    pub members: Members,
    /// This node.
    pub own: TrustDomain,
    /// Its keys.
    pub keys: Arc<SoftKeys>,
    /// The keys of a signer, if it is one.
    pub signer: Option<SoftKeys>,
    /// Invitations that it made.
    pub invitations: Invitations,
    /// Why kept statements no longer hold.
    pub lost: Vec<Refusal>,
}

/// Opens the database.
///
/// # Errors
/// What [`Store::open`] says.
pub fn open(config: &store::Config) -> Result<Store, store::Error> {
    Store::open(config, &[ROOM, addresses::ROOM, services::ROOM])
}

/// Reads what is known; `None` if the node belongs to no mesh yet.
///
/// # Errors
/// If the database or a key file is damaged.
pub async fn load(dir: &Path, store: &Handle) -> anyhow::Result<Option<Known>> {
    let Some(fingerprint) = store.get(ROOM.name, FINGERPRINT).await? else { return Ok(None) };
    let fingerprint =
        Digest::from_slice(&fingerprint).context("the fingerprint in the database is damaged")?;
    let own =
        store.get(ROOM.name, OWN_DOMAIN).await?.context("the database does not say who this node is")?;
    let own: TrustDomain = String::from_utf8(own).context("the node's name is damaged")?.parse()?;
    let mut statements = Vec::new();
    for (_, bytes) in store.scan(ROOM.name, STATEMENT).await? {
        statements.push(Envelope::from_bytes(&bytes).map_err(damaged)?);
    }
    let idx = statements
        .iter()
        .position(|envelope| envelope.digest() == fingerprint)
        .context("the database does not hold the root of the mesh: restore it from a backup")?;
    let verifier: Arc<dyn Keys> = Arc::new(SoftKeys::default());
    let mut members = Members::new(verifier, fingerprint, statements.swap_remove(idx)).map_err(damaged)?;
    let results = members.merge_all(statements);
    // Beyond its signer's rights is what a later grant ended; anything else was altered.
    let lost = results.into_iter().filter_map(|(_, result)| result.err());
    let lost = lost.filter(|refusal| refusal.reason != Reason::BeyondRights).collect();
    for (key, _) in store.scan(ROOM.name, VERIFIED).await? {
        let authority = Digest::from_slice(&key[VERIFIED.len()..]).context("a verified peer is damaged")?;
        members.mark_verified(AuthorityId(authority));
    }
    let kept = store.scan(ROOM.name, INVITATION).await?;
    let invitations = kept.iter().map(|(_, bytes)| Invitation::from_bytes(bytes, own.mesh()));
    let invitations = Invitations::restore(invitations.collect::<Result<Vec<_>, _>>().map_err(damaged)?);
    let keys = Arc::new(keyfile::load(&path(dir, NODE_KEYS))?);
    let signer = match keyfile::load(&path(dir, SIGNER_KEYS)) {
        Ok(keys) => Some(keys),
        Err(keyfile::Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
        Err(err) => return Err(err.into()),
    };
    Ok(Some(Known { members, own, keys, signer, invitations, lost }))
}

/// What the mesh would call a refusal is damage here: we wrote it ourselves.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn damaged(refusal: Refusal) -> anyhow::Error {
    anyhow!("the database is damaged ({}): restore it from a backup", refusal.detail)
}

/// Keeps a new mesh, with what else belongs to it. It is there once the last part is written; until then
/// what is there counts for nothing.
///
/// # Errors
/// If the database already holds a mesh, or cannot be written.
pub async fn found(
    store: &Handle,
    members: &Members,
    own: &TrustDomain,
    mut more: Vec<Change>,
) -> anyhow::Result<()> {
    if store.get(ROOM.name, FINGERPRINT).await?.is_some() {
        bail!("this node belongs to a mesh already: `sagemesh status` shows which");
    }
    // Of a mesh that was not founded or joined in the end.
    let torn = store.scan(ROOM.name, STATEMENT).await?;
    let torn = torn.into_iter().map(|(key, _)| Change::Delete { room: ROOM.name, key });
    store.commit(Durability::Durable, torn.collect(), Vec::new()).await?;
    more.push(put(OWN_DOMAIN.to_vec(), own.to_string().into_bytes()));
    more.push(put(FINGERPRINT.to_vec(), members.fingerprint().as_bytes().to_vec()));
    keep(store, &BTreeSet::new(), members, more, Vec::new()).await
}

/// Keeps what `members` holds beyond the statements `kept`, in parts, and then at once drops what it no longer
/// holds and does what else belongs to it.
///
/// # Errors
/// If the database cannot be written.
pub(crate) async fn keep(
    store: &Handle,
    kept: &BTreeSet<Digest>,
    members: &Members,
    mut more: Vec<Change>,
    events: Vec<Event>,
) -> anyhow::Result<()> {
    let (mut part, mut len) = (Vec::new(), 0);
    for signed in members.items().filter(|signed| !kept.contains(&signed.digest)) {
        part.push(put_statement(signed));
        len += signed.envelope.payload.len();
        if len > PART_LEN_MAX {
            len = 0;
            store.commit(Durability::Durable, std::mem::take(&mut part), Vec::new()).await?;
        }
    }
    part.extend(kept.difference(&digests(members)).map(delete_statement));
    part.append(&mut more);
    store.commit(Durability::Durable, part, events).await?;
    Ok(())
}

/// Names all that a map holds.
pub(crate) fn digests(members: &Members) -> BTreeSet<Digest> {
    members.items().map(|signed| signed.digest).collect()
}

const fn put(key: Vec<u8>, value: Vec<u8>) -> Change {
    Change::Put { room: ROOM.name, key, value }
}

/// Keeps a statement.
pub(crate) fn put_statement(signed: &Signed) -> Change {
    put([STATEMENT, signed.digest.as_bytes()].concat(), signed.envelope.to_bytes())
}

/// Drops a statement.
pub(crate) fn delete_statement(digest: &Digest) -> Change {
    Change::Delete { room: ROOM.name, key: [STATEMENT, digest.as_bytes()].concat() }
}

/// Keeps that a peer was verified.
pub(crate) fn put_verified(authority: AuthorityId) -> Change {
    put([VERIFIED, authority.0.as_bytes()].concat(), Vec::new())
}

/// Keeps invitations as they are now and drops those that are gone.
pub(crate) fn changed_invitations(before: &Invitations, now: &Invitations) -> Vec<Change> {
    let key = |it: &Invitation| [INVITATION, &it.id()].concat();
    let held: BTreeSet<_> = now.iter().map(key).collect();
    let gone = before.iter().map(key).filter(|key| !held.contains(key));
    let dropped = gone.map(|key| Change::Delete { room: ROOM.name, key });
    let known: BTreeMap<_, _> = before.iter().map(|it| (it.id(), it.redeemed_by)).collect();
    let is_new = |it: &&Invitation| known.get(&it.id()) != Some(&it.redeemed_by);
    let added = now.iter().filter(is_new).map(|it| put(key(it), it.to_bytes()));
    dropped.chain(added).collect()
}
