"""Script mode: run the user's own training script instead of our algorithm.

The code is in <base>/code or comes from sagemaker_submit_directory. The script gets its
hyperparameters as `--name value` and the SM_ variables of SageMaker's toolkits; SIGTERM is passed
on to it. The job ends with the script's exit code, and the last line that the script wrote to
standard error is the reason of a failure.
"""

import json
import logging
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any
from urllib.parse import urlsplit

from image_classification.archive import unpack
from image_classification.contract import environment, failure, hyperparameter
from image_classification.contract.paths import JobPaths, read_cluster, read_json
from image_classification.contract.process import cpu_count, with_python_path
from image_classification.devices.machine import device_files
from image_classification.errors import ArtifactError, UserError
from image_classification.files import write_text

BUILT_IN_PROGRAM = "transfer_learning.py"
"""Jobs of the TensorFlow built-in name its own script; our algorithm runs these jobs."""

_PREFIX = "sagemaker_"
_KEPT_LINES = 20

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
    return Script(program, submitted)


def run_script(paths: JobPaths, given: Mapping[str, object], script: Script) -> int:
    """Run the script and return its exit code, or 128 + n if signal n ended it.

    A success leaves `output/success`. A failure leaves `output/failure`, unless the script wrote
    that file itself.

    Raises:
        UserError: the script is missing, or its code or requirements cannot be installed.
    """
    code = _code_folder(paths, script)
    program = code / script.program
    if program.suffix not in {".py", ".sh"}:
        raise UserError(f"sagemaker_program={script.program}: expected a .py or a .sh file")
    if not program.is_file():
        found = ", ".join(sorted(path.name for path in code.iterdir())[:20]) or "nothing"
        raise UserError(
            f"sagemaker_program={script.program} is not in {code}, which contains: {found}"
        )
    _install_requirements(code)
    hyperparameters = decoded(given)
    named = ", ".join(sorted(hyperparameters)) or "none"
    _logger.info("Running %s; its hyperparameters: %s", script.program, named)  # never the values
    interpreter = sys.executable if program.suffix == ".py" else "/bin/sh"
    added = variables(paths, given, script, code)
    success = paths.failure.with_name("success")
    for earlier in (paths.failure, success):  # of an earlier start
        earlier.unlink(missing_ok=True)
    exit_code, last = _run(
        [interpreter, script.program, *arguments(hyperparameters)],
        code,
        with_python_path(code, added),
    )
    if exit_code == 0:
        write_text(success, "")
    elif not paths.failure.exists():
        write_text(paths.failure, _reason(script, exit_code, last))
    return exit_code


def _run(command: list[str], folder: Path, variables: Mapping[str, str]) -> tuple[int, list[str]]:
    """Return the exit code and the last lines of standard error, which is also relayed to ours."""
    is_stopped, process = False, None

    def forward(number: int, _: FrameType | None) -> None:
        nonlocal is_stopped
        is_stopped = True
        if process is not None:
            process.send_signal(number)

    previous = signal.signal(signal.SIGTERM, forward)
    try:
        process = subprocess.Popen(  # noqa: S603 - it runs the user's own program
            command, cwd=folder, env=dict(variables), stderr=subprocess.PIPE, text=True,
            errors="backslashreplace",
        )  # fmt: skip
        if is_stopped:  # SIGTERM arrived before the script started
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
    how = f"exit code {exit_code}"
    if exit_code > 128:
        how = f"signal {exit_code - 128}" + (" (out of memory?)" if exit_code == 137 else "")
    why = last[-1] if last else "it wrote nothing to standard error"
    reason = f"AlgorithmError: {script.program} ended with {how}: {why}"
    return reason[: failure.MAX_REASON_CHARACTERS - 1] + "\n\n" + "\n".join(last) + "\n"


def _code_folder(paths: JobPaths, script: Script) -> Path:
    """Return <base>/code; if it is empty, copy the submitted code into it first."""
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
            f"sagemaker_submit_directory={address}: this image lacks boto3, which reads S3; "
            "install it in the image, or put the code into a channel and set its path"
        ) from error
    parts = urlsplit(address)
    try:
        boto3.client("s3").download_file(parts.netloc, parts.path.lstrip("/"), str(target))
    except Exception as error:  # botocore raises errors of many classes
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
            "the script's requirements.txt cannot be installed (the job needs network access): "
            f"{last}"
        )


def decoded(given: Mapping[str, object]) -> dict[str, Any]:
    """Return the script's hyperparameters, decoded if they are JSON; without those of SageMaker."""
    return {name: _decode(value) for name, value in given.items() if not name.startswith(_PREFIX)}


def arguments(hyperparameters: Mapping[str, Any]) -> list[str]:
    """Return `--name value` for each, sorted by name; `-n value` for one letter; lists as JSON."""
    words = []
    for name, value in sorted(hyperparameters.items()):
        words += [f"-{name}" if len(name) == 1 else f"--{name}", _text(value)]
    return words


def variables(
    paths: JobPaths, given: Mapping[str, object], script: Script, code: Path
) -> dict[str, str]:
    """Return the SM_ variables of a script in `code`; `given` is hyperparameters.json."""
    own = decoded(given)
    data_config = read_json(paths.config / "inputdataconfig.json")
    channels = {name: str(paths.data / name) for name in sorted(data_config)}
    values: dict[str, Any] = _folders(paths) | _machines(paths)
    values |= {
        "hps": own,
        "input_data_config": data_config,
        "log_level": environment.LOG_LEVEL.read_integer(0),
        "framework_params": {k: _decode(v) for k, v in given.items() if k.startswith(_PREFIX)},
        "framework_module": "image_classification",
        "module_name": Path(script.program).stem,
        "module_dir": script.submitted or str(code),
        "user_entry_point": script.program,
        "user_args": arguments(own),
    }
    hosts = values["hosts"]
    values["training_env"] = values | {
        "channel_input_dirs": channels,
        "hyperparameters": own,
        "is_master": values["current_host"] == hosts[0],
        "master_hostname": hosts[0],
        "job_name": environment.JOB_NAME.read(),
    }
    values["channels"] = list(channels)
    named = {f"SM_{name.upper()}": _text(value) for name, value in values.items()}
    named |= {f"SM_CHANNEL_{name.upper()}": folder for name, folder in channels.items()}
    return named | {f"SM_HP_{name.upper()}": _text(value) for name, value in own.items()}


def _folders(paths: JobPaths) -> dict[str, Any]:
    output = paths.base / "output"
    return {
        "model_dir": str(paths.model),
        "output_dir": str(output),
        "output_data_dir": str(paths.output_data),
        "output_intermediate_dir": str(output / "intermediate"),
        "input_dir": str(paths.base / "input"),
        "input_config_dir": str(paths.config),
    }


def _machines(paths: JobPaths) -> dict[str, Any]:
    """Return the hosts in resourceconfig.json, and the processors of this one."""
    cluster = read_cluster(paths)
    resources = read_json(paths.config / "resourceconfig.json")
    groups = {group["instance_group_name"]: group for group in resources.get("instance_groups", [])}
    return {
        "hosts": list(cluster.hosts),
        "current_host": cluster.current_host,
        "current_instance_type": resources.get("current_instance_type", "local"),
        "current_instance_group": resources.get("current_group_name", "homogeneousCluster"),
        "current_instance_group_hosts": list(cluster.hosts),
        "instance_groups": list(groups),
        "instance_groups_dict": groups,
        "distribution_instance_groups": [],
        "is_hetero": len(groups) > 1,
        "network_interface_name": cluster.network_interface or "eth0",
        "resource_config": resources,
        "topology": resources.get("topology") or {},
        "num_gpus": device_files(),
        "num_cpus": cpu_count(),
        "num_neurons": 0,
    }


def _decode(value: object) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _text(value: object) -> str:
    return json.dumps(value) if isinstance(value, (list, dict)) else str(value)
