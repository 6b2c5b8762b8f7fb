"""From an exception to what the platform shows: the failure file's first line and the exit code."""

from __future__ import annotations

import logging
import sys
import traceback
from pathlib import Path

from image_classification.errors import ImageClassificationError

MAX_REASON_CHARACTERS = 1024
"""The platform keeps this much of the failure file (DescribeTrainingJob's FailureReason)."""

_logger = logging.getLogger(__name__)


def describe(error: BaseException) -> tuple[str, int]:
    """(one-line reason with its prefix, exit code): 2 for a user's mistake, 1 for our own fault."""
    if isinstance(error, ImageClassificationError):
        prefix, code, text = error.prefix, error.exit_code, str(error)
    elif isinstance(error, MemoryError):
        prefix, code = "ClientError", 2
        text = (
            "out of memory: set a smaller mini_batch_size (batch_size in the tensorflow interface; "
            "accumulate_batches keeps the update's size), a smaller image_shape or backbone, or "
            f"use a larger instance. {error}"
        )
    elif isinstance(error, OSError) and error.errno == 28:
        prefix, code = "ClientError", 2
        text = f"no space left on device while writing {error.filename}: use a larger volume"
    else:
        prefix, code = "AlgorithmError", 1
        text = f"{type(error).__name__}: {error}"
    return f"{prefix}: {' '.join(text.split())}", code


def report_failure(error: BaseException, failure_file: Path | None) -> int:
    """Write the reason to standard error and to `failure_file`; return the exit code.

    The reason comes first and alone in the first 1,024 characters; the trace of a fault of ours
    follows it in the file and goes to the log as one record.
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
    """Write the reason to `failure_file` alone: this process may end before it can report it."""
    _write(failure_file, describe(error)[0][: MAX_REASON_CHARACTERS - 1] + "\n")


def _write(failure_file: Path | None, content: str) -> None:
    if failure_file is None:
        return
    try:
        failure_file.parent.mkdir(parents=True, exist_ok=True)
        failure_file.write_text(content, "utf-8", errors="backslashreplace")
    except OSError as unwritable:  # must not hide the reason itself
        _logger.error("%s cannot be written: %s", failure_file, unwritable)
