"""The choice of the backend by job and container image, and the errors of broken frameworks."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from image_classification import backends
from image_classification.backends.state import initial_tensor
from image_classification.cli import main
from image_classification.contract import environment
from image_classification.contract.interface import INTERFACES
from image_classification.errors import BackendError
from image_classification.training.settings import settings_of


def backend_of(interface: str, given: dict[str, str]) -> str:
    return settings_of(INTERFACES[interface].parse(given)).backend


@pytest.mark.parametrize("interface", INTERFACES)
def test_a_job_that_names_no_backend_runs_on_that_of_its_image(
    interface: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"num_classes": "3", "num_training_samples": "9"} if interface == "mxnet" else {}
    monkeypatch.setenv(environment.BACKEND.name, "reference")
    assert backend_of(interface, given) == "reference"
    assert backend_of(interface, given | {"backend": "torch"}) == "torch"
    monkeypatch.delenv(environment.BACKEND.name)
    assert backend_of(interface, given) == "torch"


def test_a_container_image_for_an_unknown_backend_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(environment.BACKEND.name, "tensorflw")
    with pytest.raises(BackendError, match="did you mean 'tensorflow'"):
        backend_of("tensorflow", {})


def test_an_unknown_format_is_an_error_that_lists_all_formats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert backends.of_format("saved_model") == backends.of_format("keras") == "tensorflow"
    arguments = ["--model", str(tmp_path), "--format", "saved_modle", "--output", "x"]
    assert main(["export", *arguments]) == 2
    message = "did you mean 'saved_model'? Formats: saved_model, keras"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("AttributeError", "module numpy has no attribute bool"),
        ("ValueError", "numpy.dtype size changed"),
        ("OSError", "libgomp.so.1: cannot open shared object file"),
    ],
)
@pytest.mark.parametrize("name", [name for name in backends.names() if name != "reference"])
def test_a_framework_that_cannot_be_imported_is_an_error_that_says_what_to_install(
    name: str, kind: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(f"raise {kind}({reason!r})")
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from image_classification.backends import load\n"
        "from image_classification.backends.base import *\n"
        "from image_classification.errors import BackendError\n"
        "spec = ModelSpec('resnet20', 2, (3, 32, 32), (0.0,), (1.0,))\n"
        f"try: load({name!r}).build(spec, OptimizerSpec(), World())\n"
        "except BackendError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert f"({kind}: {reason})" in run.stdout
    assert f"pip install 'sagemaker-image-classification[{name}]'" in run.stdout


def test_an_error_in_our_code_is_not_blamed_on_the_framework() -> None:
    with pytest.raises(ModuleNotFoundError), backends.import_errors("x needs y", "y"):
        importlib.import_module("image_classification.no_such_module")
    with pytest.raises(AttributeError), backends.import_errors("x needs y", "y"):
        initial_tensor(None, (1,), 0)  # type: ignore[arg-type]


def test_a_build_for_gpus_without_a_driver_names_the_driver_and_the_other_image() -> None:
    missing = "libcuda.so.1: cannot open shared object file: No such file or directory"
    with pytest.raises(BackendError) as caught, backends.import_errors("x needs y", "y"):
        raise OSError(missing)
    message = str(caught.value)
    assert message.startswith("x needs y, whose build for GPUs cannot be imported without NVIDIA's")
    assert missing in message and "use the image for CPUs" in message
    assert "pip install" not in message
