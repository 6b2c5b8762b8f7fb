"""What every peer runs for a request, so that only the servers differ; imported in its interpreter.

`torch`: as people write it: Pillow, float pixels, the network as it comes. `onnx`: our decoder and
our graph, what a peer could reach at best. The environment says which, and where the artifact is.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path


def load() -> object:
    """Return a function from the bytes of an image file to its probabilities."""
    model = Path(os.environ["BENCHMARK_MODEL"])
    return _torch(model) if os.environ["BENCHMARK_KIND"] == "torch" else _onnx(model)


def _onnx(model: Path) -> object:
    from image_classification.artifact import read_artifact
    from image_classification.images.preprocessing import preprocess
    from image_classification.serving.runtime import Runtime

    artifact = read_artifact(model)
    preprocessing, runtime = artifact.preprocessing, Runtime(artifact.graph_file)
    return lambda data: runtime.run(preprocess(data, preprocessing)[None])[0].tolist()


def _torch(model: Path) -> object:
    import numpy as np
    from PIL import Image

    from image_classification import backends

    backends.load("torch")  # before PyTorch is imported elsewhere
    import torch

    from image_classification.backends.base import ModelSpec
    from image_classification.backends.torch.model import build

    torch.set_num_threads(1)  # as many processes as CPUs: with more they fight (3 × slower)
    manifest = json.loads((model / "manifest.json").read_text("utf-8"))
    spec = json.loads((model / "preprocessing.json").read_text("utf-8"))
    height, width, side = spec["height"], spec["width"], spec["resize"] or spec["height"]
    shape = (spec["channels"], height, width)
    mean, std = tuple(spec["mean"]), tuple(spec["std"])
    network = build(
        ModelSpec(manifest["backbone"], manifest["classes"], shape, mean=mean, std=std)
    ).eval()

    def predict(data: bytes) -> list[float]:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        scale = side / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)))
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
        with torch.inference_mode():
            logits = network(torch.from_numpy(np.array(image))[None])
            return torch.softmax(logits, 1)[0].tolist()

    return predict
