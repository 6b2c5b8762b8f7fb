"""What `serving.runtime.Runtime` offers, computed by PyTorch from the artifact's weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from device_checks.forward import Forward
from image_classification import artifact as artifacts
from image_classification.backends.base import ModelSpec
from image_classification.samples import FloatArray, UInt8Array


class TorchRuntime:
    """A network on a GPU, or on the CPU if there is none.

    Args:
        file: the graph, next to which the weights are.
        threads: as in `Runtime`; its other settings have no meaning here.

    Attributes:
        outputs: see `Runtime`; none.
    """

    outputs: frozenset[str] = frozenset()

    def __init__(self, file: artifacts.GraphFile, threads: int = 1, **_: object) -> None:
        torch.set_num_threads(threads)
        folder = Path(file.path).parent
        artifact = artifacts.read_artifact(folder)
        size = artifact.preprocessing
        shape = (size.channels, size.height, size.width)
        backbone = artifact.manifest["backbone"]
        spec = ModelSpec(backbone, len(artifact.labels), shape, size.mean, size.std)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.providers = [f"PyTorch on {self.device}"]
        self._forward = Forward(spec, load_file(folder / artifacts.WEIGHTS_FILE), self.device)

    def run(self, images: UInt8Array, *, frees: bool = False) -> FloatArray:  # noqa: ARG002
        """See `Runtime.run`."""
        return self._forward.probabilities(images)

    def host_buffer(self, shape: tuple[int, ...]) -> UInt8Array:
        """See `Runtime.host_buffer`."""
        tensor = torch.zeros(shape, dtype=torch.uint8)
        return np.asarray((tensor.pin_memory() if self.device == "cuda" else tensor).numpy())

    def bound(self, shape: tuple[int, ...]) -> Bound:  # noqa: ARG002
        """See `Runtime.bound`."""
        return Bound(self)


@dataclass(frozen=True)
class Bound:
    """See `serving.runtime.BoundRun`."""

    runtime: TorchRuntime

    def run(self, images: UInt8Array) -> FloatArray:
        """See `BoundRun.run`."""
        return self.runtime.run(images)
