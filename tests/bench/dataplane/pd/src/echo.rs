//! The service that is called: what comes goes back, through tonic as users have it.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

#[expect(unreachable_pub, reason = "generated")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/pd.Echo.rs"));
}
use generated::echo_server::{Echo, EchoServer};

/// Most streams of one connection: as every proxy of the benchmark is set.
const STREAMS_MAX: u32 = 1024;

/// What is asked and answered.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Message {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) body: Vec<u8>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    listen: SocketAddr,
    /// Directory of certificates; absent: in the clear
    #[arg(long)]
    tls: Option<PathBuf>,
}

struct Echoing;

#[tonic::async_trait]
impl Echo for Echoing {
    async fn unary(&self, request: Request<Message>) -> Result<Response<Message>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

/// Serves until the process is ended.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let mut server = Server::builder().max_concurrent_streams(Some(STREAMS_MAX));
    if let Some(dir) = &args.tls {
        let read = |name: &str| std::fs::read_to_string(dir.join(name));
        let identity = Identity::from_pem(read("server.pem")?, read("server.key")?);
        let callers = Certificate::from_pem(read("ca.pem")?);
        server = server.tls_config(ServerTlsConfig::new().identity(identity).client_ca_root(callers))?;
    }
    let incoming = TcpIncoming::from(TcpListener::bind(args.listen).await?).with_nodelay(Some(true));
    Ok(server.add_service(EchoServer::new(Echoing)).serve_with_incoming(incoming).await?)
}
