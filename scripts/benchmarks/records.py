"""Pack photographs with our im2rec and with MXNet's im2rec.py, in turns; compare CPU and wall time.

Every contender packs the same list in its own process; CPU time includes the children. Rounds take
turns, so that a busy machine slows all contenders alike, and the best round counts. Start-up (the
import of MXNet takes a second) is measured with a list of one image and subtracted. This repository
contains nothing of a contender.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from setting import photographs
from setting.interpreters import CACHE
from setting.machine import machine

IM2REC = CACHE / "im2rec"
# The newest OpenCV that pip installs with MXNet's NumPy. Without its dependencies 5.0.0.93 runs too
# and packs as fast; the wheels before 4.9 decode without SIMD and take twice the CPU time.
INSTALL_IM2REC = (
    f"python3.11 -m venv {IM2REC} && {IM2REC}/bin/pip install mxnet==1.9.1 numpy==1.23.5 "
    "'opencv-python-headless==4.11.0.86'  # needs Debian's libgomp1 and libquadmath0"
)
TRANSCODE = ["--resize", "256", "--center-crop", "--quality", "95"]


@dataclass(frozen=True)
class Contender:
    """A program, its flags and its number of workers."""

    name: str
    command: list[str]
    flags: list[str]
    workers: int


@dataclass(frozen=True)
class Cost:
    """Seconds of one run and its peak resident memory."""

    cpu: float
    wall: float
    megabytes: float


def main() -> int:
    """Measure and print."""
    args = parse()
    skipped = {} if is_installed() else {"im2rec.py": INSTALL_IM2REC}
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        work = Path(folder)
        root, paths = files_to_pack(args, work)
        contenders = build_contenders(not skipped)
        rows = measure(contenders, root, paths, work, args.rounds)
        names = list_names(work, args.names) if args.names else None
    result = {
        "machine": machine(),
        "opencv": opencv_version(),
        "photographs": args.described,
        "contenders": rows,
        "skipped": skipped,
    }
    if names:
        result["list"] = names
    print(json.dumps(result, indent=1) if args.json else table(result))
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/benchmark records", description=__doc__)
    add = parser.add_argument
    photographs.add_options(parser)
    add("--images", type=int, default=2000, metavar="N", help="images to pack (default: 2000)")
    add("--as-they-are", action="store_true", help="repeat the files instead of encoding crops")
    add("--rounds", type=int, default=3, metavar="N", help="the best one counts (default: 3)")
    add("--names", type=int, default=0, metavar="N", help="also list N empty files, ours only")
    add("--json", action="store_true", help="print JSON")
    return parser.parse_args()


def is_installed() -> bool:
    return (IM2REC / "bin" / "python").exists() and im2rec_script() is not None


def im2rec_script() -> Path | None:
    return next(IM2REC.glob("lib/python*/site-packages/mxnet/tools/im2rec.py"), None)


def opencv_version() -> str | None:
    """Return the version of the OpenCV that im2rec.py uses; None if it is not installed."""
    for folder in IM2REC.glob("lib/python*/site-packages/opencv_python*.dist-info"):
        return folder.name.removesuffix(".dist-info").partition("-")[2]
    return None


def build_contenders(has_im2rec: bool) -> list[Contender]:
    """Return both programs with both tasks, with one worker and with two, in turns."""
    programs = {"ours": [sys.executable, "-m", "image_classification.cli.im2rec"]}
    if has_im2rec:
        programs["im2rec.py"] = [str(IM2REC / "bin" / "python"), str(im2rec_script())]
    return [
        Contender(f"{name}-{task}", command, flags, workers)
        for task, flags in (("transcode", TRANSCODE), ("pass-through", ["--pass-through"]))
        for workers in (1, 2)
        for name, command in programs.items()
    ]


def files_to_pack(args: argparse.Namespace, work: Path) -> tuple[Path, list[str]]:
    """Return the root and the relative paths to list; set `args.described` to a description."""
    if args.photos is None:
        names, args.described = photographs.write_synthetic(args.images, work)
        return work, names
    files = photographs.find(args.photos)
    if args.as_they_are or len(files) >= args.images:
        chosen = [files[k % len(files)] for k in range(args.images)]
        args.described = f"{len(set(chosen))} files of {args.photos}, {args.images} times in all"
        return args.photos, [str(path.relative_to(args.photos)) for path in chosen]
    args.described = (
        f"{args.images} crops of {len(files)} files of {args.photos}, encoded again at 500 × 375 "
        f"or 375 × 500, quality {photographs.QUALITY}, 4:2:0"
    )
    from PIL import Image  # not at the top: --help needs no package

    pictures = (Image.open(path).convert("RGB") for path in files)
    return work, photographs.write_variants(pictures, len(files), args.images, work)


def measure(
    contenders: list[Contender], root: Path, paths: list[str], work: Path, rounds: int
) -> dict[str, dict[str, object]]:
    """Return name → figures of the best round, without start-up."""
    lists = {"one": paths[:1], "all": paths}
    for name, chosen in lists.items():
        lines = (f"{number}\t0.000000\t{path}\n" for number, path in enumerate(chosen))
        (work / f"{name}.lst").write_text("".join(lines), "utf-8")
    costs: dict[tuple[str, int, str], list[Cost]] = {}
    for _ in range(rounds):
        for contender in contenders:
            for name in lists:
                key = (contender.name, contender.workers, name)
                costs.setdefault(key, []).append(run(contender, work / name, root))
    rows: dict[str, dict[str, object]] = {}
    for contender in contenders:
        all_, one = (costs[contender.name, contender.workers, name] for name in ("all", "one"))
        start = min(cost.wall for cost in one)
        cpu = min(cost.cpu for cost in all_) - min(cost.cpu for cost in one)
        wall = min(cost.wall for cost in all_) - start
        row = rows.setdefault(contender.name, {"images_per_second": {}, "start_seconds": start})
        if contender.workers == 1:
            row["cpu_seconds_per_1000"] = cpu / len(paths) * 1000
            row["megabytes"] = max(cost.megabytes for cost in all_)
        row["images_per_second"][str(contender.workers)] = len(paths) / wall
    return rows


def run(contender: Contender, prefix: Path, root: Path) -> Cost:
    """Pack one list."""
    for suffix in (".rec", ".idx"):
        prefix.with_suffix(suffix).unlink(missing_ok=True)
    # im2rec.py would pack every list that begins with the prefix; the names here differ.
    words = [*contender.flags, "--num-thread", str(contender.workers), str(prefix), str(root)]
    cost = run_measured([*contender.command, *words])
    if not prefix.with_suffix(".rec").stat().st_size:
        raise SystemExit(f"{contender.name} wrote nothing")
    return cost


def run_measured(command: list[str]) -> Cost:
    """Run a program and return its cost; a failure ends the benchmark."""
    start = time.perf_counter()
    # Another environment's libraries must not reach a contender's interpreter.
    own = {**os.environ} if command[0] == sys.executable else {"PATH": os.environ["PATH"]}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=own)
    errors = process.stderr.read() if process.stderr else b""
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{errors.decode(errors='replace')[-2000:]}")
    return Cost(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024)


def list_names(work: Path, count: int) -> dict[str, float]:
    """Return the cost of listing `count` empty files in folders of a thousand, ours only."""
    root = work / "names"
    for number in range(count):
        if number % 1000 == 0:
            folder = root / f"class_{number // 1000:05d}"
            folder.mkdir(parents=True)
        (folder / f"image_{number:08d}.jpg").touch()
    command = [sys.executable, "-m", "image_classification.cli.im2rec", "--list", "--recursive"]
    cost = run_measured([*command, str(work / "list"), str(root)])
    return {"names": count, "seconds": cost.wall, "megabytes": cost.megabytes}


def table(result: dict[str, object]) -> str:
    """Return the result as text."""
    rows = result["contenders"]
    lines = [str(result["machine"]), str(result["photographs"])]
    lines += [f"im2rec.py with OpenCV {result['opencv']}" if result["opencv"] else "", ""]
    head = ("", "CPU-s per 1,000", "images/s, 1 worker", "2 workers", "2 : 1", "MB")
    lines.append("{:26}{:>16}{:>20}{:>11}{:>7}{:>6}".format(*head))
    for name, row in rows.items():
        one, two = row["images_per_second"]["1"], row["images_per_second"]["2"]
        figures = (row["cpu_seconds_per_1000"], one, two, two / one, row["megabytes"])
        lines.append("{:26}{:16.2f}{:20.0f}{:11.0f}{:7.2f}{:6.0f}".format(name, *figures))
    for task in ("transcode", "pass-through"):
        ours, theirs = rows.get(f"ours-{task}"), rows.get(f"im2rec.py-{task}")
        if ours and theirs:
            cpu = theirs["cpu_seconds_per_1000"] / ours["cpu_seconds_per_1000"]
            wall = ours["images_per_second"]["1"] / theirs["images_per_second"]["1"]
            lines.append(f"{task}: {cpu:.1f} × im2rec.py per CPU-second, {wall:.1f} × in wall time")
    if "list" in result:
        lines.append(
            "list of {names} names: {seconds:.1f} s, {megabytes:.0f} MB".format(**result["list"])
        )
    lines += [f"skipped {name}: {command}" for name, command in result["skipped"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
