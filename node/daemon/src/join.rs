//! `sagemesh join`: this machine becomes a member, by the token that `sagemesh invite` printed.
//!
//! A run that was interrupted is taken up where it stopped: the keys stay, and redeeming a token twice with
//! the same keys gives the same record.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use identity::join::{self, MESSAGE_LEN_MAX, Newcomer, WELCOME_LEN_MAX};
use identity::token::Token;
use identity::{Members, SoftKeys};
use store::Handle;
use tls::client;
use types::key::{KeySlot, Keys};
use types::{Now, Refusal};

use crate::state::{self, Known};
use crate::{addresses, init};

/// How long one address of the inviter is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the inviter may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Joins the mesh of `token`.
///
/// # Errors
/// What the inviter refused, or why it was not reached. Nothing was joined then; the keys that were made stay
/// for the next try.
pub async fn join(dir: &Path, store: &Handle, token: &Token) -> anyhow::Result<Known> {
    if let Some(known) = state::load(dir, store).await? {
        if known.own == token.domain {
            init::unmark(dir)?;
            return Ok(known);
        }
        bail!("this node is `{}` already: choose another state directory with --state", known.own);
    }
    init::mark(dir)?;
    let keys = init::create_or_load(&state::path(dir, state::NODE_KEYS), &KeySlot::NODE)?;
    let (members, seed) = ask(token, &keys).await?;
    let seed = seed.map(|seed| addresses::put_seed(&seed));
    state::found(store, &members, &token.domain, seed.into_iter().collect()).await?;
    init::unmark(dir)?;
    state::load(dir, store).await?.context("the database lost what was just written: look at the disk")
}

/// Tries the inviter's addresses in turn. The first refusal ends it: another address is the same inviter.
async fn ask(token: &Token, keys: &SoftKeys) -> anyhow::Result<(Members, Option<String>)> {
    let mut failures = Vec::new();
    for address in &token.addresses {
        match ask_at(address, token, keys).await {
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

async fn ask_at(address: &str, token: &Token, keys: &SoftKeys) -> anyhow::Result<(Members, Option<String>)> {
    let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let stream = connected.context("no connection in time")?.context("no connection")?;
    let (mut stream, chain, exporter) = client::connect_to_inviter(stream, token).await.map_err(unwrap)?;
    let talk = async {
        let welcome = read(&mut stream, WELCOME_LEN_MAX).await?;
        let newcomer = Newcomer::invited(keys, token);
        let verifier: Arc<dyn Keys> = Arc::new(SoftKeys::default());
        let (mut members, request) = newcomer.greet(verifier, &chain, &exporter, &welcome, Now::read())?;
        write(&mut stream, &request).await?;
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
    let len = usize::try_from(stream.read_u32().await.context("the inviter closed the connection")?)?;
    if len > len_max {
        bail!("the inviter announced {len} bytes where {len_max} are allowed");
    }
    let mut bytes = Vec::new();
    stream.take(len as u64).read_to_end(&mut bytes).await?;
    if bytes.len() < len {
        bail!("the inviter closed the connection midway");
    }
    Ok(bytes)
}

async fn write<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> anyhow::Result<()> {
    stream.write_u32(u32::try_from(bytes.len())?).await?;
    stream.write_all(bytes).await?;
    stream.flush().await.context("the inviter closed the connection")
}
