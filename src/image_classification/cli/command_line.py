"""The parser of the commands: argparse, with mistakes said as every other mistake is."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from image_classification.contract import process
from image_classification.errors import UsageError
from image_classification.files import check_target

if TYPE_CHECKING:
    from argparse import _SubParsersAction


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """In this block SIGTERM (a container is stopped) raises KeyboardInterrupt in the main thread.

    Finished parts of a run with `--resume` stay, everything else is cleaned up; the exit code is
    that of an interruption.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        previous = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: whoever owns it decides
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def say(*lines: str) -> None:
    """Print lines; names that are not UTF-8 are shown with their bytes escaped."""
    text = "".join(f"{line}\n" for line in lines)
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode())


def check_sheet(path: Path, sources: Iterable[Path]) -> None:
    """Refuse to draw over a file that is read, or over anything that is not an older sheet."""
    from image_classification.images.header import PNG_SIGNATURE

    for source in sources:
        check_target(path, source)
    if path.exists():
        with path.open("rb") as existing:
            if existing.read(len(PNG_SIGNATURE)) not in (PNG_SIGNATURE, b""):
                raise UsageError(f"{path} exists and is no PNG: name another file for the sheet")


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
    return count or process.cpu_count()


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors begin with `ClientError: `; the exit code is 2.

    Its sub-commands are parsers of this class too.
    """

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, then how the command is used."""
        usage = self.format_usage()
        self.exit(UsageError.exit_code, f"{UsageError.prefix}: {message}\n{usage}")


def add_command(
    subparsers: _SubParsersAction[argparse.ArgumentParser], name: str, text: str, example: str
) -> argparse.ArgumentParser:
    """A command with what it does in a phrase, and an example."""
    return subparsers.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_model(command: argparse.ArgumentParser) -> None:
    """`--model`, for a command that reads an artifact."""
    command.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="artifact folder or model.tar.gz"
    )


def check_top_k(top_k: int | None) -> None:
    """A UsageError for less than 1."""
    if top_k is not None and top_k < 1:
        raise UsageError(f"--top-k {top_k}: expected 1 or more")
