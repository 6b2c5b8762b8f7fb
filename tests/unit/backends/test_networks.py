"""The shared backbones as data: shapes, names and paddings, without any framework."""

from __future__ import annotations

import re

import numpy as np
import pytest

from image_classification.backends import networks
from image_classification.backends.backbones import BACKBONES, SMALL_DEPTHS
from image_classification.backends.networks import layers
from image_classification.backends.networks.inverted_residuals import same_padding


def sides(name: str, shape: tuple[int, int, int]) -> dict[str, int]:
    """The height of each value of a network."""
    heights = {layers.INPUT: shape[1]}
    for layer in networks.network(name, shape).layers:
        height = heights[layer.inputs[0]]
        if isinstance(layer, layers.Convolution | layers.MaxPool):
            kernel = layer.kernel if isinstance(layer.kernel, int) else layer.kernel[0]
            height = (height + sum(layer.padding[0]) - kernel) // layer.stride + 1
        heights[layer.name] = height
    return heights


@pytest.mark.parametrize(
    ("name", "millions"),
    [  # He et al. 2015, table 6, and the ImageNet depths; EfficientNet-Lite: its README
        *(("resnet20", 0.27), ("resnet32", 0.46), ("resnet44", 0.66), ("resnet56", 0.85)),
        *(("resnet110", 1.7), ("resnet18", 11.7), ("resnet34", 21.8), ("resnet50", 25.6)),
        *(("resnet101", 44.5), ("resnet152", 60.2), ("resnet200", 64.7)),
        *(("efficientnet_lite0", 4.7), ("efficientnet_lite1", 5.4), ("efficientnet_lite2", 6.1)),
    ],
)
def test_a_backbone_has_its_published_number_of_parameters(name: str, millions: float) -> None:
    is_small = name in {f"resnet{depth}" for depth in SMALL_DEPTHS}
    classes, side = (10, 32) if is_small else (1000, 224)
    network = networks.network(name, (3, side, side))
    shapes = network.tensor_shapes()
    learned = [shape for key, shape in shapes.items() if ".running_" not in key]
    count = sum(int(np.prod(shape)) for shape in learned) + classes * (network.width + 1)
    assert count / 1e6 == pytest.approx(millions, rel=0.025)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # with 1,000 classes, as torchvision's and timm's pages of these models say
        *(("resnet18_v1.5", 11_689_512), ("resnet34_v1.5", 21_797_672)),
        *(("resnet50_v1.5", 25_557_032), ("resnet101_v1.5", 44_549_160)),
        *(("resnet152_v1.5", 60_192_808), ("wide_resnet50_2", 68_883_240)),
        *(("wide_resnet101_2", 126_886_696), ("resnext50_32x4d", 25_028_904)),
        *(("resnext101_32x8d", 88_791_336), ("resnext101_64x4d", 83_455_272)),
        *(("mobilenet_v2", 3_504_872), ("mobilenet_v2_050", 1_968_680)),
        *(("mobilenet_v2_140", 6_108_776), ("tf_mobilenet_v2_100", 3_504_872)),
        *(("efficientnet_b0", 5_288_548), ("efficientnet_b1", 7_794_184)),
        *(("efficientnet_b2", 9_109_994), ("efficientnet_b3", 12_233_232)),
        *(("efficientnet_b4", 19_341_616), ("tf_efficientnet_b4", 19_341_616)),
        *(("efficientnet_b5", 30_389_784), ("efficientnet_b6", 43_040_704)),
        *(("efficientnet_b7", 66_347_960), ("efficientnet_lite3", 8_197_096)),
        *(("efficientnet_lite4", 13_006_568), ("tf_mobilenet_v1_100", 4_231_976)),
        ("tf_mobilenet_v1_025", 470_072),
    ],
)
def test_a_network_of_public_weights_has_exactly_their_number_of_parameters(
    name: str, parameters: int
) -> None:
    network = networks.network(name, (3, 224, 224))
    shapes = network.tensor_shapes().items()
    learned = sum(int(np.prod(shape)) for key, shape in shapes if ".running_" not in key)
    assert learned + 1000 * (network.width + 1) == parameters


@pytest.mark.parametrize("name", BACKBONES)
def test_every_catalog_row_is_a_network_whose_layers_read_earlier_values(name: str) -> None:
    assert networks.is_shared(name)
    known = {layers.INPUT}
    network = networks.network(name, (3, 64, 64))
    for layer, freed in zip(network.layers, network.last_uses(), strict=True):
        assert known.issuperset(layer.inputs), layer.name
        assert layer.name not in known
        known = (known | {layer.name}) - set(freed)
    assert known == {network.layers[-1].name}, "only the features are left"


@pytest.mark.parametrize("name", BACKBONES)
def test_neutral_names_have_one_pattern(name: str) -> None:
    pattern = re.compile(
        r"(input|stem|stage[1-7]\.block\d+|final)(\.(expand|depthwise|project|squeeze))?"
        r"\.(conv\d?|bn\d?|shortcut(\.conv|\.bn)?)\.(weight|bias|running_mean|running_var)"
    )
    names = networks.network(name, (3, 64, 64)).tensor_shapes()
    assert [name for name in names if not pattern.fullmatch(name)] == []
    assert "stem.conv.weight" in names


def test_the_batch_norm_on_the_images_learns_no_scale() -> None:
    names = networks.network("resnet20", (3, 32, 32)).tensor_shapes()
    found = [name for name in names if name.startswith("input.")]
    assert found == ["input.bn.bias", "input.bn.running_mean", "input.bn.running_var"]


@pytest.mark.parametrize("height", [28, 32, 33, 47])
def test_the_stem_of_a_resnet_keeps_the_resolution_up_to_32_pixels(height: int) -> None:
    found = sides("resnet20", (1, height, height))["stage1.block1.conv1"]
    assert found == (height if height <= 32 else -(-height // 4))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [
        *((224, 3, 2, (0, 1)), (225, 3, 2, (1, 1)), (56, 5, 2, (1, 2)), (57, 5, 2, (2, 2))),
        *((1, 3, 2, (1, 1)), (7, 3, 1, (1, 1)), (7, 5, 1, (2, 2)), (9, 1, 2, (0, 0))),
    ],
)
def test_same_padding_is_tensorflows(
    size: int, kernel: int, stride: int, expected: tuple[int, int]
) -> None:
    assert same_padding((size, 8), kernel, stride)[0] == expected
    assert same_padding((8, size), kernel, stride)[1] == expected


def test_an_efficientnet_halves_odd_sizes_upwards() -> None:
    heights = sides("efficientnet_lite0", (3, 225, 225))
    assert [heights[f"stage{n}.block1.project.conv"] for n in (1, 2, 3, 4, 6)] == [
        113,
        57,
        29,
        15,
        8,
    ]
