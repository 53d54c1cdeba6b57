"""The workloads, and one run of one of them against one system."""

import json
import os
import time
from pathlib import Path

from hops.ground import Failure

HZ = os.sysconf("SC_CLK_TCK")


def workloads(is_quick):
    """Arguments of the caller for each workload; a fifth of the time if it is only to see that it works."""

    def run(secs, *args):
        secs, warm = (secs / 5, 0.3) if is_quick else (secs, 1.0)
        return ["--secs", f"{secs:.1f}", "--warm", f"{warm:.1f}", *args]

    return {
        # Closed loops: 100 connections of 10 streams.
        "sat100x10": run(4, "--conns", "100", "--streams", "10"),
        # The same; each call has its own traceparent, a deadline and a token of 300 bytes.
        "meta100x10": run(4, "--conns", "100", "--streams", "10", "--meta"),
        "few4x1": run(3, "--conns", "4", "--streams", "1"),
        # An open loop; latency counts from when a call was due.
        "rate1000": run(6, "--conns", "8", "--rate", "1000"),
        # Echoes of 16 KiB.
        "body16k": run(3, "--conns", "8", "--streams", "4", "--size", "16384"),
        # Not among those that run by default.
        "few4x32": run(3, "--conns", "4", "--streams", "32"),
    }


DEFAULT = ("sat100x10", "meta100x10", "few4x1", "rate1000", "body16k")
# How long proxies are watched at rest, in s: what that costs is no cost of calls.
REST_S = 4.0


def load(ground, program, system, args, around=(), timeout_s=120):
    """Calls through a system and answers what the caller saw."""
    argv = [program, "load", "--target", system.target, *system.args, *args]
    for text in around:
        argv += ["--around", text]
    said = ground.run("a", argv, timeout_s).strip().splitlines()
    if not said:
        raise Failure(f"the caller of {system.name} said nothing")
    return json.loads(said[-1])


def measure(ground, program, system, workload, args):
    """One run, with the CPU time of proxies and service taken right around the measured time."""
    hops = [pid for hop in system.hops for pid in hop.pids()]
    echo = system.echo.pids()
    both = (("hops", hops), ("echo", echo))
    files = [(ground.dir / "run" / f"stat-{n}-{who}", pids) for n in (0, 1) for who, pids in both]
    cat = lambda path, pids: f"cat /dev/null {' '.join(f'/proc/{pid}/stat' for pid in pids)} >{path}"
    around = [" && ".join(cat(*it) for it in files[:2]), " && ".join(cat(*it) for it in files[2:])]
    rest_cpu = rest(hops) if workload.startswith("rate") and hops else 0.0
    try:
        seen = load(ground, program, system, args, around)
    except Failure as failure:
        for hop in system.hops:
            hop.check()
        return {"sys": system.name, "wl": workload, "error": str(failure)[-400:]}
    hops_0, echo_0, hops_1, echo_1 = (cpu(path.read_text()) for path, _ in files)
    user, kernel = hops_1[0] - hops_0[0], hops_1[1] - hops_0[1]
    echo_cpu = sum(echo_1) - sum(echo_0)
    per_100k = 1e5 / max(seen["done"], 1)
    return seen | {
        "sys": system.name,
        "wl": workload,
        "proxy_user": user,
        "proxy_sys": kernel,
        "rest_cpu": rest_cpu,
        "proxy_cpu_100k": (user + kernel - rest_cpu * seen["secs"]) * per_100k,
        "total_cpu_100k": (user + kernel + echo_cpu + seen["client_cpu"]) * per_100k,
        "rss_mb": sum(hop.rss_mb() for hop in system.hops),
        "load1": os.getloadavg()[0],
    }


def rest(pids):
    """CPU seconds a second of processes that have nothing to do."""
    now = lambda: sum(sum(cpu(Path(f"/proc/{pid}/stat").read_text())) for pid in pids)
    before = now()
    time.sleep(REST_S)
    return (now() - before) / REST_S


def cpu(stats):
    """User and system seconds of the lines of /proc/PID/stat."""
    fields = [line.rsplit(")", 1)[1].split() for line in stats.strip().splitlines()]
    return sum(int(it[11]) for it in fields) / HZ, sum(int(it[12]) for it in fields) / HZ
