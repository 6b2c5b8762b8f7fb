"""What each interface's optimiser hyperparameters become, for each optimiser."""

from __future__ import annotations

import pytest

from image_classification.backends.base import OptimizerSpec
from image_classification.contract.interface import INTERFACES
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
"""No value is a default, neither of the interface nor of the value object."""


# (interface, its optimiser) → (neutral name, momentum, weight decay): in the MXNet built-in the
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
def test_an_optimiser_gets_the_numbers_that_its_built_in_gives_it(
    interface: str, optimizer: str, name: str, momentum: float, weight_decay: float
) -> None:
    values = INTERFACES[interface].parse(GIVEN[interface] | {"optimizer": optimizer})
    is_tensorflow = interface == "tensorflow"
    assert settings_of(interface, values).optimizer == OptimizerSpec(
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


def test_the_table_has_every_optimiser_of_both_interfaces() -> None:
    marker = test_an_optimiser_gets_the_numbers_that_its_built_in_gives_it.pytestmark  # type: ignore[attr-defined]
    tested = {(row[0], row[1]) for row in marker[0].args[1]}
    declared = {
        (interface.name, choice)
        for interface in INTERFACES.values()
        for entry in interface.hyperparameters
        if entry.name == "optimizer"
        for choice in entry.choices
    }
    assert tested == declared
