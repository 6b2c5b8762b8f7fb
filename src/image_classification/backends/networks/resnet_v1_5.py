"""Post-activation ResNet (v1.5) as data: the ResNets, wide ResNets and ResNeXts of torchvision.

Source: pytorch/vision `torchvision/models/resnet.py`; timm's and Transformers' networks of these
names compute the same. The stride of a bottleneck is in its 3×3 convolution ("v1.5"), padding is
even, and BatchNorms have epsilon 1e-5 and momentum 0.9 (PyTorch's 0.1). The published weights take
224 pixels with ImageNet's mean and standard deviation (`backbones`).
"""

from dataclasses import dataclass

from image_classification.backends.networks import layers

_EPSILON = 1e-5
_MOMENTUM = 0.9
_STEM_WIDTH = 64
_EXPANSION = 4


@dataclass(frozen=True)
class Plan:
    """The blocks of each stage and their kind.

    Attributes:
        blocks: of each stage.
        bottleneck: 1×1, 3×3 and 1×1 instead of two 3×3.
        groups: of the 3×3 convolution of a bottleneck.
        group_width: its channels per group in the first stage, for 64 of the others' channels.
    """

    blocks: tuple[int, int, int, int]
    bottleneck: bool = True
    groups: int = 1
    group_width: int = 64


PLANS = {
    "resnet18_v1.5": Plan((2, 2, 2, 2), bottleneck=False),
    "resnet34_v1.5": Plan((3, 4, 6, 3), bottleneck=False),
    "resnet50_v1.5": Plan((3, 4, 6, 3)),
    "resnet101_v1.5": Plan((3, 4, 23, 3)),
    "resnet152_v1.5": Plan((3, 8, 36, 3)),
    "wide_resnet50_2": Plan((3, 4, 6, 3), group_width=128),
    "wide_resnet101_2": Plan((3, 4, 23, 3), group_width=128),
    "resnext50_32x4d": Plan((3, 4, 6, 3), groups=32, group_width=4),
    "resnext101_32x8d": Plan((3, 4, 23, 3), groups=32, group_width=8),
    "resnext101_64x4d": Plan((3, 4, 23, 3), groups=64, group_width=4),
}


def network(name: str, channels: int) -> layers.Network:
    """Return the network of a key of PLANS."""
    plan = PLANS[name]
    stack = _convolution("stem.conv", "stem.bn", layers.INPUT, channels, _STEM_WIDTH, 7, 2)
    stack.append(layers.Activation("stem.relu", ("stem.bn",)))
    stack.append(layers.MaxPool("stem.pool", ("stem.relu",)))
    width_in = _STEM_WIDTH
    for stage, blocks in enumerate(plan.blocks, start=1):
        planes = _STEM_WIDTH * 2 ** (stage - 1)
        width = planes * _EXPANSION if plan.bottleneck else planes
        for number in range(1, blocks + 1):
            stride = 2 if number == 1 and stage > 1 else 1
            before = stack[-1].name
            stack += _block(f"stage{stage}.block{number}", before, width_in, planes, stride, plan)
            width_in = width
    stack.append(layers.Mean("final.mean", (stack[-1].name,)))
    return layers.Network(tuple(stack), width_in)


def _block(
    name: str, before: str, width_in: int, planes: int, stride: int, plan: Plan
) -> list[layers.Layer]:
    """Convolutions with BatchNorms, ReLUs between them, the shortcut, and a ReLU of the sum."""
    inner = planes * plan.group_width // 64 * plan.groups
    convolutions = (  # kernel, stride, groups, filters
        ((1, 1, 1, inner), (3, stride, plan.groups, inner), (1, 1, 1, planes * _EXPANSION))
        if plan.bottleneck
        else ((3, stride, 1, planes), (3, 1, 1, planes))
    )
    stack: list[layers.Layer] = []
    value, narrow = before, width_in
    for number, (kernel, step, groups, filters) in enumerate(convolutions, start=1):
        norm = f"{name}.bn{number}"
        stack += _convolution(
            f"{name}.conv{number}", norm, value, narrow, filters, kernel, step, groups
        )
        value, narrow = norm, filters
        if number < len(convolutions):
            value = f"{name}.relu{number}"
            stack.append(layers.Activation(value, (norm,)))
    shortcut = before
    if stride > 1 or width_in != narrow:
        shortcut, convolution = f"{name}.shortcut.bn", f"{name}.shortcut.conv"
        stack += _convolution(convolution, shortcut, before, width_in, narrow, 1, stride)
    total = f"{name}.sum"
    return [
        *stack,
        layers.Add(total, (value, shortcut)),
        layers.Activation(f"{name}.relu", (total,)),
    ]


def _convolution(
    name: str,
    norm: str,
    before: str,
    width_in: int,
    width: int,
    kernel: int,
    stride: int,
    groups: int = 1,
) -> list[layers.Layer]:
    sides = (kernel // 2, kernel // 2)
    return [
        layers.Convolution(
            name, (before,), width_in, width, (kernel, kernel), stride, groups, (sides, sides)
        ),
        layers.Norm(norm, (name,), width, _EPSILON, _MOMENTUM),
    ]


# Our layers → theirs; `layouts` tells how to read the keys and values.
TORCHVISION = {  # timm has the same names
    "stem.conv": "conv1",
    "stem.bn": "bn1",
    "block.shortcut.conv": "layer{stage_1}.{block}.downsample.0",
    "block.shortcut.bn": "layer{stage_1}.{block}.downsample.1",
    "block.conv1": "layer{stage_1}.{block}.conv1",
    "block.bn1": "layer{stage_1}.{block}.bn1",
    "block.conv2": "layer{stage_1}.{block}.conv2",
    "block.bn2": "layer{stage_1}.{block}.bn2",
    "block.conv3": "layer{stage_1}.{block}.conv3",
    "block.bn3": "layer{stage_1}.{block}.bn3",
    "head": "fc",
}
_HUGGING_FACE_BLOCK = "resnet.encoder.stages.{stage}.layers.{block}"
TRANSFORMERS = {
    "stem.conv": "resnet.embedder.embedder.convolution",
    "stem.bn": "resnet.embedder.embedder.normalization",
    "block.shortcut.conv": f"{_HUGGING_FACE_BLOCK}.shortcut.convolution",
    "block.shortcut.bn": f"{_HUGGING_FACE_BLOCK}.shortcut.normalization",
    "block.conv1": f"{_HUGGING_FACE_BLOCK}.layer.0.convolution",
    "block.bn1": f"{_HUGGING_FACE_BLOCK}.layer.0.normalization",
    "block.conv2": f"{_HUGGING_FACE_BLOCK}.layer.1.convolution",
    "block.bn2": f"{_HUGGING_FACE_BLOCK}.layer.1.normalization",
    "block.conv3": f"{_HUGGING_FACE_BLOCK}.layer.2.convolution",
    "block.bn3": f"{_HUGGING_FACE_BLOCK}.layer.2.normalization",
    "head": "classifier.1",
}
