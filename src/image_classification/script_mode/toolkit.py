"""The package sagemaker-training, with replacements for what it does badly."""

import importlib
import json
import logging
import shutil
import socket
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from image_classification.contract import environment, hyperparameter
from image_classification.contract.paths import Cluster, JobPaths, read_cluster, read_json
from image_classification.contract.process import cpu_count, set_variable
from image_classification.devices.machine import device_files
from image_classification.errors import UserError
from image_classification.script_mode.child_process import Child, StoppedError
from image_classification.script_mode.reasons import requirement_error

# As SageMaker's PyTorch image: hyperparameter → the package's runner, and the programs that it
# starts.
_LAUNCHERS = {
    "sagemaker_torch_distributed_enabled": ("TorchDistributed", ("torchrun",)),
    "sagemaker_mpi_enabled": ("MPI", ("mpirun", "sshd")),
}
_OTHER_LAUNCHERS = (  # they need libraries or code that only SageMaker's own images have
    "sagemaker_pytorch_ddp_enabled",
    "sagemaker_distributed_dataparallel_enabled",
    "sagemaker_pytorch_xla_multi_worker_enabled",
    "sagemaker_parameter_server_enabled",
    "sagemaker_multi_worker_mirrored_strategy_enabled",
)
_MODULES = (
    *("entry_point", "environment", "errors", "files", "logging_config", "modules", "process"),
    "runner",
)
_TEXTS = "sagemaker_job_name", "sagemaker_region"
_SECONDS_FOR_NAMES = 60.0

_logger = logging.getLogger(__name__)


class ScriptFailedError(Exception):
    """The script ended with an exit code that is not 0; the last lines of its standard error."""

    def __init__(self, exit_code: int, lines: list[str]) -> None:
        super().__init__(exit_code)
        self.exit_code, self.lines = exit_code, lines


class Toolkit:
    """The package, for one job in this process, because it keeps the folders in its modules.

    Args:
        paths: the job's files.
        given: its hyperparameters, also those that begin with sagemaker_.
        child: starts pip and the script.

    Raises:
        UserError: the package is not installed.
    """

    def __init__(self, paths: JobPaths, given: Mapping[str, object], child: Child) -> None:
        set_variable(environment.TOOLKIT_BASE_DIR, str(paths.base.absolute()))
        try:
            loaded = [importlib.import_module(f"sagemaker_training.{name}") for name in _MODULES]
        except ImportError as error:
            raise UserError(
                "your own script runs through SageMaker's package sagemaker-training, which is not "
                f"installed ({error.name} is missing): pip install "
                "'sagemaker-image-classification[script-mode]' (this needs a C compiler), or use "
                "an image for training"
            ) from error
        self._modules: Any = SimpleNamespace(**dict(zip(_MODULES, loaded, strict=True)))
        self._child = child
        self._read_settings(paths, given)
        self._find_folders(paths)
        self._ask_no_programs()
        self._keep_secrets()
        # It would read tar files with gzip alone.
        self._modules.files.tarfile = SimpleNamespace(
            **{**vars(tarfile), "open": lambda name, **_: tarfile.open(name)}
        )
        # It would try for 15 minutes to resolve each name, also that of this host.
        cluster = read_cluster(paths)
        self._modules.entry_point._wait_hostname_resolution = lambda: await_names(cluster)
        self._modules.process.check_error = self._run_command
        self._job = self._modules.environment.Environment()
        self.hyperparameters: dict[str, object] = self._job.hyperparameters

    def fetch(self, source: str, code: Path) -> None:
        """Bring the code from a folder, a file or S3 into the folder `code`, if it is empty."""
        self._modules.files.download_and_extract(source, str(code))

    def run(self, code: Path, program: str) -> None:
        """Install requirements.txt and run the script to its end.

        Raises:
            UserError: the requirements cannot be installed, or the script cannot be started so.
            ScriptFailedError: the script ended with an error.
        """
        modules, job, runner = self._modules, self._job, self._runner()
        try:
            if program.endswith(".sh") and modules.modules.has_requirements(str(code)):
                modules.modules.install_requirements(str(code))  # it does so for .py alone
            modules.entry_point.run(
                str(code),
                program,
                job.to_cmd_args(),
                job.to_env_vars(),
                # Its runner for torchrun takes this for `wait` and else ignores the exit code.
                capture_error=True,
                runner_type=runner,
            )
        except (modules.errors.ClientError, ValueError) as error:  # the latter: a zero byte
            raise UserError(f"sagemaker_program={program}: {error}") from error

    def _read_settings(self, paths: JobPaths, given: Mapping[str, object]) -> None:
        """It would log hyperparameters, know no --set and end if a file of the job is missing."""
        job, cluster = self._modules.environment, read_cluster(paths)
        hyperparameters = {name: _decoded(name, value) for name, value in given.items()}
        resources = read_json(paths.config / "resourceconfig.json") | {
            "hosts": list(cluster.hosts),
            "current_host": cluster.current_host,
            "network_interface_name": cluster.network_interface or "eth0",
        }
        channels: dict[str, Any] = {name: {} for name in paths.channel_folders}
        channels |= read_json(paths.config / "inputdataconfig.json")
        job.read_hyperparameters = hyperparameters.copy
        job.read_resource_config = resources.copy
        job.read_input_data_config = channels.copy

    def _find_folders(self, paths: JobPaths) -> None:
        """It knows neither --channel nor --output."""
        job = self._modules.environment
        job.model_dir = str(paths.model.absolute())
        job.output_data_dir = str(paths.output_data.absolute())
        if paths.artifact is not None:  # the tree of a local job is temporary
            job.output_intermediate_dir = str((paths.artifact / "intermediate").absolute())
        job.channel_path = lambda name: str(
            (paths.channel_folders.get(name) or paths.data / name).absolute()
        )

    def _ask_no_programs(self) -> None:
        """It would start nvidia-smi, neuron-ls and which, repeatedly, and import TensorFlow."""
        job, process = self._modules.environment, self._modules.process
        job.num_gpus, job.num_cpus = device_files, cpu_count  # the latter: with the quota
        job.num_neurons = lambda _: 0
        job.validate_smddprun = job.validate_smddpmprun = lambda: False
        process.get_tensorflow_exception_classes = process.get_debugger_exception_classes = list

    def _keep_secrets(self) -> None:
        """It would log all hyperparameters and variables."""
        log = self._modules.logging_config
        log.log_script_invocation = lambda *_: None
        log.get_logger().setLevel(logging.WARNING)

    def _run_command(
        self, command: Sequence[str], error_class: object, *_: object, cwd: str, **__: object
    ) -> None:
        """Run pip or the script.

        The package would not pass SIGTERM on. It finds the error of a script only if it relays
        all output, of which it makes other lines, and compares each line with all earlier ones.
        """
        errors = self._modules.errors
        is_script = error_class not in (errors.InstallRequirementsError, errors.InstallModuleError)
        try:
            exit_code, lines = self._child.run(command, Path(cwd), is_script)
        except OSError as error:  # too many hyperparameters for a command, for example
            raise UserError(f"{command[0]} cannot be started: {error}") from error
        if not exit_code:
            return
        if is_script:
            raise ScriptFailedError(exit_code, lines)
        if self._child.is_stopped:
            raise StoppedError
        raise UserError(f"requirements.txt cannot be installed: {requirement_error(lines)}")

    def _runner(self) -> Any:
        """Return the runner that the job asks for; a UserError if its programs are not here."""
        asked = self._job.additional_framework_parameters
        for name in _OTHER_LAUNCHERS:
            if asked.get(name):
                raise UserError(
                    f"{name}: no image has what this needs; use "
                    "distribution={'torch_distributed': {'enabled': True}} with the PyTorch image, "
                    "or let your script connect the hosts in SM_HOSTS"
                )
        is_distributed = self._job.current_instance_group in self._job.distribution_instance_groups
        for name, (runner, programs) in _LAUNCHERS.items():
            if not (asked.get(name) and is_distributed):
                continue
            missing = [program for program in programs if shutil.which(program) is None]
            if missing:
                raise UserError(
                    f"{name}: {' and '.join(missing)} not found; use "
                    "distribution={'torch_distributed': {'enabled': True}} with the PyTorch image"
                    + (", or build an image with MPI on ours" if runner == "MPI" else "")
                )
            return self._modules.runner.RunnerType[runner]
        return self._modules.runner.RunnerType.Process


def _decoded(name: str, value: object) -> Any:
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except ValueError:
        return value
    # The package sets variables to these, whatever the text looks like.
    return hyperparameter.unquote(value) if name in _TEXTS else found


def await_names(cluster: Cluster) -> None:
    """Wait a minute for addresses of the other hosts; a host without one is a warning."""
    deadline = time.monotonic() + _SECONDS_FOR_NAMES
    for host in cluster.hosts:
        while host != cluster.current_host:
            try:
                socket.gethostbyname(host)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    _logger.warning("the name of the host %s cannot be resolved: %s", host, error)
                    break
                time.sleep(1)
