"""Compare a training step with a bare loop of the same network in the same framework.

Both run in one process on the same batch in turns, so that a busy machine slows both alike. The
bare loop is what people write in a notebook: forward, loss, gradients, SGD with momentum. Ours adds
dropout, sample weights, weight decay and the rest of the protocol.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import TYPE_CHECKING

from setting.machine import machine

if TYPE_CHECKING:
    from bare_steps.contenders import Contender


def main() -> int:
    options = _options()
    from bare_steps.contenders import pair_of, problem  # not at the top: --help needs no package

    from image_classification import backends
    from image_classification.contract.process import framework_threads
    from image_classification.errors import BackendError

    spec, batch = problem(options.backbone, options.size, options.batch)
    contenders: dict[str, Contender] = {}
    where = {**machine(), "threads": framework_threads()}
    result: dict[str, object] = {"machine": where, "skipped": {}, "contenders": {}}
    ratios = result["ratios"] = {}
    for name in options.backend or [n for n in backends.names() if n != "reference"]:
        try:
            pair = pair_of(name, spec, batch)
        except (BackendError, ModuleNotFoundError) as error:
            result["skipped"][name] = str(error)  # type: ignore[index]
            continue
        for _ in range(options.turns):
            for contender in pair.values():
                contender.turn(options.steps)
        contenders |= {f"{kind}-{name}": contender for kind, contender in pair.items()}
        ratios[name] = {kind: _ratio(pair, kind) for kind in ("wall", "cpu")}
    result["contenders"] = {name: _row(c, options.batch) for name, c in contenders.items()}
    sys.stdout.write((json.dumps(result) if options.json else table(result)) + "\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/benchmark training", description=__doc__)
    parser.add_argument("--backend", action="append", help="default: all that are installed")
    parser.add_argument("--backbone", default="efficientnet_lite0", help="a shared backbone")
    parser.add_argument("--size", type=int, default=224, help="side in pixels")
    parser.add_argument("--batch", type=int, default=32, help="images per step")
    parser.add_argument("--steps", type=int, default=3, help="steps per turn")
    parser.add_argument("--turns", type=int, default=7, help="turns of each kind")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser.parse_args()


def _ratio(pair: dict[str, Contender], kind: str) -> float:
    """Return images per second or CPU-second, ours to bare: the median of the turns."""
    turns = zip(getattr(pair["bare"], kind), getattr(pair["ours"], kind), strict=True)
    return statistics.median(bare / ours for bare, ours in turns)


def _row(contender: Contender, images: int) -> dict[str, float]:
    return {
        "images_per_second": images / statistics.median(contender.wall),
        "cpu_seconds_per_1000": 1000 * statistics.median(contender.cpu) / images,
        "first_step_seconds": contender.first,
    }


def table(result: dict[str, object]) -> str:
    """Return the result as text."""
    lines = [str(result["machine"]), "", f"{'':20}{'images/s':>10}{'CPU-s/1,000':>13}{'first':>8}"]
    for name, row in result["contenders"].items():
        lines.append("{:20}{:10.1f}{:13.1f}{:8.1f}".format(name, *row.values()))
    for name, ratio in result["ratios"].items():
        lines.append(f"{name}: {ratio['wall']:.3f} × bare, {ratio['cpu']:.3f} × per CPU-second")
    lines += [f"skipped {name}: {reason}" for name, reason in result["skipped"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
