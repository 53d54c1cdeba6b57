"""Everything that is measured: how it is started, and where its caller connects."""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from hops.ground import ADDRESS, command
from hops.nodes import OUTBOUND, Pair, service

HERE = Path(__file__).parent
US = "sagemesh"
# The port where services listen, in the clear and with TLS.
ECHO, ECHO_TLS = 50051, 50052


@dataclass
class System:
    """A way from the caller to the service."""

    name: str
    target: str
    # Arguments of the caller beside the target.
    args: list = field(default_factory=list)
    # What stands between the caller and the service.
    hops: list = field(default_factory=list)
    # The service.
    echo: object = None


class Bench:
    """What the benchmark has on the ground: programs, certificates, services, and the systems that were asked for."""

    def __init__(self, ground, pd, binary):
        self.ground = ground
        # A program is known by its path, so that each caller has one: who may call, who may not, who is nobody.
        self.pd, self.denied, self.unmapped = (
            ground.dir / "bin" / name for name in ("pd", "pd-denied", "pd-unmapped")
        )
        for path in (self.pd, self.denied, self.unmapped):
            path.parent.mkdir(exist_ok=True)
            shutil.copy2(pd, path)
        self.certs = ground.dir / "certs"
        for path in (self.certs, ground.dir / "conf", ground.dir / "tmp"):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        command(HERE / "certs.sh", self.certs)
        for path in (HERE / "conf").iterdir():
            (ground.dir / "conf" / path.name).write_text(path.read_text().replace("@DIR@", str(ground.dir)))
        self.pair = Pair(ground, binary)
        self.systems = {}
        echo = ["echo", "--listen", f"0.0.0.0:{ECHO}"]
        echo_tls = ["echo", "--listen", f"{ADDRESS['b']}:{ECHO_TLS}", "--tls", self.certs]
        self.echo = ground.start("echo", "b", [self.pd, *echo])
        self.echo_tls = ground.start("echo-tls", "b", [self.pd, *echo_tls])
        for port in (ECHO, ECHO_TLS):
            ground.wait_for(
                f"port {port}", lambda port=port: ground.listens("b", port), 10, [self.echo, self.echo_tls]
            )

    def start(self, name):
        """Starts a system and answers it; says so and answers nothing if it is not on this machine."""
        system = getattr(self, name.replace("-", "_"))()
        if system is not None:
            self.systems[name] = system
        return system

    def direct(self):
        return System("direct", f"{ADDRESS['b']}:{ECHO}", echo=self.echo)

    def direct_mtls(self):
        return System(
            "direct-mtls", f"{ADDRESS['b']}:{ECHO_TLS}", ["--tls", str(self.certs)], echo=self.echo_tls
        )

    def nginx(self):
        return self.between("nginx", 6001, 6441, shutil.which("nginx"), lambda path: ["-c", path], "conf")

    def haproxy(self):
        return self.between(
            "haproxy", 6002, 6442, shutil.which("haproxy"), lambda path: ["-db", "-f", path], "cfg"
        )

    def envoy(self):
        program = os.environ.get("ENVOY") or shutil.which("envoy")
        args = lambda path: ["-c", path, "--concurrency", "1", "--disable-hot-restart", "-l", "warn"]
        return self.between("envoy", 6003, 6443, program, args, "yaml")

    def floor_tun(self):
        return self.floor("floor-tun", "tunnel", 6004, 6444)

    def floor_h2(self):
        return self.floor("floor-h2", "forward", 6005, 6445)

    def sagemesh(self):
        """Two nodes that were founded before, as the services say."""
        args = ["--authority", "echo"]
        return System(US, OUTBOUND, args, self.pair.processes, self.echo)

    def services(self):
        """What both nodes are told of services. `client` may call `echo`, `denied` may not, and `unmapped` is none."""
        here = service("client", [self.pd]) + service("denied", [self.denied])
        listen = f"127.0.0.1:{ECHO}"
        return here, service("echo", [self.pd], listen=listen, health="tcp", allow=["svc/client"])

    def between(self, name, port_a, port_b, program, args, ending):
        """One proxy on each side, by its configuration file."""
        if program is None or not os.access(program, os.X_OK):
            print(f"({name} is not on this machine and is left out)")
            return None
        conf = lambda side: str(self.ground.dir / "conf" / f"{name}-{side}.{ending}")
        return self.two(name, port_a, port_b, lambda side: [program, *args(conf(side))])

    def floor(self, name, program, port_a, port_b):
        """One of our own floors."""
        far = f"{ADDRESS['b']}:{port_b}"
        argv = {
            "a": ["--listen", f"127.0.0.1:{port_a}", "--to", far, "--tls-out", self.certs],
            "b": ["--listen", far, "--to", f"127.0.0.1:{ECHO}", "--tls-in", self.certs],
        }
        return self.two(name, port_a, port_b, lambda side: [self.pd, program, *argv[side]])

    def two(self, name, port_a, port_b, argv):
        hops = [self.ground.start(f"{name}-{side}", side, argv(side)) for side in "ba"]
        for side, port in (("b", port_b), ("a", port_a)):
            self.ground.wait_for(
                f"the start of {name}", lambda s=side, p=port: self.ground.listens(s, p), 15, hops
            )
        return System(name, f"127.0.0.1:{port_a}", [], hops, self.echo)


ALL = ("direct", "direct-mtls", "floor-tun", "floor-h2", "haproxy", "nginx", "envoy", US)
