"""The process of a contender: takes one JSON line on its standard input, answers with one.

    {"do": "pass", "variant": …, "threads": …}  →  {"images": …, "cpu": seconds, "wall": seconds}
    {"do": "crops", "variant": …, "crops": …, "output": FILE.npy}  →  {}, the pixels in FILE

A contender's module defines `VERSION`, `run_pass` and `cut` and calls `serve`. Needs numpy only,
because every contender has an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SIZE = 224
AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
BATCH = 64


@dataclass(frozen=True)
class Job:
    """What is loaded.

    Attributes:
        files: JPEG files.
        records: a record file with the same images; its index lies beside it.
        segmented: the same with restart segments; None where they could not be made.
    """

    files: list[str]
    records: Path
    segmented: Path | None


Crop = tuple[str, int, int, int, int]
"""(file, top, left, height, width) in pixels."""


def serve(
    version: str,
    run_pass: Callable[[Job, str, int], int],
    cut: Callable[[str, Crop], np.ndarray] | None,
) -> None:
    """Answer until standard input ends.

    Args:
        version: of the library, reported once.
        run_pass: (job, variant, threads) → how many images went through.
        cut: (variant, crop) → uint8 (224, 224, 3), resized as the pipeline does it.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=Path)
    parser.add_argument("--records", type=Path)
    parser.add_argument("--segmented", type=Path)
    args = parser.parse_args()
    job = Job(args.files.read_text("utf-8").split("\n"), args.records, args.segmented)
    answers = os.fdopen(os.dup(1), "w")  # libraries print to standard output
    os.dup2(2, 1)
    print(json.dumps({"version": version}), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "pass":
            cpu, wall = cpu_seconds(), time.perf_counter()
            images = run_pass(job, order["variant"], order["threads"])
            wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
            answer = {"images": images, "cpu": cpu, "wall": wall}
        else:
            pixels = [cut(order["variant"], tuple(crop)) for crop in order["crops"]] if cut else []
            np.save(order["output"], np.array(pixels, np.uint8))
            answer = {}
        print(json.dumps(answer), file=answers, flush=True)


def cpu_seconds() -> float:
    """Of this process, its threads and its children, those that still run too."""
    times = os.times()
    return sum(times[:4]) + sum(map(_of_process, _descendants(os.getpid())))


def _descendants(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            found += [child, *_descendants(child)]
    return found


def _of_process(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0  # it has ended: counted among the children's times
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
