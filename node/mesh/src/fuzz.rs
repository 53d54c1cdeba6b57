//! What is read from streams, for `tests/fuzz` alone.

use std::io;

use tokio::io::AsyncRead;

use tls::frame;

/// One message, as every protocol of the room reads it.
///
/// # Errors
/// If the stream breaks, or the message is longer than `len_max`.
pub async fn frame<S: AsyncRead + Unpin>(stream: &mut S, len_max: usize) -> io::Result<Option<Vec<u8>>> {
    frame::read(stream, len_max).await
}
