"""The forward pass of a network in PyTorch alone: no optimizer, on a device of the caller's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from image_classification.backends.base import ModelSpec
from image_classification.backends.torch import model
from image_classification.samples import Array, FloatArray, UInt8Array


class Forward:
    """A network with given weights.

    Args:
        spec: of the network.
        weights: by neutral name.
        device: cpu or cuda.
    """

    def __init__(self, spec: ModelSpec, weights: Mapping[str, Array], device: str) -> None:
        classifier = model.build(spec)
        model.load_weights(classifier, dict(weights))
        self.device = torch.device(device)
        if self.device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False  # as the product sets it
        self._classifier = classifier.to(self.device).eval()

    def probabilities(self, images: UInt8Array) -> FloatArray:
        """Return float32 (N, classes) of uint8 (N, H, W, C)."""
        with torch.inference_mode():
            tensor = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
            found = torch.softmax(self._classifier(tensor), dim=1).cpu().numpy()
        return np.asarray(found, np.float32)
