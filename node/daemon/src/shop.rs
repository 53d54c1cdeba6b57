//! The demo's shop: six small gRPC services and their customers, each a process of its own.
//!
//! They are ordinary tonic services that know nothing of SageMesh but one address: every call goes to the node's
//! outbound listener, and `:authority` says to whom. `proto/sagemesh/shop/v1/shop_service.proto` says who calls
//! whom.

use std::io::Write;
use std::net::SocketAddr;
use std::str::FromStr;

use anyhow::Context;
use clap::ValueEnum;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tonic::transport::Uri;

mod call;
mod load;
mod serve;
mod site;

mod cart;
mod catalog;
mod checkout;
mod frontend;
mod payment;
mod shipping;

#[cfg(test)]
mod tests;

pub use load::{Line, Load};
pub use site::Site;

/// What one process of the shop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Role {
    /// What customers see: calls catalog, cart and checkout
    Frontend,
    /// What is on sale
    Catalog,
    /// What a cart comes to
    Cart,
    /// Turns a cart into an order: calls cart, payment and shipping
    Checkout,
    /// Takes money
    Payment,
    /// Sends parcels
    Shipping,
    /// The customers: calls the frontend and prints a line of JSON a second
    Load,
}

impl Role {
    /// The service's name in the mesh.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Frontend => "frontend",
            Self::Catalog => "catalog",
            Self::Cart => "cart",
            Self::Checkout => "checkout",
            Self::Payment => "payment",
            Self::Shipping => "shipping",
            Self::Load => "load",
        }
    }
}

/// How one process of the shop is started.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Which part of the shop to be
    #[arg(value_enum)]
    pub role: Role,
    /// Where a service listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// The node's outbound listener, through which all services are called
    #[arg(long, value_name = "URI", default_value = "http://127.0.0.1:7480", value_parser = address)]
    pub mesh: Uri,
    /// Calls one service at its own address instead, past the mesh: `cart=http://127.0.0.1:50051`
    #[arg(long = "at", value_name = "SERVICE=URI")]
    pub at: Vec<At>,
    /// The node where this process runs: each answer names it
    #[arg(long, value_name = "NAME", env = "SHOP_NODE", default_value = "unknown")]
    pub node: String,
    /// What the customers do
    #[command(flatten)]
    pub load: Load,
}

/// Where one service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// The service.
    pub role: Role,
    /// Its address.
    pub uri: Uri,
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (role, uri) = text.split_once('=').ok_or("write it as `cart=http://127.0.0.1:50051`")?;
        Ok(Self { role: Role::from_str(role, false)?, uri: address(uri)? })
    }
}

fn address(text: &str) -> Result<Uri, String> {
    let is_whole = |uri: &Uri| uri.scheme_str() == Some("http") && uri.port().is_some();
    text.parse().ok().filter(is_whole).ok_or_else(|| "write it as http://127.0.0.1:7480".to_owned())
}

/// Runs one part of the shop until SIGTERM or SIGINT.
///
/// # Errors
/// The port cannot be had, or nobody reads what is printed.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("failed to wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to wait for SIGINT")?;
    let work = perform(args, shutdown.clone());
    tokio::pin!(work);
    tokio::select! {
        done = &mut work => return done,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    shutdown.cancel();
    work.await
}

async fn perform(args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    let site = Site::new(args.role, &args.node, &args.mesh, &args.at)?;
    if args.role == Role::Load {
        return load::run(&args.load, &site, &mut std::io::stdout(), shutdown).await;
    }
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("failed to listen on {}: choose another port with --listen", args.listen))?;
    let address = listener.local_addr().context("failed to learn the port")?;
    writeln!(std::io::stdout(), "{} listens on {address}", args.role.name()).context("failed to print")?;
    serve::run(site, listener, shutdown).await
}
