"""Options that several commands have: unusable images, shards, restart markers, threads."""

from __future__ import annotations

import argparse

from image_classification.contract import environment
from image_classification.errors import UsageError

_MEGABYTE = 1 << 20


def add_robustness(command: argparse.ArgumentParser) -> None:
    """The options about bad images, shards and interruptions: `pack`, `im2rec`."""
    add = command.add_argument
    add(
        "--max-bad",
        type=max_bad_of,
        default=0,
        metavar="N|P%",
        help="how many images may be unusable and left out (default: 0)",
    )
    add(
        "--shard-size",
        type=shard_size_of,
        metavar="MB",
        help="close a file at this size (MiB) and begin the next: NAME-00000-of-00012.rec",
    )
    add(
        "--resume",
        action="store_true",
        help="keep what is finished when interrupted, and go on after it the next time",
    )


def add_segment(command: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """`--segment`: `pack`, `preprocess`."""
    command.add_argument(
        "--segment",
        action="store_true",
        help="rewrite JPEGs without loss, with restart markers, so that training decodes only the "
        "part of a picture that it crops (needs the program jpegtran)",
    )


def max_bad_of(text: str) -> int | float:
    """A count as int, a percentage as share (float)."""
    try:
        amount = float(text[:-1]) / 100 if text.endswith("%") else int(text)
    except ValueError:
        amount = -1
    if not 0 <= amount or (isinstance(amount, float) and amount > 1):
        raise argparse.ArgumentTypeError(f"expected a count as 5 or a share as 1%, got {text!r}")
    return amount


def shard_size_of(text: str) -> int:
    """Mebibytes as bytes."""
    try:
        size = int(float(text) * _MEGABYTE)
    except (ValueError, OverflowError):
        size = 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"expected a size in MiB above 0, got {text!r}")
    return size


def workers_of(count: int | None, option: str = "--workers") -> int:
    """The number of threads: what was asked for by `option`, or one a core."""
    if count is not None and count < 1:
        raise UsageError(f"{option} {count}: expected 1 or more")
    return count or environment.cpu_count()
