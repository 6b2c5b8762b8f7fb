"""The contents of the images: size, labels, packages, no traces of the build."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.container.engine import (
    BACKENDS,
    CUDA_LOCKS,
    LOCKS,
    VERSION,
    docker,
    image_of,
    inspect,
    run,
    train_image,
)

MAX_MEGABYTES = {
    "serve-cpu": 550,
    "serve-cu12": 2300,
    "serve-cu13": 2300,
    "train-torch-cpu": 1600,
    "train-torch-cu13": 5000,
    "train-tensorflow-cpu": 2300,
    "train-tensorflow-cu12": 6000,
    "train-mxnet-cpu": 900,
    "train-mxnet-cu11": 4000,
}
CPU_LOCKS = ["serve-cpu", *(f"train-{name}-cpu" for name in BACKENDS)]
PYTHON_PACKAGES = """
import json
from importlib.metadata import distributions
print(json.dumps({d.name.lower().replace("_", "-"): d.version for d in distributions()}))
"""


@pytest.fixture(scope="module", params=[*CPU_LOCKS, *CUDA_LOCKS])
def lock(request: pytest.FixtureRequest) -> str:
    """The name of an image's lock, such as serve-cpu or train-torch-cu13."""
    return str(request.param)


@pytest.fixture
def image(lock: str) -> str:
    return image_of(lock)


def shell(image: str, script: str) -> list[str]:
    """Return the lines that a script prints in a container of the image."""
    done = run(image, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_image_is_not_larger_than_its_limit(
    image: str, lock: str, record_figure: Callable[[str, str], None]
) -> None:
    megabytes = inspect("image", image)["Size"] / 1e6
    record_figure(f"size of {image}", f"{megabytes:.0f} MB, bound {MAX_MEGABYTES[lock]} MB")
    assert megabytes <= MAX_MEGABYTES[lock]


def test_labels_entry_point_and_command_are_those_the_platform_expects(image: str) -> None:
    config = inspect("image", image)["Config"]
    labels = config["Labels"]
    assert labels["com.amazonaws.sagemaker.capabilities.multi-models"] == "true"
    assert labels["com.amazonaws.sagemaker.capabilities.accept-bind-to-port"] == "true"
    assert labels["org.opencontainers.image.version"] == VERSION
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.base.name"]
    assert labels["org.opencontainers.image.created"].startswith("20")
    assert config["Entrypoint"] == ["/usr/local/bin/entrypoint"]  # exec form: PID 1 gets SIGTERM
    assert config["Cmd"] == ["serve" if "-serve:" in image else "train"]
    assert "PYTHONUNBUFFERED=1" in config["Env"]
    assert not config.get("User"), "SageMaker expects root"


def test_help_lists_the_programs_of_the_image(image: str) -> None:
    text = docker("run", "--rm", "--network", "none", image, "--help").stdout
    listed = set(re.findall(r"(?m)^  (\w+)  ", text))
    train = {"train", "preprocess", "im2rec"} if "-train:" in image else set()
    assert listed == {"serve", *train}
    assert text.startswith("image-classification ")


def test_the_python_packages_are_exactly_those_of_the_lock(image: str, lock: str) -> None:
    names = [lock, "own-code" if lock.startswith("serve-") else "script-mode"]
    text = "".join((LOCKS / f"{name}.txt").read_text() for name in names)
    locked = dict(re.findall(r"(?m)^([\w.-]+)==([^\s;]+)", text))
    found = json.loads(shell(image, f"python3 -c '{PYTHON_PACKAGES}'")[0])
    assert found.pop("sagemaker-image-classification") == version("sagemaker-image-classification")
    assert found == {key.lower().replace("_", "-"): value for key, value in locked.items()}


def test_the_image_has_no_other_training_framework(image: str, lock: str) -> None:
    frameworks = {"torch", "tensorflow", "mxnet"} - {lock.split("-")[1]}
    script = "; ".join(
        f"python3 -c 'import {name}' 2>/dev/null && echo {name}" for name in frameworks
    )
    assert shell(image, f"{script}; true") == []


@pytest.mark.parametrize(
    "leftover",
    [
        "for name in gcc cc g++ make cmake git curl wget; do command -v $name; done",
        "ls /build /wheels /run/secrets /root/.cache /etc/pip.conf /root/.config",
        "find / -xdev -name pip.conf -o -xdev -name '*.whl' -o -xdev -name 'ca_bundle'",
        "find /var/lib/apt/lists /var/cache/apt /var/log -type f -size +0",
        "find /tmp /var/tmp -mindepth 1",
        "find /opt -name tests -type d -not -path '*/torch/*'",
        "find /usr/share/man -type f; find /opt/venv -name '*.pyi'",
        "find /opt/venv -name '*.h' -o -name '*.a' -o -name '*.c' -o -name '*.cpp'",
        "ls -d /opt/venv/lib/python3.11/site-packages/nvidia/*/include",
    ],
)
def test_no_build_tool_or_cache_is_in_the_image(image: str, leftover: str) -> None:
    assert shell(image, f"{leftover} 2>/dev/null; true") == []


def test_only_a_train_image_has_pip_for_the_requirements_of_scripts(image: str) -> None:
    found = shell(image, "command -v pip; find / -xdev -path '*/pip/__init__.py' 2>/dev/null; true")
    module = "/opt/venv/lib/python3.11/site-packages/pip/__init__.py"
    assert found == ([] if "-serve:" in image else ["/opt/venv/bin/pip", module])


def test_the_history_has_neither_secrets_nor_settings_of_the_build_machine(image: str) -> None:
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).stdout
    assert "entrypoint" in history
    for trace in ("index-url", "http:", "https:", "trusted-host", "token", "PASSWORD", "/wheels "):
        assert trace not in history
    environment = "\n".join(inspect("image", image)["Config"]["Env"])
    assert not re.search("(?i)pip_|proxy|cert|token|password|key", environment)


def test_the_inventory_lists_every_package_with_its_hash_and_licenses(image: str) -> None:
    inventory = "/opt/image-classification/inventory"
    listed = json.loads("".join(shell(image, f"cat {inventory}/python.cdx.json")))
    assert listed["bomFormat"] == "CycloneDX"
    names = {component["name"].lower().replace("_", "-") for component in listed["components"]}
    found = json.loads(shell(image, f"python3 -c '{PYTHON_PACKAGES}'")[0])
    assert names >= set(found) - {"sagemaker-image-classification"}
    system = json.loads("".join(shell(image, f"cat {inventory}/system.cdx.json")))
    packages = set(shell(image, "dpkg-query --show --showformat '${source:Package}\\n'"))
    assert len(system["components"]) >= len(packages)
    for component in (*listed["components"], *system["components"]):
        (digest,) = component["hashes"]
        assert digest["alg"] == "SHA-256" and re.fullmatch("[0-9a-f]{64}", digest["content"])
        for license in component["licenses"]:
            assert license.get("expression") or set(license["license"]) & {"id", "name"}
    in_words = [c["name"] for c in system["components"] if "expression" not in c["licenses"][0]]
    assert set(in_words) <= {"libcrypt1", "libxcrypt"}, "licensecheck knows all others"
    texts = "\n".join(shell(image, f"cat {inventory}/python-licenses.txt"))
    assert "Apache License" in texts and "flask" in texts.lower()
    assert shell(image, f"ls {inventory}/system-licenses")


def test_no_package_of_the_base_waits_for_an_upgrade(image: str) -> None:
    """The image was built this week, so the index of today can only have newer upgrades."""
    simulate = "apt-get update -qq && apt-get upgrade --simulate -qq"
    done = docker("run", "--rm", "--network", "host", "--entrypoint", "sh", image, "-c", simulate)
    if done.returncode:
        pytest.skip(f"a container reaches no package index here: {done.stderr[-200:]}")
    assert [line for line in done.stdout.splitlines() if line.startswith("Inst ")] == []


def test_the_dockerfiles_never_ask_a_public_registry_for_a_frontend() -> None:
    for path in REPOSITORY.glob("containers/*/Dockerfile"):
        assert "# syntax" not in path.read_text()


def test_the_image_has_pretrained_weights_as_safetensors_with_their_license() -> None:
    for backend in BACKENDS:
        names = shell(train_image(backend), "ls /opt/image-classification/weights")
        assert names == ["LICENSE", "efficientnet_lite0.safetensors"], Path(backend)
