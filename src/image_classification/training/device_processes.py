"""A job on a host with several GPUs: one process for each, all of them ranks of one job.

This process then only starts them and waits. Each reads the same data and takes its part of every
epoch, as hosts do; a host's batch is divided among its processes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from image_classification import backends
from image_classification.contract import environment
from image_classification.contract.environment import JobPaths
from image_classification.errors import AlgorithmError, HyperparameterError
from image_classification.training.request import JobRequest, read_request

_logger = logging.getLogger(__name__)


def run_in_processes(
    paths: JobPaths, overrides: Mapping[str, str], arguments: Sequence[str]
) -> int | None:
    """Run the job in one process for each device; its exit code, or None where one is enough.

    Args:
        paths, overrides: as of `run_job`.
        arguments: of Python, to run the same job; what it does in a process depends on the
            environment that is given to it.

    Raises:
        UserError: the job is wrong, or its batch cannot be divided.
        AlgorithmError: the processes were killed before they could say why.
    """
    wanted = environment.PROCESSES.read_integer(0)
    if environment.local_place() is not None or (wanted or environment.gpu_count()) <= 1:
        return None  # before the framework is asked, which takes seconds to load
    request = read_request(paths, overrides)
    launcher = backends.launcher(request.settings.backend)
    count = (wanted or launcher.device_count()) if launcher else 1
    if launcher is None or count <= 1 or not _can_be_divided(request, count):
        return None
    _logger.info("Training in %d processes on this host", count)
    failure = None if paths.artifact else paths.failure
    if failure is not None:
        failure.unlink(missing_ok=True)  # of an earlier start
    code = launcher.launch(arguments, environment.of_local_processes(count))
    if code and failure is not None and not failure.exists():
        raise AlgorithmError(
            "the processes that train on this host were killed, perhaps for want of memory"
        )
    return code


def _can_be_divided(request: JobRequest, count: int) -> bool:
    settings = request.settings
    if request.is_sharded or any(channel.is_pipe for channel in request.channels.values()):
        _logger.info("Training in one process: a pipe, or a host's own part, is not divided")
        return False
    if settings.batch_size % count:
        name = "mini_batch_size" if request.interface.name == "mxnet" else "batch_size"
        raise HyperparameterError(
            f"{name}={settings.batch_size} cannot be divided among the {count} devices of this "
            f"host: set a multiple of {count}, or {environment.PROCESSES.name}=1 to use one device"
        )
    return True
