"""The files of a job, and its hosts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from image_classification.contract.environment import DEFAULT_BASE_DIR
from image_classification.errors import UserError


@dataclass(frozen=True)
class JobPaths:
    """The files of a training job.

    Attributes:
        base: the root of its tree, `/opt/ml` on SageMaker.
        channel_folders: channel name → folder; empty: the folders of the tree.
        artifact: folder of the artifact and other results; None: model and output/data of the tree.
    """

    base: Path = DEFAULT_BASE_DIR
    channel_folders: Mapping[str, Path] = field(default_factory=dict)
    artifact: Path | None = None

    @property
    def config(self) -> Path:
        """The folder of hyperparameters.json, inputdataconfig.json and resourceconfig.json."""
        return self.base / "input" / "config"

    @property
    def processing_config(self) -> Path:
        """The folder of resourceconfig.json and processingjobconfig.json of a Processing job."""
        return self.base / "config"

    @property
    def data(self) -> Path:
        """The folder with one folder per channel."""
        return self.base / "input" / "data"

    @property
    def model(self) -> Path:
        """The folder of the artifact, which SageMaker packs into model.tar.gz."""
        return self.artifact or self.base / "model"

    @property
    def output_data(self) -> Path:
        """The folder of other results, which SageMaker packs into output.tar.gz."""
        return self.artifact or self.base / "output" / "data"

    @property
    def tensorboard(self) -> Path:
        """The folder of event files, which the platform copies while the job runs."""
        return (self.artifact or self.base / "output") / "tensorboard"

    @property
    def failure(self) -> Path:
        """The file with the reason of a failure, which the platform reads after a non-zero exit."""
        return self.base / "output" / "failure"

    @property
    def checkpoints(self) -> Path | None:
        """The path in checkpointconfig.json, else <base>/checkpoints if it exists, else None."""
        configured = read_json(self.config / "checkpointconfig.json").get("LocalPath")
        if configured:
            return Path(str(configured))
        default = self.base / "checkpoints"
        return default if default.is_dir() else None


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`, or {} if there is no file; else raise a UserError."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected a JSON object, got {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


@dataclass(frozen=True)
class Cluster:
    """The hosts of a job (resourceconfig.json); the first of the sorted names leads."""

    current_host: str = "localhost"
    hosts: tuple[str, ...] = field(default=("localhost",))
    network_interface: str = ""


def read_cluster(paths: JobPaths) -> Cluster:
    """Return the cluster in resourceconfig.json, or one host without the file."""
    return _cluster_of(read_json(paths.config / "resourceconfig.json"))


def read_processing_cluster(paths: JobPaths) -> Cluster:
    """Return the cluster of a Processing job, whose configuration is in `<base>/config`.

    Without that folder, it is the cluster of a training job that runs our program.
    """
    config = read_json(paths.processing_config / "resourceconfig.json")
    return _cluster_of(config) if config else read_cluster(paths)


def is_sharded_input(paths: JobPaths, folder: Path) -> bool:
    """Whether each host of a Processing job has other objects in `folder` (ShardedByS3Key)."""
    inputs = read_json(paths.processing_config / "processingjobconfig.json").get("ProcessingInputs")
    for entry in inputs if isinstance(inputs, list) else []:
        source = entry.get("S3Input") if isinstance(entry, dict) else None
        if not isinstance(source, dict) or source.get("S3DataDistributionType") != "ShardedByS3Key":
            continue
        local = Path(str(source.get("LocalPath", "")))
        if folder == local or local in folder.parents or folder in local.parents:
            return True
    return False


def _cluster_of(config: Mapping[str, Any]) -> Cluster:
    current = str(config.get("current_host", "localhost"))
    hosts = tuple(sorted(str(host) for host in config.get("hosts") or [current]))
    if current not in hosts:
        raise UserError(
            f"resourceconfig.json: current_host {current!r} is not among hosts {list(hosts)}"
        )
    return Cluster(current, hosts, str(config.get("network_interface_name") or ""))
