//! Asks the kernel, then /proc, then the kernel again.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerPidfd};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use types::{Reason, Refusal, chain};

use crate::cgroup::Cgroups;
use crate::diag::{Diag, Row, State};
use crate::error::Error;
use crate::owner::Owner;
use crate::process::{self, Holder, Processes};

/// Looks into /proc at a time: the second finds in what the first has found.
const LOOKS_MAX: usize = 1;
/// How long a look waits for its turn.
const TURN_MAX: Duration = Duration::from_secs(5);

/// Tells who owns a socket.
#[derive(Clone)]
pub struct Attestor {
    diag: Arc<Diag>,
    places: Arc<Places>,
    turn: Arc<Semaphore>,
}

/// What is looked up outside the kernel's tables of sockets.
struct Places {
    processes: Processes,
    cgroups: Cgroups,
}

impl Attestor {
    /// Sees that the kernel tells about sockets.
    ///
    /// # Errors
    /// The kernel lacks `tcp_diag`, or gives no netlink socket.
    pub fn new() -> Result<Self, Error> {
        let diag = Diag::new()?;
        let own = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(Error::Ask)?;
        let address = own.local_addr().map_err(Error::Ask)?;
        if diag.find(address, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0), None)?.is_none() {
            return Err(Error::Unsupported);
        }
        let places = Places { processes: Processes::default(), cgroups: Cgroups::new() };
        Ok(Self { diag: Arc::new(diag), places: Arc::new(places), turn: Arc::new(Semaphore::new(LOOKS_MAX)) })
    }

    /// Who made the TCP connection whose end here is `local` and whose other end, on this machine, is `peer`.
    ///
    /// # Errors
    /// `CallerGone` if the other end is closing or could not be told; `CallerElsewhere` if it is not in this
    /// network namespace.
    pub async fn caller(&self, local: SocketAddr, peer: SocketAddr) -> Result<Owner, Refusal> {
        let row = self.client(local, peer, None)?;
        let owner = self.owner(row.clone()).await.map_err(|err| untold(peer, &err))?;
        // A socket that began to close while it was asked for may have read as another's.
        let again = self.client(local, peer, Some(&row))?;
        if (again.uid, again.inode, again.cgroup_id) != (row.uid, row.inode, row.cgroup_id) {
            return Err(gone(peer, "it changed while it was looked at"));
        }
        Ok(owner)
    }

    /// Who is at the other end of a Unix socket: who connected it, also from another network namespace.
    ///
    /// # Errors
    /// `CallerGone` if the kernel does not say.
    pub fn peer(&self, stream: &UnixStream) -> Result<Owner, Refusal> {
        let untold = |what: &str, err: io::Error| {
            Reason::CallerGone.because(format!("failed to read {what} of a Unix socket: {err}"))
        };
        let caller = stream.peer_cred().map_err(|err| untold("the caller", err))?;
        let own = std::fs::metadata(format!("/proc/self/fd/{}", stream.as_raw_fd()));
        let inode = std::os::unix::fs::MetadataExt::ino(&own.map_err(|err| untold("the inode", err))?);
        let pid = caller.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
        let holder = pid.and_then(|pid| connector(stream, pid, caller.uid()));
        let (pid, exe, cgroup) = holder.map_or((None, None, None), |it| (Some(it.pid), it.exe, it.cgroup));
        Ok(Owner { uid: caller.uid(), pid, exe, cgroup, inode })
    }

    /// The process `pid`, which the kernel has named as the other end of a connection that is still open, made as
    /// user `uid`.
    ///
    /// # Errors
    /// `CallerGone` if that process has ended.
    pub fn process(&self, pid: u32, uid: u32) -> Result<Owner, Refusal> {
        let gone = || Reason::CallerGone.because(format!("process {pid} of user {uid} has ended"));
        let birth = process::birth(pid).filter(|(owner, _)| *owner == uid).ok_or_else(gone)?;
        let holder = process::read(pid);
        if process::birth(pid) != Some(birth) {
            return Err(gone());
        }
        Ok(Owner { uid, pid: Some(pid), exe: holder.exe, cgroup: holder.cgroup, inode: 0 })
    }

    /// Who takes the connections made to `address`, be it by listening on all addresses; `None` if nobody
    /// listens. Of several listeners that share the port the one that the kernel names.
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub async fn listener(&self, address: SocketAddr) -> Result<Option<Owner>, Error> {
        // Who connects to the unspecified address reaches this machine.
        let (ip, nobody): (IpAddr, IpAddr) = match address.ip().to_canonical() {
            IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST.into(), ip.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST.into(), ip.into()),
            IpAddr::V4(_) => (address.ip(), Ipv4Addr::UNSPECIFIED.into()),
            IpAddr::V6(_) => (address.ip(), Ipv6Addr::UNSPECIFIED.into()),
        };
        let mut own = address;
        own.set_ip(ip);
        let far = SocketAddr::new(nobody, 0);
        let listens = |row: &Row| row.state == State::Listen && row.inode != 0;
        let Some(row) = self.diag.find(own, far, None)?.filter(listens) else { return Ok(None) };
        let owner = self.owner(row.clone()).await?;
        Ok(self.diag.find(own, far, Some(row.cookie))?.filter(listens).map(|_| owner))
    }

    /// The other end's socket: of all if none was `seen`, else that one.
    fn client(&self, local: SocketAddr, peer: SocketAddr, seen: Option<&Row>) -> Result<Row, Refusal> {
        let find = |own, far, cookie| self.diag.find(own, far, cookie).map_err(|err| untold(peer, &err));
        let same = |one: SocketAddr, other: SocketAddr| {
            (one.ip().to_canonical(), one.port()) == (other.ip().to_canonical(), other.port())
        };
        let is_open =
            |row: &Row, own, far| row.state == State::Established && same(row.own, own) && same(row.far, far);
        match find(peer, local, seen.map(|row| row.cookie))? {
            // What has no inode is held by no process: uid 0 is then no user but the lack of one.
            Some(row) if is_open(&row, peer, local) && row.inode != 0 => Ok(row),
            Some(_) => Err(gone(peer, "it is closing")),
            // The far end of an open connection is somewhere; one that was reset takes this end with it.
            None if seen.is_none()
                && find(local, peer, None)?.is_some_and(|row| is_open(&row, local, peer)) =>
            {
                Err(Reason::CallerElsewhere
                    .because(format!("the socket {peer} that calls is not in this node's network namespace")))
            }
            None => Err(gone(peer, "it is closed")),
        }
    }

    /// What is to be told of a socket beyond what the kernel has told.
    async fn owner(&self, row: Row) -> Result<Owner, Error> {
        let turn = timeout(TURN_MAX, Arc::clone(&self.turn).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(Error::Busy) };
        let places = Arc::clone(&self.places);
        let look = move || {
            let owner = places.look(&row);
            // Held until the look ends, though who waits for it may be gone.
            drop(turn);
            owner
        };
        spawn_blocking(look).await.map_err(|err| Error::Ask(io::Error::other(err)))
    }
}

impl Places {
    fn look(&self, row: &Row) -> Owner {
        let holder = self.processes.holder(row.inode, row.cookie, row.uid);
        let (pid, exe, likely) = holder.map_or((None, None, None), |it| (Some(it.pid), it.exe, it.cgroup));
        // The group of the socket outweighs that of who holds it now: a socket can be handed on.
        let made_in = row.cgroup_id.and_then(|id| self.cgroups.path(id, likely.as_deref()));
        Owner { uid: row.uid, pid, exe, cgroup: made_in.or(likely), inode: row.inode }
    }
}

/// The process that connected a Unix socket, unless its pid has gone to another.
fn connector(stream: &UnixStream, pid: u32, uid: u32) -> Option<Holder> {
    match getsockopt(stream, PeerPidfd) {
        // While the process lives, nobody else has its pid.
        Ok(process) => {
            let holder = process::read(pid);
            (pid_of(&process) == Some(pid)).then_some(holder)
        }
        // Before Linux 6.5. A later process of the same user could have done what it is taken for itself.
        Err(nix::errno::Errno::ENOPROTOOPT) => {
            let born = process::birth(pid).filter(|(owner, _)| *owner == uid)?;
            let holder = process::read(pid);
            (process::birth(pid) == Some(born)).then_some(holder)
        }
        Err(_) => None,
    }
}

/// The pid of a process that lives (man 2 pidfd_open: `Pid` is -1 after its end).
fn pid_of(process: &OwnedFd) -> Option<u32> {
    let told = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd())).ok()?;
    told.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()
}

fn gone(peer: SocketAddr, what: &str) -> Refusal {
    Reason::CallerGone.because(format!("the socket {peer} that calls cannot be attributed: {what}"))
}

fn untold(peer: SocketAddr, err: &Error) -> Refusal {
    gone(peer, &chain(err))
}
