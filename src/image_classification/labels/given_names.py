"""The class names that a job gives: by a hyperparameter, a labels.json, or lists next to records.

In: the folders of its channels. Out: one label map; names that contradict each other are an error.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from image_classification import errors
from image_classification.labels.label_map import LABELS_FILE, LabelMap
from image_classification.labels.lists import read_list

_SHOWN = 20  # names in a message
_logger = logging.getLogger(__name__)


def given_names(
    folders: Mapping[str, Path],
    hyperparameter: tuple[str, ...] | None,
    classes: int | None,
) -> LabelMap | None:
    """Return the class names that the job gives, or a labels.json anywhere in its channels.

    Args:
        folders: channel → its folder.
        hyperparameter: the value of `labels`, or None.
        classes: num_classes, or None.

    Raises:
        DataError: two origins differ, or the number of names is not `classes`.
    """
    origins: dict[str, LabelMap] = {}
    if hyperparameter is not None:
        origins["hyperparameter labels"] = LabelMap(hyperparameter)
    for name, folder in folders.items():
        for path in _visible_files(folder, LABELS_FILE):
            origins[f"channel {name}: {path}"] = _read(path)
    if not origins:
        return None
    (first, labels), *others = origins.items()
    for origin, other in others:
        if other != labels:
            raise errors.DataError(
                f"the class names contradict each other: {first} has {list(labels.names)[:_SHOWN]},"
                f" {origin} has {list(other.names)[:_SHOWN]}; the class numbers must mean the same "
                "everywhere: pack all data with one label map, or remove the wrong file"
            )
    if classes is not None and classes != len(labels):
        raise errors.DataError(f"{first} has {len(labels)} names, but num_classes is {classes}")
    _logger.info("Class names from %s", first)
    return labels


def names_of_lists(channel: str, folder: Path) -> LabelMap | None:
    """Return the folder names in the `.lst` files below `folder` as class names of its records.

    None if there is no list, or if its folders are not classes, as with multiple labels per image.
    """
    paths = _visible_files(folder, "*.lst")
    try:
        labels = LabelMap.from_folders(entry for path in paths for entry in read_list(path))
    except errors.ListError as error:
        _logger.warning("Channel %s: no class names from its list: %s", channel, error)
        return None
    if labels is not None:
        _logger.info("Class names from the folders in %s", ", ".join(path.name for path in paths))
        return labels
    return None


def _read(path: Path) -> LabelMap:
    try:
        return LabelMap.read(path)
    except errors.DataError as error:
        raise errors.DataError(f"{error}; if another program wrote this file, remove it") from error


def _visible_files(folder: Path, pattern: str) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob(pattern)
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
