//! Bridges between streams of links and sockets: workers wait for sockets, and a stream of a link is none.
//!
//! A bridge knows nothing of what it carries. It holds one buffer for each direction, so what is not read at one end
//! is soon not taken at the other.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::carrier::Carrier;
use crate::dial::Ground;
use crate::links::Bytes;

/// Bytes that a bridge holds in each direction.
const PIECE_LEN: usize = 32 << 10;

/// How long a bridge waits.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// For either end to take a piece.
    stuck: Duration,
    /// For anything to come from one end once the other has ended.
    half_closed: Duration,
}

/// Lays a bridge to a stream, and answers its near end. The room holds the bridge until both ends have ended.
///
/// # Errors
/// The system has no more sockets.
pub(crate) fn lay(stream: Box<dyn Bytes>, ground: &Ground) -> io::Result<Carrier> {
    let (near, far) = UnixStream::pair()?;
    let config = &ground.config;
    // Longer than workers wait: they know more of what is stuck, and say so.
    let patience = Patience { stuck: config.stuck_timeout * 2, half_closed: config.unread_timeout };
    ground.bridges.start(async move {
        if let Err(err) = join(stream, far, patience).await {
            debug!(error = %err, "a bridge to a link broke");
        }
    });
    Ok(Carrier::Right(near))
}

/// Carries bytes until both ends have ended, or one breaks or is stuck.
async fn join<A, B>(one: A, other: B, patience: Patience) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut one, mut other) = (split(one), split(other));
    let half_closed = CancellationToken::new();
    tokio::try_join!(
        carry(&mut one.0, &mut other.1, patience, &half_closed),
        carry(&mut other.0, &mut one.1, patience, &half_closed),
    )?;
    Ok(())
}

/// Carries one direction until its end.
async fn carry(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    patience: Patience,
    half_closed: &CancellationToken,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE_LEN];
    loop {
        let n = if half_closed.is_cancelled() {
            timeout(patience.half_closed, from.read(&mut piece)).await??
        } else {
            tokio::select! {
                n = from.read(&mut piece) => n?,
                () = half_closed.cancelled() => continue,
            }
        };
        let written = async {
            if n == 0 {
                return to.shutdown().await;
            }
            to.write_all(&piece[..n]).await?;
            to.flush().await
        };
        timeout(patience.stuck, written).await??;
        if n == 0 {
            half_closed.cancel();
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;
    use tokio::task::JoinSet;

    use super::*;

    const PATIENCE: Patience =
        Patience { stuck: Duration::from_secs(60), half_closed: Duration::from_secs(300) };

    type End = tokio::io::DuplexStream;

    /// A bridge, and both ends of it.
    fn bridge() -> (End, End, JoinSet<io::Result<()>>) {
        let ((one, here), (other, there)) = (duplex(1 << 10), duplex(1 << 10));
        let mut bridges = JoinSet::new();
        bridges.spawn(join(here, there, PATIENCE));
        (one, other, bridges)
    }

    async fn ended(bridges: &mut JoinSet<io::Result<()>>) -> io::Result<()> {
        bridges.join_next().await.expect("a bridge").expect("no panic")
    }

    #[tokio::test(start_paused = true)]
    async fn one_direction_goes_on_after_the_other_has_ended() {
        let (mut one, mut other, mut bridges) = bridge();
        one.write_all(b"question").await.expect("an open end");
        one.shutdown().await.expect("an open end");
        let mut asked = String::new();
        other.read_to_string(&mut asked).await.expect("an end");
        assert_eq!(asked, "question");
        tokio::time::sleep(PATIENCE.half_closed / 2).await;
        other.write_all(b"answer").await.expect("still open");
        other.shutdown().await.expect("still open");
        let mut answered = String::new();
        one.read_to_string(&mut answered).await.expect("an end");
        assert_eq!(answered, "answer");
        ended(&mut bridges).await.expect("a good end");
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_never_comes_is_not_waited_for_for_ever() {
        let (mut one, _other, mut bridges) = bridge();
        one.shutdown().await.expect("an open end");
        let err = ended(&mut bridges).await.expect_err("a silent end");
        assert_eq!(err.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_holds_a_piece_and_loses_the_bridge() {
        let (mut one, _other, mut bridges) = bridge();
        let mut n_taken = 0;
        while let Ok(n) = timeout(Duration::from_secs(1), one.write(&[0; 512])).await {
            n_taken += n.expect("an open end");
        }
        assert!(n_taken <= PIECE_LEN + (2 << 10), "{n_taken}");
        let err = ended(&mut bridges).await.expect_err("a stuck end");
        assert_eq!(err.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_end_breaks_the_other() {
        let (one, mut other, mut bridges) = bridge();
        drop(one);
        let mut rest = Vec::new();
        other.read_to_end(&mut rest).await.expect("an end");
        other.write_all(&[0; 4 << 10]).await.expect_err("nobody takes it");
        assert!(ended(&mut bridges).await.is_err());
    }
}
