"""timm, and the catalog rows of its models, from its own configuration of each."""

import math
from types import ModuleType
from typing import Any

from image_classification.backends import import_errors, nearest
from image_classification.backends.base import Backbone
from image_classification.errors import BackendError

PREFIX = "timm/"

_INTERPOLATIONS = frozenset({"bilinear", "bicubic", "nearest", "lanczos"})
_OPERATORS: list[Any] = []  # names that torchvision has, as long as these objects live


def load(backbone: str) -> ModuleType:
    """Import timm, for a backbone that errors name.

    timm imports torchvision, whose wheel on PyPI is linked with CUDA: on a CPU build of PyTorch its
    operators do not load, and its import fails because two of their names are missing. Classifiers
    never call these operators, so their names are enough.

    Raises:
        BackendError: it cannot be imported.
    """
    requirements = "the torchvision that belongs to this PyTorch build"
    with import_errors(f"backbone {backbone!r} needs timm", "timm", requirements):
        try:
            import torchvision  # noqa: F401
        except RuntimeError as error:
            if "torchvision::nms" not in str(error):
                raise
            import torch

            library = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float threshold) -> Tensor")
            _OPERATORS.append(library)
        import timm
    return timm  # type: ignore[no-any-return]


def find(backbone: str) -> Backbone:
    """Return the row of `timm/<name>`: the size, crop and normalization of its published weights.

    Raises:
        BackendError: timm is not installed, or has no such model.
    """
    timm = load(backbone)
    name = backbone.removeprefix(PREFIX)
    try:
        settings = timm.models.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # no such weights of the model, the part after a dot
        settings = None
    if settings is None:
        is_known = timm.is_model(name)
        known = timm.list_pretrained(name.partition(".")[0]) if is_known else timm.list_models()
        hint = nearest(backbone, [PREFIX + other for other in known])
        raise BackendError(f"timm {timm.__version__} has no model {name!r}{hint}")
    size = settings.input_size[1]
    interpolation = settings.interpolation
    return Backbone(
        name=backbone,
        input_size=size,
        mean=tuple(round(255 * value, 4) for value in settings.mean),
        std=tuple(round(255 * value, 4) for value in settings.std),
        resize=max(size, math.floor(size / settings.crop_pct)),  # few have a share above 1
        interpolation=interpolation if interpolation in _INTERPOLATIONS else "bilinear",
        license=settings.license or "unknown",
        source=f"timm {timm.__version__}, {settings.hf_hub_id or name}",
    )
