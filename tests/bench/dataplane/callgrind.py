"""Instructions for each call, by hop, counted by callgrind: the figure that a busy machine does not change."""

import re
import shutil

from hops.ground import Failure, command
from bench.dataplane import memory
from bench.dataplane.systems import US
from bench.dataplane.workloads import load

# Arguments of the caller, and calls that are counted. Under valgrind all takes a hundred times as long: with more
# streams the nodes would take each other for silent.
SHAPES = {
    "sat10x10": (["--conns", "10", "--streams", "10"], 4_000),
    "meta10x10": (["--conns", "10", "--streams", "10", "--meta"], 4_000),
    "few4x1": (["--conns", "4", "--streams", "1"], 1_000),
    "body16k": (["--conns", "8", "--streams", "4", "--size", "16384"], 1_000),
}
# Functions that are printed of each hop.
N_FUNCTIONS = 15
# What the calls of one shape may take, in s.
CALLS_WITHIN_S = 900
# What a start under valgrind may take, in s.
START_WITHIN_S = 300


def run(bench):
    """Runs both nodes under valgrind and prints instructions for each call of each hop."""
    ground, pair = bench.ground, bench.pair
    if shutil.which("valgrind") is None:
        raise Failure("valgrind is missing: on Debian `sudo apt-get install valgrind`")
    pair.reload(*bench.services())
    memory.ready(bench)
    out = lambda side: ground.dir / f"callgrind-{side}.out"
    valgrind = lambda side: [
        "valgrind",
        "--tool=callgrind",
        "--fair-sched=yes",
        f"--callgrind-out-file={out(side)}",
    ]
    pair.restart(START_WITHIN_S, valgrind)
    memory.ready(bench)
    system = bench.start(US)
    figures = {}
    for name, (shape, calls) in SHAPES.items():
        # What comes but once, such as handshakes, is made before it counts.
        pids = " ".join(str(process.pid) for process in pair.processes)
        zero = f"for pid in {pids}; do callgrind_control --zero $pid >/dev/null; done"
        dump = f"for pid in {pids}; do callgrind_control --dump={name} $pid >/dev/null; done"
        for path in (path for side in "ab" for path in ground.dir.glob(f"callgrind-{side}.out*")):
            path.unlink()
        load(
            ground,
            bench.pd,
            system,
            [*shape, "--calls", str(calls), "--warm", "1"],
            [zero, dump],
            CALLS_WITHIN_S,
        )
        for side in "ab":
            dumped = sorted(ground.dir.glob(f"callgrind-{side}.out.*"))
            if not dumped:
                raise Failure(
                    f"callgrind wrote nothing for node {side}: see {ground.dir / 'run' / f'node-{side}.log'}"
                )
            kept = ground.dir / f"callgrind-{name}-{side}.txt"
            # A thread that runs on since before counts as called 0 times, which `callgrind_annotate` takes for no call
            # and so for cost of the caller's own.
            text = dumped[-1].read_text(errors="replace")
            dumped[-1].write_text(re.sub("^calls=0 ", "calls=1 ", text, flags=re.MULTILINE))
            annotated = command(
                "callgrind_annotate", "--inclusive=no", "--threshold=99", dumped[-1], timeout=600
            )
            kept.write_text(annotated)
            total = int(re.search(r"^([\d,]+).*PROGRAM TOTALS", annotated, re.MULTILINE)[1].replace(",", ""))
            figures[f"{name}.{US}.instructions_{side}"] = round(total / calls)
            print(
                f"\n### {name}: hop {side}, {total / calls:,.0f} instructions for a call (all of it: {kept})\n"
            )
            functions = [
                line
                for line in annotated.splitlines()
                if re.match(r"^ *[\d,]+ \(", line) and "PROGRAM" not in line
            ]
            print("\n".join(line[:160] for line in functions[:N_FUNCTIONS]), flush=True)
    return figures
