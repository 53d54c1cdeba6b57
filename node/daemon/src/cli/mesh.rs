//! Commands about the node itself and its peers.

use std::path::Path;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use proto::mesh::v1::{
    GetStatusRequest, GetStatusResponse, LeaveRequest, ListPeersRequest, Liveness, Peer, ReloadRequest,
    WatchPeersRequest,
};
use types::{Now, Timestamp};

use super::client::{Address, Node, failure};
use super::output::{Output, moment, moment_json, say, table, text_json};
use crate::config::Config;
use crate::state::{self, Stage};
use crate::status::{self, Live, Status};

/// A record that ends sooner was not renewed when it was due.
const RECORD_LEFT_MIN_DAYS: u64 = 14;
/// A certificate that ends sooner was not replaced when it was due.
const SVID_LEFT_MIN_MINUTES: u64 = 10;

/// `status`: of the node that runs, or else what it keeps.
pub(super) async fn status(config: &Config, address: &Address, output: Output) -> anyhow::Result<()> {
    let live = if address.is_given { Some(address.connect().await?) } else { address.try_connect().await? };
    let status = match live {
        Some(node) => live_status(&node).await?.0,
        None => kept_status(config).await?,
    };
    output.print(&status.to_string(), &serde_json::to_value(&status)?)
}

async fn live_status(node: &Node) -> anyhow::Result<(Status, GetStatusResponse)> {
    let told = node.mesh().get_status(GetStatusRequest {}).await.map_err(failure)?.into_inner();
    let status = Status {
        mesh: told.mesh.clone(),
        root: told.root.clone(),
        root_generation: told.root_generation,
        node: told.node.clone(),
        peer: told.peer.clone(),
        scope: if told.scope.is_empty() { "none".to_owned() } else { told.scope.join(",") },
        record_until: moment(told.record_until_s),
        signers: told.signers.clone(),
        n_members: usize::try_from(told.n_members).unwrap_or(usize::MAX),
        warnings: told.warnings.clone(),
        live: Some(Live {
            is_ready: told.ready,
            version: told.version.clone(),
            svid_until: moment(told.svid_until_s),
            api: told.api_address.clone(),
            inbound: Some(told.inbound_address.clone()).filter(|address| !address.is_empty()),
        }),
    };
    Ok((status, told))
}

async fn kept_status(config: &Config) -> anyhow::Result<Status> {
    match state::stage(&config.state)? {
        Stage::Empty => {
            bail!("this node belongs to no mesh yet: found one with `sagemesh init home.mesh`")
        }
        Stage::Founding => {
            bail!("an `init` was interrupted here: run it again, it goes on where it stopped")
        }
        Stage::Founded => {}
    }
    let store = state::open(&config.store)?;
    let described = describe_kept(&config.state, &store).await;
    store.close().await?;
    described
}

async fn describe_kept(dir: &Path, store: &store::Store) -> anyhow::Result<Status> {
    let known = state::load(dir, &store.handle()).await?;
    let known =
        known.context("the database does not hold the mesh of this node's keys: restore it from a backup")?;
    Ok(status::describe(dir, &known, Now::read())?)
}

/// `peers`
pub(super) async fn peers(node: &Node, is_watching: bool, output: Output) -> anyhow::Result<()> {
    if !is_watching {
        let told = node.mesh().list_peers(ListPeersRequest {}).await.map_err(failure)?.into_inner();
        return output.print(&peers_table(&told.peers), &peers_json(&told.peers));
    }
    let mut lists = node.mesh().watch_peers(WatchPeersRequest {}).await.map_err(failure)?.into_inner();
    let mut is_first = true;
    while let Some(told) = lists.message().await.map_err(failure)? {
        if !is_first && output == Output::Text {
            say("")?;
        }
        is_first = false;
        output.print_next(&peers_table(&told.peers), &peers_json(&told.peers))?;
    }
    Ok(())
}

fn liveness(peer: &Peer) -> &'static str {
    match peer.liveness() {
        Liveness::Unspecified | Liveness::Unknown => "unknown",
        Liveness::Alive => "alive",
        Liveness::Suspect => "suspect",
        Liveness::Dead => "dead",
        Liveness::Left => "left",
    }
}

fn peers_table(peers: &[Peer]) -> String {
    if peers.is_empty() {
        return "no peers yet: invite one with `sagemesh invite --name NAME`".to_owned();
    }
    let row = |peer: &Peer| {
        let linked = if peer.linked { "linked" } else { "" };
        [
            peer.node.clone(),
            liveness(peer).to_owned(),
            linked.to_owned(),
            peer.address.clone(),
            moment(peer.since_s),
            peer.services.join(","),
        ]
    };
    let rows: Vec<_> = peers.iter().map(row).collect();
    table(["NODE", "STATE", "LINK", "ADDRESS", "SINCE", "SERVICES"], &rows)
}

fn peers_json(peers: &[Peer]) -> Value {
    let item = |peer: &Peer| {
        json!({
            "node": peer.node,
            "peer": peer.id,
            "liveness": liveness(peer),
            "linked": peer.linked,
            "address": text_json(&peer.address),
            "tls_group": text_json(&peer.tls_group),
            "tls_signature": text_json(&peer.tls_signature),
            "since": moment_json(peer.since_s),
            "services": peer.services,
        })
    };
    peers.iter().map(item).collect()
}

/// `leave`
pub(super) async fn leave(node: &Node, output: Output) -> anyhow::Result<()> {
    node.mesh().leave(LeaveRequest {}).await.map_err(failure)?;
    let text = "left; the node stops. It stays a member: `sagemesh up` brings it back";
    output.print(text, &json!({ "left": true }))
}

/// `reload`
pub(super) async fn reload(node: &Node, output: Output) -> anyhow::Result<()> {
    let changes = node.mesh().reload(ReloadRequest {}).await.map_err(failure)?.into_inner().changes;
    let text = if changes.is_empty() { "nothing changed".to_owned() } else { changes.join("\n") };
    output.print(&text, &json!({ "changes": changes }))
}

/// One thing that `check` looked at.
struct Check {
    what: &'static str,
    is_well: bool,
    seen: String,
}

/// `check`: fails before something ends.
pub(super) async fn check(node: &Node, output: Output) -> anyhow::Result<()> {
    let (_, told) = live_status(node).await?;
    let peers = node.mesh().list_peers(ListPeersRequest {}).await.map_err(failure)?.into_inner().peers;
    let checks = judge(&told, &peers, Now::read().wall);
    let verdict = |check: &Check| if check.is_well { "ok" } else { "FAILS" };
    let mut lines: Vec<_> =
        checks.iter().map(|it| format!("{:5}  {:11}  {}", verdict(it), it.what, it.seen)).collect();
    lines.extend(told.warnings.iter().map(|it| format!("warns  {it}")));
    let json = |it: &Check| json!({ "check": it.what, "ok": it.is_well, "seen": it.seen });
    let value = json!({
        "ok": checks.iter().all(|it| it.is_well),
        "checks": checks.iter().map(json).collect::<Vec<_>>(),
        "warnings": told.warnings,
    });
    output.print(&lines.join("\n"), &value)?;
    let failed: Vec<_> = checks.iter().filter(|it| !it.is_well).map(|it| it.what).collect();
    if failed.is_empty() {
        return Ok(());
    }
    bail!("not well: {}", failed.join(", "))
}

fn judge(told: &GetStatusResponse, peers: &[Peer], now: Timestamp) -> Vec<Check> {
    let check = |what, is_well, seen: String| Check { what, is_well, seen };
    let left = |until_s| Timestamp::from_secs(until_s).since(now).as_secs();
    let ready = if told.ready { "it serves" } else { "the node does not serve yet: look at its log" };
    let (days, minutes) = (left(told.record_until_s) / 86_400, left(told.svid_until_s) / 60);
    let record = match days < RECORD_LEFT_MIN_DAYS {
        true => format!("ends in {days} d: let the node reach a signer, which renews it"),
        false => format!("holds for {days} d"),
    };
    let svid = match minutes < SVID_LEFT_MIN_MINUTES {
        true => format!("ends in {minutes} min and was not replaced: look at the node's log"),
        false => format!("holds for {minutes} min"),
    };
    let (signers, is_signed) = judge_signers(told, peers);
    vec![
        check("ready", told.ready, ready.to_owned()),
        check("record", days >= RECORD_LEFT_MIN_DAYS, record),
        check("certificate", minutes >= SVID_LEFT_MIN_MINUTES, svid),
        check("signers", is_signed, signers),
    ]
}

/// Whether every signer is there: one that is missing is the last chance to make another.
fn judge_signers(told: &GetStatusResponse, peers: &[Peer]) -> (String, bool) {
    if told.signers.is_empty() {
        return ("there is none: have the root grant one".to_owned(), false);
    }
    let is_own = |name: &String| told.node.split('.').next() == Some(name.as_str());
    let is_alive = |name: &String| {
        peers.iter().any(|peer| peer.node == *name && (peer.linked || peer.liveness() == Liveness::Alive))
    };
    let missing: Vec<_> =
        told.signers.iter().filter(|name| !is_own(name) && !is_alive(name)).cloned().collect();
    match missing.is_empty() {
        true => (told.signers.join(", "), true),
        false => (format!("{} cannot be reached: start them", missing.join(", ")), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well() -> GetStatusResponse {
        GetStatusResponse {
            node: "pi.home.mesh".to_owned(),
            ready: true,
            record_until_s: 1_000_000 + 60 * 86_400,
            svid_until_s: 1_000_000 + 1800,
            signers: vec!["pi".to_owned()],
            ..Default::default()
        }
    }

    #[track_caller]
    fn check(told: &GetStatusResponse, peers: &[Peer], expected: &[&str]) {
        let checks = judge(told, peers, Timestamp::from_secs(1_000_000));
        let failed: Vec<_> = checks.iter().filter(|it| !it.is_well).map(|it| it.what).collect();
        assert_eq!(failed, expected);
    }

    #[test]
    fn what_ends_soon_or_is_missing_fails_the_check() {
        check(&well(), &[], &[]);
        check(&GetStatusResponse { ready: false, ..well() }, &[], &["ready"]);
        check(&GetStatusResponse { record_until_s: 1_000_000 + 86_400, ..well() }, &[], &["record"]);
        check(&GetStatusResponse { svid_until_s: 1_000_060, ..well() }, &[], &["certificate"]);
        check(&GetStatusResponse { signers: Vec::new(), ..well() }, &[], &["signers"]);
        let two = GetStatusResponse { signers: vec!["pi".to_owned(), "tv".to_owned()], ..well() };
        check(&two, &[], &["signers"]);
        let mut tv = Peer { node: "tv".to_owned(), ..Default::default() };
        tv.set_liveness(Liveness::Suspect);
        check(&two, &[tv.clone()], &["signers"]);
        tv.set_liveness(Liveness::Alive);
        check(&two, &[tv], &[]);
    }
}
