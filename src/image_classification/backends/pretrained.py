"""ImageNet weights of shared backbones on this machine, under neutral names.

In: a row of a catalog. Out: `{"weight/<name>": array}` with the 1000-class head as `weight/head.*`.
Nothing is downloaded, and nothing in a file is executed.
"""

import hashlib
import importlib.util
import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file

from image_classification.backends import base, legacy_weights
from image_classification.backends.networks.efficientnet_lite import SCALES, depths
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


def neutral_name(published: str, backbone: str) -> str:
    """Translate a name in a published file; ValueError if the backbone has no such tensor.

    `_blocks.1._expand_conv.weight` → `stage2.block1.expand.conv.weight`
    """
    layer, _, tensor = published.rpartition(".")
    if layer in _OUTSIDE_BLOCKS:
        return f"{_OUTSIDE_BLOCKS[layer]}.{tensor}"
    blocks, _, rest = layer.partition(".")
    number, _, layer = rest.partition(".")
    if backbone in SCALES and blocks == "_blocks" and number.isdecimal() and layer in _IN_BLOCK:
        block = int(number)  # published names count the blocks of all stages together
        for stage, count in enumerate(depths(backbone), start=1):
            if block < count:
                return f"stage{stage}.block{block + 1}.{_IN_BLOCK[layer]}.{tensor}"
            block -= count
    raise ValueError(f"{backbone} has no tensor {published!r}")


_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.pth")  # PyTorch's convention: start of the SHA-256
_COUNTER = "num_batches_tracked"  # PyTorch's own; no other framework has it


def pretrained_state(backbone: base.Backbone, weights_dir: Path | None) -> base.State | None:
    """Read `<weights_dir>/<backbone>.safetensors`, or else the backbone's installed package.

    Returns:
        `weight/<neutral name>` → float32 array; None if neither exists.

    Raises:
        ArtifactError: the file is damaged, altered or of another network.
    """
    path = weights_dir / f"{backbone.name}.safetensors" if weights_dir else None
    if path is not None and path.is_file():
        try:
            named = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{path} is not a readable safetensors file: {error}") from error
    else:
        installed = _find_installed(backbone)
        if installed is None:
            return None
        named = _read_installed(installed, backbone.name)
    return {base.WEIGHT_PREFIX + name: tensor for name, tensor in named.items()}


def has_weights(backbone: base.Backbone, weights_dir: Path) -> bool:
    """Return whether there is a file of any format from which a backend may read weights.

    This needs no framework; only reading the file shows whether it is intact.
    """
    folder, name = (weights_dir / backbone.name).parent, Path(backbone.name).name
    return any(folder.glob(f"{name}.*")) or _find_installed(backbone) is not None


def _find_installed(backbone: base.Backbone) -> Path | None:
    """Find the weights file in the backbone's package without importing the package."""
    if backbone.weights_package is None or backbone.weights_file is None:
        return None
    spec = importlib.util.find_spec(backbone.weights_package)
    folders = (spec.submodule_search_locations if spec else None) or ()
    for folder in folders:
        for path in sorted(Path(folder).glob(backbone.weights_file)):
            return path
    return None


def _read_installed(path: Path, name: str) -> base.State:
    _verify_hash(path)
    tensors = legacy_weights.read_legacy_weights(path)
    try:
        return {
            neutral_name(key, name): tensor
            for key, tensor in tensors.items()
            if not key.endswith(_COUNTER)
        }
    except ValueError as error:
        raise ArtifactError(f"{path} does not contain the weights of {name}: {error}") from error


def _verify_hash(path: Path) -> None:
    match = _HASH_IN_NAME.search(path.name)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if match and not digest.startswith(match[1]):
        raise ArtifactError(
            f"{path} was altered: its SHA-256 begins with {digest[:8]}, but its name says "
            f"{match[1]}; reinstall the package"
        )
