"""What the commands share: the parser, the options of several commands, exit codes, output."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO, TypeAlias

from image_classification import logs
from image_classification.contract import environment, failure, process
from image_classification.errors import UsageError, UserError
from image_classification.files import check_target, named_in_errors

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from image_classification.inventory.column_kinds import ColumnOptions

Commands: TypeAlias = "_SubParsersAction[argparse.ArgumentParser]"

_logger = logging.getLogger(__name__)

_STANDARD_OUTPUT = "standard output"
_MEBIBYTE = 1 << 20


def exit_code_of(
    run: Callable[[], int], log_stream: TextIO, form: Callable[[], str] = lambda: logs.PLAIN
) -> int:
    """Run a command and return its exit code: its own, 2 for a user's mistake, 1 for our fault.

    Args:
        run: the command.
        log_stream: receives the log.
        form: returns the form of its lines.
    """
    try:
        logs.configure(environment.LOG_LEVEL.read_integer(0), log_stream, form=form())
        code = run()
        flush()
        return code
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        sys.stderr.close()
        return 0
    except Exception as error:
        if isinstance(error, OSError) and error.filename == _STANDARD_OUTPUT:
            sys.stdout = Path(os.devnull).open("w")  # Python would try again at its end
        return failure.report_failure(error, None)


def add_log(command: argparse.ArgumentParser) -> None:
    """Add `--log`, for a command whose log is its output; see `log_form`."""
    command.add_argument(
        "--log",
        choices=logs.FORMS,
        help="form of the log: plain, a line with date and thread id per event; terminal, for "
        "people; json, an object per line (default: $IMAGE_CLASSIFICATION_LOG, or terminal on a "
        "terminal and plain elsewhere)",
    )


def log_form(namespace: argparse.Namespace) -> str:
    """Return the form of a command's log, one of `logs.FORMS`.

    The option decides, then the variable, then whether the log is shown on a terminal. A command
    that the platform calls is plain even there: its local mode gives the containers a terminal, and
    reads metrics from it.

    Raises:
        UserError: the variable has another value.
    """
    given = getattr(namespace, "log", None) or environment.LOG.read()
    if given:
        if given not in logs.FORMS:
            raise UserError(
                f"environment variable {environment.LOG.name} must be one of "
                f"{', '.join(logs.FORMS)}, or unset, got {given!r}"
            )
        return str(given)
    is_platforms: Callable[[argparse.Namespace], bool] | None
    is_platforms = getattr(namespace, "is_platforms", None)
    if is_platforms is not None and is_platforms(namespace):
        return logs.PLAIN
    stream = namespace.log_stream
    return logs.TERMINAL if stream is not None and stream.isatty() else logs.PLAIN


def drawn_job(namespace: argparse.Namespace) -> AbstractContextManager[None]:
    """Return what draws the job that a block runs, if the log is for people."""
    stream = namespace.log_stream
    if log_form(namespace) != logs.TERMINAL:
        return nullcontext()
    level = environment.LOG_LEVEL.read_integer(0)
    if (process.local_rank() or (0, 1))[0]:  # the first process draws
        logs.configure(max(level, logging.WARNING), stream, form=logs.TERMINAL)
        return nullcontext()
    from image_classification import terminal

    if not terminal.is_installed():
        logs.configure(level, stream)
        _logger.warning("The package rich is not installed, so the log is plain: pip install rich")
        return nullcontext()
    return terminal.job_view(stream)


@contextmanager
def memory_of_the_model() -> Iterator[None]:
    """Turn a MemoryError of the block, which computes a model, into an error with the cure."""
    try:
        yield
    except MemoryError as error:
        raise UserError(
            f"out of memory while the model computes{f' ({error})' if str(error) else ''}: use a "
            "machine with more memory, fewer CPU cores (one image is computed on each), or a "
            "smaller model"
        ) from error


def say(*lines: str) -> None:
    """Print lines; names that are not UTF-8 are shown with their bytes escaped."""
    text = "".join(f"{line}\n" for line in lines)
    with named_in_errors(_STANDARD_OUTPUT):
        sys.stdout.write(text.encode("utf-8", "backslashreplace").decode())


def flush() -> None:
    """Write what was printed so far."""
    if sys.stdout is not None:  # it is closed
        with named_in_errors(_STANDARD_OUTPUT):
            sys.stdout.flush()


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors begin with `ClientError: `; the exit code is 2.

    The parsers of its commands are of this class too.
    """

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """Return the arguments; what a command does not know is its error, with its usage."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Print the error, then the usage of the command, and exit."""
        usage = self.format_usage()
        self.exit(UsageError.exit_code, f"{UsageError.prefix}: {message}\n{usage}")


def add_command(
    commands: Commands, name: str, text: str, examples: str, description: str = ""
) -> argparse.ArgumentParser:
    """Add a command.

    Args:
        commands: the commands of the parser.
        name: what the user types.
        text: what it does, in a phrase for the list of commands.
        examples: lines for the end of its help, indented by two spaces after the first.
        description: lines for the beginning of its help; without it, `text`.
    """
    return commands.add_parser(
        name,
        help=text,
        description=description or f"{text[0].upper()}{text[1:]}.",
        epilog=f"example{'s' if chr(10) in examples else ''}:\n  {examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_robustness(command: argparse.ArgumentParser) -> None:
    """Add the options for bad images, shards and interruptions: `pack`, `im2rec`."""
    add_max_bad(command)
    command.add_argument(
        "--shard-size",
        type=_parse_shard_size,
        metavar="MiB",
        help="start a new file at this size, in MiB (2^20 bytes): NAME-00000-of-00012.rec",
    )
    command.add_argument(
        "--resume",
        action="store_true",
        help="continue an interrupted run, and keep finished files if this run is interrupted",
    )


def add_max_bad(command: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add `--max-bad`: `pack`, `im2rec`, `preprocess`."""
    command.add_argument(
        "--max-bad",
        type=_parse_max_bad,
        default=0,
        metavar="N|P%",
        help="number or share of unusable images to leave out before the run fails (default: 0)",
    )


def add_segment(command: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add `--segment`: `pack`, `preprocess`."""
    command.add_argument(
        "--segment",
        action="store_true",
        help="add restart markers to JPEGs, without loss, so that training decodes only the "
        "region that it crops (needs the program jpegtran)",
    )


def add_model(command: argparse.ArgumentParser) -> None:
    """Add `--model`, for a command that reads an artifact."""
    command.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="DIR",
        help="artifact folder or model.tar.gz (or a ZIP, or a folder that holds one of them)",
    )


def add_workers(command: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add `--workers`; `workers_of` reads it."""
    command.add_argument("--workers", type=int, metavar="N", help="threads (default: one per core)")


def workers_of(count: int | None, option: str = "--workers") -> int:
    """Return the number of threads: the value of `option`, or one per core."""
    if count is not None and count < 1:
        raise UsageError(f"{option} {count}: expected 1 or more")
    return count or process.cpu_count()


def pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """Return the values of an option NAME=VALUE by name; a UsageError for other texts."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"{option} {text}: expected NAME=VALUE")
        found[name] = value
    return found


def _parse_max_bad(text: str) -> int | float:
    """Return a count as int, a percentage as a share (float)."""
    try:
        amount = float(text[:-1]) / 100 if text.endswith("%") else int(text)
    except ValueError:
        amount = -1
    if not 0 <= amount or (isinstance(amount, float) and amount > 1):
        raise argparse.ArgumentTypeError(
            f"expected a count such as 5 or a share such as 1%, got {text!r}"
        )
    return amount


def _parse_shard_size(text: str) -> int:
    """Return mebibytes as bytes."""
    try:
        size = int(float(text) * _MEBIBYTE)
    except (ValueError, OverflowError):
        size = 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"expected a size in MiB above 0, got {text!r}")
    return size


def check_top_k(top_k: int | None) -> None:
    """Raise a UsageError for less than 1."""
    if top_k is not None and top_k < 1:
        raise UsageError(f"--top-k {top_k}: expected 1 or more")


def check_sheet(path: Path, sources: Iterable[Path]) -> None:
    """Raise an error if `path` is a file that is read, or anything but an older contact sheet."""
    from image_classification.images.header import PNG_SIGNATURE

    for source in sources:
        check_target(path, source)
    if path.exists():
        with path.open("rb") as existing:
            if existing.read(len(PNG_SIGNATURE)) not in (PNG_SIGNATURE, b""):
                raise UsageError(f"{path} exists and is not a PNG: name another file for the sheet")


def add_columns(group: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the flags that say what the columns of a table mean."""
    add = group.add_argument
    add(
        "--file-column",
        metavar="COLUMN",
        help="the column of a table that names the files: a name, or a number from 1 (default: "
        "the column whose cells name files in the folder)",
    )
    add(
        "--label-column",
        metavar="COLUMN",
        help="the column of the class; a,b,c for one column of 0 and 1 per class (default: by its "
        "name or content)",
    )
    add(
        "--split-column",
        metavar="COLUMN",
        help="the column of the split: train, validation or test; none: there is none",
    )
    add(
        "--label-separator",
        metavar="TEXT",
        help="what separates several labels in a cell: |, blank, …; none: each cell is one label",
    )


def columns_of(namespace: argparse.Namespace) -> ColumnOptions:
    """Return what the user says about the columns."""
    from image_classification.inventory.column_kinds import ColumnOptions

    return ColumnOptions(
        file=namespace.file_column,
        label=namespace.label_column,
        split=namespace.split_column,
        separator=namespace.label_separator,
    )
