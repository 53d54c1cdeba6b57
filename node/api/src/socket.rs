//! The Unix socket: its file, and who may do what on it.
//!
//! Anybody on the machine may connect: roles decide. The kernel says which user is at the other end
//! (SO_PEERCRED, unix(7)). Groups are read from `/etc/group`: those of other directories are not seen.
//!
//! Clients made with gRPC-core name the path of the socket as authority, which the server would refuse. It is changed
//! where bytes come in, and nothing else is: frames, windows and bounds are between the client and the server.

use std::fs;
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as Probe;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};

use identity::Role;
use wire::Authorities;

use crate::error::Error;
use crate::node::LocalCaller;
use crate::origin::Origin;

/// The listening socket. Its file is removed with it.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) listener: UnixListener,
    path: PathBuf,
    /// The user who runs the node.
    own_uid: u32,
    group: String,
}

impl Socket {
    /// Listens at `path`. A file of a node that no longer answers is replaced.
    pub(crate) fn bind(path: &Path, group: &str) -> Result<Self, Error> {
        let failed = |source| Error::Socket { path: path.to_owned(), source };
        if let Some(dir) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(failed)?;
        }
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).map_err(failed)?;
        let own_uid = own_uid().map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), own_uid, group: group.to_owned() })
    }

    /// Who is at the other end of a connection.
    pub(crate) fn origin(&self, stream: &UnixStream) -> io::Result<Origin> {
        let credentials = stream.peer_cred()?;
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
        let caller = LocalCaller { uid: credentials.uid(), gid: credentials.gid(), pid };
        let is_admin = caller.uid == 0 || caller.uid == self.own_uid || self.is_in_group(&caller);
        Ok(Origin::Local(caller, if is_admin { Role::Admin } else { Role::View }))
    }

    /// Asked anew for each connection, so that a change holds for the next one.
    fn is_in_group(&self, caller: &LocalCaller) -> bool {
        // Without the files nobody is.
        let read = |path| fs::read(path).unwrap_or_default();
        is_member(&read("/etc/group"), &read("/etc/passwd"), &self.group, caller)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// A connection, on which the client may name the path of the socket as authority.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    authorities: Authorities,
}

impl Connection {
    pub(crate) const fn new(stream: UnixStream) -> Self {
        Self { stream, authorities: Authorities::new() }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let n_before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        this.authorities.mend(&mut buf.filled_mut()[n_before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Removes the file of a socket on which nobody answers.
fn remove_stale(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Socket { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(err) => return Err(failed(err)),
        Ok(found) if !found.file_type().is_socket() => return Err(Error::Foreign(path.to_owned())),
        Ok(_) => {}
    }
    match Probe::connect(path) {
        Ok(_) => Err(Error::Taken(path.to_owned())),
        Err(err) if err.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        Err(err) => Err(failed(err)),
    }
}

/// The user who runs this process, as the kernel would tell it of a peer.
fn own_uid() -> io::Result<u32> {
    let (one, _other) = UnixStream::pair()?;
    Ok(one.peer_cred()?.uid())
}

/// Whether `caller` is in the group `name`, by what group(5) and passwd(5) say. Neither need be text: passwd(5)
/// holds people's names in whatever encoding was in use.
fn is_member(groups: &[u8], users: &[u8], name: &str, caller: &LocalCaller) -> bool {
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse::<u32>().ok();
    let group = rows(groups).find(|fields| fields.len() >= 4 && fields[0] == name.as_bytes());
    let Some(group) = group else { return false };
    if number(group[2]) == Some(caller.gid) {
        return true;
    }
    let user = rows(users).find(|fields| fields.len() >= 4 && number(fields[2]) == Some(caller.uid));
    let is_named = |user: &[u8]| group[3].split(|byte| *byte == b',').any(|member| member == user);
    user.is_some_and(|user| user[3] == group[2] || is_named(user[0]))
}

/// Lines of fields.
fn rows(file: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    file.split(|byte| *byte == b'\n').map(|line| line.split(|byte| *byte == b':').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUPS: &[u8] = b"root:x:0:\nsagemesh:x:990:ann,bob\nstaff:x:50:eve\n";
    const USERS: &[u8] =
        b"root:x:0:0::/:/bin/sh\nren\xe9:x:1003:1003:Ren\xe9:/:\nann:x:1000:1000:\xc4nn:/:\neve:x:1001:1001::/:\n\
          zoe:x:1002:990::/:\n";

    #[test]
    fn members_of_the_group_are_found_by_name_or_number() {
        #[track_caller]
        fn check(uid: u32, gid: u32, expected: bool) {
            let caller = LocalCaller { uid, gid, pid: None };
            assert_eq!(is_member(GROUPS, USERS, "sagemesh", &caller), expected, "{caller:?}");
        }
        check(1000, 1000, true);
        check(1001, 1001, false);
        check(1001, 990, true);
        check(1002, 100, true);
        check(1003, 1003, false);
        check(4242, 4242, false);
        let caller = LocalCaller { uid: 1000, gid: 1000, pid: None };
        assert!(
            !is_member(b"", b"", "sagemesh", &caller)
                && !is_member(b"sagemesh:x", USERS, "sagemesh", &caller)
        );
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("run/api.sock");
        let socket = Socket::bind(&path, "sagemesh").expect("a socket");
        let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o666);
        assert!(matches!(Socket::bind(&path, "sagemesh"), Err(Error::Taken(_))));
        drop(socket);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket that stays when it is closed"));
        assert!(path.exists());
        Socket::bind(&path, "sagemesh").expect("the stale one is replaced");
    }

    #[tokio::test]
    async fn what_is_no_socket_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("api.sock");
        fs::write(&path, "precious").expect("a file");
        assert!(matches!(Socket::bind(&path, "sagemesh"), Err(Error::Foreign(_))));
        assert_eq!(fs::read(&path).expect("it is there"), b"precious");
    }
}
