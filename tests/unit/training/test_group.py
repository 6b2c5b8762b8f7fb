"""The processes of a job: through which network interface the hosts exchange gradients."""

from __future__ import annotations

import os

import pytest

from image_classification.contract.paths import Cluster
from image_classification.training.group import world_of

GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (GLOO, NCCL):
        monkeypatch.setenv(name, "")  # so that what the test sets is removed after it
        monkeypatch.delenv(name)


def variables(interface: str) -> list[str | None]:
    """The variables of NCCL and gloo on the first of two hosts."""
    world_of(Cluster("algo-1", ("algo-1", "algo-2"), interface))
    return [os.environ.get(name) for name in (NCCL, GLOO)]


def test_hosts_meet_on_the_interface_that_the_platform_names() -> None:
    assert variables("lo") == ["lo", "lo"]


def test_an_interface_that_the_job_names_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NCCL, "eth1")
    assert variables("lo") == ["eth1", "lo"]


@pytest.mark.parametrize("interface", ["", "ethwe"])
def test_an_interface_that_the_container_does_not_have_is_not_used(interface: str) -> None:
    assert variables(interface) == [None, None]
