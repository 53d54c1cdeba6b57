//! `sagemesh demo`: a small mesh on this machine, with a shop on it, of which one node is killed while people buy.

use std::ffi::OsString;

pub mod fleet;

/// What the demo does.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Nodes
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(3..=20))]
    pub nodes: u16,
    /// How long customers buy, such as `60s` or `2m` [10s to 1h]
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = time)]
    pub time: std::time::Duration,
    /// Prints line by line, as it does where standard output is no terminal
    #[arg(long)]
    pub plain: bool,
    /// Becomes the command instead, and ends with the process of this id
    #[arg(long, hide = true, value_name = "PID", requires = "command")]
    tie: Option<u32>,
    /// The command
    #[arg(last = true, hide = true, requires = "tie")]
    command: Vec<OsString>,
}

fn time(text: &str) -> Result<std::time::Duration, String> {
    let err = || "write it as `60s` or `2m`".to_owned();
    let (digits, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(err)?;
    let n: u64 = digits.parse().map_err(|_| err())?;
    let secs = match unit {
        "s" => n,
        "m" => n.saturating_mul(60),
        _ => return Err(err()),
    };
    if (8..=3600).contains(&secs) {
        Ok(std::time::Duration::from_secs(secs))
    } else {
        Err("choose 8s to 60m".to_owned())
    }
}

/// Runs the demo.
///
/// # Errors
/// What went wrong.
pub async fn run(args: Args) -> anyhow::Result<()> {
    if let Some(parent) = args.tie {
        return fleet::exec_tied(parent, &args.command);
    }
    anyhow::bail!("not yet")
}
