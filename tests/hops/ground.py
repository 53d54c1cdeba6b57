"""Two network namespaces joined by a cable, and the processes in them.

Side `a` (10.77.0.1) has the callers, side `b` (10.77.0.2) the services. All that is made lies below one
cache directory. Everything that was started ends with the ground, however that ends; what a killed run left
ends when the next one begins. Needs root.
"""

import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sagemesh"
ADDRESS = {"a": "10.77.0.1", "b": "10.77.0.2"}
NAMESPACE = {side: f"smhops-{side}" for side in ADDRESS}
# Proxies, callers and services are all as nice as this, so that none is favoured.
NICE = "10"
# A process may take as long to end once it was asked to.
END_WITHIN_S = 5.0
# Many callers come and go over few addresses.
SYSCTLS = ("net.ipv4.ip_local_port_range=10000 60999", "net.ipv4.tcp_tw_reuse=1", "net.core.somaxconn=4096")


class Failure(Exception):
    """Something cannot go on; says what to do about it."""


class Process:
    """One process in a namespace, with what it has started itself."""

    def __init__(self, name, popen, log):
        self.name, self.popen, self.log = name, popen, log

    @property
    def pid(self):
        return self.popen.pid

    def pids(self):
        """The process and all below it: nginx works in a child."""
        children = {}
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                stat = Path("/proc", entry, "stat").read_text()
            except OSError:
                continue
            children.setdefault(int(stat.rsplit(")", 1)[1].split()[1]), []).append(int(entry))
        found = [self.pid]
        for pid in found:
            found += children.get(pid, [])
        return found

    def rss_mb(self):
        """Resident memory, in MB (10^6 bytes)."""
        lines = (line for pid in self.pids() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return sum(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmRSS"))

    def check(self):
        """Fails if it has ended."""
        if self.popen.poll() is not None:
            tail = self.log.read_text(errors="replace").splitlines()[-5:]
            raise Failure(f"{self.name} has ended:\n  " + "\n  ".join(tail) + f"\nsee {self.log}")

    def stop(self):
        """Ends it, by force if it takes long."""
        pids = self.pids()
        self.popen.terminate()
        try:
            self.popen.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            for pid in pids:
                try_kill(pid, signal.SIGKILL)
            self.popen.wait()


class Ground:
    """Both namespaces, from `with` to its end."""

    def __init__(self, name):
        self.dir = CACHE / name
        self.processes = []

    def __enter__(self):
        if os.geteuid() != 0:
            raise Failure("network namespaces need root: run it with sudo")
        for name in ("run", "nodes"):
            (self.dir / name).mkdir(parents=True, exist_ok=True)
        self.lock = open(CACHE / "hops.lock", "w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(
                "another benchmark or conformance run has the namespaces: wait until it ends"
            ) from None
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(130))
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        try:
            sweep()
            self.join()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        """Ends every process and removes both namespaces."""
        # A second Ctrl-C shall not leave half of it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for process in self.processes:
            process.popen.terminate()
        sweep()
        for process in self.processes:
            process.popen.wait()
        shutil.rmtree(self.dir / "nodes", ignore_errors=True)
        self.lock.close()

    def join(self):
        """Makes the namespaces and the cable between them."""
        for namespace in NAMESPACE.values():
            command("ip", "netns", "add", namespace)
        a, b = NAMESPACE["a"], NAMESPACE["b"]
        command("ip", "link", "add", "hop", "netns", a, "type", "veth", "peer", "name", "hop", "netns", b)
        for side, namespace in NAMESPACE.items():
            command("ip", "-n", namespace, "addr", "add", f"{ADDRESS[side]}/24", "dev", "hop")
            for link in ("lo", "hop"):
                command("ip", "-n", namespace, "link", "set", link, "up")
            self.run(side, ["sysctl", "-qw", *SYSCTLS])

    def inside(self, side, argv):
        """The command in a namespace. `ip netns exec` would hide cgroup v2 from attestation."""
        return ["nice", "-n", NICE, "nsenter", f"--net=/run/netns/{NAMESPACE[side]}", *map(str, argv)]

    def start(self, name, side, argv, **options):
        """Starts a process; it is not waited for."""
        log = self.dir / "run" / f"{name}.log"
        with open(log, "w") as out:
            popen = subprocess.Popen(
                self.inside(side, argv),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                **options,
            )
        process = Process(name, popen, log)
        self.processes.append(process)
        return process

    def run(self, side, argv, timeout_s=120, **options):
        """Runs a command to its end and answers what it printed."""
        return command(*self.inside(side, argv), timeout=timeout_s, **options)

    def stop(self, process):
        """Ends one process."""
        process.stop()
        self.processes.remove(process)

    def wait_for(self, what, is_so, within_s=60.0, processes=()):
        """Waits until something is so, while `processes` run."""
        began = time.monotonic()
        while not is_so():
            for process in processes:
                process.check()
            if time.monotonic() - began > within_s:
                raise Failure(f"{what} took longer than {within_s:.0f} s: see the logs in {self.dir / 'run'}")
            time.sleep(0.1)

    def listens(self, side, port):
        """Whether anything listens on a TCP port."""
        return f":{port} " in self.run(side, ["ss", "-Hltn", f"sport = :{port}"])


def command(*argv, timeout=60, **options):
    """Runs a command and answers its output."""
    line = " ".join(map(str, argv))
    options = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL} | options
    try:
        done = subprocess.run(argv, timeout=timeout, **options)
    except subprocess.TimeoutExpired:
        raise Failure(f"`{line}` took longer than {timeout} s") from None
    if done.returncode != 0:
        raise Failure(f"`{line}` failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


def sweep():
    """Ends whatever runs in namespaces of these names, and removes them."""
    known = command("ip", "netns", "list").split()
    for namespace in filter(known.__contains__, NAMESPACE.values()):
        for number in (signal.SIGTERM, signal.SIGKILL):
            began = time.monotonic()
            while pids := command("ip", "netns", "pids", namespace).split():
                for pid in pids:
                    try_kill(int(pid), number)
                if time.monotonic() - began > END_WITHIN_S:
                    break
                time.sleep(0.2)
        command("ip", "netns", "del", namespace)


def try_kill(pid, number):
    """Sends a signal to a process that may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
