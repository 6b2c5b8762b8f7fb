"""Which hosts a job has, which of them this is, and whether each has its own part of an input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from image_classification.contract.environment.paths import JobPaths, read_json
from image_classification.errors import UserError


@dataclass(frozen=True)
class Cluster:
    """The hosts of a job (resourceconfig.json); the first of the sorted names leads."""

    current_host: str = "localhost"
    hosts: tuple[str, ...] = field(default=("localhost",))
    network_interface: str = ""


def read_cluster(paths: JobPaths) -> Cluster:
    """The cluster from resourceconfig.json; one host without it. Unknown keys are ignored."""
    return _cluster_of(read_json(paths.config / "resourceconfig.json"))


def read_processing_cluster(paths: JobPaths) -> Cluster:
    """The cluster of a Processing job, whose configuration is in `<base>/config`.

    Without it, that of a training job that runs our program.
    """
    config = read_json(paths.processing_config / "resourceconfig.json")
    return _cluster_of(config) if config else read_cluster(paths)


def is_sharded_input(paths: JobPaths, folder: Path) -> bool:
    """Whether a Processing job gives each host its own part of `folder` (ShardedByS3Key)."""
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
