"""A job of the MXNet built-in, as the public example trains it: symbol, Module API, checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np

_NORM = {"eps": 2e-5, "momentum": 0.9}


def resnet_symbol(
    units: Sequence[int],
    filters: Sequence[int],
    classes: int,
    height: int,
    bottleneck: bool = False,
    multi_label: bool = False,
) -> Any:
    """ResNet v2 as apache/mxnet `example/image-classification/symbols/resnet.py` builds it."""
    body = mx.sym.identity(mx.sym.Variable("data"), name="id")
    body = mx.sym.BatchNorm(body, fix_gamma=True, name="bn_data", **_NORM)
    if height <= 32:
        body = _convolution(body, filters[0], 3, 1, "conv0")
    else:
        body = _convolution(body, filters[0], 7, 2, "conv0")
        body = _active(body, "bn0", "relu0")
        body = mx.sym.Pooling(body, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max")
    for stage, count in enumerate(units, start=1):
        for unit in range(1, count + 1):
            stride = 2 if unit == 1 and stage > 1 else 1
            name = f"stage{stage}_unit{unit}"
            body = _unit(body, filters[stage], stride, unit > 1, name, bottleneck)
    body = _active(body, "bn1", "relu1")
    body = mx.sym.Pooling(body, global_pool=True, kernel=(7, 7), pool_type="avg", name="pool1")
    logits = mx.sym.FullyConnected(mx.sym.Flatten(body), num_hidden=classes, name="fc1")
    output = mx.sym.LogisticRegressionOutput if multi_label else mx.sym.SoftmaxOutput
    return output(logits, name="softmax")


def _unit(body: Any, width: int, stride: int, match: bool, name: str, bottleneck: bool) -> Any:
    first = active = _active(body, f"{name}_bn1", f"{name}_relu1")
    if bottleneck:
        inner = width // 4
        active = _convolution(active, inner, 1, 1, f"{name}_conv1")
        active = _active(active, f"{name}_bn2", f"{name}_relu2")
        active = _convolution(active, inner, 3, stride, f"{name}_conv2")
        active = _active(active, f"{name}_bn3", f"{name}_relu3")
        last = _convolution(active, width, 1, 1, f"{name}_conv3")
    else:
        active = _convolution(active, width, 3, stride, f"{name}_conv1")
        active = _active(active, f"{name}_bn2", f"{name}_relu2")
        last = _convolution(active, width, 3, 1, f"{name}_conv2")
    shortcut = body if match else _convolution(first, width, 1, stride, f"{name}_sc")
    return last + shortcut


def _convolution(body: Any, width: int, kernel: int, stride: int, name: str) -> Any:
    sides = {"kernel": (kernel, kernel), "stride": (stride, stride), "pad": (kernel // 2,) * 2}
    return mx.sym.Convolution(body, num_filter=width, no_bias=True, name=name, **sides)


def _active(body: Any, norm: str, relu: str) -> Any:
    body = mx.sym.BatchNorm(body, fix_gamma=False, name=norm, **_NORM)
    return mx.sym.Activation(body, act_type="relu", name=relu)


def train_built_in(folder: Path, symbol: Any, shape: tuple[int, int, int], epochs: int = 2) -> Any:
    """Train by the Module API on noise and leave what the built-in leaves; returns the module."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (16, *shape)).astype(np.float32)
    images -= np.reshape((123.68, 116.779, 103.939), (1, 3, 1, 1))
    classes = int(symbol.get_internals()["fc1_output"].attr("num_hidden"))
    labels = np.arange(16) % classes
    if symbol.list_arguments()[-1] == "softmax_label" and "Logistic" in symbol.tojson():
        labels = generator.integers(0, 2, (16, classes)).astype(np.float32)
    batches = mx.io.NDArrayIter(images, labels, batch_size=8, label_name="softmax_label")
    module = mx.mod.Module(symbol, context=mx.cpu())
    module.fit(
        batches,
        num_epoch=epochs,
        eval_metric=mx.metric.Loss(),
        initializer=mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2),
        optimizer_params={"learning_rate": 0.002},
        epoch_end_callback=mx.callback.do_checkpoint(str(folder / "image-classification")),
    )
    shapes = [{"name": "data", "shape": [1, *shape]}]
    (folder / "model-shapes.json").write_text(json.dumps(shapes))
    return module


def predict(module: Any, images: np.ndarray) -> np.ndarray:
    """MXNet's own probabilities of 8 uint8 images, N·H·W·C: the batch the module was bound for."""
    data = images.transpose(0, 3, 1, 2).astype(np.float32)
    data -= np.reshape((123.68, 116.779, 103.939), (1, 3, 1, 1))
    batches = mx.io.NDArrayIter(data, batch_size=len(data))
    probabilities: np.ndarray = module.predict(batches).asnumpy()
    return probabilities
