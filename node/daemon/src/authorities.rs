//! The authority certificates of all nodes, for stock clients: each node tells its signatures, and everyone makes
//! the certificates again from the member records.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tracing::{debug, warn};

use api::node::Authority;
use identity::authority::{self, Form};
use identity::{Member, Members};
use mesh::Gossiping;
use mesh::gossip::Known;
use proto::Message;
use proto::identity::v1::AuthoritySignatures;
use types::key::{KeySlot, Keys};
use types::{PeerId, Refusal, TrustDomain};

/// The key in a node's record.
const KEY: &str = "identity/authority";

/// Tells this node's signatures if its record is another than the one they were `said` for. Answers which it is.
pub async fn say(
    keys: &dyn Keys,
    own: &TrustDomain,
    members: &watch::Receiver<Arc<Members>>,
    gossip: &Gossiping,
    said: Option<Arc<Member>>,
) -> Option<Arc<Member>> {
    let member = members.borrow().get(own).cloned()?;
    if said.as_ref().is_some_and(|said| Arc::ptr_eq(said, &member)) {
        return said;
    }
    let sign = |form| authority::sign(keys, KeySlot::AuthorityP256, &member, form);
    let signatures =
        sign(Form::Rustls).and_then(|rustls| Ok(AuthoritySignatures { rustls, stock: sign(Form::Stock)? }));
    let told = match signatures {
        Ok(signatures) => gossip.put([(KEY.to_owned(), Some(signatures.encode_to_vec()))].into()).await,
        Err(refusal) => Err(refusal),
    };
    match told {
        Ok(()) => Some(member),
        Err(refusal) => {
            warn!(error = %refusal, "failed to tell this node's certificates: stock clients elsewhere lack them");
            said
        }
    }
}

/// The last answer of [`all`], which costs two signatures' checks for each node: as long as neither the member
/// map nor what nodes say is another.
#[derive(Default)]
pub struct Cache(Mutex<Option<Kept>>);

/// An answer, and what it was made of.
struct Kept {
    members: Arc<Members>,
    known: Arc<BTreeMap<PeerId, Known>>,
    all: Vec<Authority>,
}

impl Cache {
    /// As [`all`].
    ///
    /// # Errors
    /// As [`all`].
    pub fn all(
        &self,
        keys: &dyn Keys,
        own: &TrustDomain,
        members: &Arc<Members>,
        known: &Arc<BTreeMap<PeerId, Known>>,
    ) -> Result<Vec<Authority>, Refusal> {
        // Held meanwhile: who asks at the same time shall not do the same work.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(it) = kept.as_ref()
            && Arc::ptr_eq(&it.members, members)
            && Arc::ptr_eq(&it.known, known)
        {
            return Ok(it.all.clone());
        }
        let all = all(keys, own, members, known)?;
        *kept = Some(Kept { members: Arc::clone(members), known: Arc::clone(known), all: all.clone() });
        Ok(all)
    }
}

/// The certificates of all nodes that are known here.
///
/// # Errors
/// If this node's own key is not at hand.
pub fn all(
    keys: &dyn Keys,
    own: &TrustDomain,
    members: &Members,
    known: &BTreeMap<PeerId, Known>,
) -> Result<Vec<Authority>, Refusal> {
    let mut all = Vec::new();
    for member in members.iter() {
        if member.domain == *own {
            all.push(Authority::of(keys, member)?);
            continue;
        }
        let Some(record) = known.get(&member.peer).and_then(|it| it.record.as_ref()) else { continue };
        let said = record.value(KEY).and_then(|bytes| AuthoritySignatures::decode(bytes).ok());
        let restore = |form, signature: &[u8]| {
            let key = &member.authority.classical;
            authority::restore(members.keys(), member, key, form, signature).map(|it| vec![it])
        };
        let both = said.map(|it| Ok((restore(Form::Rustls, &it.rustls)?, restore(Form::Stock, &it.stock)?)));
        match both {
            Some(Ok((rustls, stock))) => {
                all.push(Authority { node: member.node().clone(), rustls, stock });
            }
            Some(Err(refusal)) => {
                let refusal: Refusal = refusal;
                debug!(sagemesh.node = %member.node(), error = %refusal, "left out a node's certificates");
            }
            None => {}
        }
    }
    Ok(all)
}
