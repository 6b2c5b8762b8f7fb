"""Shared networks as MXNet symbols: each kind of layer in MXNet's operators."""

from __future__ import annotations

from typing import Any

import mxnet as mx
import numpy as np

from image_classification.backends.networks import (
    INPUT,
    Activation,
    Add,
    Convolution,
    Layer,
    MaxPool,
    Mean,
    Network,
    Norm,
)
from image_classification.data.samples import FloatArray


def symbol(network: Network, images: Any, learns: bool = True) -> Any:
    """The features (N, width) of normalised images; inputs have the tensors' neutral names.

    Args:
        network: its layers.
        images: symbol of float32 N·C·H·W.
        learns: whether in the form that trains faster, or the one that oneDNN can fuse.
    """
    values = {INPUT: images}
    for layer in network.layers:
        inputs = [values[name] for name in layer.inputs]
        values[layer.name] = _applied(layer, inputs, learns)
    return values[network.layers[-1].name]


def fixed_scales(network: Network) -> dict[str, FloatArray]:
    """Inputs of the symbol that are no tensors of the network: scales that are always 1."""
    return {
        f"{layer.name}.weight": np.ones(layer.width, np.float32)
        for layer in network.layers
        if isinstance(layer, Norm) and not layer.learns_scale
    }


def _applied(layer: Layer, inputs: list[Any], learns: bool) -> Any:
    value = inputs[0]
    if isinstance(layer, Convolution):
        return _convolution(layer, value)
    if isinstance(layer, Norm):
        return _norm(layer, value)
    if isinstance(layer, Activation):
        return _activation(layer, value, learns)
    if isinstance(layer, MaxPool):
        (top, _), (left, _) = layer.padding  # equal on both sides
        sides = {"kernel": (layer.kernel,) * 2, "stride": (layer.stride,) * 2, "pad": (top, left)}
        return mx.sym.Pooling(value, pool_type="max", name=layer.name, **sides)
    if isinstance(layer, Add):
        return mx.sym.elemwise_add(*inputs, name=layer.name)
    if isinstance(layer, Mean):
        return mx.sym.mean(value, axis=(2, 3), name=layer.name)
    raise TypeError(f"no operator for {layer}")


def _convolution(layer: Convolution, value: Any) -> Any:
    (top, bottom), (left, right) = layer.padding
    pad = (top, left)
    if (top, left) != (bottom, right):  # MXNet's convolution pads both sides alike
        widths = (0, 0, 0, 0, top, bottom, left, right)
        value, pad = mx.sym.pad(value, mode="constant", pad_width=widths, constant_value=0), (0, 0)
    return mx.sym.Convolution(
        value,
        mx.sym.var(f"{layer.name}.weight"),
        kernel=layer.kernel,
        stride=(layer.stride, layer.stride),
        pad=pad,
        num_filter=layer.width,
        num_group=layer.groups,
        no_bias=True,
        name=layer.name,
    )


def _norm(layer: Norm, value: Any) -> Any:
    tensors = ("weight", "bias", "running_mean", "running_var")
    return mx.sym.BatchNorm(
        value,
        *(mx.sym.var(f"{layer.name}.{tensor}") for tensor in tensors),
        eps=layer.epsilon,
        momentum=layer.momentum,
        fix_gamma=not layer.learns_scale,
        name=layer.name,
    )


def _activation(layer: Activation, value: Any, learns: bool) -> Any:
    """ReLU, or ReLU6: in training in a form that costs a third less of a step than `clip`.

    The slice copies all, and so gives the BatchNorm before it a gradient in plain layout: MXNet
    hands oneDNN two layouts otherwise, which takes its unoptimised code, 100 times slower.
    """
    if layer.ceiling is None:
        return mx.sym.Activation(value, act_type="relu", name=layer.name)
    if not learns:
        return mx.sym.clip(value, 0.0, layer.ceiling, name=layer.name)
    floored = mx.sym._internal._maximum_scalar(value, scalar=0.0)
    clipped = mx.sym._internal._minimum_scalar(floored, scalar=layer.ceiling)
    return mx.sym.slice_axis(clipped, axis=0, begin=0, end=None, name=layer.name)
