"""`image-classification train`: run a training job, in the container or on a laptop."""

import argparse
import sys
from pathlib import Path

from image_classification.cli.command_line import Commands
from image_classification.contract import environment, failure
from image_classification.contract.channels import WEIGHTS_CHANNEL
from image_classification.contract.paths import JobPaths, read_json
from image_classification.errors import UsageError
from image_classification.script_mode import requested_script

_EPILOG = """\
examples:
  image-classification train
      run the job below /opt/ml, as the container does
  image-classification train --channel train=flowers/train --channel validation=flowers/val \\
      --set backbone=efficientnet_lite0 --set use_pretrained_model=1 --set resize=256 \\
      --set epochs=5 --set learning_rate=0.01 --output model
      train on a laptop, from class folders to an artifact
"""


def add_commands(subparsers: Commands) -> None:
    """Add `train`."""
    command = subparsers.add_parser(
        "train",
        help="train a classifier and write its artifact",
        description="Run the training job in a base directory, or train on folders of images.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
        help="a hyperparameter, overriding hyperparameters.json; repeat for more",
    )
    command.add_argument(
        "--weights",
        type=Path,
        metavar="FILE|FOLDER",
        help="start from this public file of pretrained weights, as --channel weights=FILE",
    )
    command.add_argument("--output", type=Path, metavar="DIR", help="folder of the artifact")
    # The platform scrapes metrics from standard output.
    command.set_defaults(run=run, log_stream=sys.stdout)


def run(namespace: argparse.Namespace) -> int:
    """Run the job; below a base directory, write a failure to <base>/output/failure too."""
    failure_file = None
    try:
        paths = _paths(namespace)
        failure_file = None if paths.artifact else paths.failure
        overrides = _pairs(namespace.set, "--set")
        given = read_json(paths.config / "hyperparameters.json") | overrides
        script = requested_script(given)
        if script is not None:
            from image_classification.script_mode import run_script

            return run_script(paths, given, script)
        from image_classification.training.stopping import stop_on_sigterm

        with stop_on_sigterm() as stop:  # before the slow imports
            from image_classification.training.group import run_in_processes

            code = run_in_processes(paths, overrides, _command(namespace))
            if code is not None:
                return code
            from image_classification.training.job import run_job

            run_job(paths, overrides, stop)
    except Exception as error:
        return failure.report_failure(error, failure_file)
    return 0


def _command(namespace: argparse.Namespace) -> list[str]:
    """Return Python's arguments for a process that runs the same job."""
    given = [f"--base-dir={namespace.base_dir}"] if namespace.base_dir else []
    given += [f"--channel={pair}" for pair in namespace.channel]
    given += [f"--set={pair}" for pair in namespace.set]
    given += [f"--weights={namespace.weights}"] if namespace.weights else []
    given += [f"--output={namespace.output}"] if namespace.output else []
    return ["-m", "image_classification", "train", *given]


def _paths(namespace: argparse.Namespace) -> JobPaths:
    if not (namespace.channel or namespace.output):
        if namespace.weights is not None:
            raise UsageError(
                "--weights goes with --channel NAME=DIR and --output DIR; a job in a base "
                "directory has the channel weights instead"
            )
        return JobPaths(namespace.base_dir or Path(environment.BASE_DIR.read()))
    if namespace.base_dir is not None:
        raise UsageError(
            "--base-dir already contains the channels and the model folder: leave out --channel "
            "and --output"
        )
    if namespace.output is None or not namespace.channel:
        raise UsageError("--channel NAME=DIR and --output DIR go together")
    channels = _pairs(namespace.channel, "--channel")
    folders = {name: Path(folder) for name, folder in channels.items()}
    if namespace.weights is not None:
        if WEIGHTS_CHANNEL.name in folders:
            raise UsageError("--weights and --channel weights=… name the same: leave out one")
        folders[WEIGHTS_CHANNEL.name] = namespace.weights
    return JobPaths(namespace.output, folders, namespace.output)


def _pairs(texts: list[str], option: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"{option} {text}: expected NAME=VALUE")
        pairs[name] = value
    return pairs
