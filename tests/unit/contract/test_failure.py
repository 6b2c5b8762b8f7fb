"""The prefix of the reason and the exit code tell who has to act; log records; progress."""

from __future__ import annotations

import errno
import io
import logging
from pathlib import Path

import pytest

from image_classification import logs
from image_classification.contract.failure import describe, report_failure
from image_classification.errors import (
    AlgorithmError,
    HyperparameterError,
    ImageClassificationError,
    UserError,
)


def test_a_user_error_is_a_client_error_with_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = tmp_path / "output" / "failure"
    assert report_failure(HyperparameterError("epochs='x': expected\nan integer"), failure) == 2
    assert failure.read_text() == "ClientError: epochs='x': expected an integer\n"
    assert capsys.readouterr().err == "ClientError: epochs='x': expected an integer\n"


def test_an_internal_error_is_an_algorithm_error_with_a_traceback_after_the_reason(
    tmp_path: Path,
) -> None:
    failure = tmp_path / "failure"
    try:
        raise KeyError("head.weight")
    except KeyError as error:
        assert report_failure(error, failure) == 1
    first, _, rest = failure.read_text().partition("\n")
    assert first == "AlgorithmError: KeyError: 'head.weight'"
    assert "Traceback" in rest


def test_the_reason_fits_into_what_the_platform_keeps(tmp_path: Path) -> None:
    failure = tmp_path / "failure"
    report_failure(UserError("long " * 1000), failure)
    assert len(failure.read_text()) <= 1024


@pytest.mark.parametrize(
    ("error", "prefix", "code"),
    [
        (UserError("x"), "ClientError: x", 2),
        (AlgorithmError("x"), "AlgorithmError: x", 1),
        (MemoryError(), "ClientError: out of memory: set a smaller mini_batch_size", 2),
        (
            OSError(errno.ENOSPC, "No space left on device", "model.onnx"),
            "ClientError: no space left on device while writing model.onnx: use a larger volume",
            2,
        ),
        (OSError(errno.ENOSPC, ""), "ClientError: no space left on device while writing a file", 2),
        (OSError(errno.EDQUOT, "", "x"), "ClientError: disk quota exceeded while writing x", 2),
        (OSError(errno.EFBIG, "", "x"), "ClientError: file too large while writing x", 2),
        (OSError(errno.EIO, "", "x"), "AlgorithmError: OSError: [Errno 5]", 1),
        (ValueError("x"), "AlgorithmError: ValueError: x", 1),
    ],
)
def test_every_error_has_a_prefix_and_an_exit_code(
    error: Exception, prefix: str, code: int
) -> None:
    reason, found = describe(error)
    assert reason.startswith(prefix) and found == code


def test_the_docstring_draws_the_tree_of_the_error_classes() -> None:
    import image_classification.errors as errors

    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    ours = [c for c in classes if issubclass(c, ImageClassificationError)]
    for error in ours:
        assert error.__name__ in (errors.__doc__ or "").split(), error.__name__


def test_a_log_record_is_always_one_line() -> None:
    stream = io.StringIO()
    logs.configure(stream=stream)
    logging.getLogger("image_classification.x").info("two\nlines\r")
    assert stream.getvalue().count("\n") == 1 and "two | lines" in stream.getvalue()


def test_a_log_record_escapes_what_a_terminal_would_obey() -> None:
    stream = io.StringIO()
    logs.configure(stream=stream)
    logging.getLogger("image_classification.x").info("GET /%s", "\x1b]0;a\x07\u202eé\tb\ud800")
    assert r"GET /\x1b]0;a\x07\u202eé" + "\tb" + r"\ud800" in stream.getvalue()


def test_progress_without_a_terminal_is_plain_lines() -> None:
    stream = io.StringIO()
    with logs.Progress("pack", 10, "images", stream) as progress:
        for _ in range(10):
            progress.advance()
    assert "\r" not in stream.getvalue()
    assert stream.getvalue().startswith("pack: 10/10 images, ")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_in_a_terminal_is_one_bar_that_ends_its_line() -> None:
    stream = Terminal()
    with logs.Progress("pack", 3, "images", stream) as progress:
        progress.reach(3)
    assert stream.getvalue().startswith("\r") and stream.getvalue().endswith("\n")
    assert "█" * 30 in stream.getvalue()
