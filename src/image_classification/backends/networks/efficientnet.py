"""EfficientNet-B0 to B7 as data, as PyTorch's libraries and as TensorFlow's have them.

`efficientnet_b0` … are torchvision's and timm's (source: pytorch/vision `torchvision/models/
efficientnet.py`): even padding, BatchNorm epsilon 1e-5 (1e-3 in torchvision's B5 to B7).
`tf_efficientnet_b0` … are Google's own (source: tensorflow/tpu `models/official/efficientnet`), as
Keras, Transformers and timm's models of these names have them: TensorFlow's SAME padding, epsilon
1e-3. The published weights of both take ImageNet's mean and standard deviation; the sizes are in
`backbones`.
"""

import dataclasses
import math

from image_classification.backends.networks import layers
from image_classification.backends.networks.inverted_residuals import Stage, Style, rounded
from image_classification.backends.networks.inverted_residuals import network as inverted_residuals

STAGES = (  # repeats, kernel, stride, expansion, width; before scaling
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
_STEM_WIDTH = 32
_FINAL_WIDTH = 1280

_PYTORCH = Style(epsilon=1e-5, same_padding=False, swish=True, squeeze=0.25)
_TENSORFLOW = Style(epsilon=1e-3, same_padding=True, swish=True, squeeze=0.25)
_FACTORS = (  # of width and depth
    *((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4)),
    *((1.4, 1.8), (1.6, 2.2), (1.8, 2.6), (2.0, 3.1)),
)

TF_PREFIX = "tf_"
SCALES = {
    f"{prefix}efficientnet_b{number}": factors
    for prefix in ("", TF_PREFIX)
    for number, factors in enumerate(_FACTORS)
}


def network(name: str, channels: int, size: tuple[int, int]) -> layers.Network:
    """Return the network of a key of SCALES for images of `size` (height, width)."""
    of_width, of_depth = SCALES[name]
    stages = [
        dataclasses.replace(
            stage,
            width=rounded(stage.width * of_width),
            repeats=math.ceil(stage.repeats * of_depth),
        )
        for stage in STAGES
    ]
    stem, final = rounded(_STEM_WIDTH * of_width), rounded(_FINAL_WIDTH * of_width)
    style = _TENSORFLOW if name.startswith(TF_PREFIX) else _PYTORCH
    return inverted_residuals(stages, stem, final, style, channels, size)


# Torchvision's networks that have another epsilon than ours, which is timm's.
TORCHVISION_EPSILONS = {f"efficientnet_b{number}": 1e-3 for number in (5, 6, 7)}

# Our layers → theirs; `layouts` tells how to read the keys and values.
TORCHVISION = {
    "stem.conv": "features.0.0",
    "stem.bn": "features.0.1",
    "stage1.depthwise.conv": "features.1.{block}.block.0.0",
    "stage1.depthwise.bn": "features.1.{block}.block.0.1",
    "stage1.squeeze.conv1": "features.1.{block}.block.1.fc1",
    "stage1.squeeze.conv2": "features.1.{block}.block.1.fc2",
    "stage1.project.conv": "features.1.{block}.block.2.0",
    "stage1.project.bn": "features.1.{block}.block.2.1",
    "block.expand.conv": "features.{stage_1}.{block}.block.0.0",
    "block.expand.bn": "features.{stage_1}.{block}.block.0.1",
    "block.depthwise.conv": "features.{stage_1}.{block}.block.1.0",
    "block.depthwise.bn": "features.{stage_1}.{block}.block.1.1",
    "block.squeeze.conv1": "features.{stage_1}.{block}.block.2.fc1",
    "block.squeeze.conv2": "features.{stage_1}.{block}.block.2.fc2",
    "block.project.conv": "features.{stage_1}.{block}.block.3.0",
    "block.project.bn": "features.{stage_1}.{block}.block.3.1",
    "final.conv": "features.8.0",
    "final.bn": "features.8.1",
    "head": "classifier.1",
}
TIMM = {  # also of MobileNetV2, which has no squeeze
    "stem.conv": "conv_stem",
    "stem.bn": "bn1",
    "stage1.depthwise.conv": "blocks.0.{block}.conv_dw",
    "stage1.depthwise.bn": "blocks.0.{block}.bn1",
    "stage1.project.conv": "blocks.0.{block}.conv_pw",
    "stage1.project.bn": "blocks.0.{block}.bn2",
    "block.expand.conv": "blocks.{stage}.{block}.conv_pw",
    "block.expand.bn": "blocks.{stage}.{block}.bn1",
    "block.depthwise.conv": "blocks.{stage}.{block}.conv_dw",
    "block.depthwise.bn": "blocks.{stage}.{block}.bn2",
    "block.squeeze.conv1": "blocks.{stage}.{block}.se.conv_reduce",
    "block.squeeze.conv2": "blocks.{stage}.{block}.se.conv_expand",
    "block.project.conv": "blocks.{stage}.{block}.conv_pwl",
    "block.project.bn": "blocks.{stage}.{block}.bn3",
    "final.conv": "conv_head",
    "final.bn": "bn2",
    "head": "classifier",
}
KERAS = {
    "stem.conv": "stem_conv",
    "stem.bn": "stem_bn",
    "block.expand.conv": "block{stage_1}{letter}_expand_conv",
    "block.expand.bn": "block{stage_1}{letter}_expand_bn",
    "block.depthwise.conv": "block{stage_1}{letter}_dwconv",
    "block.depthwise.bn": "block{stage_1}{letter}_bn",
    "block.squeeze.conv1": "block{stage_1}{letter}_se_reduce",
    "block.squeeze.conv2": "block{stage_1}{letter}_se_expand",
    "block.project.conv": "block{stage_1}{letter}_project_conv",
    "block.project.bn": "block{stage_1}{letter}_project_bn",
    "final.conv": "top_conv",
    "final.bn": "top_bn",
    "head": "predictions",
}
_HUGGING_FACE_BLOCK = "efficientnet.encoder.blocks.{number}"
TRANSFORMERS = {
    "stem.conv": "efficientnet.embeddings.convolution",
    "stem.bn": "efficientnet.embeddings.batchnorm",
    "block.expand.conv": f"{_HUGGING_FACE_BLOCK}.expansion.expand_conv",
    "block.expand.bn": f"{_HUGGING_FACE_BLOCK}.expansion.expand_bn",
    "block.depthwise.conv": f"{_HUGGING_FACE_BLOCK}.depthwise_conv.depthwise_conv",
    "block.depthwise.bn": f"{_HUGGING_FACE_BLOCK}.depthwise_conv.depthwise_norm",
    "block.squeeze.conv1": f"{_HUGGING_FACE_BLOCK}.squeeze_excite.reduce",
    "block.squeeze.conv2": f"{_HUGGING_FACE_BLOCK}.squeeze_excite.expand",
    "block.project.conv": f"{_HUGGING_FACE_BLOCK}.projection.project_conv",
    "block.project.bn": f"{_HUGGING_FACE_BLOCK}.projection.project_bn",
    "final.conv": "efficientnet.encoder.top_conv",
    "final.bn": "efficientnet.encoder.top_bn",
    "head": "classifier",
}
