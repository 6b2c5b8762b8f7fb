"""A network with its weights on a device: features and logits of images, in either mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mxnet as mx
import numpy as np

from image_classification.backends.base import ModelSpec, State
from image_classification.backends.initial_weights import initial_tensor
from image_classification.backends.mxnet import model
from image_classification.backends.mxnet.engine.tensors import Shapes, Tensors
from image_classification.backends.update_rules import is_decayed
from image_classification.data.samples import FloatArray, UInt8Array

_HEAD = ("head.weight", "head.bias")


class Network:
    """The graph of a specification, compiled once for all batch sizes, and the shapes it needs.

    Args:
        spec: of the model.
        context: MXNet device.
    """

    def __init__(self, spec: ModelSpec, context: Any) -> None:
        self._spec, self._context = spec, context
        self.graph = model.build(spec)
        shapes = dict(self.graph.shapes)
        shapes |= {"head.weight": (spec.classes, self.graph.width), "head.bias": (spec.classes,)}
        self.shapes: Shapes = shapes
        self._constants = {
            name: mx.nd.array(values, ctx=context) for name, values in self.graph.constants.items()
        }
        self._compiled = mx.nd.CachedOp(self.graph.features, (("static_alloc", True),))

    def learned_shapes(self) -> Shapes:
        """Of the parameters that learn; those that weight decay reaches first."""
        names = [name for name in self.shapes if ".running_" not in name]
        if self._spec.train_only_head:
            names = list(_HEAD)
        names.sort(key=lambda name: not is_decayed(self.shapes[name]))
        return {name: self.shapes[name] for name in names}

    def features(self, images: Any, tensors: Mapping[str, Any]) -> Any:
        """Float32 (N, width) of uint8 images (N, H, W, C), in training mode.

        The running statistics among `tensors` are updated.
        """
        known = {**self._constants, **tensors, model.IMAGES: images}
        return self._compiled(*(known[name] for name in self.graph.names))

    def predictor(self, tensors: Mapping[str, Any]) -> Callable[[Any], Any]:
        """A function from images to features in prediction mode, with the tensors as they are now.

        On CPUs BatchNorms and activations are fused into the convolutions (EfficientNet-Lite0: 72
        to 24 ms an image). What is fused is kept, hence a new function for new weights.

        Args:
            tensors: of every name or all but the head's. They are copied: MXNet rewrites the
                weights in oneDNN's layout where they lie, and would overwrite their neighbours.
        """
        symbol = self.graph.predicted
        if self._context.device_type == "cpu":
            symbol = symbol.optimize_for("MKLDNN")
        compiled = mx.nd.CachedOp(symbol, (("static_alloc", True),))
        renamed = dict(zip(self.graph.predicted.list_inputs(), self.graph.names, strict=True))
        names = [renamed[name] for name in symbol.list_inputs()]
        copies = {name: tensors[name].copy() for name in names if name in tensors}
        known = {**self._constants, **copies}

        def features(images: Any) -> Any:
            return compiled(*(known.get(name, images) for name in names))

        return features

    def logits(self, features: Any, tensors: Mapping[str, Any]) -> Any:
        """Float32 (N, classes)."""
        weight, bias = (tensors[name] for name in _HEAD)
        return mx.nd.broadcast_add(mx.nd.dot(features, weight, transpose_b=True), bias)

    def images(self, images: UInt8Array) -> Any:
        """A copy on the device; AlgorithmError where their shape is not the specification's."""
        self._spec.check_images(images)
        return mx.nd.array(images, ctx=self._context, dtype=np.uint8)


class NetworkTensors:
    """All tensors of a network: those that learn, and the frozen ones and running statistics.

    Args:
        network: whose.
        context: MXNet device.

    Attributes:
        learned, fixed: the two parts.
        views: every tensor by neutral name.
    """

    def __init__(self, network: Network, context: Any) -> None:
        learned = network.learned_shapes()
        self.learned = Tensors(learned, context)
        rest = {name: shape for name, shape in network.shapes.items() if name not in learned}
        self.fixed = Tensors(rest, context)
        self.views: dict[str, Any] = {**self.learned.views, **self.fixed.views}

    def initialise(self, seed: int) -> None:
        """Draw the first weights."""
        self.write(
            {name: initial_tensor(name, view.shape, seed) for name, view in self.views.items()}
        )

    def write(self, arrays: State) -> None:
        """Copy these in, by neutral name."""
        self.learned.write({k: v for k, v in arrays.items() if k in self.learned.views})
        self.fixed.write({k: v for k, v in arrays.items() if k in self.fixed.views})

    def read(self) -> dict[str, FloatArray]:
        """Copies on the host, by neutral name; waits for the device."""
        return {**self.learned.read(), **self.fixed.read()}

    def approach(self, newest: NetworkTensors, decay: float) -> None:
        """Become decay · self + (1 − decay) · newest; decay 0 makes them equal."""
        for mine, theirs in ((self.learned, newest.learned), (self.fixed, newest.fixed)):
            if decay == 0:  # whatever was there before, NaN included
                mine.flat[:] = theirs.flat
            else:
                mine.flat *= decay
                mine.flat += (1.0 - decay) * theirs.flat
