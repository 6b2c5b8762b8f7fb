"""The network that stands in for a ResNet whose ImageNet weights are not on this machine.

The MXNet built-in carries weights of every ResNet; no package that this project may install has
them. So that a job written for it runs by changing the image alone, `use_pretrained_model=1` then
starts from EfficientNet-Lite0's, in the open: a warning, the report and the model card say so. A
backbone that is named is never replaced.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from image_classification import backends
from image_classification.artifact import open_artifact
from image_classification.backends.pretrained import has_weights
from image_classification.backends.shared_backbones import LARGE_DEPTHS
from image_classification.contract import environment
from image_classification.contract.channels import ChannelInput
from image_classification.training.model_channel import is_artifact, model_path

STAND_IN = "efficientnet_lite0"

_logger = logging.getLogger(__name__)


def replaced_backbone(
    interface: str, values: Mapping[str, Any], channels: Mapping[str, ChannelInput]
) -> tuple[str, str] | None:
    """(the backbone to use, the one it stands in for), or None where the job has what it asks for.

    A model channel whose artifact came of a stand-in goes on with it: built-in jobs repeat
    `num_layers` in incremental training.

    Args:
        interface: mxnet or tensorflow; only the former names networks by `num_layers`.
        values: typed hyperparameters.
        channels: of the job.

    Raises:
        ArtifactError: the model channel holds no readable artifact.
    """
    if interface != "mxnet" or values["backbone"]:
        return None
    depth = int(values["num_layers"])
    catalog = backends.catalog(values["backend"])
    asked = catalog.resnet_name(depth)
    if "model" in channels:
        return _of_artifact(model_path(channels["model"]), asked)
    if not values["use_pretrained_model"] or depth not in LARGE_DEPTHS:
        return None
    folder = Path(environment.WEIGHTS_DIR.read())
    if has_weights(catalog.find(asked), folder):
        return None
    if not has_weights(catalog.find(STAND_IN), folder):
        return None  # there is nothing to start from: the error about it names the remedies
    _logger.warning(
        "ANOTHER NETWORK THAN ASKED FOR: there are no ImageNet weights of %s here, so "
        "use_pretrained_model=1 trains %s, from its ImageNet weights. For %s put "
        "%s.safetensors into %s; to be refused instead, set backbone=%s; for silence "
        "backbone=%s",
        *(asked, STAND_IN, asked, asked, folder, asked, STAND_IN),
    )
    return STAND_IN, asked


def _of_artifact(path: Path, asked: str) -> tuple[str, str] | None:
    """Only an artifact of ours says what it stands in for."""
    if not is_artifact(path):
        return None
    with open_artifact(path) as artifact:
        earlier = artifact.manifest.get("hyperparameters", {})
        if earlier.get("stands_for") != asked:
            return None
        backbone = str(artifact.manifest["backbone"])
    _logger.warning(
        "ANOTHER NETWORK THAN ASKED FOR: the channel model holds %s, trained in place of %s; it is "
        "trained on",
        *(backbone, asked),
    )
    return backbone, asked
