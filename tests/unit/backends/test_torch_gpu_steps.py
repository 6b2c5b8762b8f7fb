"""What makes a training step slow or wrong on a GPU, found on the CPU: the operators of a step."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch
from device_checks.operators import COPY, SETTINGS, second_step, waiting

from image_classification import backends
from image_classification.backends.base import OptimizerSpec, World
from image_classification.backends.torch import engine as torch_engine
from image_classification.backends.torch import ranks
from tests.unit.backends.torch_cases import SMALL, change, make_batch


@pytest.mark.parametrize(("fields", "optimizer"), SETTINGS)
def test_a_step_never_waits_for_the_device(
    fields: dict[str, Any], optimizer: dict[str, Any]
) -> None:
    spec = change(**fields)
    names = second_step(spec, OptimizerSpec(**optimizer), make_batch(spec))
    assert len(names) > 50
    assert waiting(names) == []


@pytest.mark.parametrize(
    ("backbone", "fields", "most"),
    [
        ("resnet20", {}, 380),
        ("resnet20", {"averages_weights": True}, 390),  # before: 682
        ("resnet20", {"train_only_head": True}, 145),
        ("efficientnet_lite0", {}, 740),
    ],
)
def test_a_step_starts_no_more_operators_than_it_did(
    backbone: str, fields: dict[str, Any], most: int
) -> None:
    """Small ones cost a GPU their start, 5 to 10 µs each, whatever they compute."""
    spec = change(backbone=backbone, **fields)
    assert len(second_step(spec, OptimizerSpec(), make_batch(spec))) <= most


def test_every_convolution_gets_images_and_weights_with_the_channels_last() -> None:
    """In this layout a GPU's tensor cores need no copies."""
    engine: Any = backends.load("torch").build(SMALL, OptimizerSpec(), World(threads=1))
    wrong, seen = [], []

    def check(layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        for role, tensor in (("input", inputs[0]), ("weight", layer.weight), ("output", output)):
            seen.append(role)
            if not tensor.is_contiguous(memory_format=torch.channels_last):
                wrong.append((layer, role))

    for layer in engine._model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(check)
    for _ in range(2):
        engine.train_step(make_batch(), 0.05)
    assert len(seen) > 100 and wrong == []


# ---- devices


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """A PyTorch that reports two GPUs; returns those that were selected."""
    selected: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", selected.append)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    return selected


def test_a_rank_selects_its_gpu_so_that_it_takes_memory_on_no_other(
    two_gpus: list[torch.device],
) -> None:
    for rank, index in ((0, 0), (1, 1), (2, 0)):
        device = ranks.device_of(World(rank, 3, 1, (), 3))
        assert device == torch.device("cuda", index) and two_gpus.pop() == device
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("device", "local_size", "backend"),
    [("cuda:1", 2, "nccl"), ("cuda:1", 1, "nccl"), ("cuda:0", 3, "gloo"), ("cpu", 2, "gloo")],
)
def test_ranks_that_share_a_gpu_sum_with_gloo_because_nccl_refuses_them(
    two_gpus: list[torch.device],
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    local_size: int,
    backend: str,
) -> None:
    joined: dict[str, Any] = {}
    monkeypatch.setattr(ranks, "await_listeners", lambda *_: None)
    monkeypatch.setattr(ranks.distributed, "TCPStore", lambda *_, **__: Store())
    monkeypatch.setattr(
        ranks.distributed,
        "init_process_group",
        lambda backend, **given: joined.update(given, backend=backend),
    )
    ranks.Ranks(World(1, 3, 1, ("host:1", "host:2", "host:3"), local_size), torch.device(device))
    assert joined["backend"] == backend
    assert joined["device_id"] == (torch.device(device) if backend == "nccl" else None)


class Store:
    """A store in which all ranks are ready."""

    def set(self, name: str, value: str) -> None:
        pass

    def check(self, names: list[str]) -> bool:
        return True


def test_a_wait_inside_a_step_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = torch_engine._sample_losses

    def reading(*arguments: Any) -> torch.Tensor:
        values = losses(*arguments)
        return values * float(values[0] > -1) + torch.tensor(0.0)

    monkeypatch.setattr(torch_engine, "_sample_losses", reading)
    names = waiting(second_step(SMALL, OptimizerSpec(), make_batch()))
    assert any("_local_scalar_dense" in name for name in names)
    assert any(COPY in name for name in names)
