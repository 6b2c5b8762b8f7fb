"""Runs the user's own training script instead of our algorithm, as script mode promises.

The code comes from <base>/code or from sagemaker_submit_directory; the script gets its
hyperparameters as `--name value` and the SM_ variables; SIGTERM is handed on; the exit code is the
script's, and the last line it wrote to standard error is the reason of a failure.
"""

from __future__ import annotations

import logging
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import IO
from urllib.parse import urlsplit

from image_classification.archive import unpack
from image_classification.contract import environment
from image_classification.contract.environment import JobPaths
from image_classification.contract.failure import MAX_REASON_CHARACTERS
from image_classification.contract.script import Script, arguments, decoded, variables
from image_classification.data.files import write_text
from image_classification.errors import ArtifactError, UserError

_KEPT_LINES = 20

_logger = logging.getLogger(__name__)


def run_script(paths: JobPaths, given: Mapping[str, object], script: Script) -> int:
    """Run the script and return its exit code, 128 + n if signal n ended it.

    A failure leaves `output/failure`, unless the script wrote its own; success `output/success`.

    Raises:
        UserError: there is no such script, or its code or requirements cannot be had.
    """
    code = _code_folder(paths, script)
    program = code / script.program
    if program.suffix not in {".py", ".sh"}:
        raise UserError(f"sagemaker_program={script.program}: expected a .py or a .sh file")
    if not program.is_file():
        found = ", ".join(sorted(path.name for path in code.iterdir())[:20]) or "nothing"
        raise UserError(f"sagemaker_program={script.program} is not in {code}, which has: {found}")
    _install_requirements(code)
    hyperparameters = decoded(given)
    named = ", ".join(sorted(hyperparameters)) or "none"
    _logger.info("Running %s; its hyperparameters: %s", script.program, named)  # never the values
    interpreter = sys.executable if program.suffix == ".py" else "/bin/sh"
    added = variables(paths, given, script, code, environment.gpu_count())
    success = paths.failure.with_name("success")
    for earlier in (paths.failure, success):  # they would pass for this start's
        earlier.unlink(missing_ok=True)
    exit_code, last = _run(
        [interpreter, script.program, *arguments(hyperparameters)],
        code,
        environment.with_python_path(code, added),
    )
    if exit_code == 0:
        write_text(success, "")
    elif not paths.failure.exists():
        write_text(paths.failure, _reason(script, exit_code, last))
    return exit_code


def _run(command: list[str], folder: Path, variables: Mapping[str, str]) -> tuple[int, list[str]]:
    """(exit code, last lines of standard error), which goes to ours as it comes."""
    is_stopped, process = False, None

    def forward(number: int, _: FrameType | None) -> None:
        nonlocal is_stopped
        is_stopped = True
        if process is not None:
            process.send_signal(number)

    previous = signal.signal(signal.SIGTERM, forward)
    try:
        process = subprocess.Popen(  # noqa: S603 - the user's own program is what is asked for
            command, cwd=folder, env=dict(variables), stderr=subprocess.PIPE, text=True,
            errors="backslashreplace",
        )  # fmt: skip
        if is_stopped:  # it came before there was anyone to hand it to
            process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        last = _relay(process.stderr)
        code = process.wait()
    finally:
        signal.signal(signal.SIGTERM, previous)
    return (code if code >= 0 else 128 - code), last


def _relay(stream: IO[str]) -> list[str]:
    last: deque[str] = deque(maxlen=_KEPT_LINES)
    for line in stream:
        sys.stderr.write(line)
        sys.stderr.flush()
        if line.strip():
            last.append(line.strip())
    return list(last)


def _reason(script: Script, exit_code: int, last: list[str]) -> str:
    """What the platform shows: the script's own last words first."""
    how = f"exit code {exit_code}"
    if exit_code > 128:
        how = f"signal {exit_code - 128}" + (" (out of memory?)" if exit_code == 137 else "")
    said = last[-1] if last else "it wrote nothing to standard error"
    reason = f"AlgorithmError: {script.program} ended with {how}: {said}"
    rest = "\n".join(last)
    return reason[: MAX_REASON_CHARACTERS - 1] + "\n\n" + rest + "\n"


def _code_folder(paths: JobPaths, script: Script) -> Path:
    """<base>/code, filled from what was submitted unless there is code in it already."""
    code = paths.base / "code"
    if code.is_dir() and any(code.iterdir()):
        return code
    if not script.submitted:
        raise UserError(
            f"sagemaker_program={script.program}, but there is no code: put it into {code}, or set "
            "sagemaker_submit_directory to a folder, a tar file or an s3:// address"
        )
    code.mkdir(parents=True, exist_ok=True)
    if script.submitted.startswith("s3://"):
        archive = code.parent / "sourcedir.tar.gz"
        _download(script.submitted, archive)
        _unpack(archive, code, script.submitted)
        archive.unlink()
        return code
    source = Path(script.submitted.removeprefix("file://"))
    if source.is_dir():
        shutil.copytree(source, code, dirs_exist_ok=True)
    elif source.is_file():
        _unpack(source, code, script.submitted)
    else:
        raise UserError(f"sagemaker_submit_directory={script.submitted}: there is no such file")
    return code


def _unpack(archive: Path, code: Path, submitted: str) -> None:
    try:
        unpack(archive, code)
    except ArtifactError as error:
        text = str(error).replace("model.tar.gz", "tar file of code")
        raise UserError(f"sagemaker_submit_directory={submitted}: {text}") from error


def _download(address: str, target: Path) -> None:
    try:
        import boto3
    except ImportError as error:
        raise UserError(
            f"sagemaker_submit_directory={address}: boto3, which reads S3, is not in this image; "
            "install it there, or deliver the code in a channel and name its path"
        ) from error
    parts = urlsplit(address)
    try:
        boto3.client("s3").download_file(parts.netloc, parts.path.lstrip("/"), str(target))
    except Exception as error:  # botocore's own tree of errors
        raise UserError(f"sagemaker_submit_directory={address} cannot be read: {error}") from error


def _install_requirements(code: Path) -> None:
    path = code / "requirements.txt"
    if not path.is_file():
        return
    _logger.info("Installing %s", path)
    command = [sys.executable, "-m", "pip", "install", "--requirement", str(path)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)  # noqa: S603 - a fixed command
    if done.returncode:
        last = " ".join(done.stderr.split()[-60:])
        raise UserError(
            f"requirements.txt beside the script cannot be installed (it needs a network): {last}"
        )
