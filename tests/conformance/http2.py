"""`make conformance-http2`: h2spec on both listeners of real nodes, and gRPC's interop cases through two hops.

    h2spec -> outbound :7480 of node a          h2spec -> shim =mTLS= inbound :7450 of node b
    client (Go, Python) -> node a =mTLS= node b -> server (Go)

h2spec calls by GET and without a content type, as gRPC does not: the proxy answers each of its requests with
415 and a line of text, and what is tried is how either listener keeps to HTTP/2. How bodies pass both hops is what
the interop cases try.

Prints what failed, then one line `RESULT {json}`; fails if anything did that `KNOWN` does not list with its reason.
"""

import argparse
import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from hops.ground import ADDRESS, CACHE, Failure, Ground
from hops.nodes import INBOUND_PORT, Pair, service

HERE = Path(__file__).parent
SERVER_PORT, SHIM_PORT, OUTBOUND_PORT = 50061, 7451, 7480
SERVICE = "interop"
# How long h2spec waits for an answer, in s.
H2SPEC_TIMEOUT = 2
# What fails and may: its name, and why.
KNOWN = {}
# The cases of the stock client of Go that need neither Google's cloud nor TLS. Compression it leaves out.
GO_CASES = (
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "rpc_soak",
    "channel_soak",
)
GO_COMPRESSED = ("client_compressed_unary", "server_compressed_unary")


class Tally:
    """What passed and what failed, by suite."""

    def __init__(self):
        self.counts, self.unknown = {}, []

    def note(self, suite, name, why=None):
        """Notes one case; `why` it failed, if it did."""
        counts = self.counts.setdefault(suite, {"passed": 0, "failed": 0, "skipped": 0})
        if why is None:
            counts["passed"] += 1
            return
        counts["failed"] += 1
        name = f"{suite} {name}"
        known = KNOWN.get(name)
        print(f"  FAILED {name}: {why}" + (f"\n    known: {known}" if known else ""), flush=True)
        if not known:
            self.unknown.append(name)

    def skip(self, suite, name):
        """Notes one that the suite itself left out."""
        self.counts.setdefault(suite, {"passed": 0, "failed": 0, "skipped": 0})["skipped"] += 1
        print(f"  skipped {suite} {name}", flush=True)


def main():
    parser = argparse.ArgumentParser(prog="make conformance-http2", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("h2spec", "interop"), help="only one of the two")
    parser.add_argument("--binary", type=Path, required=True, help="the node's program")
    args = parser.parse_args()
    tally = Tally()
    try:
        with Ground("conformance") as ground:
            run(ground, args, tally)
    except Failure as failure:
        sys.exit(f"conformance-http2: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
    figures = {f"{suite}.{key}": n for suite, counts in tally.counts.items() for key, n in counts.items()}
    print("RESULT " + json.dumps(figures, sort_keys=True))
    if tally.unknown:
        sys.exit(f"conformance-http2: {len(tally.unknown)} cases failed that are not known to")


def run(ground, args, tally):
    tools = {name: CACHE / "bin" / name for name in ("h2spec", "interop-client", "interop")}
    python = CACHE / "venv" / "bin" / "python"
    for path in (*tools.values(), python):
        if not path.exists():
            raise Failure(f"{path} is not there: `tests/setup.sh conformance` makes it")
    pair = Pair(ground, args.binary)
    listen = f"127.0.0.1:{SERVER_PORT}"
    pair.found(
        service("caller", [*tools.values(), python]),
        service(
            SERVICE, [tools["interop"]], listen=listen, health="tcp", allow=["svc/caller", "operator/h2spec"]
        ),
    )
    server = ground.start("interop", "b", [tools["interop"], "serve", SERVER_PORT])
    is_answered = lambda: not unary(ground, tools)
    ground.wait_for("the first call", is_answered, 60, [server, *pair.processes])
    if args.only != "interop":
        h2spec(ground, pair, tools["h2spec"], tally)
    if args.only != "h2spec":
        interop(ground, tools, python, tally)


def named(ground, argv):
    """A command that finds the service's name, which its clients take for a host, at this machine."""
    hosts = ground.dir / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {SERVICE}\n")
    script = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh", hosts, *argv]


def h2spec(ground, pair, program, tally):
    """h2spec at either listener."""
    operator = ground.dir / "nodes" / "operator"
    pair.a.cli("operator", "add", "h2spec", "--role", "view", "--out", operator)
    is_known = lambda: "h2spec" in json.dumps(pair.b.cli("operator", "list"))
    ground.wait_for("the operator at the other node", is_known, 30, pair.processes)
    certificate, key = operator / "h2spec.crt", operator / "h2spec.key"
    target, name = f"{ADDRESS['b']}:{INBOUND_PORT}", f"{SERVICE}.b.home.mesh"
    shim = ground.start(
        "shim", "a", [sys.executable, HERE / "shim.py", SHIM_PORT, target, name, certificate, key]
    )
    ground.wait_for("the shim", lambda: ground.listens("a", SHIM_PORT), 10, [shim])
    for suite, port in (("h2spec.outbound", OUTBOUND_PORT), ("h2spec.inbound", SHIM_PORT)):
        print(f"\n### {suite}\n", flush=True)
        kept = ground.dir / f"{suite}.xml"
        kept.unlink(missing_ok=True)
        argv = [
            program,
            "--host",
            SERVICE,
            "--port",
            port,
            "--timeout",
            H2SPEC_TIMEOUT,
            "--junit-report",
            kept,
        ]
        try:
            ground.run("a", named(ground, argv), 600)
        except Failure:
            # Its exit status says no more than the report.
            pass
        if not kept.exists():
            raise Failure(f"h2spec wrote no report for {suite}: try `{' '.join(map(str, argv))}`")
        read(kept, suite, tally)


def read(report, suite, tally):
    """Reads the report of h2spec (JUnit's form)."""
    for group in ElementTree.parse(report).getroot().iter("testsuite"):
        for idx, case in enumerate(group.iter("testcase"), 1):
            name = f"{case.get('package')}/{idx} {case.get('classname')}"
            failure = case.find("failure") if case.find("failure") is not None else case.find("error")
            if case.find("skipped") is not None:
                tally.skip(suite, name)
            else:
                tally.note(suite, name, None if failure is None else " ".join(failure.text.split()))
    print(f"  {tally.counts[suite]}")


def unary(ground, tools):
    """Why the simplest call fails, if it does."""
    return why(ground, [tools["interop-client"], *go_args("empty_unary")])


def go_args(case):
    return ["--server_host", SERVICE, "--server_port", OUTBOUND_PORT, "--test_case", case]


def why(ground, argv):
    """Why a program fails, if it does."""
    try:
        ground.run("a", named(ground, argv), 60)
    except Failure as failure:
        return str(failure).splitlines()[-1]
    return None


def interop(ground, tools, python, tally):
    """The interop cases, by clients in two languages."""
    print("\n### interop\n", flush=True)
    for case in GO_CASES:
        tally.note("interop", f"go {case}", why(ground, [tools["interop-client"], *go_args(case)]))
    for case in GO_COMPRESSED:
        tally.note(
            "interop",
            f"go {case}",
            why(ground, [tools["interop"], "call", f"{SERVICE}:{OUTBOUND_PORT}", case]),
        )
    said = ground.run(
        "a", named(ground, [python, "-B", HERE / "cases.py", f"{SERVICE}:{OUTBOUND_PORT}"]), 300
    )
    for line in said.splitlines():
        case, _, outcome = line.partition(" ")
        tally.note("interop", f"python {case}", None if outcome == "ok" else outcome)
    print(f"  {tally.counts['interop']}")


if __name__ == "__main__":
    main()
