"""The settings that follow from the optimizer hyperparameters of each interface."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from image_classification.backends.base import OptimizerSpec
from image_classification.backends.update_rules import update
from image_classification.contract.interface import INTERFACES
from image_classification.errors import HyperparameterError
from image_classification.training.settings import settings_of

GIVEN = {
    "mxnet": {
        "momentum": "0.8", "weight_decay": "0.02", "beta_1": "0.7", "beta_2": "0.6",
        "eps": "0.001", "gamma": "0.5", "clip_gradient_norm": "3",
    },
    "tensorflow": {
        "momentum": "0.8", "weight_decay": "0.02", "beta_1": "0.7", "beta_2": "0.6",
        "epsilon": "0.001", "rho": "0.5", "initial_accumulator_value": "0.3",
        "regularizers_l2": "0.04", "clip_gradient_norm": "3",
    },
}  # fmt: skip
"""No value is a default of the interface or of the value object."""


# (interface, its optimizer) → (neutral name, momentum, weight decay): in the MXNet built-in the
# latter two act for sgd and nag alone, in the TensorFlow one momentum for three.
@pytest.mark.parametrize(
    ("interface", "optimizer", "name", "momentum", "weight_decay"),
    [
        ("mxnet", "sgd", "sgd", 0.8, 0.02),
        ("mxnet", "nag", "nag", 0.8, 0.02),
        ("mxnet", "adam", "adam", 0.0, 0.0),
        ("mxnet", "rmsprop", "rmsprop", 0.0, 0.0),
        ("tensorflow", "sgd", "sgd", 0.8, 0.02),
        ("tensorflow", "nesterov", "nag", 0.8, 0.02),
        ("tensorflow", "rmsprop", "rmsprop", 0.8, 0.02),
        ("tensorflow", "adam", "adam", 0.0, 0.02),
        ("tensorflow", "adagrad", "adagrad", 0.0, 0.02),
        ("tensorflow", "adadelta", "adadelta", 0.0, 0.02),
    ],
)
def test_an_optimizer_gets_the_same_numbers_as_in_its_built_in(
    interface: str, optimizer: str, name: str, momentum: float, weight_decay: float
) -> None:
    values = INTERFACES[interface].parse(GIVEN[interface] | {"optimizer": optimizer})
    is_tensorflow = interface == "tensorflow"
    assert settings_of(values).optimizer == OptimizerSpec(
        name=name,
        momentum=momentum,
        weight_decay=weight_decay,
        beta_1=0.7,
        beta_2=0.6,
        epsilon=0.001,
        decay=0.5,
        initial_accumulator=0.3 if is_tensorflow else 0.0,
        head_l2=0.04 if is_tensorflow else 0.0,
        clip_gradient_norm=3.0,
    )


def test_changed_hyperparameters_that_the_optimizer_ignores_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    given = {"optimizer": "adam", "momentum": "0.8", "weight_decay": "0.02", "beta_1": "0.7"}
    INTERFACES["mxnet"].parse(given | {"gamma": "0.9"})
    assert caplog.messages == [
        f"{name} has no effect with optimizer=adam: it works with sgd, nag"
        for name in ("momentum=0.8", "weight_decay=0.02")
    ], "gamma was given, as its default"


def test_the_strength_of_a_correction_that_is_off_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    given = {"logit_adjust_tau": "1.0"}
    INTERFACES["mxnet"].parse(given | {"class_weights": "logit_adjust"})
    assert caplog.messages == []
    INTERFACES["mxnet"].parse(given | {"class_weights": "balanced"})
    (line,) = caplog.messages
    assert line == "logit_adjust_tau=1.0 has no effect without class_weights=logit_adjust"


def updated(interface: str, given: dict[str, str]) -> np.ndarray:
    """A weight after three updates by the job's optimizer."""
    spec = settings_of(INTERFACES[interface].parse(given)).optimizer
    generator, slots = np.random.default_rng(0), dict[str, dict[str, np.ndarray]]()
    parameters = {"w": generator.normal(size=(3, 2))}
    for _ in range(3):
        gradients = {"w": generator.normal(size=(3, 2))}
        parameters = update(parameters, gradients, slots, 0.1, spec)
    return parameters["w"]


@pytest.mark.parametrize("interface", sorted(INTERFACES))
def test_a_number_acts_only_with_the_optimizers_of_its_declaration(
    interface: str,
) -> None:
    entries = {entry.name: entry for entry in INTERFACES[interface].hyperparameters}
    for optimizer in entries["optimizer"].choices:
        plain = updated(interface, {"optimizer": optimizer})
        for name in sorted(GIVEN[interface].keys() - {"regularizers_l2", "clip_gradient_norm"}):
            given = {"optimizer": optimizer, name: GIVEN[interface][name]}
            acts = not np.array_equal(updated(interface, given), plain)
            declared = entries[name].optimizers
            assert acts == (not declared or optimizer in declared), (optimizer, name)


def test_the_table_has_every_optimizer_of_both_interfaces() -> None:
    marker = test_an_optimizer_gets_the_same_numbers_as_in_its_built_in.pytestmark  # type: ignore[attr-defined]
    tested = {(row[0], row[1]) for row in marker[0].args[1]}
    declared = {
        (interface.name, choice)
        for interface in INTERFACES.values()
        for entry in interface.hyperparameters
        if entry.name == "optimizer"
        for choice in entry.choices
    }
    assert tested == declared


@pytest.mark.parametrize(
    ("interface", "given", "message"),
    [
        ("mxnet", {"mini_batch_size": str(2**62)}, f"mini_batch_size={2**62} and image_shape="),
        ("mxnet", {"image_shape": f"3,{10**30},{10**30}"}, f"image_shape=3,{10**30}"),
        ("tensorflow", {"image_shape": f"3,{2**31},{2**31}"}, "batch_size=32 and image_shape=3,"),
    ],
)
def test_a_batch_that_no_machine_can_hold_is_refused(
    interface: str, given: dict[str, str], message: str
) -> None:
    with pytest.raises(HyperparameterError, match=message):
        settings_of(INTERFACES[interface].parse(given))
