//! The join protocol on a connection that does nothing else: the inviter speaks first. What the messages say is
//! `identity::join`'s business.

use std::io;

use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use identity::join::{Exporter, MESSAGE_LEN_MAX};
use proto::identity::v1::JoinReply;
use tls::frame;
use types::{Reason, Refusal};

use crate::config::JOIN_TIMEOUT;
use crate::node::Node;

/// Nobody joined.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The newcomer, or joining at all, was refused.
    #[error("refused a newcomer")]
    Refused(#[from] Refusal),
    /// The connection broke.
    #[error("failed to exchange messages with a newcomer")]
    Broken(#[from] io::Error),
    /// The newcomer was too slow.
    #[error("a newcomer did not speak within {} s", JOIN_TIMEOUT.as_secs())]
    Timeout(#[from] tokio::time::error::Elapsed),
}

impl Error {
    /// Why, if it was refused.
    pub(crate) fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused(refusal) => Some(refusal.reason),
            Self::Broken(_) | Self::Timeout(_) => None,
        }
    }
}

/// Lets a newcomer ask once.
pub(crate) async fn join<S>(mut stream: S, exporter: Exporter, node: &dyn Node) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let welcome = node.welcome()?;
    let request = timeout(JOIN_TIMEOUT, async {
        frame::write(&mut stream, &welcome).await?;
        receive(&mut stream).await
    });
    let request = request.await??;
    // Not timed: what is granted is granted, whether or not the newcomer waits for it.
    let reply = node.redeem(exporter, request).await;
    timeout(JOIN_TIMEOUT, async {
        frame::write(&mut stream, &reply).await?;
        stream.shutdown().await
    })
    .await??;
    match refusal(&reply) {
        Some(refusal) => Err(refusal.into()),
        None => Ok(()),
    }
}

/// The refusal that a reply tells of.
fn refusal(reply: &[u8]) -> Option<Refusal> {
    let reply = JoinReply::decode(reply).ok().filter(|reply| !reply.reason.is_empty())?;
    Some(Reason::from_code(&reply.reason).unwrap_or(Reason::TokenUnknown).because(reply.detail))
}

async fn receive<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Vec<u8>, Error> {
    match frame::read(stream, MESSAGE_LEN_MAX).await {
        Ok(message) => Ok(message.ok_or(io::ErrorKind::UnexpectedEof).map_err(io::Error::from)?),
        Err(err) if err.kind() == io::ErrorKind::InvalidData => {
            Err(Reason::EnvelopeMalformed.because(format!("a newcomer's request: {err}")).into())
        }
        Err(err) => Err(err.into()),
    }
}
