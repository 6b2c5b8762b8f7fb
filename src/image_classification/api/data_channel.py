"""The channel that `train DATA` trains on: the data itself, or a folder made from it.

Class folders and splits are channels already. Records get folders of links by split; the images of
a table or list are written to folders, or to records if an image has several classes.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from image_classification.errors import UsageError

_LISTINGS = (".lst", ".csv", ".tsv", ".jsonl", ".manifest", ".ndjson", ".json", ".txt")
_logger = logging.getLogger(__name__)


def channel_of(
    data: Path, channels: Path, is_multi_label: bool, origins: dict[str, str]
) -> tuple[Path, bool]:
    """Return the folder to train on, and whether its images can have several classes.

    Args:
        data: what the user names.
        channels: where channels are written, if the data is not a channel already.
        is_multi_label: whether the user says that images have several classes.
        origins: of `Run`; filled in.
    """
    from image_classification.inventory.folders import has_class_folders
    from image_classification.inventory.splits import split_folders, splits_in_names, subfolders
    from image_classification.loading.packed import find_packed
    from image_classification.loading.records import record_files

    if data.is_file():
        suffix, records = data.suffix.lower(), data.with_suffix(".rec")
        if suffix == ".rec" or (suffix == ".lst" and records.is_file()):
            return _linked(channels, {"train": [records]}), is_multi_label
        if suffix in _LISTINGS:
            return _written(data.parent, data, channels, origins)
        return data, is_multi_label  # the job's error says what to do with it
    if split_folders(data):
        return data, is_multi_label
    if files := record_files(data):
        if splits := splits_in_names(files):
            named: dict[str, list[Path]] = {}
            for file, split in zip(files, splits, strict=True):
                named.setdefault(split, []).append(file)
            return _linked(channels, named), is_multi_label
        return data, is_multi_label
    if find_packed(data) or has_class_folders(data):
        return data, is_multi_label
    inner = subfolders(data)
    if len(inner) == 1 and (has_class_folders(inner[0]) or split_folders(inner[0])):
        _logger.info("%s holds only the folder %s: training on that folder", data, inner[0].name)
        return inner[0], is_multi_label
    if _has_listing(data):
        return _written(data, None, channels, origins)
    return data, is_multi_label


def _has_listing(folder: Path) -> bool:
    """Return whether a table or list lies in a folder or in a folder below it."""
    places = (folder, *(path for path in folder.iterdir() if path.is_dir()))
    return any(
        path.suffix.lower() in _LISTINGS and path.name != "labels.json" and path.is_file()
        for place in places
        for path in place.iterdir()
    )


def _linked(channels: Path, files: Mapping[str, list[Path]]) -> Path:
    """Make the folders of splits, with links to records, their indexes and class names."""
    shutil.rmtree(channels, ignore_errors=True)
    for split, records in files.items():
        folder = channels / split
        folder.mkdir(parents=True)
        for record in records:
            beside = (record, record.with_suffix(".idx"), record.with_suffix(".lst"))
            for path in (*beside, record.with_name("labels.json")):
                if path.is_file() and not (folder / path.name).exists():
                    (folder / path.name).symlink_to(path.resolve())
    return channels


def _written(
    root: Path, listing: Path | None, channels: Path, origins: dict[str, str]
) -> tuple[Path, bool]:
    """Write the images that a table or list names to channels; see `channel_of`."""
    from image_classification.contract import environment
    from image_classification.inventory.folders import take_inventory
    from image_classification.prepare.channels import ChannelPlan, write_channels

    try:
        inventory = take_inventory(root, listing)
    except UsageError as error:
        raise UsageError(f"{error}; for train, give such a file itself as the data") from error
    several = inventory.multi_hot is not None
    shutil.rmtree(channels, ignore_errors=True)
    kind = "recordio" if several else "folders"  # folders keep the names of the files
    plan = ChannelPlan(format=kind, max_pixels=environment.max_pixels())
    write_channels(inventory, channels, plan, lambda _done, _all: None)
    if inventory.read is None:  # else the images lie in the table
        origins.update((f"{entry.id:08d}", entry.path) for entry in inventory.entries)
    return channels, several
