"""MobileNet V1 and V2 of several widths as data, as PyTorch's and TensorFlow's libraries have them.

`mobilenet_v2` is torchvision's (source: pytorch/vision `torchvision/models/mobilenetv2.py`), and
`mobilenet_v2_050` and `_140` are timm's other widths: even padding, BatchNorm epsilon 1e-5, and
weights that take ImageNet's mean and standard deviation. `tf_mobilenet_v1_025` … `_100` and
`tf_mobilenet_v2_035` … `_140` are Google's own (source: tensorflow/models `research/slim/nets`), as
TensorFlow Hub, Keras and Transformers have them: TensorFlow's SAME padding, epsilon 1e-3, and
weights that take pixels from −1 to 1. The number is 100 times the factor of the width.
"""

import dataclasses

from image_classification.backends.networks import layers
from image_classification.backends.networks.inverted_residuals import (
    Convolutions,
    Stage,
    Style,
    rounded,
)
from image_classification.backends.networks.inverted_residuals import network as inverted_residuals

STAGES = (  # repeats, kernel, stride, expansion, width; before scaling
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(3, 3, 2, 6, 32),
    Stage(4, 3, 2, 6, 64),
    Stage(3, 3, 1, 6, 96),
    Stage(3, 3, 2, 6, 160),
    Stage(1, 3, 1, 6, 320),
)
_STEM_WIDTH = 32
_FINAL_WIDTH = 1280  # at least

_PYTORCH = Style(epsilon=1e-5, same_padding=False)
_TENSORFLOW = Style(epsilon=1e-3, same_padding=True)

TF_PREFIX = "tf_"
WIDTHS = {
    "mobilenet_v2": 1.0,
    "mobilenet_v2_050": 0.5,
    "mobilenet_v2_140": 1.4,
    **{f"tf_mobilenet_v2_{width:03}": width / 100 for width in (35, 50, 75, 100, 130, 140)},
}


V1_WIDTHS = {f"tf_mobilenet_v1_{width:03}": width / 100 for width in (25, 50, 75, 100)}
_V1_STAGES = ((64,), (128, 128), (256, 256), (512,) * 6, (1024, 1024))  # widths of the blocks


def network_v1(name: str, channels: int, size: tuple[int, int]) -> layers.Network:
    """Return the network of a key of V1_WIDTHS: each block filters (3×3), then mixes (1×1)."""
    factor = V1_WIDTHS[name]
    made = Convolutions(_TENSORFLOW, size, [])
    width_in = int(_STEM_WIDTH * factor)
    made.add("stem", channels, width_in, 3, 2)
    for stage, widths in enumerate(_V1_STAGES, start=1):
        for block, unscaled in enumerate(widths, start=1):
            width, stride = int(unscaled * factor), 2 if block == 1 and stage > 1 else 1
            made.add(
                f"stage{stage}.block{block}.depthwise", width_in, width_in, 3, stride, width_in
            )
            made.add(f"stage{stage}.block{block}.project", width_in, width)
            width_in = width
    made.stack.append(layers.Mean("final.mean", (made.last,)))
    return layers.Network(tuple(made.stack), width_in)


def network(name: str, channels: int, size: tuple[int, int]) -> layers.Network:
    """Return the network of a key of WIDTHS for images of `size` (height, width)."""
    factor = WIDTHS[name]
    stages = [dataclasses.replace(stage, width=rounded(stage.width * factor)) for stage in STAGES]
    final = max(_FINAL_WIDTH, rounded(_FINAL_WIDTH * factor))
    style = _TENSORFLOW if name.startswith(TF_PREFIX) else _PYTORCH
    stem = rounded(_STEM_WIDTH * factor)
    return inverted_residuals(stages, stem, final, style, channels, size)


# Our layers → theirs; `layouts` tells how to read the keys and values.
TORCHVISION = {
    "stem.conv": "features.0.0",
    "stem.bn": "features.0.1",
    "stage1.depthwise.conv": "features.{number_1}.conv.0.0",
    "stage1.depthwise.bn": "features.{number_1}.conv.0.1",
    "stage1.project.conv": "features.{number_1}.conv.1",
    "stage1.project.bn": "features.{number_1}.conv.2",
    "block.expand.conv": "features.{number_1}.conv.0.0",
    "block.expand.bn": "features.{number_1}.conv.0.1",
    "block.depthwise.conv": "features.{number_1}.conv.1.0",
    "block.depthwise.bn": "features.{number_1}.conv.1.1",
    "block.project.conv": "features.{number_1}.conv.2",
    "block.project.bn": "features.{number_1}.conv.3",
    "final.conv": "features.18.0",
    "final.bn": "features.18.1",
    "head": "classifier.1",
}
KERAS = {
    "stem.conv": "Conv1",
    "stem.bn": "bn_Conv1",
    "stage1.depthwise.conv": "expanded_conv_depthwise",
    "stage1.depthwise.bn": "expanded_conv_depthwise_BN",
    "stage1.project.conv": "expanded_conv_project",
    "stage1.project.bn": "expanded_conv_project_BN",
    "block.expand.conv": "block_{number}_expand",
    "block.expand.bn": "block_{number}_expand_BN",
    "block.depthwise.conv": "block_{number}_depthwise",
    "block.depthwise.bn": "block_{number}_depthwise_BN",
    "block.project.conv": "block_{number}_project",
    "block.project.bn": "block_{number}_project_BN",
    "final.conv": "Conv_1",
    "final.bn": "Conv_1_bn",
    "head": "predictions",
}
_HUGGING_FACE_STEM = "mobilenet_v2.conv_stem"
_HUGGING_FACE_BLOCK = "mobilenet_v2.layer.{before}"
TRANSFORMERS = {
    "stem.conv": f"{_HUGGING_FACE_STEM}.first_conv.convolution",
    "stem.bn": f"{_HUGGING_FACE_STEM}.first_conv.normalization",
    "stage1.depthwise.conv": f"{_HUGGING_FACE_STEM}.conv_3x3.convolution",
    "stage1.depthwise.bn": f"{_HUGGING_FACE_STEM}.conv_3x3.normalization",
    "stage1.project.conv": f"{_HUGGING_FACE_STEM}.reduce_1x1.convolution",
    "stage1.project.bn": f"{_HUGGING_FACE_STEM}.reduce_1x1.normalization",
    "block.expand.conv": f"{_HUGGING_FACE_BLOCK}.expand_1x1.convolution",
    "block.expand.bn": f"{_HUGGING_FACE_BLOCK}.expand_1x1.normalization",
    "block.depthwise.conv": f"{_HUGGING_FACE_BLOCK}.conv_3x3.convolution",
    "block.depthwise.bn": f"{_HUGGING_FACE_BLOCK}.conv_3x3.normalization",
    "block.project.conv": f"{_HUGGING_FACE_BLOCK}.reduce_1x1.convolution",
    "block.project.bn": f"{_HUGGING_FACE_BLOCK}.reduce_1x1.normalization",
    "final.conv": "mobilenet_v2.conv_1x1.convolution",
    "final.bn": "mobilenet_v2.conv_1x1.normalization",
    "head": "classifier",
}
V1_KERAS = {
    "stem.conv": "conv1",
    "stem.bn": "conv1_bn",
    "block.depthwise.conv": "conv_dw_{number_1}",
    "block.depthwise.bn": "conv_dw_{number_1}_bn",
    "block.project.conv": "conv_pw_{number_1}",
    "block.project.bn": "conv_pw_{number_1}_bn",
    "head": "conv_preds",
}
V1_TRANSFORMERS = {
    "stem.conv": "mobilenet_v1.conv_stem.convolution",
    "stem.bn": "mobilenet_v1.conv_stem.normalization",
    "block.depthwise.conv": "mobilenet_v1.layer.{even}.convolution",
    "block.depthwise.bn": "mobilenet_v1.layer.{even}.normalization",
    "block.project.conv": "mobilenet_v1.layer.{odd}.convolution",
    "block.project.bn": "mobilenet_v1.layer.{odd}.normalization",
    "head": "classifier",
}
