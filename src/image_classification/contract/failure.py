"""Failure reports: the reason of an exception for the platform, and the exit code."""

import errno
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from image_classification.errors import ImageClassificationError

MAX_REASON_CHARACTERS = 1024
"""FailureReason of DescribeTrainingJob keeps this much of the failure file."""

OUT_OF_SPACE = {
    errno.ENOSPC: "no space left on device",
    errno.EDQUOT: "disk quota exceeded",
    errno.EFBIG: "file too large",
}
_logger = logging.getLogger(__name__)


def describe(error: BaseException) -> tuple[str, int]:
    """Return the reason in one line with its prefix, and the exit code; 2 is a user error."""
    if isinstance(error, ImageClassificationError):
        prefix, code, text = error.prefix, error.exit_code, str(error)
    elif isinstance(error, MemoryError):
        prefix, code = "ClientError", 2
        text = (
            "out of memory: set a smaller mini_batch_size (batch_size in the tensorflow interface; "
            "accumulate_batches keeps the size of an update), a smaller image_shape or a smaller "
            f"backbone, or use a larger instance. {error}"
        )
    elif isinstance(error, OSError) and error.errno in OUT_OF_SPACE:
        prefix, code = "ClientError", 2
        written = error.filename or "a file"
        text = f"{OUT_OF_SPACE[error.errno]} while writing {written}: use a larger volume"
    else:
        prefix, code = "AlgorithmError", 1
        text = f"{type(error).__name__}: {error}"
    return f"{prefix}: {' '.join(text.split())}", code


@contextmanager
def warned(consequence: str) -> Iterator[None]:
    """Turn a file that cannot be written into a warning: a job goes on without a by-product."""
    try:
        yield
    except OSError as error:
        _logger.warning("%s; %s", describe(error)[0].partition(": ")[2], consequence)


def report_failure(error: BaseException, failure_file: Path | None) -> int:
    """Write the reason to standard error and to `failure_file`; return the exit code.

    The file starts with the reason alone, in 1,024 characters. After it, and in one log record,
    stands the traceback of an internal error.
    """
    reason, code = describe(error)
    content = reason[: MAX_REASON_CHARACTERS - 1] + "\n"
    if code == 1:
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        _logger.error("%s", trace)
        content += "\n" + trace
    sys.stderr.write(reason.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")
    _write(failure_file, content)
    return code


def note_failure(error: BaseException, failure_file: Path | None) -> None:
    """Write only `failure_file`, for a process that can end before it reports the failure."""
    _write(failure_file, describe(error)[0][: MAX_REASON_CHARACTERS - 1] + "\n")


def _write(failure_file: Path | None, content: str) -> None:
    if failure_file is None:
        return
    try:
        failure_file.parent.mkdir(parents=True, exist_ok=True)
        failure_file.write_text(content, "utf-8", errors="backslashreplace")
    except OSError as unwritable:  # must not hide the reason itself
        _logger.error("%s cannot be written: %s", failure_file, unwritable)
