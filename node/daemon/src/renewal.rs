//! What becomes of a node whose record ended while it was off. A signer renews itself; any other node is told
//! where its invitation is made, since nobody links up with a node whose record has ended.

use anyhow::Context;
use serde_json::json;
use store::Handle;
use tracing::warn;
use types::{Now, Reason, TrustDomain};

use identity::Members;

use crate::state::{self, Known};
use crate::{audit, status};

/// Sees to it that this node's record holds now.
///
/// # Errors
/// Why it does not, and what is to be done where.
pub async fn renew(known: &mut Known, store: &Handle, now: Now) -> anyhow::Result<()> {
    let own = known.own.clone();
    let member = known.members.get(&own).ok_or_else(|| known.members.why_not(&own))?;
    let ended = member.not_after;
    if ended > now.wall {
        return Ok(());
    }
    let told = || format!("this node cannot start before it is renewed: {}", advice(&known.members, &own));
    let signer = known.signer.as_ref().filter(|signer| known.members.may_renew(*signer, member));
    let Some(signer) = signer else {
        let detail = format!("the record of `{own}` ended at {ended}, and it is {} here", now.wall);
        return Err(Reason::MemberExpired.because(detail)).with_context(told);
    };
    let kept = state::digests(&known.members);
    let mut members = known.members.clone();
    members.merge(members.renew(signer, &own, None, now).with_context(told)?)?;
    members.merge(members.beacon(signer, now)?)?;
    let event = audit::event(&own, now, "identity.member.renewed.v1", own.node().as_str(), json!({}));
    state::keep(store, &kept, &members, Vec::new(), vec![event]).await?;
    known.members = members;
    warn!(record.ended = %ended, "this node was off until its record ended, and has renewed it by its own signer's keys");
    Ok(())
}

/// What is to be done for a node whose record ended, and on which machine.
pub(crate) fn advice(members: &Members, own: &TrustDomain) -> String {
    let others = status::signers(members).into_iter().filter(|signer| signer != own.node());
    let others: Vec<_> = others.map(|signer| format!("`{signer}`")).collect();
    if others.is_empty() {
        return "there is no other signer: have the root grant one, and invite this node there".to_owned();
    }
    let name = own.node();
    format!("run `sagemesh invite --name {name}` on {}, then `sagemesh join TOKEN` here", others.join(" or "))
}
