//! `sagemesh init`: a new mesh, with this node as its first member and signer.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};

use identity::author::{self, NodeKeys};
use identity::join::Invitations;
use identity::statement::Right;
use identity::{KeySet, Members, Scope, SoftKeys};
use store::Handle;
use tls::keyfile;
use types::key::{KeySlot, Keys};
use types::{MeshName, NodeName, Now, TrustDomain};

use crate::state::{self, Known};

/// Founds `mesh` with the node `name`. A run that was interrupted is taken up where it stopped.
///
/// # Errors
/// If the node belongs to a mesh already, or the state directory cannot be written; no mesh was founded then.
pub async fn init(
    dir: &Path,
    store: &Handle,
    mesh: MeshName,
    name: NodeName,
    now: Now,
) -> anyhow::Result<Known> {
    if let Some(known) = state::load(dir, store).await? {
        unmark(dir)?;
        bail!("this node is `{}` already: choose another state directory with --state", known.own);
    }
    mark(dir)?;
    let keys = |file: &str, slots: &[KeySlot]| create_or_load(&state::path(dir, file), slots);
    let root = keys(state::ROOT_KEYS, &KeySlot::ROOT)?;
    let next_root = keys(state::NEXT_ROOT_KEYS, &KeySlot::ROOT)?;
    let signer = keys(state::SIGNER_KEYS, &KeySlot::SIGNER)?;
    let node = keys(state::NODE_KEYS, &KeySlot::NODE)?;

    let promised = KeySet::of(&next_root, KeySlot::ROOT)?.digest();
    let first = author::root(&root, mesh.clone(), promised, now)?;
    let verifier: Arc<dyn Keys> = Arc::new(SoftKeys::default());
    let mut members = Members::new(verifier, first.digest(), first)?;
    let set = KeySet::of(&signer, KeySlot::SIGNER)?;
    let rights = BTreeSet::from(Right::ALL);
    members.merge(members.grant(&root, name.clone(), set, rights, Scope::All, now)?)?;
    let node_keys = NodeKeys::of(&node)?;
    members.merge(members.sign_member(&signer, name.clone(), &node_keys, Scope::All, now)?)?;
    members.merge(members.beacon(&signer, now)?)?;

    let own = TrustDomain::new(name, mesh);
    state::found(store, &members, &own, Vec::new()).await?;
    unmark(dir)?;
    let invitations = Invitations::default();
    Ok(Known { members, own, keys: Arc::new(node), signer: Some(signer), invitations, lost: Vec::new() })
}

/// From here on keys are there that belong to no mesh; the mark tells them from those of a lost database.
pub(crate) fn mark(dir: &Path) -> Result<(), keyfile::Error> {
    match keyfile::write_new(&state::path(dir, state::FOUNDING), b"") {
        Err(keyfile::Error::Exists(_)) | Ok(()) => Ok(()),
        Err(err) => Err(err),
    }
}

/// The database holds the mesh of the keys now.
pub(crate) fn unmark(dir: &Path) -> anyhow::Result<()> {
    let mark = state::path(dir, state::FOUNDING);
    match std::fs::remove_file(&mark) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
            Err(err).with_context(|| format!("failed to remove {}", mark.display()))
        }
        _ => Ok(()),
    }
}

/// Keys of an interrupted run belong to no mesh yet, so they can be used.
pub(crate) fn create_or_load(path: &Path, slots: &[KeySlot]) -> Result<SoftKeys, keyfile::Error> {
    match keyfile::create(path, slots) {
        Err(keyfile::Error::Exists(_)) => keyfile::load(path),
        other => other,
    }
}
