# mypy: allow-subclassing-any
"""The classifier as an ONNX file, checked against PyTorch before anybody relies on it.

In: a `Classifier`. Out: a file with input `images` (uint8 N·H·W·C, N free) and output
`probabilities` (float32 N, classes). PyTorch's TorchScript exporter is used: 0.7–1.2 s where the
newer one takes 3–12 s and writes this machine's paths and source lines into every node.
"""

from __future__ import annotations

import copy
import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from image_classification.backends.torch.model import Classifier
from image_classification.data.samples import FloatArray, UInt8Array
from image_classification.errors import AlgorithmError

TOLERANCE = 1e-4  # largest difference of a probability between ONNX Runtime and PyTorch
_CHECKED_BATCHES = (1, 2, 7)
_OPSET = 17
_KNOWN_WARNINGS = (
    "You are using the legacy|The feature will be removed|Constant folding - Only steps=1"
)


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


def export(
    classifier: Classifier,
    input_shape: tuple[int, int, int],
    path: Path,
    temperature: float = 1.0,
    *,
    is_multi_label: bool = False,
) -> None:
    """Write the file; the same weights give the same bytes.

    Args:
        classifier: on any device; it is left as it was.
        input_shape: (channels, height, width).
        path: of the file to write; its folder exists.
        temperature: > 0; what the logits are divided by first.
        is_multi_label: a sigmoid for every class instead of a softmax over all.

    Raises:
        AlgorithmError: ONNX Runtime and PyTorch disagree by more than TOLERANCE.
    """
    channels, height, width = input_shape
    module = _Probabilities(copy.deepcopy(classifier).cpu(), temperature, is_multi_label).eval()
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (max(_CHECKED_BATCHES), height, width, channels), np.uint8)
    graph = _trace(module, images[:2])
    _check(graph, module, images)
    path.write_bytes(graph)


def _trace(module: nn.Module, images: UInt8Array) -> bytes:
    buffer = io.BytesIO()
    free = {0: "batch"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _KNOWN_WARNINGS)
        torch.onnx.export(
            module,
            (torch.from_numpy(images),),
            buffer,
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_axes={"images": free, "probabilities": free},
            opset_version=_OPSET,
            dynamo=False,
        )
    model = onnx.load_from_string(buffer.getvalue())
    _strip(model)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _strip(model: onnx.ModelProto) -> None:
    """Remove free text: an exporter may put paths and source lines of this machine there."""
    for described in (model, model.graph, *model.graph.node):
        described.ClearField("doc_string")
        described.ClearField("metadata_props")


def _check(graph: bytes, module: nn.Module, images: UInt8Array) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # more of them spin beside PyTorch's: slower for ten images
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    for size in _CHECKED_BATCHES:
        batch = images[:size]
        with torch.inference_mode():
            expected: FloatArray = module(torch.from_numpy(batch)).numpy()
        (probabilities,) = session.run(["probabilities"], {"images": batch})
        difference = float(np.abs(probabilities - expected).max())
        if not difference <= TOLERANCE:  # written so that a NaN fails as well
            raise AlgorithmError(
                f"the exported graph differs from the model by {difference:.2g} in a batch of "
                f"{size}; at most {TOLERANCE:g} is allowed"
            )
