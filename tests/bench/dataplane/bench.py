"""`make bench-dataplane`: what a call costs in CPU time through two SageMesh nodes, beside other proxies.

    caller (side a) -> proxy =mTLS= proxy (side b) -> echo service

Prints tables for people and then one line `RESULT {json}`. README.md beside this file says what is compared with what.
"""

import argparse
import json
import random
import sys
import time
from pathlib import Path

from hops.ground import Failure, Ground
from bench.dataplane import callgrind, control, memory, report
from bench.dataplane.systems import ALL, US, Bench
from bench.dataplane.workloads import DEFAULT, measure, workloads

# Fewer tell nothing of the spread.
ROUNDS = 5


def main():
    args = arguments()
    began = time.monotonic()
    figures = {}
    try:
        with Ground("dataplane") as ground:
            bench = Bench(ground, args.pd, args.binary)
            if args.callgrind:
                bench.pair.found()
                figures |= callgrind.run(bench)
            else:
                figures |= run(bench, args)
    except Failure as failure:
        sys.exit(f"bench-dataplane: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
    print(f"\n(took {time.monotonic() - began:.0f} s)")
    print("RESULT " + json.dumps(figures, sort_keys=True))


def arguments():
    parser = argparse.ArgumentParser(prog="make bench-dataplane", description=__doc__.splitlines()[0])

    def several(known):
        def parse(text):
            unknown = [it for it in text.split(",") if it not in known]
            if unknown:
                parser.error(f"{unknown[0]} is none of {', '.join(known)}")
            return text.split(",")

        return parse

    known = list(workloads(False))
    parser.add_argument("--rounds", type=int, help=f"rounds of all workloads [default: {ROUNDS}]")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it works")
    parser.add_argument(
        "--only",
        type=several(known),
        default=list(DEFAULT),
        metavar="WORKLOADS",
        help="such as sat100x10,few4x1",
    )
    parser.add_argument(
        "--systems", type=several(ALL), default=list(ALL), metavar="SYSTEMS", help=f"of {','.join(ALL)}"
    )
    parser.add_argument(
        "--callgrind", action="store_true", help="count instructions for each call instead, under valgrind"
    )
    parser.add_argument("--binary", type=Path, required=True, help="the node's program")
    parser.add_argument("--pd", type=Path, required=True, help="the benchmark's own programs")
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.quick else ROUNDS)
    return args


def run(bench, args):
    """Memory first, in fresh processes; then rounds; then the controls, in the processes that were measured."""
    figures = {}
    has_us = US in args.systems
    if has_us:
        bench.pair.found()
        figures |= memory.of_nodes(bench, args.quick)
    for name in args.systems:
        if name != US:
            bench.start(name)
    if not args.quick:
        figures |= memory.of_rivals(bench)
    rows = rounds(bench, args)
    if has_us:
        figures |= control.run(bench, bench.systems[US], args.quick)
    rows.sort(key=lambda row: ALL.index(row["sys"]))
    report.table(rows)
    figures |= report.figures(rows, US)
    if has_us:
        report.ratios(figures, US)
    return figures


def rounds(bench, args):
    """All workloads in turn, and in each all systems in an order that changes from round to round."""
    shapes, rows = workloads(args.quick), []
    print("")
    with open(bench.ground.dir / "rounds.jsonl", "w") as kept:
        for n in range(args.rounds):
            for workload in args.only:
                systems = list(bench.systems.values())
                random.Random(f"{n} {workload}").shuffle(systems)
                for system in systems:
                    row = measure(bench.ground, bench.pd, system, workload, shapes[workload]) | {"round": n}
                    kept.write(json.dumps(row) + "\n")
                    kept.flush()
                    if "error" in row:
                        print(f"round {n} {workload} {system.name}: FAILED: {row['error']}", flush=True)
                        if system.name == US:
                            raise Failure(f"{workload} through our own nodes failed: {row['error']}")
                        continue
                    rows.append(row)
                    what = f"{row['proxy_cpu_100k']:7.2f} CPU-s/100k, {row['rps']:8.0f} rps, p50 {row['p50_us']} µs"
                    failed = f", {row['errors']} errors: {row['last_error']}" if row["errors"] else ""
                    print(f"round {n} {workload:<10} {system.name:<11} {what}{failed}", flush=True)
    return rows


if __name__ == "__main__":
    main()
