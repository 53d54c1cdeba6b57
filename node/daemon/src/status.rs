//! `sagemesh status`: who this node is, and how its mesh stands.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use serde::Serialize;

use identity::Members;
use identity::author::MEMBER_RENEW_AFTER;
use types::{NodeName, Now, Refusal, TrustDomain};

use crate::renewal;
use crate::state::{self, Known};

/// What there is to know, in the form that `-o json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The mesh.
    pub mesh: String,
    /// Digest of the first root, by which people compare meshes.
    pub root: String,
    /// Generation of the root in force.
    pub root_generation: u32,
    /// This node's trust domain.
    pub node: String,
    /// Its peer id.
    pub peer: String,
    /// The services it may speak for.
    pub scope: String,
    /// When its record ends, RFC 3339.
    pub record_until: String,
    /// Nodes that hold the keys of a signer in force.
    pub signers: Vec<String>,
    /// Members whose records count.
    pub n_members: usize,
    /// What deserves attention, with what to do.
    pub warnings: Vec<String>,
    /// What only a node that runs can say.
    #[serde(flatten)]
    pub live: Option<Live>,
}

/// What only a node that runs can say of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Live {
    /// Whether it serves all that it is meant to.
    #[serde(rename = "ready")]
    pub is_ready: bool,
    /// Version of the program that runs.
    pub version: String,
    /// When its certificate ends, RFC 3339.
    pub svid_until: String,
    /// Where its API listens.
    pub api: String,
    /// Where its services are called; absent if its proxy is off.
    pub inbound: Option<String>,
}

/// Describes the node `own`, with what lies in its state directory `dir`. `lost` are statements that were kept
/// and no longer hold.
///
/// # Errors
/// Why this node's own record does not count.
pub fn of(
    dir: &Path,
    members: &Members,
    own: &TrustDomain,
    lost: &[String],
    is_ready: bool,
    now: Now,
) -> Result<api::node::Status, Refusal> {
    let member = members.get(own).ok_or_else(|| members.why_not(own))?;
    let signers = signers(members);
    let mut warnings = Vec::new();
    if signers.len() < 2 {
        warnings
            .push("there is one signer only: if it is lost, nobody can be admitted or renewed".to_owned());
    }
    for file in [state::ROOT_KEYS, state::NEXT_ROOT_KEYS] {
        let path = state::path(dir, file);
        if path.exists() {
            warnings
                .push(format!("{} is still here: whoever takes this node takes the mesh", path.display()));
        }
    }
    warnings.extend(lost.iter().map(|refusal| format!("a kept statement no longer holds: {refusal}")));
    if member.not_after <= now.wall {
        let advice = renewal::advice(members, own);
        warnings.push(format!("this node's record ended at {}: {advice}", member.not_after));
    } else if now.wall.since(member.issued_at) > MEMBER_RENEW_AFTER {
        warnings.push(format!(
            "this node's record ends at {}: start it where a signer can reach it",
            member.not_after
        ));
    }
    if members.is_stale(now) {
        warnings.push("no beacon of a signer for 72 h: peers never seen before are refused".to_owned());
    }
    for signer in members.forked() {
        warnings.push(format!("{signer:?} signed different things with one count: its keys may be stolen"));
    }
    Ok(api::node::Status {
        mesh: members.mesh().clone(),
        root: members.fingerprint(),
        root_generation: members.root().generation,
        node: own.clone(),
        peer: member.peer,
        scope: member.scope.clone(),
        record_until: member.not_after,
        signers,
        n_members: members.iter().count(),
        warnings,
        is_ready,
        inbound: None,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// What to say of nodes that are reached over the mesh since their ports, which they name, are shut.
pub(crate) fn detours(found: &[(TrustDomain, SocketAddr)]) -> Option<String> {
    let (first, address) = found.first()?;
    let more = match found.len() - 1 {
        0 => String::new(),
        n => format!(" and to {n} more nodes"),
    };
    let name = first.node();
    Some(format!(
        "calls to `{name}`{more} go over the mesh, which costs more: {address} cannot be reached from here; open that \
         port to this node, or set proxy.direct = false on `{name}` if nobody can reach it"
    ))
}

/// The nodes that hold the keys of a signer in force.
pub(crate) fn signers(members: &Members) -> Vec<NodeName> {
    let in_force = members.signers().values().filter(|standing| !standing.is_cut_off());
    in_force.map(|standing| standing.grant().node.clone()).collect()
}

/// Describes what is known of a node that does not run, with what lies in its state directory `dir`.
///
/// # Errors
/// Why this node's own record does not count.
pub fn describe(dir: &Path, known: &Known, now: Now) -> Result<Status, Refusal> {
    let lost: Vec<_> = known.lost.iter().map(ToString::to_string).collect();
    let status = of(dir, &known.members, &known.own, &lost, false, now)?;
    Ok(Status {
        mesh: status.mesh.to_string(),
        root: status.root.to_string(),
        root_generation: status.root_generation,
        node: status.node.to_string(),
        peer: status.peer.to_string(),
        scope: status.scope.to_string(),
        record_until: status.record_until.to_string(),
        signers: status.signers.iter().map(ToString::to_string).collect(),
        n_members: status.n_members,
        warnings: status.warnings,
        live: None,
    })
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "mesh      {}", self.mesh)?;
        writeln!(f, "root      {} (generation {})", self.root, self.root_generation)?;
        writeln!(f, "node      {}", self.node)?;
        writeln!(f, "peer      {}", self.peer)?;
        writeln!(f, "scope     {}", self.scope)?;
        writeln!(f, "record    until {}", self.record_until)?;
        writeln!(f, "signers   {}", self.signers.join(", "))?;
        write!(f, "members   {}", self.n_members)?;
        if let Some(live) = &self.live {
            let ready = if live.is_ready { "serves" } else { "does not serve yet" };
            write!(f, "\nruns      {} ({ready})", live.version)?;
            write!(f, "\nsvid      until {}", live.svid_until)?;
            write!(f, "\napi       {}", live.api)?;
            match &live.inbound {
                Some(inbound) => write!(f, "\ninbound   {inbound}")?,
                None => write!(f, "\ninbound   none: proxy.enabled is false")?,
            }
        }
        for warning in &self.warnings {
            write!(f, "\nwarning   {warning}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_are_called_over_the_mesh_are_told_in_one_line() {
        let found = |name: &str, port: u16| {
            let node: TrustDomain = format!("{name}.home.mesh").parse().expect("a name");
            (node, SocketAddr::from(([192, 0, 2, 1], port)))
        };
        assert_eq!(detours(&[]), None);
        let told = detours(&[found("nas", 7450)]).expect("a warning");
        assert!(
            told.starts_with("calls to `nas` go over the mesh") && told.contains("192.0.2.1:7450"),
            "{told}"
        );
        assert!(told.contains("set proxy.direct = false on `nas`"), "{told}");
        let told = detours(&[found("nas", 7450), found("tv", 1), found("pi", 2)]).expect("a warning");
        assert!(told.starts_with("calls to `nas` and to 2 more nodes go over the mesh"), "{told}");
    }
}
