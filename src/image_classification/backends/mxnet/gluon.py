"""Networks of Gluon's model zoo as symbols; weights are never downloaded.

A tensor's neutral name is its path in the network, as in Gluon's parameter files, with the usual
names of BatchNorm tensors: `features.1.weight`, `features.1.running_mean`.
"""

from dataclasses import dataclass
from typing import Any

import mxnet as mx
from mxnet.gluon.model_zoo import vision

from image_classification.backends.base import ModelSpec
from image_classification.errors import BackendError

_PREFIX = "gluon/"
_NEUTRAL = {"gamma": "weight", "beta": "bias"}


@dataclass(frozen=True)
class GluonNetwork:
    """A network without its head.

    Attributes:
        symbol: of the features (N, width).
        width: number of features.
        shapes: of every tensor by neutral name.
        neutral_names: of the symbol's inputs that are tensors.
        has_dropout: whether the network itself drops values in training.
    """

    symbol: Any
    width: int
    shapes: dict[str, tuple[int, ...]]
    neutral_names: dict[str, str]
    has_dropout: bool


def network(spec: ModelSpec, images: Any) -> GluonNetwork:
    """Return the network that reads normalized images; BackendError if they are too small."""
    block = vision.get_model(spec.backbone.removeprefix(_PREFIX), pretrained=False)
    channels, height, width = spec.input_shape
    try:
        symbol = block.features(images)
        arguments, (output,), statistics = symbol.infer_shape(images=(1, height, width, channels))
    except mx.base.MXNetError as error:
        reason = str(error).strip().splitlines()[-1]
        raise BackendError(
            f"{spec.backbone} cannot be built for input {channels},{height},{width}: {reason}"
        ) from error
    if len(output) > 2:  # SqueezeNet, whose own head is a convolution
        pooled = mx.sym.Pooling(symbol, global_pool=True, pool_type="avg", kernel=(1, 1))
        symbol = mx.sym.Flatten(pooled)
    neutral_names = _neutral_names(block)
    inputs = zip(
        symbol.list_arguments() + symbol.list_auxiliary_states(),
        arguments + statistics,
        strict=True,
    )
    shapes = {neutral_names[name]: shape for name, shape in inputs if name in neutral_names}
    has_dropout = '"op": "Dropout"' in symbol.tojson()
    return GluonNetwork(symbol, output[1], shapes, neutral_names, has_dropout)


def _neutral_names(block: Any) -> dict[str, str]:
    """Map Gluon's name of each parameter to its neutral name."""
    names = {}
    for path, parameter in block._collect_params_with_prefix().items():
        layer, _, tensor = path.rpartition(".")
        names[parameter.name] = f"{layer}.{_NEUTRAL.get(tensor, tensor)}"
    return names
