"""The floor: decode, inference and JSON in bare processes, one image after the other, no server.

It runs the very functions of ours, with the same session options. Prints one line of JSON; each
process also warms up before all start together.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(args.processes), context.Queue()
    processes = [
        context.Process(
            target=work, args=(args.model, args.photos, args.seconds, number, barrier, results)
        )
        for number in range(args.processes)
    ]
    for process in processes:
        process.start()
    found = [results.get(timeout=args.seconds + 120) for _ in processes]
    for process in processes:
        process.join()
    latencies = sorted(latency for row in found for latency in row["latencies"])
    answer = {
        "per_second": sum(len(row["latencies"]) / row["wall"] for row in found),
        "cpu_ms": 1000 * sum(row["cpu"] for row in found) / len(latencies),
        "p50_ms": 1000 * latencies[len(latencies) // 2],
        "p99_ms": 1000 * latencies[int(0.99 * len(latencies))],
    }
    json.dump(answer, sys.stdout)


def work(
    model: Path, photos: Path, seconds: float, number: int, barrier: Barrier, results: Any
) -> None:
    """Predict images in one process until the time is over."""
    from image_classification.artifact import open_artifact
    from image_classification.contract.interface import interface_of
    from image_classification.images.preprocessing import preprocess
    from image_classification.serving.codec.accept import parse_accept
    from image_classification.serving.codec.answers import Prediction, encode
    from image_classification.serving.runtime import Runtime

    bodies = [path.read_bytes() for path in sorted(photos.glob("*.jpg"))]
    latencies: list[float] = []
    with open_artifact(model) as artifact:
        runtime = Runtime(artifact.graph_file)
        accept = parse_accept(None, "application/json")
        form = interface_of(artifact.interface).answers

        def answer(body: bytes) -> bytes:
            (row,) = runtime.run(preprocess(body, artifact.preprocessing)[None])
            prediction = Prediction(row, artifact.labels)
            return encode([prediction], False, accept, form)[0]

        for body in bodies[:10]:
            answer(body)
        barrier.wait()
        begin, cpu = time.perf_counter(), time.process_time()
        while (now := time.perf_counter()) < begin + seconds:
            answer(bodies[(number + len(latencies)) % len(bodies)])
            latencies.append(time.perf_counter() - now)
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    results.put({"latencies": latencies, "wall": wall, "cpu": cpu})


if __name__ == "__main__":
    main()
