"""The reference backend: its gradients by difference quotients, and what it rejects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from image_classification import backends
from image_classification.backends.base import ModelSpec, OptimizerSpec, World
from image_classification.backends.networks import layers
from image_classification.backends.reference import model
from image_classification.backends.reference.engine import sample_losses
from image_classification.errors import BackendError
from tests.unit.backends.torch_cases import SMALL, change, make_batch

UNEVEN = ((0, 1), (1, 2))
LAYERS: list[layers.Layer] = [
    layers.Convolution("layer", ("x",), 4, 6, (3, 2), 2, padding=UNEVEN),
    layers.Convolution("layer", ("x",), 4, 4, (3, 3), 2, groups=4, padding=UNEVEN),
    layers.Norm("layer", ("x",), 4, 1e-3, 0.9),
    layers.Norm("layer", ("x",), 4, 1e-3, 0.9, learns_scale=False),
    layers.Activation("layer", ("x",)),
    layers.Activation("layer", ("x",), 0.5),
    layers.MaxPool("layer", ("x",)),
    layers.Add("layer", ("x", "y")),
    layers.Mean("layer", ("x",)),
]


def tensors_of(layer: layers.Layer, generator: np.random.Generator) -> dict[str, Any]:
    if isinstance(layer, layers.Convolution):
        shape = (layer.width, layer.width_in // layer.groups, *layer.kernel)
        return {"layer.weight": generator.normal(size=shape)}
    if isinstance(layer, layers.Norm):
        names = ["layer.weight", "layer.bias"][0 if layer.learns_scale else 1 :]
        return {name: generator.normal(size=4) for name in names}
    return {}


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_gradients_are_the_limits_of_difference_quotients(layer: layers.Layer) -> None:
    generator = np.random.default_rng(0)
    inputs = [generator.normal(size=(3, 4, 5, 6)) for _ in layer.inputs]
    tensors = tensors_of(layer, generator)

    def output() -> Any:
        found = dict(tensors)
        if isinstance(layer, layers.Norm):
            statistics = model.statistics(inputs[0])
            found |= dict(zip(("layer.running_mean", "layer.running_var"), statistics, strict=True))
        return model.forward(layer, inputs, found)

    first = output()
    weights = generator.normal(size=first.shape)  # the objective is their sum with the output
    of_inputs, of_tensors = model.backward(layer, inputs, first, weights, tensors)
    assert of_tensors.keys() == tensors.keys()
    pairs = [*zip(inputs, of_inputs, strict=True)]
    pairs += [(tensors[name], of_tensors[name]) for name in tensors]
    for values, gradient in pairs:
        assert gradient.shape == values.shape
        for index in list(np.ndindex(values.shape))[:: max(1, values.size // 40)]:
            kept = values[index]
            sums = []
            for step in (1e-6, -1e-6):
                values[index] = kept + step
                sums.append(float((weights * output()).sum()))
            values[index] = kept
            assert gradient[index] == pytest.approx((sums[0] - sums[1]) / 2e-6, abs=1e-6)


@pytest.mark.parametrize("spec", [SMALL, change(multi_label=True, positive_weights=(1, 2, 3, 0.5))])
def test_the_gradient_of_a_loss_is_the_limit_of_difference_quotients(spec: ModelSpec) -> None:
    generator = np.random.default_rng(1)
    logits, targets = generator.normal(size=(2, 4)) * 3, generator.random((2, 4))
    losses, gradients = sample_losses(logits, targets, spec)
    assert losses.shape == (2,)
    for index in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[index] = 1e-6
        sides = [sample_losses(logits + sign * step, targets, spec)[0].sum() for sign in (1, -1)]
        assert gradients[index] == pytest.approx((sides[0] - sides[1]) / 2e-6, abs=1e-6)


def test_steps_lower_the_loss_of_a_fixed_batch() -> None:
    engine = backends.load("reference").build(SMALL, OptimizerSpec(), World())
    losses = [engine.train_step(make_batch(), 0.05).fetch()[0] for _ in range(6)]
    assert losses[-1] < 0.8 * losses[0]


def test_several_processes_and_compilation_are_errors_that_say_what_to_set() -> None:
    build = backends.load("reference").build
    with pytest.raises(BackendError, match="trains in one process, and this job has 2: use one"):
        build(SMALL, OptimizerSpec(), World(0, 2))
    with pytest.raises(BackendError, match="set compile=off"):
        build(change(compiles=True), OptimizerSpec(), World())
    with pytest.raises(BackendError, match=r"'adma'; did you mean 'adam'\?"):
        build(SMALL, OptimizerSpec(name="adma"), World())
    with pytest.raises(BackendError, match="'reference' has no backbone 'timm/x'"):
        backends.catalog("reference").find("timm/x")
