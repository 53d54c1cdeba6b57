//! Asks the kernel for one TCP socket (`net/ipv4/inet_diag.c`, `inet_diag_dump_one_icsk`).
//!
//! The kernel answers while it is being asked: the answer lies in the queue when `send` returns. So nothing here
//! waits, and one socket behind a lock serves all.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla as _};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_ESTABLISHED, TCP_LISTEN};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};

use crate::error::Error;

/// `INET_DIAG_NOCOOKIE` (`linux/inet_diag.h`): whichever socket it is.
const ANY: Cookie = [0xff; 8];
/// `INET_DIAG_CGROUP_ID`, since Linux 5.9.
const CGROUP_ID: u16 = 21;
/// An answer is below 200 bytes.
const ANSWER_BYTES_MAX: usize = 4096;
/// Answers to earlier questions that are skipped before the socket is given up.
const STALE_MAX: usize = 8;
const ENOENT: i32 = 2;
const ESTALE: i32 = 116;

/// The kernel's name of a socket; never used twice.
pub(crate) type Cookie = [u8; 8];

/// In what state a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Established,
    Listen,
    /// Opening or closing: the other fields may be empty.
    Passing,
}

/// What the kernel tells of one socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) state: State,
    pub(crate) own: SocketAddr,
    pub(crate) far: SocketAddr,
    pub(crate) uid: u32,
    pub(crate) inode: u64,
    pub(crate) cgroup_id: Option<u64>,
    pub(crate) cookie: Cookie,
}

/// The way to the kernel.
pub(crate) struct Diag {
    line: Mutex<Option<Line>>,
}

/// A netlink socket and the number of the last question.
struct Line {
    socket: Socket,
    sequence: u32,
}

impl Diag {
    pub(crate) fn new() -> Result<Self, Error> {
        Ok(Self { line: Mutex::new(Some(Line::open()?)) })
    }

    /// The socket whose own end is `own` and whose far end is `far`: of all if `cookie` is absent, else that
    /// one. The kernel falls back to a listener at `own`. `None` if there is no such socket in this network
    /// namespace.
    pub(crate) fn find(
        &self,
        own: SocketAddr,
        far: SocketAddr,
        cookie: Option<Cookie>,
    ) -> Result<Option<Row>, Error> {
        let request = request(own, far, cookie.unwrap_or(ANY));
        let mut slot = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let mut line = match slot.take() {
            Some(line) => line,
            None => Line::open()?,
        };
        // After an error the socket is dropped: the next question gets one with an empty queue.
        let answer = line.ask(request)?;
        *slot = Some(line);
        Ok(answer)
    }
}

impl Line {
    fn open() -> Result<Self, Error> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
            socket.bind_auto()?;
            socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        Ok(Self { socket: open().map_err(Error::Ask)?, sequence: 0 })
    }

    fn ask(&mut self, request: InetRequest) -> Result<Option<Row>, Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(Error::Ask)?;
        let mut answer = [0; ANSWER_BYTES_MAX];
        for _ in 0..STALE_MAX {
            let n_bytes = self.socket.recv(&mut &mut answer[..], 0).map_err(Error::Ask)?;
            let (sequence, found) = read(&answer[..n_bytes])?;
            if sequence == self.sequence {
                return found;
            }
        }
        Err(Error::Answer("it is of another question".to_owned()))
    }
}

/// What the kernel said: the number of the question, and the socket, `None` if there is no such.
pub(crate) fn read(answer: &[u8]) -> Result<(u32, Result<Option<Row>, Error>), Error> {
    let message = NetlinkMessage::<SockDiagMessage>::deserialize(answer)
        .map_err(|err| Error::Answer(err.to_string()))?;
    let found = match message.payload {
        NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => row(&response).map(Some),
        NetlinkPayload::Error(err) => match err.raw_code().wrapping_neg() {
            ENOENT | ESTALE => Ok(None),
            code => Err(Error::Ask(io::Error::from_raw_os_error(code))),
        },
        _ => Err(Error::Answer("neither a socket nor an error".to_owned())),
    };
    Ok((message.header.sequence_number, found))
}

/// A dual-stack socket lies among those of IPv4 while it speaks IPv4, so it is asked for by that address.
fn request(own: SocketAddr, far: SocketAddr, cookie: Cookie) -> InetRequest {
    let (source, destination) = (own.ip().to_canonical(), far.ip().to_canonical());
    // Sockets of link-local addresses are bound to their interface.
    let scope = |address: SocketAddr| match address {
        SocketAddr::V6(address) => address.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    InetRequest {
        family: if source.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: SocketId {
            source_port: own.port(),
            destination_port: far.port(),
            source_address: source,
            destination_address: destination,
            interface_id: scope(own).max(scope(far)),
            cookie,
        },
    }
}

fn row(response: &InetResponse) -> Result<Row, Error> {
    let header = &response.header;
    let id = &header.socket_id;
    let address = |ip: IpAddr, port| SocketAddr::new(ip.to_canonical(), port);
    let mut cgroup_id = None;
    for attribute in response.nlas.iter().filter(|it| it.kind() == CGROUP_ID) {
        let mut bytes = [0; 8];
        if attribute.value_len() != bytes.len() {
            return Err(Error::Answer("a control group's number has not 8 bytes".to_owned()));
        }
        attribute.emit_value(&mut bytes);
        cgroup_id = Some(u64::from_ne_bytes(bytes));
    }
    Ok(Row {
        state: match header.state {
            TCP_ESTABLISHED => State::Established,
            TCP_LISTEN => State::Listen,
            _ => State::Passing,
        },
        own: address(id.source_address, id.source_port),
        far: address(id.destination_address, id.destination_port),
        uid: header.uid,
        inode: u64::from(header.inode),
        cgroup_id: cgroup_id.filter(|id| *id != 0),
        cookie: id.cookie,
    })
}
