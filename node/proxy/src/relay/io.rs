//! Bytes in and out of a connection that is made: in the clear or by TLS, never waiting.

use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use tokio_rustls::rustls::Connection;
use wire::frame::COPY_LEN;

/// Bytes that are read at once. Smaller reads cost large bodies much.
const READ_LEN: usize = 128 << 10;
/// Bytes that come out of one reading, at most: what was read, what TLS held from before, and what the last reading
/// left over.
const INPUT_LEN: usize = READ_LEN + (128 << 10);
/// Bytes that are encrypted before they are written.
const PIECE_LEN: usize = 64 << 10;

/// Bytes of a line of the cache.
const LINE_LEN: usize = 64;

/// Of what a connection has sent, as much is read before it is closed.
const UNREAD_LEN: usize = 512;

/// A socket that does not block.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub(crate) fn fd(&self) -> RawFd {
        match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
        }
    }
}

impl Read for &Socket {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => (&*stream).read(bytes),
            Socket::Unix(stream) => (&*stream).read(bytes),
        }
    }
}

impl Write for &Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => (&*stream).write(bytes),
            Socket::Unix(stream) => (&*stream).write(bytes),
        }
    }

    fn write_vectored(&mut self, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => (&*stream).write_vectored(parts),
            Socket::Unix(stream) => (&*stream).write_vectored(parts),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Memory that begins with a line of the cache: what the kernel copies to memory that does not costs AMD's Zen 3 and 4
/// much (see [`wire::frame::append`]).
#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    start: usize,
}

impl Lines {
    fn new(len: usize) -> Self {
        let bytes = vec![0; len + LINE_LEN];
        let start = bytes.as_ptr().align_offset(LINE_LEN).min(LINE_LEN);
        Self { bytes, start }
    }
}

impl Deref for Lines {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }
}

/// Where bytes are read to: one for all connections of a worker.
#[derive(Debug, Default)]
pub(crate) struct Input {
    /// As they come from a socket with TLS.
    raw: Lines,
    bytes: Lines,
    n: usize,
}

impl Input {
    /// Room for one reading.
    pub(crate) fn new() -> Self {
        Self { raw: Lines::new(READ_LEN), bytes: Lines::new(INPUT_LEN), n: 0 }
    }

    /// Whether it was never made.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Begins with what the last reading of a connection left over.
    pub(crate) fn begin(&mut self, rest: &[u8]) {
        debug_assert!(rest.len() < INPUT_LEN - READ_LEN);
        self.n = rest.len();
        self.bytes[..self.n].copy_from_slice(rest);
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.n]
    }

    fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.n..]
    }
}

/// How a reading went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    /// There may be more.
    More,
    /// There is no more; the system says when there is.
    Drained,
    /// The other end has ended.
    Ended,
}

/// Both directions of a connection.
#[derive(Debug)]
pub(crate) struct Io {
    socket: Socket,
    tls: Option<Box<Connection>>,
}

impl Io {
    pub(crate) fn new(socket: Socket, tls: Option<Connection>) -> Self {
        let tls = tls.map(|mut tls| {
            tls.set_buffer_limit(None);
            Box::new(tls)
        });
        Self { socket, tls }
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.socket.fd()
    }

    /// Reads once.
    pub(crate) fn fill(&mut self, input: &mut Input) -> io::Result<Fill> {
        let Some(tls) = &mut self.tls else {
            let end = input.n + READ_LEN;
            let read = (&self.socket).read(&mut input.bytes[input.n..end]);
            return Ok(match none_if_blocked(read)? {
                None => Fill::Drained,
                Some(0) => Fill::Ended,
                Some(n) => {
                    input.n += n;
                    if n < READ_LEN { Fill::Drained } else { Fill::More }
                }
            });
        };
        // What came with the handshake, or had no room.
        if decrypted(tls, input)? {
            return Ok(Fill::Ended);
        }
        let n = match none_if_blocked((&self.socket).read(&mut input.raw[..READ_LEN]))? {
            None => return Ok(Fill::Drained),
            Some(0) => return Ok(Fill::Ended),
            Some(n) => n,
        };
        let Input { raw, .. } = input;
        let raw = std::mem::take(raw);
        let ended = decrypt(tls, &raw[..n], input);
        input.raw = raw;
        Ok(match ended? {
            true => Fill::Ended,
            false if n < READ_LEN => Fill::Drained,
            false => Fill::More,
        })
    }

    /// Writes what is left of `out` after the first `sent` bytes, which it counts on. Whether all was written.
    pub(crate) fn flush(&mut self, out: &[u8], sent: &mut usize) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else {
            while *sent < out.len() {
                match none_if_blocked((&self.socket).write(&out[*sent..]))? {
                    None => return Ok(false),
                    Some(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Some(n) => *sent += n,
                }
            }
            return Ok(true);
        };
        loop {
            while tls.wants_write() {
                if none_if_blocked(tls.write_tls(&mut &self.socket))?.is_none() {
                    return Ok(false);
                }
            }
            if *sent == out.len() {
                return Ok(true);
            }
            let end = out.len().min(*sent + PIECE_LEN);
            // Many slices make as many records as one; they are copied one by one.
            let mut slices = [IoSlice::new(&[]); PIECE_LEN / COPY_LEN];
            let pieces = out[*sent..end].chunks(COPY_LEN);
            let n_slices = pieces.len();
            for (slice, piece) in slices.iter_mut().zip(pieces) {
                *slice = IoSlice::new(piece);
            }
            match tls.writer().write_vectored(&slices[..n_slices])? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => *sent += n,
            }
        }
    }

    /// Says goodbye, if that can be said at once.
    pub(crate) fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // Whether the other end hears it changes nothing.
            let _ = tls.write_tls(&mut &self.socket);
        }
        // What lies unread would make the kernel reset the connection in the place of closing it.
        let _ = (&self.socket).read(&mut [0; UNREAD_LEN]);
    }
}

/// Decrypts what was read. Whether the other end has ended.
fn decrypt(tls: &mut Connection, mut raw: &[u8], input: &mut Input) -> io::Result<bool> {
    while !raw.is_empty() {
        // It takes a few KiB at a time, up to the longest record.
        let mut n_taken = 0;
        while !raw.is_empty() {
            match tls.read_tls(&mut raw.take(COPY_LEN as u64)) {
                Ok(0) | Err(_) => break,
                Ok(n) => {
                    n_taken += n;
                    raw = &raw[n..];
                }
            }
        }
        tls.process_new_packets().map_err(io::Error::other)?;
        if decrypted(tls, input)? {
            return Ok(true);
        }
        if n_taken == 0 {
            return Err(io::Error::other("TLS takes nothing of what comes"));
        }
    }
    Ok(false)
}

/// Takes over what is decrypted. Whether the other end has ended.
fn decrypted(tls: &mut Connection, input: &mut Input) -> io::Result<bool> {
    loop {
        let room = input.room();
        if room.is_empty() {
            return Err(io::Error::other("more was decrypted than was read"));
        }
        let n_max = room.len().min(COPY_LEN);
        match tls.reader().read(&mut room[..n_max]) {
            Ok(0) => return Ok(true),
            Ok(n) => input.n += n,
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => return Ok(true),
            Err(err) => return Err(err),
        }
    }
}

fn none_if_blocked(done: io::Result<usize>) -> io::Result<Option<usize>> {
    match done {
        Ok(n) => Ok(Some(n)),
        Err(err) if matches!(err.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        Err(err) => Err(err),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_begins_with_a_line_of_the_cache() {
        let mut input = Input::new();
        input.begin(b"rest");
        for bytes in [&*input.raw, &*input.bytes] {
            assert_eq!(bytes.as_ptr().align_offset(LINE_LEN), 0);
        }
        assert_eq!((input.bytes(), input.raw.len() >= READ_LEN), (&b"rest"[..], true));
        assert!(Input::default().is_empty() && !input.is_empty());
    }
}
