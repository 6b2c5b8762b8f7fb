"""A tiny archive of the MXNet built-in, written without MXNet: ResNet-20's names and file formats.

Follows apache/mxnet `example/image-classification/symbols/resnet.py` and `NDArray::Save`, not our
reader: files that MXNet itself wrote are read in `test_mxnet_archive.py`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_TYPES = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6}
V2 = 0xF993FAC9


def params_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A `.params` file."""
    parts = [struct.pack("<QQQ", 0x112, 0, len(arrays))]
    for array in arrays.values():
        shape = struct.pack(f"<i{array.ndim}q", array.ndim, *array.shape)
        kind = struct.pack("<iii", 1, 0, _TYPES[array.dtype.name])
        parts += [struct.pack("<Ii", V2, 0), shape, kind, array.tobytes()]
    parts.append(struct.pack("<Q", len(arrays)))
    for name in arrays:
        parts += [struct.pack("<Q", len(name)), name.encode()]
    return b"".join(parts)


def write_archive(
    folder: Path, classes: int = 4, epoch: int = 7, dtype: str = "float32", seed: int = 0
) -> dict[str, np.ndarray]:
    """Write the three files of a ResNet-20 for 3×32×32; returns the arrays."""
    nodes, shapes = _resnet20(classes)
    generator = np.random.default_rng(seed)
    arrays = {}
    for name, shape in shapes.items():
        values = generator.normal(0, np.sqrt(2 / max(1, np.prod(shape[1:]))), shape)
        if name.endswith(("_gamma", "_moving_var")):
            values = 1 + 0.1 * np.abs(values)
        if name == "aux:bn_data_moving_var":
            values = values * 4000
        arrays[name] = values.astype(dtype)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"image-classification-{epoch:04d}.params").write_bytes(params_bytes(arrays))
    (folder / "image-classification-symbol.json").write_text(json.dumps({"nodes": nodes}))
    shapes_file = [{"name": "data", "shape": [1, 3, 32, 32]}]
    (folder / "model-shapes.json").write_text(json.dumps(shapes_file))
    return arrays


def _resnet20(classes: int) -> tuple[list[dict[str, Any]], dict[str, tuple[int, ...]]]:
    nodes: list[dict[str, Any]] = []
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, before: int, width: int, kernel: int, stride: int) -> None:
        attrs = {"kernel": f"({kernel}, {kernel})", "stride": f"({stride}, {stride})"}
        attrs |= {"pad": f"({kernel // 2}, {kernel // 2})", "num_filter": str(width)}
        nodes.append({"op": "Convolution", "name": name, "attrs": attrs})
        shapes[f"arg:{name}_weight"] = (width, before, kernel, kernel)

    def norm(name: str, width: int, fixed: bool = False) -> None:
        attrs = {"eps": "2e-05", "momentum": "0.9", "fix_gamma": str(fixed)}
        nodes.append({"op": "BatchNorm", "name": name, "attrs": attrs})
        for tensor in ("arg:{}_gamma", "arg:{}_beta", "aux:{}_moving_mean", "aux:{}_moving_var"):
            shapes[tensor.format(name)] = (width,)

    norm("bn_data", 3, fixed=True)
    convolution("conv0", 3, 16, 3, 1)
    before = 16
    for stage, width in enumerate((16, 32, 64), start=1):
        for unit in range(1, 4):
            name, stride = f"stage{stage}_unit{unit}", 2 if unit == 1 and stage > 1 else 1
            norm(f"{name}_bn1", before)
            convolution(f"{name}_conv1", before, width, 3, stride)
            norm(f"{name}_bn2", width)
            convolution(f"{name}_conv2", width, width, 3, 1)
            if unit == 1:
                convolution(f"{name}_sc", before, width, 1, stride)
            before = width
    norm("bn1", 64)
    nodes.append({"op": "FullyConnected", "name": "fc1", "attrs": {"num_hidden": str(classes)}})
    shapes |= {"arg:fc1_weight": (classes, 64), "arg:fc1_bias": (classes,)}
    nodes.append({"op": "SoftmaxOutput", "name": "softmax"})
    return nodes, shapes
