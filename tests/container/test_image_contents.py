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
    LOCKS,
    SERVE_IMAGE,
    VERSION,
    docker,
    inspect,
    run,
    train_image,
)

MAX_MEGABYTES = {"serve": 550, "torch": 1600, "mxnet": 900, "tensorflow": 2300}
IMAGES = {"serve": SERVE_IMAGE} | {name: train_image(name) for name in BACKENDS}
PYTHON_PACKAGES = """
import json
from importlib.metadata import distributions
print(json.dumps({d.name.lower().replace("_", "-"): d.version for d in distributions()}))
"""


@pytest.fixture(scope="module", params=sorted(IMAGES))
def kind(request: pytest.FixtureRequest) -> str:
    """serve, or the backend of a train image."""
    return str(request.param)


def shell(image: str, script: str) -> list[str]:
    """Return the lines that a script prints in a container of the image."""
    done = run(image, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_image_is_not_larger_than_its_limit(
    kind: str, record_figure: Callable[[str, str], None]
) -> None:
    megabytes = inspect("image", IMAGES[kind])["Size"] / 1e6
    record_figure(f"size of {IMAGES[kind]}", f"{megabytes:.0f} MB, bound {MAX_MEGABYTES[kind]} MB")
    assert megabytes <= MAX_MEGABYTES[kind]


def test_labels_entry_point_and_command_are_those_the_platform_expects(kind: str) -> None:
    config = inspect("image", IMAGES[kind])["Config"]
    labels = config["Labels"]
    assert labels["com.amazonaws.sagemaker.capabilities.multi-models"] == "true"
    assert labels["com.amazonaws.sagemaker.capabilities.accept-bind-to-port"] == "true"
    assert labels["org.opencontainers.image.version"] == VERSION
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert config["Entrypoint"] == ["/usr/local/bin/entrypoint"]  # exec form: PID 1 gets SIGTERM
    assert config["Cmd"] == (["serve"] if kind == "serve" else ["train"])
    assert "PYTHONUNBUFFERED=1" in config["Env"]
    assert not config.get("User"), "SageMaker expects root"


def test_the_python_packages_are_exactly_those_of_the_lock(kind: str) -> None:
    names = ["serve-cpu", "own-code"] if kind == "serve" else [f"train-{kind}-cpu"]
    text = "".join((LOCKS / f"{name}.txt").read_text() for name in names)
    locked = dict(re.findall(r"(?m)^([\w.-]+)==([^\s;]+)", text))
    found = json.loads(shell(IMAGES[kind], f"python3 -c '{PYTHON_PACKAGES}'")[0])
    assert found.pop("sagemaker-image-classification") == version("sagemaker-image-classification")
    assert found == {key.lower().replace("_", "-"): value for key, value in locked.items()}


def test_the_serve_image_has_no_training_framework(kind: str) -> None:
    frameworks = {"torch", "tensorflow", "mxnet"} - {kind}
    script = "; ".join(
        f"python3 -c 'import {name}' 2>/dev/null && echo {name}" for name in frameworks
    )
    assert shell(IMAGES[kind], f"{script}; true") == []


@pytest.mark.parametrize(
    "leftover",
    [
        "for name in gcc cc g++ make cmake pip pip3 git curl wget; do command -v $name; done",
        "ls /opt/venv/bin/pip*; find / -xdev -type d -name pip",
        "ls /build /wheels /run/secrets /root/.cache /etc/pip.conf /root/.config",
        "find / -xdev -name pip.conf -o -xdev -name '*.whl' -o -xdev -name 'ca_bundle'",
        "find /var/lib/apt/lists /var/cache/apt /var/log -type f -size +0",
        "find /tmp /var/tmp -mindepth 1",
        "find /opt -name tests -type d -not -path '*/torch/*'",
        "find /usr/share/man -type f; find /opt/venv -name '*.pyi'",
        "find /opt/venv -name '*.h' -o -name '*.a' -o -name '*.c' -o -name '*.cpp'",
    ],
)
def test_no_build_tool_or_cache_is_in_the_image(kind: str, leftover: str) -> None:
    assert shell(IMAGES[kind], f"{leftover} 2>/dev/null; true") == []


def test_the_history_has_neither_secrets_nor_settings_of_the_build_machine(kind: str) -> None:
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", IMAGES[kind]).stdout
    assert "entrypoint" in history
    for trace in ("index-url", "http:", "https:", "trusted-host", "token", "PASSWORD", "/wheels "):
        assert trace not in history
    environment = "\n".join(inspect("image", IMAGES[kind])["Config"]["Env"])
    assert not re.search("(?i)pip_|proxy|cert|token|password|key", environment)


def test_the_inventory_lists_every_package_with_license_texts(kind: str) -> None:
    inventory = "/opt/image-classification/inventory"
    listed = json.loads("".join(shell(IMAGES[kind], f"cat {inventory}/python.cdx.json")))
    assert listed["bomFormat"] == "CycloneDX"
    names = {component["name"].lower().replace("_", "-") for component in listed["components"]}
    found = json.loads(shell(IMAGES[kind], f"python3 -c '{PYTHON_PACKAGES}'")[0])
    assert names >= set(found) - {"sagemaker-image-classification"}
    system = json.loads("".join(shell(IMAGES[kind], f"cat {inventory}/system.cdx.json")))
    packages = set(shell(IMAGES[kind], "dpkg-query --show --showformat '${source:Package}\\n'"))
    assert len(system["components"]) >= len(packages)
    texts = "\n".join(shell(IMAGES[kind], f"cat {inventory}/python-licenses.txt"))
    assert "Apache License" in texts and "flask" in texts.lower()
    assert shell(IMAGES[kind], f"ls {inventory}/system-licenses")


def test_the_dockerfiles_never_ask_a_public_registry_for_a_frontend() -> None:
    for path in REPOSITORY.glob("containers/*/Dockerfile"):
        assert "# syntax" not in path.read_text()


def test_the_image_has_pretrained_weights_as_safetensors_with_their_license() -> None:
    for backend in BACKENDS:
        names = shell(train_image(backend), "ls /opt/image-classification/weights")
        assert names == ["LICENSE", "efficientnet_lite0.safetensors"], Path(backend)
