"""Two real SageMesh nodes of one mesh, one on each side: founded, invited, joined and linked as users do it."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

from hops.ground import Failure, command

# Where a node answers `/metrics`, and where its services call.
METRICS = "http://127.0.0.1:7470/metrics"
OUTBOUND = "127.0.0.1:7480"
INBOUND_PORT = 7450
# One worker thread, as the other proxies have one: read by tokio, whose runtime the node runs on.
ONE_WORKER = {"TOKIO_WORKER_THREADS": "1"}
# A program that prints what a URL answers.
READ_URL = "import sys, urllib.request as it; print(it.urlopen(sys.argv[1], timeout=10).read().decode())"


class Node:
    """One node: its files, its process, its command line."""

    def __init__(self, ground, binary, side):
        self.ground, self.binary, self.side = ground, binary, side
        self.dir = ground.dir / "nodes" / side
        shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir(parents=True)
        self.process = None

    def configure(self, services, proxy="workers = 1\n"):
        """Writes its configuration; `services` are the lines of its services, `proxy` those of its proxy."""
        text = f'state = "{self.dir}/state"\nrun = "{self.dir}/run"\n[proxy]\n{proxy}{services}'
        (self.dir / "config.toml").write_text(text)

    def cli(self, *args, timeout_s=60):
        """Runs a command of the node and answers what it says."""
        argv = [self.binary, "--config", self.dir / "config.toml", "-o", "json", *args]
        said = self.ground.run(self.side, argv, timeout_s)
        return json.loads(said) if said.strip() else None

    def up(self, within_s=60, wrapper=()):
        """Starts it and waits until it answers. `wrapper` is a command that runs it."""
        argv = [*wrapper, self.binary, "--config", self.dir / "config.toml", "up"]
        self.process = self.ground.start(
            f"node-{self.side}", self.side, argv, env={**os.environ, **ONE_WORKER}
        )
        self.ground.wait_for(f"the start of node {self.side}", self.answers, within_s, [self.process])

    def answers(self):
        """Whether it is up."""
        try:
            return bool(self.cli("peers") is not None)
        except Failure:
            return False

    def down(self):
        """Stops it."""
        self.ground.stop(self.process)

    def metrics(self):
        """What it counts, by the name of the metric with its labels."""
        text = self.ground.run(self.side, [sys.executable, "-c", READ_URL, METRICS])
        return {name: float(value) for name, value in re.findall(r"^(\w+{[^}]*}) (\S+)$", text, re.MULTILINE)}

    def refusals(self, code):
        """Calls that it refused for a reason."""
        return int(self.metrics().get(f'sagemesh_proxy_refusals_total{{error_type="{code}"}}', 0))


class Pair:
    """Both nodes, in one mesh."""

    def __init__(self, ground, binary):
        if not Path(binary).exists():
            raise Failure(f"{binary} is not there: `cargo build --release -p sagemesh-daemon` makes it")
        self.ground = ground
        self.a, self.b = (Node(ground, binary, side) for side in "ab")

    @property
    def processes(self):
        return [self.a.process, self.b.process]

    def found(self, services_a="", services_b=""):
        """Founds the mesh on `a` and has `b` join it by an invitation."""
        self.configure(services_a, services_b)
        self.a.cli("init", "home.mesh", "--name", "a")
        self.a.up()
        token = self.a.cli("invite", "--name", "b", "--scope", "svc/*")["token"]
        self.b.cli("join", token)
        self.b.up()
        self.linked()

    def restart(self, within_s=60, wrapper=lambda side: ()):
        """Stops both and starts them anew."""
        for node in (self.a, self.b):
            node.down()
        for node in (self.a, self.b):
            node.up(within_s, wrapper(node.side))
        self.linked(within_s)

    def linked(self, within_s=60):
        """Waits until each takes the other for alive."""
        is_linked = lambda node: any(it["linked"] and it["liveness"] == "alive" for it in node.cli("peers"))
        self.ground.wait_for(
            "the link of the nodes", lambda: is_linked(self.a) and is_linked(self.b), within_s, self.processes
        )

    def configure(self, services_a, services_b):
        """Writes both configurations, with these services."""
        self.a.configure(services_a)
        self.b.configure(services_b)

    def configure_without_proxy(self):
        """Writes both configurations, with neither proxy nor services. A restart makes it so."""
        for node in (self.a, self.b):
            node.configure("", "enabled = false\n")

    def reload(self, services_a, services_b):
        """Gives both other services while they run."""
        self.configure(services_a, services_b)
        for node in (self.a, self.b):
            node.cli("reload")

    def mldsa_ends(self):
        """How many of the two ends of their link say that it is X25519MLKEM768 and ML-DSA-65."""
        peers = [peer for node in (self.a, self.b) for peer in node.cli("peers") if peer["linked"]]
        return sum((it["tls_group"], it["tls_signature"]) == ("X25519MLKEM768", "ML-DSA-65") for it in peers)

    def calling_connections(self):
        """The connections by which `a` called `b`, as it logged them: those of X25519MLKEM768 and ML-DSA-65, and
        all others."""
        lines = [
            line
            for line in self.a.process.log.read_text().splitlines()
            if "proxy::connections: connected" in line
        ]
        is_good = lambda line: 'tls.curve="X25519MLKEM768"' in line and '.signature="ML_DSA_65"' in line
        n_good = sum(map(is_good, lines))
        return n_good, len(lines) - n_good

    def rss_mb(self):
        """Resident memory of both."""
        return sum(process.rss_mb() for process in self.processes)


def service(name, programs, **keys):
    """The lines of one `[[service]]`, whose processes run one of `programs`."""
    selectors = [f"exe:{Path(program).resolve()}" for program in programs]
    keys = {"name": name, "selectors": selectors, **keys}
    return "[[service]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
