//! Real sockets of real processes. Other processes are this test's own executable, run again with a role.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::net::{UnixListener, UnixStream};

use types::Reason;

use super::*;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
/// The user `nobody` of most systems.
const NOBODY: u32 = 65_534;

/// Does what a process that is being started would disturb: until it runs its program it holds a copy of every
/// open file, so that none is closed by closing it.
fn undisturbed<T>(act: impl FnOnce() -> T) -> T {
    static STARTING: Mutex<()> = Mutex::new(());
    let _none_starts = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    act()
}

fn attestor() -> Attestor {
    Attestor::new().expect("a kernel with tcp_diag")
}

/// Both ends of a connection to `listener` by way of `ip`.
fn connect(listener: &TcpListener, ip: IpAddr) -> (TcpStream, TcpStream) {
    let port = listener.local_addr().expect("an address").port();
    let client = TcpStream::connect((ip, port)).expect("a listener");
    let (server, _) = listener.accept().expect("a client");
    (client, server)
}

async fn caller(attestor: &Attestor, server: &TcpStream) -> Result<Owner, Reason> {
    let (local, peer) = (server.local_addr().expect("an end"), server.peer_addr().expect("an end"));
    attestor.caller(local, peer).await.map_err(|refusal| refusal.reason)
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|it| std::os::unix::fs::MetadataExt::uid(&it) == 0)
}

fn own_exe() -> PathBuf {
    fs::read_link("/proc/self/exe").expect("a program")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

#[track_caller]
fn assert_is_this_process(owner: &Owner) {
    let uid = std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").expect("/proc"));
    assert_eq!(
        (owner.uid, owner.pid, owner.exe.as_deref()),
        (uid, Some(std::process::id()), Some(&*own_exe()))
    );
    let lines = fs::read_to_string("/proc/self/cgroup").expect("/proc");
    let group = lines.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned);
    assert_eq!(owner.cgroup, group);
    let mut selectors = vec![Selector::Uid(uid), Selector::Exe(own_exe())];
    selectors.extend(group.map(Selector::Cgroup));
    assert!(owner.matches(&selectors) && owner.matches(&[owner.selector()]), "{owner:?}");
    assert!(!owner.matches(&[Selector::Uid(uid + 1)]), "{owner:?}");
}

/// This executable, or a copy of it, in another role; ends with its handle.
struct Other(Child, String);

impl Other {
    /// Starts `program` and waits for the first line that it says.
    fn start(mut command: Command, role: &str) -> Self {
        command.args(["--exact", "tests::in_a_role", "--ignored", "--nocapture"]);
        command.env("ATTEST_ROLE", role).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = undisturbed(|| command.spawn()).expect("this executable");
        let said = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let line =
            said.map_while(Result::ok).find_map(|line| line.split_once("SAYS ").map(|it| it.1.to_owned()));
        Self(child, line.expect("a word of the other process"))
    }

    fn here(role: &str) -> Self {
        Self::start(Command::new(own_exe()), role)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test: what `Other` runs. Holds its sockets until its input ends.
#[test]
#[ignore = "a role for the other tests"]
fn in_a_role() {
    let Ok(role) = std::env::var("ATTEST_ROLE") else { return };
    let (verb, rest) = role.split_once(' ').unwrap_or((&role, ""));
    let mut sockets: Vec<OwnedFd> = Vec::new();
    let says = match verb {
        "connect" => {
            let socket = TcpStream::connect(rest).expect("a listener");
            let says = socket.local_addr().expect("an end").to_string();
            sockets.push(socket.into());
            says
        }
        "listen" => {
            let socket = TcpListener::bind(rest).expect("a port");
            let says = socket.local_addr().expect("an end").to_string();
            sockets.push(socket.into());
            says
        }
        "unix" => {
            sockets.push(StdUnixStream::connect(rest).expect("a listener").into());
            rest.to_owned()
        }
        "attest" => {
            let (local, peer) = rest.split_once(' ').expect("both ends");
            let ends = (local.parse().expect("an end"), peer.parse().expect("an end"));
            let owner = runtime().block_on(attestor().caller(ends.0, ends.1)).expect("an owner");
            format!("{} {:?} {:?}", owner.uid, owner.pid, owner.exe)
        }
        "namespace" => elsewhere(),
        _ => panic!("no role: {role}"),
    };
    writeln!(std::io::stdout(), "SAYS {says}").expect("a pipe");
    let _ = std::io::stdin().read_line(&mut String::new());
    drop(sockets);
}

#[tokio::test]
async fn a_caller_is_known_by_every_family() {
    let attestor = attestor();
    let v4 = TcpListener::bind((V4, 0)).expect("a port");
    let v6 = TcpListener::bind((V6, 0)).expect("a port");
    let both = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).expect("a port");
    let mapped = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
    for (listener, ip) in [(&v4, V4), (&v6, V6), (&both, V4), (&both, V6), (&both, mapped), (&v4, mapped)] {
        let (_client, server) = connect(listener, ip);
        let owner = caller(&attestor, &server).await.expect("an owner");
        assert_is_this_process(&owner);
        assert_eq!(caller(&attestor, &server).await.as_ref(), Ok(&owner), "it is found again");
    }
}

#[tokio::test]
async fn a_closing_socket_never_reads_as_root() {
    let attestor = attestor();
    let listener = TcpListener::bind((V4, 0)).expect("a port");
    // FIN_WAIT2 at the client, then TIME_WAIT.
    let (client, server) = connect(&listener, V4);
    undisturbed(|| drop(client));
    assert_eq!(caller(&attestor, &server).await, Err(Reason::CallerGone));
    let (local, peer) = (server.local_addr().expect("an end"), server.peer_addr().expect("an end"));
    undisturbed(|| drop(server));
    let refusal = attestor.caller(local, peer).await.expect_err("a closed socket");
    assert_eq!(refusal.reason, Reason::CallerGone, "{refusal}");
    // Half closed: a process still holds it, and it is refused all the same.
    let (client, server) = connect(&listener, V4);
    client.shutdown(std::net::Shutdown::Write).expect("an open socket");
    assert_eq!(caller(&attestor, &server).await, Err(Reason::CallerGone));
}

#[tokio::test]
async fn after_a_reset_a_listener_on_the_port_is_not_taken_for_the_caller() {
    let attestor = attestor();
    let listener = TcpListener::bind((V4, 0)).expect("a port");
    let mut n_listened_on = 0;
    for _ in 0..10 {
        let (client, mut server) = connect(&listener, V4);
        let (local, peer) = (server.local_addr().expect("an end"), server.peer_addr().expect("an end"));
        // What is closed with bytes unread is reset.
        server.write_all(b"unread").expect("an open socket");
        client.peek(&mut [0]).expect("a byte");
        undisturbed(|| drop(client));
        let refusal = attestor.caller(local, peer).await.expect_err("a reset socket");
        assert_eq!(refusal.reason, Reason::CallerGone, "{refusal}");
        // Any program may be quicker to take the port that was left.
        let Ok(_successor) = TcpListener::bind(peer) else { continue };
        n_listened_on += 1;
        let refusal = attestor.caller(local, peer).await.expect_err("a reset socket");
        assert_eq!(refusal.reason, Reason::CallerGone, "{refusal}");
    }
    assert!(n_listened_on > 0, "no port could be taken");
}

#[tokio::test]
async fn another_program_and_user_are_told_apart() {
    if !is_root() {
        eprintln!("SKIPPED: only root can start a process of another user");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("an own folder");
    let program = folder.path().join("orders");
    undisturbed(|| fs::copy(own_exe(), &program)).expect("a copy");
    let attestor = attestor();
    let listener = TcpListener::bind((V4, 0)).expect("a port");
    let mut command = Command::new(&program);
    command.uid(NOBODY);
    let address = listener.local_addr().expect("an address");
    let other = Other::start(command, &format!("connect {address}"));
    let (server, _) = listener.accept().expect("a client");
    let owner = caller(&attestor, &server).await.expect("an owner");
    let expected = (NOBODY, Some(other.0.id()), Some(program.clone()));
    assert_eq!((owner.uid, owner.pid, owner.exe), expected);
    // An upgrade replaces the file while the service runs.
    fs::remove_file(&program).expect("the copy");
    let owner = caller(&attestor, &server).await.expect("an owner");
    assert_eq!(owner.exe.as_deref(), Some(&*program));
}

#[tokio::test]
async fn without_rights_the_user_is_known_and_the_program_is_not() {
    if !is_root() {
        eprintln!("SKIPPED: only root can start a process of another user");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("an own folder");
    let program = folder.path().join("sagemesh");
    undisturbed(|| fs::copy(own_exe(), &program)).expect("a copy");
    let listener = TcpListener::bind((V4, 0)).expect("a port");
    let (_client, server) = connect(&listener, V4);
    let (local, peer) = (server.local_addr().expect("an end"), server.peer_addr().expect("an end"));
    let mut command = Command::new(&program);
    command.uid(NOBODY);
    let other = Other::start(command, &format!("attest {local} {peer}"));
    assert_eq!(other.1, "0 None None");
}

#[tokio::test]
async fn a_program_under_a_laid_over_path_is_not_believed() {
    if !is_root() {
        eprintln!("SKIPPED: only root can make a mount namespace here");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let orders = folder.path().join("orders");
    fs::write(&orders, "what the operator trusts").expect("a file");
    let listener = TcpListener::bind((V4, 0)).expect("a port");
    let mut command = Command::new("unshare");
    let script = r#"mount --bind "$0" "$1" && exec "$@""#;
    command.args(["--mount", "sh", "-c", script]).arg(own_exe()).arg(&orders);
    let address = listener.local_addr().expect("an address");
    let _other = Other::start(command, &format!("connect {address}"));
    let (server, _) = listener.accept().expect("a client");
    let owner = caller(&attestor(), &server).await.expect("an owner");
    assert!(owner.pid.is_some() && owner.exe.is_none(), "{owner:?}");
}

#[tokio::test]
async fn a_unix_peer_is_known() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).expect("a socket");
    let client = UnixStream::connect(&path).await.expect("a listener");
    let (server, _) = listener.accept().await.expect("a client");
    let attestor = attestor();
    assert_is_this_process(&attestor.peer(&server).expect("an owner"));
    drop(client);

    let other = Other::here(&format!("unix {}", path.display()));
    let (server, _) = listener.accept().await.expect("a client");
    let owner = attestor.peer(&server).expect("an owner");
    assert_eq!((owner.pid, owner.exe), (Some(other.0.id()), Some(own_exe())));
    drop(other);
    let owner = attestor.peer(&server).expect("an owner");
    assert_eq!((owner.pid, owner.exe, owner.cgroup), (None, None, None), "its process has ended");
}

#[tokio::test]
async fn a_listener_is_known_by_every_address_it_takes() {
    let attestor = attestor();
    for (bound, asked) in [
        ("127.0.0.1:0", "127.0.0.1"),
        ("127.0.0.1:0", "0.0.0.0"),
        ("0.0.0.0:0", "127.0.0.1"),
        ("[::]:0", "127.0.0.1"),
        ("[::]:0", "::1"),
        ("[::]:0", "::"),
        ("[::1]:0", "::1"),
        ("[::]:0", "::ffff:127.0.0.1"),
    ] {
        let other = Other::here(&format!("listen {bound}"));
        let mut address: SocketAddr = other.1.parse().expect("an address");
        address.set_ip(asked.parse().expect("an address"));
        let owner = attestor.listener(address).await.expect("an answer").expect("a listener");
        assert_eq!((owner.pid, owner.exe), (Some(other.0.id()), Some(own_exe())), "{bound} by {asked}");
        drop(other);
        assert_eq!(attestor.listener(address).await.expect("an answer"), None);
    }
    let own = TcpListener::bind((V6, 0)).expect("a port");
    let mut address = own.local_addr().expect("an address");
    address.set_ip(V4);
    assert_eq!(attestor.listener(address).await.expect("an answer"), None, "another address of the port");
}

#[tokio::test]
async fn a_caller_in_another_namespace_is_told_so() {
    if !is_root() {
        eprintln!("SKIPPED: only root can make network namespaces");
        return;
    }
    let mut command = Command::new("unshare");
    command.arg("--net").arg(own_exe());
    let other = Other::start(command, "namespace");
    assert_eq!(other.1, Reason::CallerElsewhere.code());
}

/// In a network namespace of its own: makes a second one and is called from there.
fn elsewhere() -> String {
    let ip = |args: &str| {
        let done = Command::new("ip").args(args.split(' ')).status().expect("iproute2");
        assert!(done.success(), "ip {args}");
    };
    ip("link set lo up");
    let mut command = Command::new("unshare");
    command.arg("--net").arg(own_exe());
    // Its listener only says that the namespace is there.
    let far = Other::start(command, "listen 0.0.0.0:0");
    let pid = far.0.id();
    ip(&format!("link add here type veth peer name there netns {pid}"));
    ip("addr add 10.9.9.1/24 dev here");
    ip("link set here up");
    let inside = |args: &str| {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{pid}/ns/net")).args(args.split(' '));
        command
    };
    for args in ["ip addr add 10.9.9.2/24 dev there", "ip link set there up"] {
        assert!(inside(args).status().expect("util-linux").success(), "{args}");
    }
    let listener = TcpListener::bind("10.9.9.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let own = own_exe();
    let _client = Other::start(inside(own.to_str().expect("a path")), &format!("connect {address}"));
    let (server, _) = listener.accept().expect("a client");
    match runtime().block_on(caller(&attestor(), &server)) {
        Ok(owner) => format!("{owner:?}"),
        Err(reason) => reason.code().to_owned(),
    }
}

/// `cargo test --release -p sagemesh-attest -- --ignored --exact tests::how_long_a_query_takes --nocapture`
#[tokio::test]
#[ignore = "a measurement"]
async fn how_long_a_query_takes() {
    let attestor = attestor();
    let listener = TcpListener::bind((V4, 0)).expect("a port");
    let first = Instant::now();
    let (_client, server) = connect(&listener, V4);
    caller(&attestor, &server).await.expect("an owner");
    eprintln!("a first caller: {:?}", first.elapsed());
    const N: u32 = 2000;
    let start = Instant::now();
    for _ in 0..N {
        caller(&attestor, &server).await.expect("an owner");
    }
    eprintln!("a known socket: {:?}", start.elapsed() / N);
    let mut spent = std::time::Duration::ZERO;
    let mut open = Vec::new();
    for _ in 0..200 {
        let (client, server) = connect(&listener, V4);
        let start = Instant::now();
        caller(&attestor, &server).await.expect("an owner");
        spent += start.elapsed();
        open.push((client, server));
    }
    eprintln!("a new socket of a known process: {:?}", spent / 200);
    let start = Instant::now();
    for _ in 0..N {
        attestor.listener(listener.local_addr().expect("an end")).await.expect("an answer");
    }
    eprintln!("a known listener: {:?}", start.elapsed() / N);
    let diag = diag::Diag::new().expect("a netlink socket");
    let (local, peer) = (server.local_addr().expect("an end"), server.peer_addr().expect("an end"));
    let start = Instant::now();
    for _ in 0..N {
        diag.find(peer, local, None).expect("an answer");
    }
    eprintln!("the kernel's answer: {:?}", start.elapsed() / N);
}

#[test]
fn a_process_whose_name_was_cut_within_a_character_is_known() {
    let comm = std::path::Path::new("/proc/self/comm");
    let name = fs::read(comm).expect("/proc");
    let pid = std::process::id();
    let born = process::birth(pid).expect("it lives");
    // What the kernel leaves of a name of eight letters that take two bytes each.
    fs::write(comm, &"\u{e4}".repeat(8).as_bytes()[..15]).expect("its own name");
    let found = process::birth(pid);
    fs::write(comm, name.trim_ascii_end()).expect("its own name");
    assert_eq!(found, Some(born));
}
