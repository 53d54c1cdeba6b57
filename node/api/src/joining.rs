//! The join protocol on a connection that does nothing else: the inviter speaks first, each message behind
//! its length (4 bytes, big endian). What the messages say is `identity::join`'s business.

use std::io;

use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use identity::join::{Exporter, MESSAGE_LEN_MAX};
use proto::identity::v1::JoinReply;
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
        send(&mut stream, &welcome).await?;
        receive(&mut stream).await
    });
    let request = request.await??;
    // Not timed: what is granted is granted, whether or not the newcomer waits for it.
    let reply = node.redeem(exporter, request).await;
    timeout(JOIN_TIMEOUT, async {
        send(&mut stream, &reply).await?;
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

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, message: &[u8]) -> io::Result<()> {
    let len = u32::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&len.to_be_bytes()).await?;
    stream.write_all(message).await?;
    stream.flush().await
}

async fn receive<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Vec<u8>, Error> {
    let len = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if len > MESSAGE_LEN_MAX {
        let detail = format!("a newcomer's request has {len} bytes of {MESSAGE_LEN_MAX}");
        return Err(Reason::EnvelopeMalformed.because(detail).into());
    }
    let mut message = vec![0; len];
    stream.read_exact(&mut message).await?;
    Ok(message)
}
