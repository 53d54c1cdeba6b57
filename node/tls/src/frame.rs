//! Messages on a stream, each behind its length (4 bytes, big endian): of newcomers, and between members.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Up to this many bytes, a message is sent in one piece with its length; a longer one is not copied for that.
const JOINED_MAX: usize = 64 << 10;

/// Reads one message; `None` at the end of the stream.
///
/// # Errors
/// If the stream breaks, or the message is longer than `len_max`.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S, len_max: usize) -> io::Result<Option<Vec<u8>>> {
    let len = match stream.read_u32().await {
        Ok(len) => usize::try_from(len).unwrap_or(usize::MAX),
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(err) => return Err(err),
    };
    if len > len_max {
        let detail = format!("a message of {len} bytes where {len_max} are allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, detail));
    }
    // What was announced is not believed until it comes: memory grows with what was received.
    let mut bytes = Vec::new();
    stream.take(len as u64).read_to_end(&mut bytes).await?;
    if bytes.len() < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(bytes))
}

/// Writes one message and flushes it.
///
/// # Errors
/// If the stream breaks.
pub async fn write<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> io::Result<()> {
    let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    if bytes.len() > JOINED_MAX {
        stream.write_all(&len.to_be_bytes()).await?;
        stream.write_all(bytes).await?;
    } else {
        stream.write_all(&[&len.to_be_bytes(), bytes].concat()).await?;
    }
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_is_whole_or_refused() {
        let mut bytes = Vec::new();
        write(&mut bytes, b"one").await.expect("memory");
        write(&mut bytes, b"").await.expect("memory");
        let mut stream = &bytes[..];
        assert_eq!(read(&mut stream, 3).await.expect("whole"), Some(b"one".to_vec()));
        assert_eq!(read(&mut stream, 3).await.expect("whole"), Some(Vec::new()));
        assert_eq!(read(&mut stream, 3).await.expect("the end"), None);
        assert!(read(&mut &bytes[..], 2).await.is_err(), "longer than allowed");
        assert!(read(&mut &bytes[..5], 3).await.is_err(), "torn");
    }

    #[tokio::test]
    async fn a_long_message_is_framed_alike() {
        let long = vec![7; JOINED_MAX + 1];
        let mut bytes = Vec::new();
        write(&mut bytes, &long).await.expect("memory");
        assert_eq!(read(&mut &bytes[..], long.len()).await.expect("whole"), Some(long));
    }
}
