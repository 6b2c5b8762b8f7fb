"""Attack a server of this checkout with hostile images, connections, requests and models.

The command starts its own servers on 127.0.0.1 and ends them; it cannot attack other servers. Each
finding is a row with its goal; the exit code is 1 if a goal is missed. Counts and CPU seconds are
judged strictly. Elapsed times depend on what else the machine does, so --quick only checks that no
ping stalls (for a second), and reports the rest. Progress goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from adversary import connections, costs, ends, flood, fuzz, models, turns
from adversary.pictures import MOST_BYTES
from adversary.rows import Row, missed, table
from adversary.setting import Setting, Size, say
from setting import photographs
from setting.artifact import export
from setting.machine import machine

ATTACKS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    "pictures": costs.attack,
    "flood": flood.attack,
    "fuzz": fuzz.attack,
    "connections": connections.attack,
    "ends": ends.attack,
    "models": models.attack,
    "turns": turns.attack,
}
WHOLE = Size(
    picture_bytes=MOST_BYTES, hostile=2000, fuzzed=50_000, half_open=2000, silent=200, seconds=10,
    ending=60, has_long=True, bulk_images=10_000, ping_ms=50, slowdown=5,
)  # fmt: skip
QUICK = Size(
    picture_bytes=1 << 20, hostile=150, fuzzed=2000, half_open=300, silent=60, seconds=1.5,
    ending=12, has_long=False, bulk_images=300, ping_ms=1000, slowdown=20,
)  # fmt: skip
TINY = Size(
    picture_bytes=1 << 14, hostile=20, fuzzed=60, half_open=30, silent=10, seconds=0.5,
    ending=8, has_long=False, bulk_images=40, ping_ms=5000, slowdown=100,
)  # fmt: skip
SIZES = {"whole": WHOLE, "quick": QUICK, "tiny": TINY}


def main() -> int:
    args = parse()
    begin = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers end too
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        photos = Path(folder) / "photos"
        photos.mkdir()
        photographs.write_synthetic(4, photos)
        model = args.model or export(Path(folder) / "model")
        setting = Setting(SIZES[args.size], model.absolute(), Path(folder), photos, args.seed)
        rows: list[Row] = []
        for name in args.only or ATTACKS:
            say(f"-- {name}")
            for row in ATTACKS[name](setting):
                rows.append(row)
                say(
                    ("ok    " if row.reached is not False else "MISSED ")
                    + f"{row.attack}: {row.came}"
                )
    result = {
        "machine": machine(),
        "note": f"{args.size}, seed {args.seed}: counts and CPU seconds are judged strictly, "
        "elapsed times only as far as a busy machine allows",
        "rows": [row.to_json() for row in rows],
        "seconds": round(time.monotonic() - begin),
        "load_after": round(os.getloadavg()[0], 2),
    }
    print(json.dumps(result, indent=1, ensure_ascii=False) if args.json else table(result))
    return 1 if missed(rows) else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/benchmark attacks", description=__doc__)
    add = parser.add_argument
    add("--quick", dest="size", action="store_const", const="quick", default="whole",
        help="smaller counts, about two minutes (make test-attacks)")  # fmt: skip
    add("--size", choices=list(SIZES), help=argparse.SUPPRESS)
    add("--only", nargs="+", choices=list(ATTACKS), metavar="ATTACK", help=", ".join(ATTACKS))
    add(
        "--model", type=Path, metavar="DIR", help="artifact (default: EfficientNet-Lite0, exported)"
    )
    add("--seed", type=int, default=14, metavar="N", help="of the fuzzed requests (default: 14)")
    add("--work", type=Path, metavar="DIR", help="folder to write to (default: the temporary one)")
    add("--json", action="store_true", help="print JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
