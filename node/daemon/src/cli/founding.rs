//! Commands that begin: `init`, `join` and `up`.

use std::io::Read;
use std::time::Duration;

use anyhow::{Context, bail};

use identity::token::Token;
use types::{MeshName, NodeName, Now};

use super::output::{Output, say};
use crate::config::{Config, Sources};
use crate::join::{self, Outcome};
use crate::state::Stage;
use crate::{app, init, state, status};

/// Most bytes read of a token.
const TOKEN_LEN_MAX: u64 = 16 << 10;
/// How often `up` tries to open a database that is in use, and how long it waits in between.
const OPEN_TRIES: u32 = 20;
const OPEN_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// `init`
pub(super) async fn init(
    config: &Config,
    mesh: &MeshName,
    name: Option<&NodeName>,
    output: Output,
) -> anyhow::Result<()> {
    // Looked at first: it makes nothing where something is amiss.
    state::stage(&config.state)?;
    let store = state::open(&config.store)?;
    let done = found(config, &store, mesh, name, output).await;
    store.close().await?;
    done
}

async fn found(
    config: &Config,
    store: &store::Store,
    mesh: &MeshName,
    name: Option<&NodeName>,
    output: Output,
) -> anyhow::Result<()> {
    let name = match name {
        Some(name) => name.clone(),
        None => host_name()?,
    };
    let now = Now::read();
    let known = init::init(&config.state, &store.handle(), mesh.clone(), name, now).await?;
    let status = status::describe(&config.state, &known, now)?;
    output.print(&status.to_string(), &serde_json::to_value(&status)?)?;
    if output == Output::Json {
        return Ok(());
    }
    let file = |name| state::path(&config.state, name).display().to_string();
    say(&format!(
        "\nMove these two files to a place that is not on any node; a copy of each is wise:\n  {}\n  {}\n\
         They make signers and can cut off stolen ones. No node needs them to run.",
        file(state::ROOT_KEYS),
        file(state::NEXT_ROOT_KEYS),
    ))
}

/// `join`
pub(super) async fn join(config: &Config, token: &str, output: Output) -> anyhow::Result<()> {
    let mut text = token.to_owned();
    if token == "-" {
        text.clear();
        std::io::stdin().take(TOKEN_LEN_MAX).read_to_string(&mut text).context("failed to read the token")?;
    }
    let token: Token = text.trim().parse()?;
    // Looked at first: it makes nothing where something is amiss.
    state::stage(&config.state)?;
    let store = state::open(&config.store)?;
    let joined = join::join(&config.state, &store.handle(), &token, Now::read()).await;
    store.close().await?;
    let (known, outcome) = joined?;
    let status = status::describe(&config.state, &known, Now::read())?;
    output.print(&status.to_string(), &serde_json::to_value(&status)?)?;
    if output == Output::Json {
        return Ok(());
    }
    say(match outcome {
        Outcome::Joined => "\nThis machine is a member now. Start it with:\n  sagemesh up",
        Outcome::Renewed => {
            "\nThis machine is renewed, with the keys that it had. Start it with:\n  sagemesh up"
        }
        Outcome::Held => "\nThis machine is a member already. Start it with:\n  sagemesh up",
    })
}

/// `up`
pub(super) async fn up(config: Config, sources: Sources) -> anyhow::Result<()> {
    if state::stage(&config.state)? == Stage::Empty {
        bail!(
            "this node belongs to no mesh yet: found one with `sagemesh init`, or join one with `sagemesh join`"
        );
    }
    let store = open_soon(&config.store).await?;
    let done = app::up(config, sources, &store).await;
    let closed = store.close().await;
    done?;
    Ok(closed?)
}

/// Opens the database, for which another command may have a moment's use.
async fn open_soon(config: &store::Config) -> Result<store::Store, store::Error> {
    for _ in 0..OPEN_TRIES {
        match state::open(config) {
            Err(store::Error::Locked { .. }) => tokio::time::sleep(OPEN_AGAIN_AFTER).await,
            other => return other,
        }
    }
    state::open(config)
}

fn host_name() -> anyhow::Result<NodeName> {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy().to_lowercase();
    let label = name.split('.').next().unwrap_or_default();
    label.parse().with_context(|| format!("the host's name `{name}` is no node name: give one with --name"))
}
