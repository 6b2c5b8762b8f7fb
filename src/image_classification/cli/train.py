"""`image-classification train`: run a training job, in the container or on a laptop."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from image_classification import logs
from image_classification.cli.command_line import Commands, add_log, drawn_job, log_form, pairs, say
from image_classification.contract import environment, failure
from image_classification.contract.channels import WEIGHTS_CHANNEL
from image_classification.contract.paths import JobPaths, read_json
from image_classification.contract.presets import PRESETS
from image_classification.errors import UsageError
from image_classification.script_mode import requested_script

if TYPE_CHECKING:
    from image_classification.api.runs import Run
    from image_classification.training.stopping import StopRequest

_logger = logging.getLogger(__name__)

_EPILOG = f"""\
examples:
  image-classification train flowers
      train on a laptop, from class folders to the model in runs/flowers-1; the recipe is
      preset=transfer: a new head on a backbone with ImageNet weights
  image-classification train flowers --set preset=fine-tune --output model
      the same with another recipe; the presets are {", ".join(PRESETS)}
  image-classification train --channel train=flowers/train --channel validation=flowers/val \\
      --set preset=transfer --output model
      name the channels of a job yourself; hyperparameters have the defaults of the built-in
  image-classification train
      run the job below /opt/ml, as the container does
"""


def add_commands(subparsers: Commands) -> None:
    """Add `train`."""
    command = subparsers.add_parser(
        "train",
        help="train a classifier and write its artifact",
        description="Train on images (DATA), or run the training job in a base directory.\n"
        "Ctrl-C ends training after a step and keeps the best epoch; a second Ctrl-C aborts.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "data",
        nargs="?",
        type=Path,
        metavar="DATA",
        help="class folders, folders of splits, a table or list of images, or records; without a "
        "validation split, a fifth of the images is held out",
    )
    command.add_argument(
        "--base-dir",
        type=Path,
        help="folder to use instead of /opt/ml (default: $IMAGE_CLASSIFICATION_BASE_DIR or "
        "/opt/ml)",
    )
    command.add_argument(
        "--channel",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="folder of a channel, as train=DIR; repeat for more channels",
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a hyperparameter, such as preset=fine-tune, overriding hyperparameters.json; repeat "
        "for more (default with DATA: preset=transfer)",
    )
    command.add_argument(
        "--weights",
        type=Path,
        metavar="FILE|FOLDER",
        help="start from this public file of pretrained weights, as --channel weights=FILE; the "
        "network is that of the file",
    )
    command.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder of the artifact (default with DATA: runs/<data>-<n>, the next free number)",
    )
    command.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the model in --output, at the end of the job",
    )
    command.add_argument(
        "--resume",
        action="store_true",
        help="continue an interrupted run: the one in --output, or the newest one on DATA",
    )
    add_log(command)
    # The folder of the run, for the processes of one job.
    command.add_argument("--run-folder", type=Path, help=argparse.SUPPRESS)
    # The platform scrapes metrics from standard output.
    command.set_defaults(run=run, log_stream=sys.stdout, is_platforms=_is_platforms)


def _is_platforms(namespace: argparse.Namespace) -> bool:
    return not (namespace.data or namespace.output)


def run(namespace: argparse.Namespace) -> int:
    """Run the job; below a base directory, write a failure to <base>/output/failure too."""
    failure_file = None
    try:
        _check(namespace)
        paths = _paths(namespace)
        failure_file = None if namespace.data or paths.artifact else paths.failure
        overrides = pairs(namespace.set, "--set")
        given = read_json(paths.config / "hyperparameters.json") | overrides
        script = requested_script(given)
        if script is not None and namespace.data:
            raise UsageError("a training script reads channels: name them with --channel NAME=DIR")
        if script is not None:
            from image_classification.script_mode import run_script

            return run_script(paths, given, script)
        from image_classification.training.stopping import stop_on_signals

        with (
            stop_on_signals() as stop,  # before the slow imports
            drawn_job(namespace),
            _run_of(namespace, paths, overrides) as run_,
        ):
            code = _train(namespace, run_, overrides, stop)
            if not code:
                run_.finish(is_complete=not stop.is_set())
        if namespace.data and not code:
            _say_what_is_next(run_, log_form(namespace))
        return code
    except Exception as error:
        return failure.report_failure(error, failure_file)


def _train(
    namespace: argparse.Namespace, run_: Run, overrides: dict[str, str], stop: StopRequest
) -> int:
    """Run the job in as many processes as the machine has GPUs; return the exit code."""
    from image_classification.training.group import run_in_processes

    settings = {**run_.settings, **overrides} if run_.folder else overrides
    code = run_in_processes(run_.paths, settings, _command(namespace, run_.paths, settings))
    if code is not None:
        return code
    from image_classification.training.job import run_job

    run_job(run_.paths, settings, stop)
    return 0


def _run_of(
    namespace: argparse.Namespace, paths: JobPaths, overrides: dict[str, str]
) -> AbstractContextManager[Run]:
    """Return the run: on DATA, on named channels, or the job of a base directory."""
    from image_classification.api.runs import Run, run_into, run_of_data

    if namespace.data:
        return run_of_data(
            namespace.data,
            namespace.output,
            overrides,
            weights=namespace.weights,
            overwrites=namespace.overwrite,
            resumes=namespace.resume,
        )
    if paths.artifact is None or namespace.run_folder is not None:
        return nullcontext(Run(paths))
    return run_into(
        paths.artifact,
        paths.channel_folders,
        overwrites=namespace.overwrite,
        resumes=namespace.resume,
    )


def _say_what_is_next(run_: Run, form: str) -> None:
    folder = shlex.quote(str(run_.folder))
    lines = (
        f"model:  {run_.folder}",
        f"report: {run_.folder}/report.html",
        f"next:   image-classification predict --model {folder} IMAGE",
    )
    if form != logs.JSON:
        say(*lines)
        return
    for line in lines:
        _logger.info("%s", line)


def _command(
    namespace: argparse.Namespace, paths: JobPaths, settings: Mapping[str, str]
) -> list[str]:
    """Return Python's arguments for a process that runs the same job."""
    given = [f"--base-dir={namespace.base_dir}"] if namespace.base_dir else []
    given += [f"--channel={name}={folder}" for name, folder in paths.channel_folders.items()]
    given += [f"--set={name}={value}" for name, value in settings.items()]
    given += [f"--log={log_form(namespace)}"]
    given += [f"--output={paths.artifact}", f"--run-folder={paths.base}"] if paths.artifact else []
    return ["-m", "image_classification", "train", *given]


def _check(namespace: argparse.Namespace) -> None:
    """Refuse options that contradict each other."""
    if namespace.data and (namespace.channel or namespace.base_dir):
        raise UsageError(
            f"{namespace.data} and {'--channel' if namespace.channel else '--base-dir'} both name "
            "the data: keep one of them"
        )
    if not (namespace.data or namespace.output) and (namespace.overwrite or namespace.resume):
        raise UsageError(
            "--overwrite and --resume go with DATA or --output DIR; a job in a base directory "
            "replaces its model, and resumes from the checkpoints there"
        )
    if namespace.overwrite and not namespace.output:
        raise UsageError("--overwrite needs --output DIR: without it, each run has a new folder")


def _paths(namespace: argparse.Namespace) -> JobPaths:
    if namespace.data:
        return JobPaths(namespace.output or Path())
    if not (namespace.channel or namespace.output):
        if namespace.weights is not None:
            raise UsageError(
                "--weights goes with --channel NAME=DIR and --output DIR; a job in a base "
                "directory has the channel weights instead"
            )
        base = namespace.base_dir or Path(environment.BASE_DIR.read())
        if not base.is_dir():
            raise UsageError(
                f"{base}: no such folder; name the images to train on (train flowers), or with "
                "--base-dir the folder of a job, which holds input/config and input/data"
            )
        return JobPaths(base)
    if namespace.base_dir is not None:
        raise UsageError(
            "--base-dir already contains the channels and the model folder: leave out --channel "
            "and --output"
        )
    if namespace.output is None or not namespace.channel:
        raise UsageError("--channel NAME=DIR and --output DIR go together")
    channels = pairs(namespace.channel, "--channel")
    folders = {name: Path(folder) for name, folder in channels.items()}
    if namespace.weights is not None:
        if WEIGHTS_CHANNEL.name in folders:
            raise UsageError("--weights and --channel weights=… name the same: leave out one")
        folders[WEIGHTS_CHANNEL.name] = namespace.weights
    return JobPaths(namespace.run_folder or namespace.output, folders, namespace.output)
