"""Tables of what was measured, and the figures of the line `RESULT`."""

import random
from statistics import median

# Draws of the bootstrap.
N_DRAWS = 2000
COLUMNS = ("system", "n", "rps", "p50 µs", "p99 µs", "CPU-s/100k, both hops", "user %", "at rest, CPU %")
COLUMNS += ("CPU-s/100k, all", "RSS MB", "errors")
FIGURES = ("rps", "p50_us", "p99_us", "proxy_cpu_100k", "total_cpu_100k", "rss_mb")


def table(rows):
    """A table for each workload; medians over rounds."""
    for workload in dict.fromkeys(row["wl"] for row in rows):
        print(f"\n### {workload}\n")
        print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
        for system in dict.fromkeys(row["sys"] for row in rows):
            of = [row for row in rows if (row["wl"], row["sys"]) == (workload, system)]
            if not of:
                continue
            m = {key: median(row[key] for row in of) for key in FIGURES}
            user, kernel = (sum(row[key] for row in of) for key in ("proxy_user", "proxy_sys"))
            cpu = [row["proxy_cpu_100k"] for row in of]
            share = 100 * user / max(1e-9, user + kernel)
            at_rest = 100 * median(row["rest_cpu"] for row in of)
            print(
                f"| {system} | {len(of)} | {m['rps']:.0f} | {m['p50_us']:.0f} | {m['p99_us']:.0f} "
                f"| {m['proxy_cpu_100k']:.2f} [{min(cpu):.2f}–{max(cpu):.2f}] | {share:.0f} | {at_rest:.2f} "
                f"| {m['total_cpu_100k']:.2f} | {m['rss_mb']:.1f} | {sum(row['errors'] for row in of)} |"
            )


def figures(rows, us):
    """Medians for each workload and system; our CPU time to each rival's, as the median over rounds with its 95 %
    interval (bootstrap); and the latency that we add to a direct call, to what the rival adds."""
    out, rng = {}, random.Random(1)
    for workload in dict.fromkeys(row["wl"] for row in rows):
        by_system = {}
        for row in (row for row in rows if row["wl"] == workload):
            by_system.setdefault(row["sys"], {})[row["round"]] = row
        for system, of in by_system.items():
            mid = lambda key: median(row[key] for row in of.values())
            key = f"{workload}.{system}"
            out[f"{key}.cpu_s_per_100k"] = round(mid("proxy_cpu_100k"), 3)
            out[f"{key}.rps"], out[f"{key}.p50_us"] = mid("rps"), mid("p50_us")
            out[f"{key}.errors"] = sum(row["errors"] for row in of.values())
            out[f"{key}.rounds"] = len(of)
        mine, direct = by_system.get(us, {}), by_system.get("direct", {})
        for system, of in by_system.items():
            both = [
                (mine[n], row, direct.get(n))
                for n, row in of.items()
                if n in mine and row["proxy_cpu_100k"] > 0
            ]
            if system == us or not both:
                continue
            ratios = [ours["proxy_cpu_100k"] / theirs["proxy_cpu_100k"] for ours, theirs, _ in both]
            draws = sorted(median(rng.choices(ratios, k=len(ratios))) for _ in range(N_DRAWS))
            key = f"{workload}.ratio.{system}"
            out[key] = round(median(ratios), 3)
            out[f"{key}.lo"], out[f"{key}.hi"] = (round(draws[int(N_DRAWS * q)], 3) for q in (0.025, 0.975))
            added = [
                (ours["p50_us"] - plain["p50_us"]) / (theirs["p50_us"] - plain["p50_us"])
                for ours, theirs, plain in both
                if plain and theirs["p50_us"] > plain["p50_us"]
            ]
            if added:
                out[f"{workload}.added_p50.{system}"] = round(median(added), 3)
    return out


def ratios(figures, us):
    """The table of ratios."""
    print(f"\n### CPU of both hops, {us} to each rival: median over rounds, 95 % interval\n")
    print("| workload | rival | ratio | interval | added p50 |\n|---|---|---|---|---|")
    for key, value in figures.items():
        workload, _, rival = key.partition(".ratio.")
        if not rival or rival.endswith((".lo", ".hi")):
            continue
        added = figures.get(f"{workload}.added_p50.{rival}", "")
        print(f"| {workload} | {rival} | {value} | {figures[f'{key}.lo']}–{figures[f'{key}.hi']} | {added} |")
