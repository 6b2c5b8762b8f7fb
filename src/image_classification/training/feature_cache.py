"""Whether a job computes the features of its images once, and what its loaders need for that.

A frozen backbone gives an image the same features in every epoch. So only the first epochs, one for
each augmented copy of the images, and the first validation compute them
(`loading/feature_loader.py`); the other epochs train and validate the head alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from image_classification.images.augment import Augmentation
from image_classification.loading.feature_loader import FeatureStore, Trunk
from image_classification.training.group import ProcessGroup
from image_classification.training.inputs import Inputs
from image_classification.training.settings import Settings

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureCache:
    """What the loaders of features need.

    Attributes:
        trunk: computes features.
        stores: one by the name of each split whose features are kept.
    """

    trunk: Trunk
    stores: Mapping[str, FeatureStore]


def feature_cache(settings: Settings, inputs: Inputs, group: ProcessGroup) -> FeatureCache | None:
    """Return the cache of a job whose backbone is frozen, or None; log one line about it.

    Every rank must call this.

    Args:
        settings, inputs: of the job.
        group: the processes that train together.
    """
    if not settings.train_only_head:
        return None
    reason = obstacle(settings, inputs)
    stores: dict[str, FeatureStore] = {}
    if not reason:
        try:
            stores = _stores(settings, inputs, group)
        except (OSError, MemoryError) as error:
            missing = error.strerror if isinstance(error, OSError) else "not enough memory"
            reason = f"there is no room to keep them ({missing})"
        if group.any(bool(reason)):
            reason = reason or "another host has no room to keep them"
    if reason:
        if group.is_leader:
            _logger.info("Computing the features of images in every epoch: %s", reason)
        return None
    views, samples, width = stores["train"].rows.shape
    if group.is_leader:
        _logger.info(
            "Computing the features of %d training images %s (feature_copies=%d), %.1f MiB in all; "
            "after that, training and validation compute only the head",
            samples,
            "once" if views == 1 else f"in each of the first {views} epochs",
            settings.feature_copies,
            4 * views * samples * width / 2**20,
        )
    engine = group.engine
    return FeatureCache(Trunk(engine.features_step, engine.all_reduce, group.any), stores)


def augmentation_of(settings: Settings, cache: FeatureCache | None) -> Augmentation | None:
    """Return the augmentation of training images; a single copy of them is not augmented."""
    is_single = cache is not None and settings.feature_copies == 1
    return None if is_single else settings.augmentation


def obstacle(settings: Settings, inputs: Inputs) -> str:
    """Return why the job cannot or must not keep features, or ""."""
    if not settings.train_only_head:
        return "all layers are trained"
    if not settings.feature_copies:
        return "feature_copies=0"
    if not inputs.training.is_countable:
        return "Pipe mode gives each image only once"
    if settings.recipe.mixup_alpha or settings.recipe.cutmix_alpha:
        return "mixup_alpha and cutmix_alpha mix images"
    return ""


def _stores(settings: Settings, inputs: Inputs, group: ProcessGroup) -> dict[str, FeatureStore]:
    views = 1 if settings.augmentation is None else settings.feature_copies
    views = min(views, settings.epochs)
    width = group.engine.feature_width
    stores = {"train": FeatureStore(views, len(inputs.training), width)}
    if group.is_leader:
        stores["validation"] = FeatureStore(1, len(inputs.validation), width)
    return stores
