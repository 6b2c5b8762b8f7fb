"""Predict photographs in float32 and in float16, as a server on a GPU does if it is told to.

On a CPU, ONNX Runtime computes each operator in float32 and rounds its result to float16; a GPU
also rounds within an operator.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from setting import photographs
from setting.artifact import export


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/benchmark precision", description=__doc__)
    add = parser.add_argument
    photographs.add_options(parser)
    add("--images", type=int, default=100, metavar="N", help="images to predict (default: 100)")
    add(
        "--model", type=Path, metavar="DIR", help="artifact (default: EfficientNet-Lite0, exported)"
    )
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (default: cpu)")
    add("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        model = args.model or export(Path(folder) / "model")
        if args.photos is None:
            photos = Path(folder) / "photos"
            photos.mkdir()
            photographs.write_synthetic(args.images, photos)
        found = photographs.find(args.photos or photos)[: args.images]
        result = differences(model, found, args.device)
    words = (f"{name.replace('_', ' ')}: {round(value, 5):g}" for name, value in result.items())
    print(json.dumps(result, indent=1) if args.json else ", ".join(words))
    return 0


def differences(model: Path, photos: Iterable[Path], device: str = "cpu") -> dict[str, float]:
    """Return how far the probabilities in float16 are from those in float32.

    Args:
        model: an artifact.
        photos: JPEG files.
        device: cpu or cuda.
    """
    import numpy as np  # not at the top: --help needs no package

    from image_classification.artifact import read_artifact
    from image_classification.images.preprocessing import preprocess
    from image_classification.serving.admission import GpuSettings
    from image_classification.serving.runtime import Runtime

    artifact = read_artifact(model)
    full, half = (
        Runtime(artifact.graph_file, device=device, settings=GpuSettings(is_half=is_half))
        for is_half in (False, True)
    )
    largest: list[float] = []
    same = 0
    for photo in photos:
        image = np.asarray(preprocess(photo.read_bytes(), artifact.preprocessing))[np.newaxis]
        expected, found = full.run(image), half.run(image)
        largest.append(float(np.abs(found - expected).max()))
        same += int(found.argmax() == expected.argmax())
    return {
        "photographs": len(largest),
        "same_class": same,
        "median_difference": statistics.median(largest),
        "largest_difference": max(largest),
    }


if __name__ == "__main__":
    sys.exit(main())
