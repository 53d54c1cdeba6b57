//! HTTP/2 by hand: a peer that says what no library would.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::task::yield_now;

use super::street::{House, Street};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// What a client says first, but for its SETTINGS.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Both ways of a connection.
pub trait Pipe: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Pipe for T {}

/// Where the relay is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// By a process on this machine, in the clear.
    Outbound,
    /// By another node, or a stock client, over mutual TLS.
    Inbound,
}

impl Door {
    pub const BOTH: [Self; 2] = [Self::Outbound, Self::Inbound];

    /// A connection that was let in and on which nothing was said yet: by `pi` to itself, or from there to `nas`.
    pub async fn connect(self, street: &Street, pi: &House, nas: &House) -> Box<dyn Pipe> {
        match self {
            Self::Outbound => Box::new(TcpStream::connect(pi.outbound).await.unwrap()),
            Self::Inbound => {
                let svids = street.net.svids(&pi.node, &pi.node.service("web"));
                let map = street.net.map.subscribe();
                let client = tls::Client::new(tls::Pq::Require, vec![b"h2".to_vec()], svids, map);
                let stream = TcpStream::connect(nas.inbound).await.unwrap();
                let echo = tls::Expect::Id(nas.node.service("echo"));
                Box::new(client.connect(stream, echo).await.unwrap().0)
            }
        }
    }

    /// Whose listener it is.
    pub fn of<'h>(self, pi: &'h House, nas: &'h House) -> &'h House {
        match self {
            Self::Outbound => pi,
            Self::Inbound => nas,
        }
    }
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// SETTINGS with these.
pub fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload =
        settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
    frame(SETTINGS, 0, 0, &payload.collect::<Vec<_>>())
}

/// The block of a call, every field a literal.
pub fn call(method: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let path = format!("/t.T/{method}");
    let usual = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "echo"),
        (":path", &path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut block = Vec::new();
    for (name, value) in usual.iter().chain(more) {
        block.push(0);
        for text in [name, value] {
            number(text.len(), &mut block);
            block.extend(text.bytes());
        }
    }
    block
}

/// An integer with a prefix of seven bits (RFC 7541, section 5.1).
fn number(n: usize, block: &mut Vec<u8>) {
    let Some(mut rest) = n.checked_sub(127) else { return block.push(u8::try_from(n).unwrap()) };
    block.push(127);
    while rest >= 128 {
        block.push(128 | u8::try_from(rest % 128).unwrap());
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}

/// A request of a method, without a body yet.
pub fn begin(stream: u32, method: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &call(method, &[]))
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// The last that an end says: why it goes, and what it adds in words.
pub type Goodbye = Option<(u32, String)>;

/// One connection.
pub struct Raw {
    reader: ReadHalf<Box<dyn Pipe>>,
    writer: WriteHalf<Box<dyn Pipe>>,
}

impl Raw {
    /// Says the preface and SETTINGS.
    pub async fn over(pipe: Box<dyn Pipe>, ours: &[(u16, u32)]) -> Self {
        let (reader, writer) = tokio::io::split(pipe);
        let mut raw = Self { reader, writer };
        raw.send(&[PREFACE, &settings(ours)].concat()).await.unwrap();
        raw
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes).await?;
        self.writer.flush().await
    }

    /// Closes its half of the connection.
    pub async fn ends(&mut self) {
        self.writer.shutdown().await.unwrap();
    }

    /// The next frame; `None` at the end.
    pub async fn next(&mut self) -> Option<Frame> {
        next(&mut self.reader).await
    }

    /// The next frame of a stream that is no WINDOW_UPDATE.
    pub async fn next_of(&mut self, stream: u32) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.stream == stream && frame.kind != WINDOW_UPDATE {
                return Some(frame);
            }
        }
    }

    /// Reads to the end.
    pub async fn goodbye(&mut self) -> Goodbye {
        goodbye(&mut self.reader).await
    }

    /// Sends what `one` makes, `n` times or until it is hung up on, and reads all the while. What it was told at the
    /// end, if that came through.
    pub async fn flood(self, n: u32, one: impl Fn(u32) -> Vec<u8>) -> Goodbye {
        let Self { mut reader, mut writer } = self;
        let writing = async {
            for n in 0..n {
                if writer.write_all(&one(n)).await.is_err() || writer.flush().await.is_err() {
                    break;
                }
                yield_now().await;
            }
        };
        tokio::join!(goodbye(&mut reader), writing).0
    }
}

async fn next(reader: &mut ReadHalf<Box<dyn Pipe>>) -> Option<Frame> {
    let mut head = [0; 9];
    reader.read_exact(&mut head).await.ok()?;
    let [len @ .., kind, flags, id_3, id_2, id_1, id_0] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, len[0], len[1], len[2]]) as usize];
    reader.read_exact(&mut payload).await.ok()?;
    Some(Frame { kind, flags, stream: u32::from_be_bytes([id_3, id_2, id_1, id_0]), payload })
}

async fn goodbye(reader: &mut ReadHalf<Box<dyn Pipe>>) -> Goodbye {
    let mut told = None;
    while let Some(frame) = next(reader).await {
        if frame.kind == GOAWAY {
            let (code, words) = frame.payload[4..].split_first_chunk().unwrap();
            told = Some((u32::from_be_bytes(*code), String::from_utf8_lossy(words).into_owned()));
        }
    }
    told
}
