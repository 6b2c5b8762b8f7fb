# mypy: allow-subclassing-any
"""The classifier as an ONNX file, checked against PyTorch before it is written.

Shared backbones use the writer of all backends (`onnx_graph`). PyTorch's TorchScript exporter
traces the others: it takes 0.7–1.2 s; the newer exporter takes 3–12 s and writes this machine's
paths and source lines into every node.
"""

import copy
import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from image_classification.backends import networks, onnx_graph
from image_classification.backends.base import ModelSpec
from image_classification.backends.torch.model import Classifier
from image_classification.samples import FloatArray, UInt8Array

_KNOWN_WARNINGS = (
    "You are using the legacy|The feature will be removed|Constant folding - Only steps=1"
)


def export(classifier: Classifier, spec: ModelSpec, path: Path, temperature: float = 1.0) -> None:
    """Write the ONNX file of a classifier on any device; see `base.Engine.export`."""
    model = copy.deepcopy(classifier).cpu().eval()

    def predict(images: UInt8Array) -> FloatArray:
        with torch.inference_mode():
            return np.asarray(model(torch.from_numpy(images)).numpy())

    if networks.is_shared(spec.backbone):
        network = networks.network(spec.backbone, spec.input_shape)
        weights = {name: tensor.numpy() for name, tensor in model.tensors()}
        onnx_graph.write(path, network, weights, spec, temperature, predict)
    else:
        graph = _trace(_Probabilities(model, temperature, spec.multi_label), spec.input_shape)
        onnx_graph.write_checked(path, graph, spec, temperature, predict)


class _Probabilities(nn.Module):
    def __init__(self, classifier: Classifier, temperature: float, is_multi_label: bool) -> None:
        super().__init__()
        self.classifier = classifier
        self.temperature = temperature
        self.is_multi_label = is_multi_label

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.classifier(images)
        if self.temperature != 1:
            logits = logits / self.temperature
        return torch.sigmoid(logits) if self.is_multi_label else torch.softmax(logits, dim=1)


def _trace(module: nn.Module, input_shape: tuple[int, int, int]) -> bytes:
    channels, height, width = input_shape
    images = torch.zeros(2, height, width, channels, dtype=torch.uint8)
    buffer = io.BytesIO()
    free = {0: "batch"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _KNOWN_WARNINGS)
        torch.onnx.export(
            module.eval(),
            (images,),
            buffer,
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_axes={"images": free, "probabilities": free},
            opset_version=onnx_graph.OPSET,
            dynamo=False,
        )
    return onnx_graph.serialized(onnx.load_from_string(buffer.getvalue()))
