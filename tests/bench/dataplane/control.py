"""That the nodes under load do what they are there for: they refuse a process that is no service and a service
that policy denies, and their link is post-quantum. Counted by the nodes themselves, and by the callers."""

import json
import subprocess

from hops.ground import Failure
from hops.nodes import OUTBOUND

# Calls of each caller that is to be refused.
CALLS = 20
# The nodes' reasons, the node that counts them, and the gRPC status that the caller sees.
UNMAPPED = ("CALLER_UNMAPPED", "a", "grpc-status 16")
DENIED = ("POLICY_DENIED", "b", "grpc-status 7")


def ask(bench, program, calls):
    """How often which answer came to calls of a program."""
    argv = [program, "ask", "--target", OUTBOUND, "--authority", "echo", "--calls", calls]
    return json.loads(bench.ground.run("a", argv))


def run(bench, system, is_quick):
    """Asks as nobody and as a denied caller while the nodes are under load."""
    link = bench.pair.mldsa_ends()
    nodes = {"a": bench.pair.a, "b": bench.pair.b}
    counted = lambda: {code: nodes[side].refusals(code) for code, side, _ in (UNMAPPED, DENIED)}
    argv = [bench.pd, "load", "--target", system.target, *system.args, "--conns", 20, "--streams", 10]
    argv += ["--secs", 3 if is_quick else 8]
    before = counted()
    loading = subprocess.Popen(
        bench.ground.inside("a", argv), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    answers = {
        code: ask(bench, program, CALLS)
        for (code, *_), program in ((UNMAPPED, bench.unmapped), (DENIED, bench.denied))
    }
    is_loaded = loading.poll() is None
    out, _ = loading.communicate()
    seen = json.loads(out.strip().splitlines()[-1])
    after = counted()
    for code, _, status in (UNMAPPED, DENIED):
        if answers[code] != {status: CALLS} or after[code] - before[code] != CALLS:
            n_counted = after[code] - before[code]
            what = f"the caller saw {answers[code]}, the node counts {n_counted}"
            raise Failure(f"{CALLS} calls were to be refused with {code}: {what}")
    n_pq, n_other = bench.pair.calling_connections()
    if not n_pq or n_other or min(link, bench.pair.mldsa_ends()) < 2 or seen["errors"] or not is_loaded:
        what = f"connections of calls post-quantum {n_pq}, otherwise {n_other}; the load saw {seen}"
        raise Failure(f"the controls do not hold: {what}")
    print("\n### controls, under load\n")
    print(f"refused: {CALLS} of {CALLS} calls of a process that is no service")
    print(f"refused: {CALLS} of {CALLS} calls of a service that policy denies")
    print(f"X25519MLKEM768 and ML-DSA-65: {n_pq} of {n_pq} connections of calls, and the link", flush=True)
    return {
        "control.unmapped_refused": after[UNMAPPED[0]] - before[UNMAPPED[0]],
        "control.denied_refused": after[DENIED[0]] - before[DENIED[0]],
        "control.mldsa_links": n_pq,
    }
