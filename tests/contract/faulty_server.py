"""A server whose device fails as its pictures command; for tests only.

A white image breaks the device, a black one keeps it busy for BUSY_SECONDS. With FAKE_CUDA set, the
device calls itself one of CUDA. With SECONDS_PER_IMAGE set, it takes that time for each image, and
its three classes are equally probable. The decoder hangs at an image of 41 × 41 pixels. Everything
else is the product.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from image_classification import cli
from image_classification.errors import DeviceError
from image_classification.images.header import read_header
from image_classification.samples import FloatArray, UInt8Array
from image_classification.serving import server

load = server._Server.load


def load_with_obedient_device(application: Any) -> Any:
    """Runs in the worker: ONNX Runtime must not be imported before the fork."""
    from image_classification.serving import decoding, runtime

    class ObedientRuntime(runtime.Runtime):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            if os.environ.get("FAKE_CUDA"):
                self.providers = ["CUDAExecutionProvider"]

        def run(self, images: UInt8Array, **options: Any) -> FloatArray:
            if images.min() > 240:
                raise DeviceError("CUDA failure 700: an illegal memory access was encountered")
            if images.max() < 15:
                time.sleep(float(os.environ.get("BUSY_SECONDS", "0.7")))
            if each := os.environ.get("SECONDS_PER_IMAGE"):
                time.sleep(len(images) * float(each))
                return np.full((len(images), 3), 1 / 3, np.float32)
            return super().run(images, **options)

    preprocess = decoding.preprocess

    def preprocess_or_hang(image: bytes, *arguments: Any, **options: Any) -> UInt8Array:
        if read_header(image).width == 41:
            time.sleep(3600)
        return preprocess(image, *arguments, **options)

    decoding.preprocess = preprocess_or_hang
    runtime.Runtime = ObedientRuntime  # type: ignore[misc]
    return load(application)


if __name__ == "__main__":
    server._Server.load = load_with_obedient_device  # type: ignore[method-assign]
    raise SystemExit(cli.main())
