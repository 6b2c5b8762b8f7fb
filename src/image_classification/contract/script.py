"""What a user's own training script is told: its arguments and the SM_ variables.

The contract is that of sagemaker-training 5.x (`src/sagemaker_training/environment.py`, `params.py`
and `mapping.py`), written anew because the toolkit needs a compiler to be installed, brings boto3,
gevent and paramiko, waits up to 15 minutes for host names, logs every hyperparameter and variable,
and does not forward SIGTERM.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image_classification.contract import environment
from image_classification.contract.environment import JobPaths, read_cluster, read_json
from image_classification.contract.hyperparameters import unquote

BUILT_IN_PROGRAM = "transfer_learning.py"
"""The TensorFlow built-in's jobs carry the name of its own script; such a job is ours to run."""

_PREFIX = "sagemaker_"


@dataclass(frozen=True)
class Script:
    """A script that a job asks for.

    Attributes:
        program: its path inside the code folder, as train.py.
        submitted: where the code is, as the job says it: a folder, a tar file or s3://…; or "".
    """

    program: str
    submitted: str


def requested_script(given: Mapping[str, object]) -> Script | None:
    """The script of SAGEMAKER_PROGRAM or of the hyperparameter sagemaker_program, if any."""

    def named(key: str) -> str:
        value = given.get(key)
        return unquote(value) if isinstance(value, str) else ""

    program = environment.PROGRAM.read()
    if not program and named("sagemaker_program") != BUILT_IN_PROGRAM:
        program = named("sagemaker_program")
    if not program:
        return None
    submitted = environment.SUBMIT_DIRECTORY.read() or named("sagemaker_submit_directory")
    return Script(program, submitted)


def decoded(given: Mapping[str, object]) -> dict[str, Any]:
    """The script's hyperparameters, each JSON-decoded where it is JSON; ours are left out."""
    return {name: _decode(value) for name, value in given.items() if not name.startswith(_PREFIX)}


def arguments(hyperparameters: Mapping[str, Any]) -> list[str]:
    """`--name value` for each, sorted by name; one letter is `-n value`, lists are JSON."""
    words = []
    for name, value in sorted(hyperparameters.items()):
        words += [f"-{name}" if len(name) == 1 else f"--{name}", _text(value)]
    return words


def variables(
    paths: JobPaths, given: Mapping[str, object], script: Script, code: Path, gpus: int
) -> dict[str, str]:
    """The SM_ variables of the script.

    Args:
        paths, given: the job's tree and its hyperparameters.json.
        script, code: what runs, and the folder it is in.
        gpus: how many this machine has.
    """
    own = decoded(given)
    data_config = read_json(paths.config / "inputdataconfig.json")
    channels = {name: str(paths.data / name) for name in sorted(data_config)}
    values: dict[str, Any] = _folders(paths) | _machines(paths, gpus)
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


def _machines(paths: JobPaths, gpus: int) -> dict[str, Any]:
    """The hosts, as resourceconfig.json names them, and this one's processors."""
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
        "num_gpus": gpus,
        "num_cpus": environment.cpu_count(),
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
