"""Which names the classes have: from the job, from a labels.json, or from the folders in a list.

In: the `labels` hyperparameter and the data channels. Out: the label map that all of them agree on,
or None where nothing names the classes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from image_classification.contract.channels import MODEL_CHANNEL, ChannelInput
from image_classification.data.labels import LABELS_FILE, LabelMap, names_of_folders
from image_classification.data.listing import read_list
from image_classification.errors import DataError, ListError

_SHOWN = 20  # names in a message
_logger = logging.getLogger(__name__)


def given_names(
    channels: Mapping[str, ChannelInput],
    hyperparameter: tuple[str, ...] | None,
    classes: int | None,
) -> LabelMap | None:
    """The names that the job or its data give, wherever below a channel a labels.json lies.

    Args:
        channels: the job's channels; that of a model is not looked into.
        hyperparameter: the names of `labels`, or None.
        classes: num_classes, or None.

    Raises:
        DataError: two origins that differ, or another number of names than `classes`.
    """
    origins: dict[str, LabelMap] = {}
    if hyperparameter is not None:
        origins["hyperparameter labels"] = LabelMap(hyperparameter)
    for name, channel in channels.items():
        if name != MODEL_CHANNEL.name and not channel.is_pipe:
            for path in _visible(channel.path, LABELS_FILE):
                origins[f"channel {name}: {path}"] = _read(path)
    if not origins:
        return None
    (first, labels), *others = origins.items()
    for origin, other in others:
        if other != labels:
            raise DataError(
                f"the class names contradict each other: {first} has {list(labels.names)[:_SHOWN]},"
                f" {origin} has {list(other.names)[:_SHOWN]}; the class numbers must mean the same "
                "everywhere: pack with one label map, or remove the wrong file"
            )
    if classes is not None and classes != len(labels):
        raise DataError(f"{first} has {len(labels)} names, but num_classes is {classes}")
    _logger.info("Class names from %s", first)
    return labels


def names_of_lists(channel: ChannelInput) -> LabelMap | None:
    """The names that the `.lst` files beside record files tell: the folders of their images.

    None without a list, or where its folders name no classes, as with several labels an image.
    """
    paths = _visible(channel.path, "*.lst")
    try:
        labels = names_of_folders(entry for path in paths for entry in read_list(path))
    except ListError as error:
        _logger.warning("Channel %s: no class names from its list: %s", channel.name, error)
        return None
    if labels is not None:
        _logger.info("Class names from the folders in %s", ", ".join(path.name for path in paths))
        return labels
    return None


def _read(path: Path) -> LabelMap:
    try:
        return LabelMap.read(path)
    except DataError as error:
        raise DataError(f"{error}; if it is another program's file, leave it out") from error


def _visible(folder: Path, pattern: str) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob(pattern)
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
