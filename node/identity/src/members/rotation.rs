//! Changing the root: all of what it decides at once, or nothing.
//!
//! Whoever relays a new root could leave out what comes with it: without its grants nobody is a member, and a
//! cut-off or a tombstone left out brings the thief back. So a root names what comes with it, and counts only
//! in a batch that holds all of that.

use std::collections::BTreeSet;

use types::{Digest, Refusal};

use super::Members;
use crate::statement::{CutOff, Grant, Kind, Root, Signed, Statement, Tombstone};

impl Members {
    /// Roots in a batch that would follow the one in force, but come without their company. Of several
    /// generations only the last must be complete: what came with the others is void with them.
    pub(super) fn torn_roots(&self, batch: &[(Digest, Result<Signed, Refusal>)]) -> BTreeSet<Digest> {
        let statements = || batch.iter().filter_map(|(_, signed)| signed.as_ref().ok());
        let mut last = &self.root;
        let mut chain = BTreeSet::new();
        while let Some((next, digest)) = statements().find_map(|signed| match &signed.statement {
            // Anyone can write down the promised keys: only their holder's root may stand for the others.
            Statement::Root(root) if follows(root, last) => {
                let is_signed = signed.envelope.open(Root::DOMAIN, &root.keys.both(), self.keys()).is_ok();
                is_signed.then_some((root, signed.digest))
            }
            _ => None,
        }) {
            last = next;
            chain.insert(digest);
        }
        if chain.is_empty() || self.is_complete(last, statements()) {
            return BTreeSet::new();
        }
        chain
    }

    fn is_complete<'a>(&self, root: &Root, statements: impl Iterator<Item = &'a Signed>) -> bool {
        let id = root.id();
        let mut due = root.company.clone();
        for signed in statements {
            let (company, part, domain, author) = match &signed.statement {
                Statement::Grant(it) => (&mut due.granted, it.keys.signer().0, Grant::DOMAIN, it.root),
                Statement::CutOff(it) => (&mut due.cut_off, it.signer.0, CutOff::DOMAIN, it.root),
                Statement::Tombstone(it) => (&mut due.buried, it.authority().0, Tombstone::DOMAIN, it.signer),
                _ => continue,
            };
            let is_signed = || signed.envelope.open(domain, &root.keys.both(), self.keys()).is_ok();
            if author == id && company.contains(&part) && is_signed() {
                company.remove(&part);
            }
        }
        due.granted.is_empty() && due.cut_off.is_empty() && due.buried.is_empty()
    }
}

/// Whether a root has the generation and the keys that the one before promised.
pub(super) fn follows(next: &Root, last: &Root) -> bool {
    next.generation == last.generation.saturating_add(1) && next.keys.digest() == last.next_keys
}
