"""What proxies hold in memory: at rest, for idle connections, and after a burst."""

import subprocess
import time

from hops.ground import Failure
from bench.dataplane.control import ask
from bench.dataplane.systems import US
from bench.dataplane.workloads import load

# Idle connections between which the price of one is told.
CONNS = (100, 1000)
# After so long memory that has only just been let go is seen to be.
SETTLE_S = 2.0


def rss(hops):
    """Resident memory of processes, in MB."""
    return sum(hop.rss_mb() for hop in hops)


def idle(bench, system):
    """KB of both hops for each idle connection that has made one call; and MB before the first of them."""
    ground, seen = bench.ground, []
    at_rest = rss(system.hops)
    for conns in CONNS:
        argv = [bench.pd, "idle", "--target", system.target, *system.args, "--conns", conns]
        caller = subprocess.Popen(
            ground.inside("a", argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            if caller.stdout.readline() != f"held {conns}\n":
                raise Failure(
                    f"{system.name} did not take {conns} connections: see the logs in {ground.dir / 'run'}"
                )
            time.sleep(SETTLE_S)
            seen.append(rss(system.hops))
        finally:
            caller.communicate()
    return at_rest, (seen[1] - seen[0]) * 1e3 / (CONNS[1] - CONNS[0])


def of_nodes(bench, is_quick):
    """The figures of our nodes, which are founded; ends with fresh nodes that serve."""
    pair = bench.pair
    wait = 2.0 if is_quick else 10.0
    pair.configure_without_proxy()
    pair.restart()
    time.sleep(wait)
    without = pair.rss_mb()
    pair.configure(*bench.services())
    pair.restart()
    ready(bench)
    time.sleep(wait)
    with_proxy = pair.rss_mb()
    system = bench.start(US)
    _, kb_per_conn = idle(bench, system)
    pair.restart()
    ready(bench)
    system = bench.start(US)
    time.sleep(wait)
    before = pair.rss_mb()
    secs, after_s = (2, 10) if is_quick else (10, 60)
    load(bench.ground, bench.pd, system, ["--conns", "100", "--streams", "10", "--secs", str(secs)])
    peak = pair.rss_mb()
    time.sleep(after_s)
    after = pair.rss_mb()
    print(f"\n### memory of both nodes, MB\n")
    print(
        f"| proxy off | with services, one call made | before the burst | at its end | {after_s} s later |"
    )
    print("|---|---|---|---|---|")
    print(f"| {without:.1f} | {with_proxy:.1f} | {before:.1f} | {peak:.1f} | {after:.1f} |", flush=True)
    return {
        "memory.idle_mb": round(with_proxy - without, 2),
        "memory.node_pair_mb": round(with_proxy, 2),
        "memory.kb_per_conn": round(kb_per_conn, 2),
        "memory.after_burst_ratio": round(after / before, 3),
    }


def ready(bench):
    """Waits until calls are answered."""

    def is_answered():
        return ask(bench, bench.pd, 1).get("ok") == 1

    bench.ground.wait_for("the first call through the nodes", is_answered, 60, bench.pair.processes)


def of_rivals(bench):
    """The table of the others, freshly started."""
    print("\n### memory of both hops\n\n| system | at rest, MB | KB for an idle connection |\n|---|---|---|")
    figures = {}
    for system in bench.systems.values():
        if system.hops and system.name != US:
            at_rest, kb_per_conn = idle(bench, system)
            print(f"| {system.name} | {at_rest:.1f} | {kb_per_conn:.1f} |", flush=True)
            figures[f"memory.{system.name}.kb_per_conn"] = round(kb_per_conn, 2)
    return figures
