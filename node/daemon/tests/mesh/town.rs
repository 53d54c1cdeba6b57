//! Machines of one town: real nodes as processes, each on a loopback address of its own with the usual ports.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Far more than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a state; fails loudly if it does not come.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A machine with its own address, configuration and state.
pub(crate) struct Machine {
    dir: tempfile::TempDir,
    pub(crate) ip: String,
    node: Option<Child>,
}

/// A process that ends with the test.
pub(crate) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machine {
    pub(crate) fn new() -> Self {
        let machine = Self { dir: tempfile::tempdir().unwrap(), ip: free_ip(), node: None };
        machine.configure("");
        machine
    }

    /// Writes the configuration, with `services` at its end.
    pub(crate) fn configure(&self, services: &str) {
        let Self { ip, .. } = self;
        let text = format!(
            "state = {:?}\n[mesh]\nlisten = [\"{ip}:7400\"]\n[api]\nlisten = \"{ip}:7443\"\n\
             [proxy]\ninbound = \"{ip}:7450\"\noutbound = \"{ip}:7480\"\n\
             [telemetry]\nlisten = \"{ip}:7470\"\n{services}",
            self.state()
        );
        fs::write(self.config(), text).unwrap();
    }

    /// Switches the proxy off in the configuration.
    pub(crate) fn carries_no_calls(&self) {
        let text = fs::read_to_string(self.config()).unwrap();
        fs::write(self.config(), text.replace("[proxy]\n", "[proxy]\nenabled = false\n")).unwrap();
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sagemesh"));
        command.args(["--config", self.config().to_str().unwrap()]);
        for name in ["SAGEMESH_STATE", "SAGEMESH_API", "SAGEMESH_RUN", "SAGEMESH_LOG", "RUST_BACKTRACE"] {
            command.env_remove(name);
        }
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command().args(args).output().unwrap()
    }

    #[track_caller]
    pub(crate) fn does(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {told}\n{}", self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    pub(crate) fn is_refused(&self, args: &[&str], code: i32, expected: &str) {
        let output = self.run(args);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
        assert!(told.contains(expected), "{args:?}: {told}");
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["-o", "json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// Founds a mesh and starts.
    pub(crate) fn founds(&mut self) {
        self.does(&["init", "home.mesh", "--name", "pi"]);
        self.up();
    }

    /// Starts the node.
    pub(crate) fn starts(&mut self) {
        let log = fs::File::create(self.path("log")).unwrap();
        let node = self.command().arg("up").stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.node = Some(node);
    }

    /// Starts the node and waits until it serves.
    pub(crate) fn up(&mut self) {
        self.starts();
        eventually("a node that serves", || {
            let ended = self.node.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the node ended: {}", self.log());
            self.is_ready().then_some(())
        });
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.readiness().starts_with("HTTP/1.0 200")
    }

    /// What the node says of whether it serves; nothing while nobody listens.
    pub(crate) fn readiness(&self) -> String {
        self.answers("/readyz")
    }

    /// What its port for metrics answers.
    pub(crate) fn answers(&self, path: &str) -> String {
        let ask = |mut stream: TcpStream| {
            stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            std::io::Result::Ok(answer)
        };
        TcpStream::connect((self.ip.as_str(), 7470)).and_then(ask).unwrap_or_default()
    }

    /// Ends the node as systemd would; it must end by itself and well.
    pub(crate) fn stop(&mut self) {
        let mut node = self.node.take().unwrap();
        let pid = rustix::process::Pid::from_child(&node);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.has_ended(&mut node);
    }

    /// Waits until the node has ended by itself and well.
    pub(crate) fn ended(&mut self) {
        let mut node = self.node.take().unwrap();
        self.has_ended(&mut node);
    }

    fn has_ended(&self, node: &mut Child) {
        let status = eventually("the end of a node", || node.try_wait().unwrap());
        assert!(status.success(), "{}", self.log());
    }

    /// Has the node read its configuration again, as systemd would.
    pub(crate) fn hangs_up(&self) {
        let pid = rustix::process::Pid::from_child(self.node.as_ref().unwrap());
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }

    /// Ends the node without a word.
    pub(crate) fn kill(&mut self) {
        let mut node = self.node.take().unwrap();
        node.kill().unwrap();
        node.wait().unwrap();
    }

    /// Has `other` join by an invitation of this one, and starts it.
    pub(crate) fn admits(&self, other: &mut Self, name: &str, scope: &str) {
        let mut args = vec!["invite", "--name", name];
        if !scope.is_empty() {
            args.extend(["--scope", scope]);
        }
        let token = self.does(&args);
        other.does(&["join", token.trim()]);
        other.up();
    }

    /// Waits until `name` is seen in `state`, linked or not.
    #[track_caller]
    pub(crate) fn sees(&self, name: &str, state: &str, is_linked: bool) {
        let mut seen = Value::Null;
        let is_seen = (0..600).any(|_| {
            seen = self.json(&["peers"]);
            let peers = seen.as_array().map(Vec::as_slice).unwrap_or_default();
            let is_it = |peer: &&Value| peer["node"] == name;
            let peer = peers.iter().find(is_it).cloned().unwrap_or_default();
            std::thread::sleep(Duration::from_millis(50));
            peer["liveness"] == state && peer["linked"] == is_linked
        });
        assert!(is_seen, "{name} is not {state}: {seen}\n{}", self.log());
    }

    /// Waits until calls from here to `service` pass every layer.
    pub(crate) fn reaches(&self, service: &str) {
        let mut told = String::new();
        let is_reached = (0..600).any(|_| {
            let output = self.run(&["why", service]);
            told = String::from_utf8_lossy(&output.stdout).into_owned();
            std::thread::sleep(Duration::from_millis(100));
            output.status.success()
        });
        assert!(is_reached, "{told}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.node.is_some() {
            self.kill();
        }
    }
}

/// The founder of a mesh, running.
pub(crate) fn founder(services: &str) -> Machine {
    let mut machine = Machine::new();
    machine.configure(services);
    machine.founds();
    machine
}

/// The Python that has gRPC.
pub(crate) fn python() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
    let python = cache.join("sagemesh/venv/bin/python");
    assert!(python.exists(), "{} is missing: run `make setup`", python.display());
    python
}

/// Its selector: what the process looks like to the kernel.
pub(crate) fn python_selector() -> String {
    format!("selectors = [\"exe:{}\"]", fs::canonicalize(python()).unwrap().display())
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mesh").join(name)
}

/// Starts the stock service at an address, and waits until it takes connections.
pub(crate) fn serves(address: &str) -> Process {
    let child = Command::new(python()).arg(script("service.py")).arg(address).spawn().unwrap();
    let process = Process(child);
    eventually("a service", || TcpStream::connect(address).ok());
    process
}

/// Starts a collector of traces at an address; what it is told goes to the file `told`.
pub(crate) fn collects(address: &str, told: &Path) -> Process {
    let told = fs::File::create(told).unwrap();
    let child = Command::new(python()).arg(script("collector.py")).arg(address).stdout(told).spawn().unwrap();
    let process = Process(child);
    eventually("a collector", || TcpStream::connect(address).ok());
    process
}

/// What the stock client sees of these calls.
pub(crate) fn calls(target: &str, calls: &[&str]) -> Value {
    let output = Command::new(python()).arg(script("caller.py")).arg(target).args(calls).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{told}"))
}

/// A loopback address that nobody uses: tests run side by side.
fn free_ip() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let own = std::process::id() % 199;
    loop {
        let ip = format!("127.{}.{}.1", 50 + own, NEXT.fetch_add(1, Ordering::Relaxed));
        if [7400, 7443, 7450, 7480].iter().all(|port| TcpListener::bind((ip.as_str(), *port)).is_ok()) {
            return ip;
        }
    }
}
