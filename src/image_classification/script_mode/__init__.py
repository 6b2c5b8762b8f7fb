"""Script mode: SageMaker's package sagemaker-training runs the user's own training script.

The package finds the code, installs its requirements.txt, sets the SM_ variables and starts the
script, alone or with torchrun. SIGTERM is passed on to the script; the job ends with the script's
exit code, and the script's last error is the reason of a failure.
"""

import logging
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from image_classification.contract import environment, failure, hyperparameter
from image_classification.contract.paths import JobPaths
from image_classification.contract.process import add_to_path, set_default, set_variable
from image_classification.errors import UserError
from image_classification.files import write_text
from image_classification.script_mode.child_process import Child, StoppedError
from image_classification.script_mode.reasons import last_error
from image_classification.script_mode.toolkit import ScriptFailedError, Toolkit

BUILT_IN_PROGRAM = "transfer_learning.py"
"""Jobs of the TensorFlow built-in name its own script; our algorithm runs these jobs."""

_SHOWN_LINES = 20

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Script:
    """The script of a job.

    Attributes:
        program: its path inside the code folder, as train.py.
        submitted: where the job says that the code is: a folder, a tar file, s3://… or "".
    """

    program: str
    submitted: str


def requested_script(given: Mapping[str, object]) -> Script | None:
    """Return the script of SAGEMAKER_PROGRAM or of the hyperparameter sagemaker_program, if any."""

    def named(key: str) -> str:
        value = given.get(key)
        return hyperparameter.unquote(value) if isinstance(value, str) else ""

    program = environment.PROGRAM.read()
    if not program and named("sagemaker_program") != BUILT_IN_PROGRAM:
        program = named("sagemaker_program")
    if not program:
        return None
    submitted = environment.SUBMIT_DIRECTORY.read() or named("sagemaker_submit_directory")
    return Script(program, submitted.removeprefix("file://"))


def run_script(paths: JobPaths, given: Mapping[str, object], script: Script) -> int:
    """Run the script and return its exit code, or 128 + n if signal n ended it.

    A success leaves `output/success` in the tree. A failure leaves `output/failure`, unless the
    script wrote that file itself. A local job has a temporary tree, so that only what the script
    writes is in its output folder; the reason of a failure goes to standard error.

    Raises:
        UserError: the package or the script is missing, or its code or requirements cannot be
            installed.
    """
    if given.get("sagemaker_s3_output"):
        _logger.warning(
            "sagemaker_s3_output is ignored: files in output/intermediate are not copied to S3; "
            "to copy files while the job runs, write them to the folder of checkpoints"
        )
    if paths.artifact is None:
        return _run_in_tree(paths, given, script)
    own = paths.base / "code"  # without sagemaker_submit_directory; 0.1 looked there too
    if not script.submitted and own.is_dir():
        script = replace(script, submitted=str(own.absolute()))
    with tempfile.TemporaryDirectory(prefix="image-classification-") as folder:
        tree = replace(paths, base=Path(folder))
        exit_code = _run_in_tree(tree, given, script)
        if exit_code and tree.failure.is_file():
            reason = tree.failure.read_text("utf-8", "backslashreplace").partition("\n\n")[0]
            sys.stderr.write(f"{reason.strip()}\n")
    return exit_code


def _run_in_tree(paths: JobPaths, given: Mapping[str, object], script: Script) -> int:
    success = paths.failure.with_name("success")
    for earlier in (paths.failure, success):  # of an earlier start
        earlier.unlink(missing_ok=True)
    try:
        with Child() as child:
            _install_and_run(paths, given, script, child)
    except ScriptFailedError as error:
        if not paths.failure.exists():
            write_text(paths.failure, _reason(script, error.exit_code, error.lines))
        return error.exit_code
    except StoppedError:
        reason = f"AlgorithmError: SIGTERM ended the job before {script.program} started\n"
        write_text(paths.failure, reason)
        return 128 + signal.SIGTERM
    write_text(success, "")
    return 0


def _install_and_run(
    paths: JobPaths, given: Mapping[str, object], script: Script, child: Child
) -> None:
    code = paths.base.absolute() / "code"
    _check_submitted(code, script, is_local=paths.artifact is not None)
    own = {
        "sagemaker_program": script.program,
        "sagemaker_submit_directory": script.submitted or str(code),
    }
    toolkit = Toolkit(paths, {**given, **own}, child)
    try:
        toolkit.fetch(script.submitted or str(code), code)
    except Exception as error:  # of many classes: files, tar, boto3
        raise UserError(
            f"sagemaker_submit_directory={script.submitted} cannot be read (expected a folder, a "
            f"tar file or an s3:// address): {error}"
        ) from error
    _check_program(code, script)
    _prepare_wheels(code)
    add_to_path()  # torchrun, and python in shell scripts, of this environment
    named = ", ".join(sorted(toolkit.hyperparameters)) or "none"
    _logger.info("Running %s; its hyperparameters: %s", script.program, named)  # never the values
    toolkit.run(code, script.program)


def _check_submitted(code: Path, script: Script, is_local: bool) -> None:
    if code.is_dir() and any(code.iterdir()):
        return
    if not script.submitted:
        put = "" if is_local else f"put it into {code}, or "
        raise UserError(
            f"sagemaker_program={script.program}, but there is no code: {put}set "
            "sagemaker_submit_directory to a folder, a tar file or an s3:// address"
        )
    if not script.submitted.startswith("s3://") and not Path(script.submitted).exists():
        raise UserError(f"sagemaker_submit_directory={script.submitted}: there is no such file")


def _check_program(code: Path, script: Script) -> None:
    program = code / script.program
    if program.suffix not in {".py", ".sh"}:
        raise UserError(f"sagemaker_program={script.program}: expected a .py or a .sh file")
    if not program.is_file():
        found = ", ".join(sorted(path.name for path in code.iterdir())[:20]) or "nothing"
        raise UserError(
            f"sagemaker_program={script.program} is not in {script.submitted or code}, which "
            f"contains: {found}"
        )


def _prepare_wheels(code: Path) -> None:
    """Let pip install from the code's folder `wheels` alone, if it has one: jobs may be offline."""
    wheels = code / "wheels"
    if any(wheels.glob("*.whl")):
        found = environment.PIP_FIND_LINKS.read()
        set_variable(environment.PIP_FIND_LINKS, f"{wheels} {found}".strip())
        set_default(environment.PIP_NO_INDEX, "1")


def _reason(script: Script, exit_code: int, lines: list[str]) -> str:
    how = f"exit code {exit_code}"
    if exit_code > 128:
        how = f"signal {exit_code - 128}" + (" (out of memory?)" if exit_code == 137 else "")
    why = last_error(lines) or "it wrote nothing to standard error"
    reason = " ".join(f"AlgorithmError: {script.program} ended with {how}: {why}".split())
    shown = "\n".join(lines[-_SHOWN_LINES:])
    return reason[: failure.MAX_REASON_CHARACTERS - 1] + "\n\n" + shown + "\n"
