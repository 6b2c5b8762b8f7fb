"""Which backend a job runs on: the one it names, else the one its image is made for."""

from __future__ import annotations

import pytest

from image_classification.contract import environment
from image_classification.contract.interface import INTERFACES
from image_classification.errors import BackendError
from image_classification.training.settings import settings_of


def backend_of(interface: str, given: dict[str, str]) -> str:
    return settings_of(interface, INTERFACES[interface].parse(given)).backend


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


def test_an_image_made_for_an_unknown_backend_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.BACKEND.name, "tensorflw")
    with pytest.raises(BackendError, match="did you mean 'tensorflow'"):
        backend_of("tensorflow", {})
