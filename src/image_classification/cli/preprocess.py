"""`image-classification preprocess`: class folders → channels of a training job."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from image_classification.cli.records import max_bad_of
from image_classification.contract import environment
from image_classification.data.channel_writer import ChannelPlan, write_channels
from image_classification.data.transcoding import Transcoding
from image_classification.errors import UsageError
from image_classification.logs import Progress

if TYPE_CHECKING:
    from argparse import _SubParsersAction

_DEFAULT_QUALITY = 95

_EPILOG = """\
examples:
  image-classification preprocess --input flowers --output channels --resize 256
  image-classification preprocess
      as a SageMaker Processing job: /opt/ml/processing/input → /opt/ml/processing/output
"""


def add_commands(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `preprocess`."""
    command = subparsers.add_parser(
        "preprocess",
        help="make train, validation and test channels of class folders",
        description="Split class folders by class and pack each split into a channel of records.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--input", type=Path, default=environment.PROCESSING_INPUT, metavar="DIR")
    command.add_argument(
        "--output", type=Path, default=environment.PROCESSING_OUTPUT, metavar="DIR"
    )
    command.add_argument(
        "--resize",
        type=int,
        metavar="N",
        help="shorter side in pixels (default: files as they are)",
    )
    command.add_argument(
        "--quality", type=int, metavar="Q", help="of JPEGs that are encoded again (default: 95)"
    )
    command.add_argument("--train-ratio", type=float, default=0.8, metavar="R", help="default 0.8")
    command.add_argument("--test-ratio", type=float, default=0.0, metavar="R", help="default 0")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of split and order")
    command.add_argument("--workers", type=int, metavar="N", help="threads (default: the cores)")
    command.add_argument(
        "--max-bad",
        type=max_bad_of,
        default=0,
        metavar="N|P%",
        help="unusable images a split may leave out",
    )
    command.set_defaults(run=run)


def run(namespace: argparse.Namespace) -> int:
    """Write the channels and say what is in them."""
    if namespace.workers is not None and namespace.workers < 1:
        raise UsageError(f"--workers {namespace.workers}: expected 1 or more")
    if namespace.seed < 0:
        raise UsageError(f"--seed {namespace.seed}: expected 0 or more")
    transcoding = None
    if namespace.resize is not None or namespace.quality is not None:
        transcoding = Transcoding(
            resize=namespace.resize or 0, quality=namespace.quality or _DEFAULT_QUALITY
        )
    plan = ChannelPlan(
        train_ratio=namespace.train_ratio,
        test_ratio=namespace.test_ratio,
        seed=namespace.seed,
        transcoding=transcoding,
        max_bad=namespace.max_bad,
        workers=namespace.workers or environment.cpu_count(),
    )
    with _LateProgress() as on_progress:
        reports = write_channels(namespace.input, namespace.output, plan, on_progress)
    for name, report in reports.items():
        left_out = f", {len(report.skipped)} left out" if report.skipped else ""
        sys.stdout.write(
            f"{name}: {report.packed} images, {report.size_bytes / 1e6:.1f} MB{left_out} → "
            f"{namespace.output / name}\n"
        )
    return 0


class _LateProgress:
    """A progress bar that begins with the first call, when the total is known."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def __enter__(self) -> _LateProgress:
        return self

    def __call__(self, done: int, total: int) -> None:
        if self._progress is None:
            self._progress = Progress("pack", total, "images")
        self._progress.reach(done)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._progress is not None:
            self._progress.__exit__(kind, None, None)
