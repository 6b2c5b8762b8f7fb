"""The optimizers' formulas, which define what every backend computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from image_classification.backends.base import OptimizerSpec
from image_classification.backends.update_rules import (
    RULES,
    Slots,
    checked_slots,
    clip_factor,
    rule_of,
    update,
)
from image_classification.errors import ArtifactError, BackendError

SETTINGS = {
    "momentum": 0.9, "weight_decay": 0.1, "epsilon": 1e-3, "initial_accumulator": 0.1,
    "beta_1": 0.7, "beta_2": 0.6, "decay": 0.8,
}  # fmt: skip
"""None is a default, neither ours nor PyTorch's: a number that is not handed on is noticed."""


def run(name: str, steps: int = 3, **changes: Any) -> tuple[dict[str, np.ndarray], Slots]:
    """Some updates of a weight and a bias, with gradients from a fixed seed."""
    spec = OptimizerSpec(**{"name": name, **SETTINGS, **changes})
    generator = np.random.default_rng(1)
    parameters = {"w": generator.normal(size=(3, 2)), "b": generator.normal(size=3)}
    slots: Slots = {}
    for _ in range(steps):
        gradients = {key: generator.normal(size=p.shape) for key, p in parameters.items()}
        parameters = update(parameters, gradients, slots, 0.1, spec)
    return parameters, slots


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("name", RULES)
def test_a_rule_computes_the_same_as_torch_optim(name: str, momentum: float) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    optimizer = pytest.importorskip("image_classification.backends.torch.optimizer")
    spec = OptimizerSpec(name=name, **SETTINGS | {"momentum": momentum})
    generator = np.random.default_rng(1)
    start = {"w": generator.normal(size=(3, 2)), "b": generator.normal(size=3)}
    learning = {key: torch.nn.Parameter(torch.from_numpy(value)) for key, value in start.items()}
    theirs = optimizer.build(spec, learning)
    for group in theirs.param_groups:
        group["lr"] = 0.1
    for _ in range(3):
        for parameter in learning.values():
            parameter.grad = torch.from_numpy(generator.normal(size=tuple(parameter.shape)))
        theirs.step()
    ours, slots = run(name, momentum=momentum)
    for key, value in ours.items():
        np.testing.assert_allclose(value, learning[key].detach().numpy(), rtol=1e-7)
    saved = optimizer.read_state(theirs, learning)
    assert {f"optimizer/{slot}/{key}" for key, own in slots.items() for slot in own} == set(saved)
    for key, own in slots.items():
        for slot, value in own.items():
            np.testing.assert_allclose(value, saved[f"optimizer/{slot}/{key}"], rtol=1e-6)


def test_weight_decay_includes_weights_and_excludes_vectors() -> None:
    decayed, plain = run("sgd", 1, weight_decay=0.5)[0], run("sgd", 1, weight_decay=0.0)[0]
    start = np.random.default_rng(1).normal(size=(3, 2))
    np.testing.assert_allclose(decayed["w"], plain["w"] - 0.1 * 0.5 * start)
    assert np.array_equal(decayed["b"], plain["b"])


def test_clipping_multiplies_all_gradients_by_one_factor() -> None:
    gradients = {"w": np.array([[3.0]]), "b": np.array([4.0])}
    assert clip_factor(gradients, 1.0) == pytest.approx(0.2, rel=1e-6)
    assert clip_factor(gradients, 6.0) == 1.0 and clip_factor(gradients, 0.0) == 1.0


def test_saved_slots_are_returned_by_parameter() -> None:
    _, slots = run("adam")
    state = {f"optimizer/{slot}/{key}": v for key, own in slots.items() for slot, v in own.items()}
    found = checked_slots(state, {"w": (3, 2), "b": (3,)}, OptimizerSpec(name="adam"))
    assert found.keys() == slots.keys()
    assert all(found[key][slot] is slots[key][slot] for key in slots for slot in slots[key])


@pytest.mark.parametrize(
    ("key", "shape"),
    [("exp_avg/w", (3, 2)), ("momentum_buffer/w", (2, 3)), ("momentum_buffer/v", (3, 2))],
)
def test_slots_of_another_optimizer_or_network_are_rejected(key: str, shape: Any) -> None:
    with pytest.raises(
        ArtifactError, match=rf"'optimizer/{key}'.* than this job's sgd: resume with"
    ):
        checked_slots({f"optimizer/{key}": np.zeros(shape)}, {"w": (3, 2)}, OptimizerSpec())


def test_an_unknown_optimizer_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(BackendError, match=r"'x' has no optimizer 'adma'; did you mean 'adam'\?"):
        rule_of(OptimizerSpec(name="adma"), "x")
