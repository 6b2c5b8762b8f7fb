"""Weights under neutral names: found on this machine, and loaded into a model.

In: a row of the catalog. Out: `{"weight/<name>": array}`, the 1000-class head of ImageNet included
as `weight/head.*`; nothing is ever downloaded, and nothing in a file is executed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from image_classification.backends.base import WEIGHT_PREFIX, Backbone, State
from image_classification.backends.torch.model import Classifier, efficientnet_lite
from image_classification.data.samples import FloatArray
from image_classification.errors import ArtifactError

_OUTSIDE_BLOCKS = {
    "_conv_stem": "stem.conv",
    "_bn0": "stem.bn",
    "_conv_head": "final.conv",
    "_bn1": "final.bn",
    "_fc": "head",
}
_IN_BLOCK = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.bn",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.bn",
    "_project_conv": "project.conv",
    "_bn2": "project.bn",
}
_HEAD = ("head.weight", "head.bias")
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.pth")  # PyTorch's convention: begins the SHA-256


def pretrained_state(backbone: Backbone, weights_dir: Path | None) -> State | None:
    """The weights of `<weights_dir>/<backbone>.safetensors`, else of its installed package.

    Returns:
        `weight/<neutral name>` → float32 array; None when neither place has them.

    Raises:
        ArtifactError: a file is there but damaged, altered or of another network.
    """
    baked = weights_dir / f"{backbone.name}.safetensors" if weights_dir else None
    if baked is not None and baked.is_file():
        named = _read_safetensors(baked)
    else:
        installed = _find_installed(backbone)
        if installed is None:
            return None
        named = _read_installed(installed, backbone.name)
    return {WEIGHT_PREFIX + name: tensor for name, tensor in named.items()}


def _read_safetensors(path: Path) -> State:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} is not a readable safetensors file: {error}") from error


def _find_installed(backbone: Backbone) -> Path | None:
    """The weights file inside the backbone's package, found without importing the package."""
    if backbone.weights_package is None or backbone.weights_file is None:
        return None
    spec = importlib.util.find_spec(backbone.weights_package)
    folders = (spec.submodule_search_locations if spec else None) or ()
    for folder in folders:
        for path in sorted(Path(folder).glob(backbone.weights_file)):
            return path
    return None


def _read_installed(path: Path, name: str) -> State:
    _verify_hash(path)
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        return {
            _neutral_name(key, name): tensor.numpy()
            for key, tensor in tensors.items()
            if not key.endswith("num_batches_tracked")
        }
    except (RuntimeError, KeyError, AttributeError, EOFError, ValueError) as error:
        raise ArtifactError(f"{path} does not hold the weights of {name}: {error!r}") from error


def _verify_hash(path: Path) -> None:
    match = _HASH_IN_NAME.search(path.name)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if match and not digest.startswith(match[1]):
        raise ArtifactError(
            f"{path} was altered: its SHA-256 begins {digest[:8]}, its name says {match[1]}; "
            "reinstall the package"
        )


def _neutral_name(key: str, backbone: str) -> str:
    """`_blocks.1._expand_conv.weight` → `stage2.block1.expand.conv.weight`."""
    layer, _, tensor = key.rpartition(".")
    if not layer.startswith("_blocks."):
        return f"{_OUTSIDE_BLOCKS[layer]}.{tensor}"
    _, number, layer = layer.split(".")
    block = int(number)
    for stage, depth in enumerate(efficientnet_lite.depths(backbone), start=1):
        if block < depth:
            return f"stage{stage}.block{block + 1}.{_IN_BLOCK[layer]}.{tensor}"
        block -= depth
    raise ValueError(f"block {number} is one too many")


def load_weights(classifier: Classifier, state: State, backbone: str) -> None:
    """Copy `weight/<name>` arrays into a model; nothing is changed when anything is refused.

    A head that is absent, or of another shape, keeps the weights it has.

    Raises:
        ArtifactError: a tensor of the backbone is missing, unknown, or of another shape.
    """
    arrays = {key.removeprefix(WEIGHT_PREFIX): value for key, value in state.items()}
    tensors = dict(classifier.tensors())
    if any(_shape(tensors[name]) != _shape(arrays.get(name)) for name in _HEAD):
        for name in _HEAD:
            del tensors[name]
            arrays.pop(name, None)
    for name in sorted(tensors.keys() | arrays.keys()):
        expected, received = _shape(tensors.get(name)), _shape(arrays.get(name))
        if expected != received:
            raise ArtifactError(
                f"these are not weights of {backbone!r} with this input: {name!r} should be "
                f"{expected or 'absent'} and is {received or 'absent'}"
            )
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(torch.from_numpy(np.array(arrays[name])))


def _shape(tensor: torch.Tensor | FloatArray | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)
