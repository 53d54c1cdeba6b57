//! `sagemesh join`: this machine becomes a member, by the token that `sagemesh invite` printed.
//!
//! A run that was interrupted is taken up where it stopped: the keys stay, and redeeming a token twice with
//! the same keys gives the same record.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio::time::timeout;

use identity::join::{self, MESSAGE_LEN_MAX, Newcomer, WELCOME_LEN_MAX};
use identity::token::Token;
use identity::{KeySet, Members, SoftKeys};
use store::Handle;
use tls::{client, frame};
use types::key::{KeySlot, Keys};
use types::{Now, Reason, Refusal};

use crate::state::{self, Known};
use crate::{addresses, init};

/// How long one address of the inviter is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the inviter may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This machine is a member now.
    Joined,
    /// It was one, and its record is renewed.
    Renewed,
    /// It is one still: nothing was asked for.
    Held,
}

/// Joins the mesh of `token`, or has this machine renewed if its record in that mesh has ended.
///
/// # Errors
/// What the inviter refused, or why it was not reached. Nothing was joined then; the keys that were made stay
/// for the next try.
pub async fn join(dir: &Path, store: &Handle, token: &Token, now: Now) -> anyhow::Result<(Known, Outcome)> {
    let outcome = match state::load(dir, store).await? {
        Some(known) => {
            init::unmark(dir)?;
            check_same(&known, token, dir)?;
            if known.members.get(&known.own).is_some_and(|member| member.not_after > now.wall) {
                return Ok((known, Outcome::Held));
            }
            rejoin(store, token, known, now).await?;
            Outcome::Renewed
        }
        None => {
            init::mark(dir)?;
            let keys = init::create_or_load(&state::path(dir, state::NODE_KEYS), &KeySlot::NODE)?;
            let (members, seed) = ask(token, &Newcomer::invited(&keys, token)).await?;
            let seed = seed.map(|seed| addresses::put_seed(&seed));
            state::found(store, &members, &token.domain, seed.into_iter().collect()).await?;
            init::unmark(dir)?;
            Outcome::Joined
        }
    };
    let known = state::load(dir, store).await?;
    Ok((known.context("the database lost what was just written: look at the disk")?, outcome))
}

/// Whether a token is for the node that this machine is already.
fn check_same(known: &Known, token: &Token, dir: &Path) -> anyhow::Result<()> {
    let (own, asked) = (&known.own, &token.domain);
    if token.root != known.members.fingerprint() || asked.mesh() != own.mesh() {
        bail!(
            "this node is `{own}` already, and the token is for another mesh, `{}` with the root {}: join that \
             one with another state directory, by --state, or give up this one first by removing {}",
            asked.mesh(),
            token.root,
            dir.display()
        );
    }
    if asked != own {
        bail!(
            "this node is `{own}` already: make its invitation with `sagemesh invite --name {}`, or choose \
             another state directory with --state",
            own.node()
        );
    }
    Ok(())
}

/// Has this machine renewed by its old keys. A signer that has forgotten them takes them as a newcomer's.
async fn rejoin(store: &Handle, token: &Token, known: Known, now: Now) -> anyhow::Result<()> {
    let Known { mut members, own, keys, .. } = known;
    let kept = state::digests(&members);
    let is_forgotten = |err: &anyhow::Error| {
        let refusal = err.chain().find_map(|cause| cause.downcast_ref::<Refusal>());
        refusal.is_some_and(|it| matches!(it.reason, Reason::MemberUnknown | Reason::MemberExpired))
    };
    let renewing = Newcomer::renewing(&*keys, own.clone(), token.root);
    let (given, seed) = match ask(token, &renewing).await {
        Err(err) if is_forgotten(&err) => ask(token, &Newcomer::invited(&*keys, token)).await?,
        answer => answer?,
    };
    // As the signer did, by the clock that both were seen to agree on: what one has forgotten would have the
    // other refuse the new record as an older one.
    members.prune(now);
    // What is not believed here counts for nothing; whether the record is, shows below.
    members.merge_all(given.items().map(|signed| signed.envelope.clone()));
    let authority = KeySet::of(&*keys, KeySlot::AUTHORITY)?;
    if let Some(refusal) = members.refusal(&own, &authority) {
        return Err(refusal.into());
    }
    let seed = seed.map(|seed| addresses::put_seed(&seed)).into_iter().collect();
    state::keep(store, &kept, &members, seed, Vec::new()).await
}

/// Tries the inviter's addresses in turn. The first refusal ends it: another address is the same inviter.
async fn ask(token: &Token, newcomer: &Newcomer<'_>) -> anyhow::Result<(Members, Option<String>)> {
    let mut failures = Vec::new();
    for address in &token.addresses {
        match ask_at(address, token, newcomer).await {
            Ok(joined) => return Ok(joined),
            Err(err) if err.chain().any(|cause| cause.is::<Refusal>()) => return Err(err),
            Err(err) => failures.push(format!("{address}: {err:#}")),
        }
    }
    bail!(
        "failed to reach the inviter: see that it runs and that its API port can be reached from here\n  {}",
        failures.join("\n  ")
    )
}

async fn ask_at(
    address: &str,
    token: &Token,
    newcomer: &Newcomer<'_>,
) -> anyhow::Result<(Members, Option<String>)> {
    let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let stream = connected.context("no connection in time")?.context("no connection")?;
    let (mut stream, chain, exporter) = client::connect_to_inviter(stream, token).await.map_err(unwrap)?;
    let talk = async {
        let welcome = read(&mut stream, WELCOME_LEN_MAX).await?;
        let verifier: Arc<dyn Keys> = Arc::new(SoftKeys::default());
        let (mut members, request) = newcomer.greet(verifier, &chain, &exporter, &welcome, Now::read())?;
        frame::write(&mut stream, &request).await.context("the inviter closed the connection")?;
        let reply = read(&mut stream, MESSAGE_LEN_MAX).await?;
        newcomer.settle(&mut members, &reply)?;
        let host = address.rsplit_once(':').map(|(host, _)| host);
        let seed = host.zip(join::mesh_port(&reply)).map(|(host, port)| format!("{host}:{port}"));
        anyhow::Ok((members, seed))
    };
    timeout(ANSWER_TIMEOUT, talk).await.context("the inviter did not answer in time")?
}

/// A refusal is what a script looks for, at the top.
fn unwrap(err: tls::Error) -> anyhow::Error {
    match err {
        tls::Error::Refused(refusal) => refusal.into(),
        other => other.into(),
    }
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S, len_max: usize) -> anyhow::Result<Vec<u8>> {
    const CLOSED: &str = "the inviter closed the connection";
    frame::read(stream, len_max).await.context(CLOSED)?.context(CLOSED)
}
