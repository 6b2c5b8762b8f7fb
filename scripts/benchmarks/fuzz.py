"""Give the product generated data, sound and damaged, and account for every image in it.

An input is used, or refused with a ClientError that names it (exit code 2). If it is used, the
images that the product uses, and those that it names or counts as left out, are all that were put
in, each with its label. Everything else is a failure: another exception or exit code, a signal,
more than 10 CPU seconds or 1 GiB of memory, an error that does not name the input, a sound input
that is refused, or a loss without a word. The exit code is 1 if any input fails.

--seed, --only and --input make one input again: the command prints what the product says, and
keeps the input. Progress goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from generated.areas import AREAS, counts, lacking
from generated.case import FAILURES, REFUSED, USED
from generated.workers import Pool, Verdict, resident, run_input
from setting.machine import machine

WHOLE, QUICK = 10_000, 1000
_SHOWN_SECONDS = 10.0
_DEFAULT_FOLDER = Path("local-run") / "fuzz"


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    only = args.only or list(AREAS)
    missing = {area: lacking(area) for area in only if lacking(area)}
    only = [area for area in only if area not in missing]
    print(f"seed {args.seed}", file=sys.stderr, flush=True)
    if args.input is not None:
        return repeat(args)
    begin = time.monotonic()
    planned = counts(args.inputs, only)
    jobs = [(area, number) for area, count in planned.items() for number in range(count)]
    pool = Pool(args.seed, args.workers)
    verdicts = list(shown(pool.run(jobs), len(jobs), begin))
    failed = [verdict for verdict in verdicts if verdict.verdict in FAILURES]
    for verdict in failed:
        save(verdict, args)
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = {
        "machine": machine(),
        "seed": args.seed,
        "inputs": len(verdicts),
        "areas": {area: by_verdict(verdicts, area) for area in only},
        "left_out": missing,
        "failed": [vars(verdict) for verdict in failed],
        "seconds": round(time.monotonic() - begin),
        "cpu_seconds": round(own.ru_utime + own.ru_stime),
        "most_mebibytes": max((verdict.resident for verdict in verdicts), default=0) >> 20,
    }
    print(table(result))
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return 1 if failed else 0


def shown(verdicts: Iterable[Verdict], count: int, begin: float) -> Iterable[Verdict]:
    """Pass verdicts on, and report progress and failures on standard error."""
    last, failed = begin, 0
    for done, verdict in enumerate(verdicts, start=1):
        if verdict.verdict in FAILURES:
            failed += 1
            say(begin, f"{verdict.verdict.upper()} {verdict.area} {verdict.number} "
                f"({verdict.what}): {verdict.reason}")  # fmt: skip
        if time.monotonic() - last > _SHOWN_SECONDS or done == count:
            last = time.monotonic()
            say(begin, f"{done} of {count} inputs, {failed} failed")
        yield verdict


def say(begin: float, text: str) -> None:
    line = text.encode("utf-8", "backslashreplace").decode()
    print(f"{time.monotonic() - begin:6.1f} s  {line}", file=sys.stderr, flush=True)


def by_verdict(verdicts: list[Verdict], area: str) -> dict[str, int]:
    found = Counter(verdict.verdict for verdict in verdicts if verdict.area == area)
    return {name: found[name] for name in (USED, REFUSED, *FAILURES)}


def save(verdict: Verdict, args: argparse.Namespace) -> None:
    """Keep the input of a failure, and write how to repeat it."""
    from generated import areas

    folder = args.save / f"{args.seed}-{verdict.area}-{verdict.number}"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "input").mkdir(parents=True)
    areas.write(verdict.area, args.seed, verdict.number, folder / "input")
    command = (
        f"scripts/benchmark fuzz --seed {args.seed} --only {verdict.area} --input {verdict.number}"
    )
    text = f"{verdict.verdict}: {verdict.reason}\n{verdict.what}\n{command}\n"
    (folder / "failure.txt").write_text(text, "utf-8", errors="backslashreplace")
    print(f"{folder}: {command}", file=sys.stderr, flush=True)


def repeat(args: argparse.Namespace) -> int:
    """Run one input in this process, and print what came of it."""
    if not args.only or len(args.only) != 1:
        print("--input needs --only with one area", file=sys.stderr)
        return 2
    (area,) = args.only
    folder = args.save / f"{args.seed}-{area}-{args.input}"
    shutil.rmtree(folder, ignore_errors=True)
    verdict = run_input(area, args.seed, args.input, folder, resident())
    lines = [f"{verdict.verdict}: {verdict.reason}", verdict.what, str(folder)]
    print("\n".join(lines).encode("utf-8", "backslashreplace").decode())
    return 1 if verdict.verdict in FAILURES else 0


def table(result: dict[str, Any]) -> str:
    """Return the result as a Markdown table."""
    columns = (USED, REFUSED, *FAILURES)
    heads = ("area", "inputs", *columns)
    lines = [f"| {' | '.join(heads)} |", f"|---{'|---:' * (len(heads) - 1)}|"]
    for area, found in (*result["areas"].items(), ("all", _sums(result["areas"]))):
        cells = [area, str(sum(found.values())), *(str(found[name]) for name in columns)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"not run: {area}, which needs {' and '.join(names)}"
              for area, names in result["left_out"].items()]  # fmt: skip
    lines += [
        f"{len(result['failed'])} of {result['inputs']} inputs failed; seed {result['seed']}, "
        f"{result['seconds']} s, {result['cpu_seconds']} CPU seconds, at most "
        f"{result['most_mebibytes']} MiB",
    ]
    return "\n".join(lines)


def _sums(found: dict[str, dict[str, int]]) -> dict[str, int]:
    return {name: sum(row[name] for row in found.values()) for name in (USED, REFUSED, *FAILURES)}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--inputs", type=int, default=WHOLE, metavar="N", help=f"how many (default: {WHOLE})")
    add("--quick", dest="inputs", action="store_const", const=QUICK, help=f"{QUICK} inputs")
    add("--only", nargs="+", choices=list(AREAS), metavar="AREA", help=", ".join(AREAS))
    add("--seed", type=int, default=15, metavar="N", help="of the inputs (default: 15)")
    add("--input", type=int, metavar="I", help="run only input I of one area, and keep it")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    add("--json", type=Path, metavar="FILE", help="also write the result as JSON")
    add("--save", type=Path, default=_DEFAULT_FOLDER, metavar="DIR",
        help=f"folder of the inputs that fail (default: {_DEFAULT_FOLDER})")  # fmt: skip
    return parser.parse_args(arguments)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the workers end too
    sys.exit(main())
