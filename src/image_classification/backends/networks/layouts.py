"""How public files name and arrange the tensors of shared networks.

In: a backbone and a layout, such as `torchvision`. Out: the name of each tensor in files of that
layout with our neutral name, and our array of each of theirs. The tables are next to the networks.
"""

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass

from image_classification.backends.networks import network, resnet_v1_5


@dataclass(frozen=True)
class Layout:
    """The files of one library.

    Attributes:
        layers: our layer → theirs, `head` included. `block.` in a key is any `stage<n>.block<n>.`,
            and a `stage<n>.` that of one stage, which comes first. In a value, `{stage}` and
            `{block}` count from 0, `{stage_1}` from 1, and `{number}` counts the blocks of all
            stages from 0.
        tensors: our tensor → theirs, if they have another name for it, such as `running_mean`.
        further: patterns of tensors in the files that a network does not need.
        sources: what publishes such files.
    """

    layers: Mapping[str, str]
    tensors: Mapping[str, str]
    further: tuple[str, ...]
    sources: str

    def is_further(self, name: str) -> bool:
        """Return whether a tensor of such a file is one that a network does not need."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.further)


_COUNTERS = ("*.num_batches_tracked",)  # PyTorch's own; no other framework has them

_RESNET_V1_5 = {
    "torchvision": Layout(
        resnet_v1_5.TORCHVISION, {}, _COUNTERS, "torchvision and timm (a stage is layer1 … 4)"
    ),
    "transformers": Layout(
        resnet_v1_5.TRANSFORMERS, {}, _COUNTERS, "Transformers (ResNetForImageClassification)"
    ),
}


def layouts(backbone: str) -> Mapping[str, Layout]:
    """Return the layouts of public files for a backbone by name; {} if none is known."""
    if backbone in resnet_v1_5.PLANS:
        is_plain = backbone.startswith("resnet")  # Transformers has no wide ones and no groups
        return {
            name: layout
            for name, layout in _RESNET_V1_5.items()
            if name == "torchvision" or (is_plain and "next" not in backbone)
        }
    return {}


_BLOCK = re.compile(r"stage(\d+)\.block(\d+)\.(.+)")


def source_names(backbone: str, layout: str) -> dict[str, str]:
    """Return each tensor of the layout's files with our neutral name, `head.*` included.

    Raises:
        KeyError: the backbone has no such layout.
    """
    chosen = layouts(backbone)[layout]
    numbers: dict[str, int] = {}
    names = {}
    shapes = network(backbone, (3, 224, 224)).tensor_shapes()
    for ours in (*shapes, "head.weight", "head.bias"):
        layer, _, tensor = ours.rpartition(".")
        theirs = chosen.tensors.get(tensor, tensor)
        names[f"{_their_layer(layer, chosen, numbers)}.{theirs}"] = ours
    return names


def _their_layer(layer: str, layout: Layout, numbers: dict[str, int]) -> str:
    match = _BLOCK.fullmatch(layer)
    if match is None:
        return layout.layers[layer]
    stage, block, rest = match.groups()
    number = numbers.setdefault(f"{stage}.{block}", len(numbers))
    template = layout.layers.get(f"stage{stage}.{rest}") or layout.layers[f"block.{rest}"]
    counts = {"stage_1": int(stage), "stage": int(stage) - 1, "block": int(block) - 1}
    return template.format(number=number, **counts)
