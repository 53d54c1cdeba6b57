//! `init`: a new mesh.

use anyhow::Context;

use types::{MeshName, NodeName, Now};

use super::output::{Output, say};
use crate::config::Config;
use crate::{init, state, status};

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

fn host_name() -> anyhow::Result<NodeName> {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy().to_lowercase();
    let label = name.split('.').next().unwrap_or_default();
    label.parse().with_context(|| format!("the host's name `{name}` is no node name: give one with --name"))
}
