"""Load photographs for training with ours and with its peers, in turns; compare CPU and wall time.

All contenders make the same: batches of 224 × 224 uint8 from random crops (8 to 100% of the area,
aspect 3/4 to 4/3), flipped with probability 0.5, in random order, from the same files in the page
cache or on the disk. Each contender is a process that stays alive (see pipelines/), so that
start-up does not count. Passes take turns, so that a busy machine slows all contenders alike; the
best round counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pipelines.contenders import PIPELINES, Process, find_interpreters
from setting import interpreters, photographs
from setting.machine import machine
from setting.page_cache import forget

THREADS = (1, 2)
GOALS = (  # (ours, peer, share of the peer's CPU time)
    ("ours-records", "tf-data", 1.0),
    ("ours-segmented", "tf-data", 0.7),
    ("ours-records", "tf-data-antialias", 0.35),
    ("ours-records", "torch-pillow-float", 0.35),
    ("ours-records", "ours-bare", 1.1),
    ("ours-records", "ours-folders", 1.03),
)


def main() -> int:
    args = parse()
    from pipelines.job import prepare  # not at the top: --help needs no package
    from pipelines.quality import differences

    found, skipped = find_interpreters(dict(args.python))
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        job = prepare(Path(folder), args.photos, args.images, args.quality, is_cold=args.cold)
        processes = [
            Process(pipeline, found[pipeline.library], Path(folder))
            for pipeline in PIPELINES
            if pipeline.library in found
        ]
        try:
            before = partial(forget, Path(folder)) if args.cold else lambda: None
            rows = measure(processes, args.rounds, job.has_segments, set(args.only or ()), before)
            for name, levels in differences(processes, job.paths, Path(folder)).items():
                if name in rows:
                    rows[name]["grey_levels"] = levels
        finally:
            for process in processes:
                process.close()
    if not job.has_segments:
        skipped["ours-segmented"] = job.install_segmenter
    result = {
        "machine": machine(),
        "photographs": job.described,
        "contenders": rows,
        "skipped": skipped,
    }
    show = markdown if args.markdown else table
    print(json.dumps(result, indent=1) if args.json else show(result))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/benchmark loader", description=__doc__)
    add = parser.add_argument
    photographs.add_options(parser)
    add("--images", type=int, default=1000, metavar="N", help="images per pass (default: 1000)")
    add("--quality", type=int, metavar="Q", help="encode the photographs again first, 4:2:0")
    add("--cold", action="store_true", help="read the files from the disk in every pass")
    add("--rounds", type=int, default=3, metavar="N", help="the best one counts (default: 3)")
    add("--only", nargs="+", metavar="NAME", help="only contenders with these prefixes")
    interpreters.add_option(parser, [p.library for p in PIPELINES if p.library])
    add("--json", action="store_true", help="print JSON")
    add("--markdown", action="store_true", help="print the table of docs/benchmarks.md")
    return parser.parse_args()


def measure(
    processes: list[Process],
    rounds: int,
    has_segments: bool,
    only: set[str],
    before: Callable[[], None],
) -> dict[str, dict[str, object]]:
    """Return name → figures of the best round; call `before` before each pass."""
    passes = [
        (process, variant, threads)
        for threads in THREADS
        for process in processes
        for variant in process.pipeline.variants
        if (has_segments or variant != "ours-segmented")
        and (not only or any(variant.startswith(name) for name in only))
    ]
    costs: dict[tuple[str, int], list[dict[str, float]]] = {}
    for number in range(rounds):
        for process, variant, threads in passes:
            print(f"round {number + 1}: {variant}, {threads} threads", file=sys.stderr, flush=True)
            before()
            answer = process.ask({"do": "pass", "variant": variant, "threads": threads})
            costs.setdefault((variant, threads), []).append(answer)
    rows: dict[str, dict[str, object]] = {}
    for process, variant, threads in passes:
        seen = costs[variant, threads]
        row = rows.setdefault(variant, {"version": process.version, "images_per_second": {}})
        if threads == 1:
            row["cpu_seconds_per_1000"] = min(1000 * x["cpu"] / x["images"] for x in seen)
        row["images_per_second"][str(threads)] = max(x["images"] / x["wall"] for x in seen)
    return rows


def table(result: dict[str, object]) -> str:
    """Return the result as text."""
    rows = result["contenders"]
    lines = [str(result["machine"]), str(result["photographs"]), ""]
    head = ("", "CPU-s per 1,000", "images/s, 1 thread", "2 threads", "2 : 1", "gray levels")
    lines.append("{:24}{:>16}{:>20}{:>11}{:>7}{:>13}".format(*head))
    for name, row in rows.items():
        one, two = row["images_per_second"]["1"], row["images_per_second"]["2"]
        levels = f"{row['grey_levels']:13.2f}" if "grey_levels" in row else f"{'':13}"
        figures = (row["cpu_seconds_per_1000"], one, two, two / one)
        lines.append("{:24}{:16.3f}{:20.0f}{:11.0f}{:7.2f}".format(name, *figures) + levels)
    lines.append("")
    for ours, peer, goal in GOALS:
        if ours in rows and peer in rows:
            share = rows[ours]["cpu_seconds_per_1000"] / rows[peer]["cpu_seconds_per_1000"]
            lines.append(f"{ours} : {peer} = {share:.2f} (goal {goal})")
    lines += [f"skipped {name}: {command}" for name, command in result["skipped"].items()]
    return "\n".join(lines)


def markdown(result: dict[str, object]) -> str:
    """Return the result as the Markdown table of docs/benchmarks.md."""
    lines = [
        f"{result['photographs']}; {result['machine']}",
        "",
        "| | CPU-s per 1,000 | images/s, 1 thread | 2 threads | gray levels |",
        "|---|---|---|---|---|",
    ]
    for name, row in result["contenders"].items():
        one, two = row["images_per_second"]["1"], row["images_per_second"]["2"]
        levels = f"{row['grey_levels']:.2f}" if "grey_levels" in row else ""
        figures = f"{row['cpu_seconds_per_1000']:.2f} | {one:.0f} | {two:.0f} | {levels}"
        lines.append(f"| {name} {row['version']} | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
