"""Serve photographs with ours, its peers and the floor, in turns; compare requests and CPU time.

A closed-loop client in its own process keeps 16 requests in flight, then one. All contenders serve
the same network; peers run it with torch, and with our decoder and ONNX Runtime. The floor is that
decoding, inference and JSON in bare processes without a server. Only one contender runs at a time.
Rounds take turns, and the median round counts. `--device` needs no GPU and no server.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from endpoints.contenders import HERE, OURS, PEERS, Server, find_interpreters
from endpoints.ours_figures import figures
from endpoints.process import Endpoint, finding, start_client
from endpoints.report import device_table, table
from setting import interpreters, photographs
from setting.artifact import export
from setting.interpreters import SOURCE
from setting.machine import machine

KINDS = ("torch", "onnx")
CLIENTS = 16


def main() -> int:
    args = parse()
    if args.device:
        from endpoints import device  # not at the top: --help needs no package

        shares = {"machine": machine(), "device": device.busy_shares(args.seconds, args.rounds)}
        print(json.dumps(shares, indent=1) if args.json else device_table(shares["device"]))
        return 0
    found, skipped = find_interpreters(dict(args.python))
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        args.folder = Path(folder)
        args.model = args.model or export(args.folder / "model")
        described = collect_photographs(args)
        contenders = {"ours": (OURS, sys.executable, "onnx")} | {
            f"{server.name}-{kind}": (server, found[server.name], kind)
            for server in PEERS
            if server.name in found
            for kind in KINDS
        }
        if args.only:
            contenders = {k: v for k, v in contenders.items() if k.startswith(tuple(args.only))}
        rows = measure(contenders, args)
        result = {
            "machine": machine(),
            "photographs": described,
            "contenders": rows,
            "skipped": skipped,
        }
        if "ours" in rows:
            result["faults"] = faults(rows["ours"]["per_second"], args)
    result["load_after"] = round(os.getloadavg()[0], 2)
    print(json.dumps(result, indent=1) if args.json else table(result))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/benchmark serving", description=__doc__)
    add = parser.add_argument
    photographs.add_options(parser)
    add("--images", type=int, default=100, metavar="N", help="images to send (default: 100)")
    add(
        "--model", type=Path, metavar="DIR", help="artifact (default: EfficientNet-Lite0, exported)"
    )
    add(
        "--seconds", type=float, default=5, metavar="S", help="length of a measurement (default: 5)"
    )
    add("--rounds", type=int, default=3, metavar="N", help="the median counts (default: 3)")
    add("--only", nargs="+", metavar="NAME", help="only contenders with these prefixes")
    interpreters.add_option(parser, [server.name for server in PEERS])
    add("--device", action="store_true", help="only how busy the batcher keeps a fake device")
    add("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    args.cpus = len(os.sched_getaffinity(0))
    return args


def collect_photographs(args: argparse.Namespace) -> str:
    """Put the photographs to send into `args.folder / "photos"`; return their description."""
    folder: Path = args.folder / "photos"
    folder.mkdir()
    if args.photos is None:
        return photographs.write_synthetic(args.images, folder)[1]
    chosen = photographs.find(args.photos)[: args.images]
    for number, path in enumerate(chosen):
        (folder / f"{number:05d}.jpg").symlink_to(path.absolute())
    size = sum(path.stat().st_size for path in chosen) / len(chosen) / 1000
    return f"{len(chosen)} files of {args.photos}, {size:.0f} KB in the mean"


def measure(
    contenders: dict[str, tuple[Server, str, str]], args: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Return name → median figures of the rounds."""
    seen: dict[str, list[dict[str, float]]] = {}
    for number in range(args.rounds):
        for name in ("floor", "in-process"):
            processes = args.cpus if name == "floor" else 1
            seen.setdefault(name, []).append(bare(processes, args))
        for name, (server, python, kind) in contenders.items():
            print(f"round {number + 1}: {name}", file=sys.stderr, flush=True)
            seen.setdefault(name, []).append(visit(server, python, kind, args))
    return {
        name: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        for name, rows in seen.items()
    }


def bare(processes: int, args: argparse.Namespace) -> dict[str, float]:
    """Return the floor's figures with the given number of processes."""
    words = ["--model", str(args.model), "--photos", str(args.folder / "photos")]
    words += ["--processes", str(processes), "--seconds", str(args.seconds)]
    own = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "floor.py"), *words]
    ran = subprocess.run(command, env=own, stdout=subprocess.PIPE, check=True)
    return dict(json.loads(ran.stdout))


def visit(server: Server, python: str, kind: str, args: argparse.Namespace) -> dict[str, float]:
    """Start a server, measure it and stop it."""
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        endpoint = Endpoint(server, python, kind, args.model.absolute(), args.cpus, Path(folder))
        try:
            photos = args.folder / "photos"
            warm_up(endpoint, photos)
            before = endpoint.cpu_seconds()
            many = finding(start_client(endpoint.port, CLIENTS, args.seconds, server.path, photos))
            cpu, megabytes = endpoint.cpu_seconds() - before, endpoint.megabytes()
            one = finding(start_client(endpoint.port, 1, args.seconds, server.path, photos))
        finally:
            endpoint.close()
    return {
        "per_second": many["per_second"],
        "cpu_ms": 1000 * cpu / max(1, many["answers"]),
        "client_cpu_ms": 1000 * many["client_cpu"] / max(1, many["answers"]),
        "p99_ms_16": many["p99_ms"],
        "p50_ms": one["p50_ms"],
        "p99_ms": one["p99_ms"],
        "megabytes": megabytes,
        "start_seconds": endpoint.start_seconds,
        "failed": sum(n for status, n in many["statuses"].items() if status != "200"),
    }


def warm_up(endpoint: Endpoint, photos: Path) -> None:
    """Send requests for two seconds; some servers answer pings before they can predict."""
    for _ in range(20):
        client = start_client(endpoint.port, CLIENTS, 2, endpoint.server.path, photos)
        if finding(client)["answers"]:
            return
    raise SystemExit(f"{endpoint.server.name} answers no prediction:\n{endpoint.log()}")


def faults(peak: float, args: argparse.Namespace) -> dict[str, object]:
    """Return our server's figures under load, beyond its capacity and when its process dies."""
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        place = Path(folder)
        model = args.model.absolute()
        endpoint = Endpoint(OURS, sys.executable, "onnx", model, args.cpus, place)
        try:
            return figures(endpoint, args.folder / "photos", peak, args.seconds)
        finally:
            endpoint.close()


if __name__ == "__main__":
    sys.exit(main())
