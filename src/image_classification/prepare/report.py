"""Counts images while they are written, and finds those with equal bytes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from image_classification.errors import DataError
from image_classification.inventory import Inventory
from image_classification.labels.label_map import LabelMap
from image_classification.labels.lists import ListEntry
from image_classification.labels.tree import class_name
from image_classification.prepare.encode import EncodedImage

_IMBALANCED = 10  # times more images in the largest class than in the smallest
_NAMED = 10  # classes in a remark


@dataclass(frozen=True)
class ListedImage:
    """An image in messages and reports: the split it was meant for, its path and class name."""

    split: str
    path: str
    label: str

    @property
    def shown(self) -> str:
        """The path as text: bytes that are not UTF-8 as `\\xe9`."""
        return class_name(self.path)

    def to_json(self) -> dict[str, str]:
        """The image as JSON can hold it."""
        return {"split": self.split, "path": self.shown, "label": self.label}


@dataclass
class SplitFindings:
    """What was written of one split.

    Attributes:
        files: names of its shards.
        images: how many were written.
        size_bytes: what they take.
        class_counts: images of each class, in the order of the label map.
        left_out: (image, reason).
    """

    class_counts: list[int]
    files: list[str] = field(default_factory=list)
    images: int = 0
    size_bytes: int = 0
    left_out: list[tuple[ListedImage, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Findings:
    """What a host found and wrote.

    Attributes:
        name: the input.
        root: the folder of the images.
        labels: class names.
        settings: how it was written, as JSON can hold it.
        splits: split → what was written of it.
        duplicates: images with equal bytes, two or more each.
        not_taken: (what, how many, one example) of what lies in the input and is no listed image.
        host, hosts: which of how many hosts this is, from 0; one host sees its own shards only.
    """

    name: str
    root: Path
    labels: LabelMap
    settings: Mapping[str, Any]
    splits: Mapping[str, SplitFindings]
    duplicates: Sequence[Sequence[ListedImage]]
    not_taken: Sequence[tuple[str, int, str]]
    host: int = 0
    hosts: int = 1

    @property
    def images(self) -> int:
        """How many images were written."""
        return sum(split.images for split in self.splits.values())

    @property
    def crossing(self) -> list[Sequence[ListedImage]]:
        """The duplicates that lie in several splits: what is validated on was trained on."""
        return [group for group in self.duplicates if len({image.split for image in group}) > 1]

    @property
    def contradicting(self) -> list[Sequence[ListedImage]]:
        """The duplicates that have several classes."""
        return [group for group in self.duplicates if len({image.label for image in group}) > 1]

    def class_totals(self) -> list[int]:
        """Images of each class in all splits."""
        counts = [split.class_counts for split in self.splits.values()]
        return [sum(split[i] for split in counts) for i in range(len(self.labels))]

    def remarks(self) -> list[str]:
        """What a user should know before training, one sentence each."""
        remarks = []
        left_out = sum(len(split.left_out) for split in self.splits.values())
        if left_out:
            remarks.append(f"images left out because they cannot be used: {left_out}")
        if self.crossing:
            remarks.append(
                f"images that lie in several splits with equal bytes: {len(self.crossing)}; the "
                "accuracy on the held-out splits will be too good"
            )
        if self.contradicting:
            remarks.append(
                f"images that have several classes with equal bytes: {len(self.contradicting)}"
            )
        totals = self.class_totals()
        if min(totals) and max(totals) >= _IMBALANCED * min(totals):
            remarks.append(
                f"the largest class has {max(totals)} images, the smallest {min(totals)}: accuracy "
                "will hide how the small classes fare"
            )
        return remarks + self._absences()

    def _absences(self) -> list[str]:
        """Classes that a split lacks; said for one host only, another may have the rest."""
        remarks = []
        for name, split in self.splits.items() if self.hosts == 1 else ():
            pairs = zip(self.labels.names, split.class_counts, strict=True)
            absent = [label for label, count in pairs if not count]
            if absent:
                more = f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else ""
                remarks.append(f"{name} has no image of {', '.join(absent[:_NAMED])}{more}")
        return remarks

    def to_json(self) -> dict[str, Any]:
        """The findings as JSON can hold them."""
        return {
            "input": self.name,
            "host": self.host,
            "hosts": self.hosts,
            **self.settings,
            "remarks": self.remarks(),
            "splits": {name: self._split_json(split) for name, split in self.splits.items()},
            "duplicates": [[i.to_json() for i in group] for group in self.duplicates],
            "not_taken": [
                {"what": what, "count": count, "example": class_name(example)}
                for what, count, example in self.not_taken
            ],
        }

    def _split_json(self, split: SplitFindings) -> dict[str, Any]:
        return {
            "images": split.images,
            "bytes": split.size_bytes,
            "files": split.files,
            "images_per_class": dict(zip(self.labels.names, split.class_counts, strict=True)),
            "left_out": [{**image.to_json(), "reason": reason} for image, reason in split.left_out],
        }


_NAMED_COPIES = 10  # unusable images in the error; the log names all
_logger = logging.getLogger(__name__)


class Tally:
    """What becomes of the images of an inventory.

    Attributes:
        splits: split → what was written of it so far.
    """

    def __init__(self, inventory: Inventory, splits: Iterable[str]) -> None:
        self._inventory = inventory
        self.splits = {name: SplitFindings([0] * len(inventory.labels)) for name in splits}
        self._seen: dict[bytes, list[tuple[str, ListEntry]]] = {}

    def add(self, split: str, image: EncodedImage, size: int) -> None:
        """Count one image, written in `size` bytes or unusable."""
        findings = self.splits[split]
        if image.reason is None:
            findings.images += 1
            findings.size_bytes += size
            findings.class_counts[int(image.entry.labels[0])] += 1
            self._seen.setdefault(image.digest, []).append((split, image.entry))
        else:
            findings.left_out.append((self._listed(split, image.entry), image.reason))
            listed = findings.left_out[-1][0]
            _logger.warning("%s cannot be used: %s", listed.shown, image.reason)

    def left_out(self) -> list[tuple[ListedImage, str]]:
        """(image, reason) of all splits."""
        return [pair for split in self.splits.values() for pair in split.left_out]

    def _listed(self, split: str, entry: ListEntry) -> ListedImage:
        return ListedImage(split, entry.path, self._inventory.labels.names[int(entry.labels[0])])

    def findings(self, settings: Mapping[str, Any], host: int, hosts: int) -> Findings:
        """Everything counted, with the settings it was written with."""
        duplicates = [
            [self._listed(split, entry) for split, entry in found]
            for found in self._seen.values()
            if len(found) > 1
        ]
        inventory = self._inventory
        return Findings(
            inventory.name,
            inventory.root,
            inventory.labels,
            settings,
            self.splits,
            duplicates,
            inventory.left_out,
            host,
            hosts,
        )


def check_left_out(
    left_out: Sequence[tuple[ListedImage, str]], total: int, max_bad: int | float, root: Path
) -> None:
    """A DataError that names unusable images if there are more of `total` than `max_bad` allows."""
    allowed = max_bad if isinstance(max_bad, int) else int(max_bad * total)
    if len(left_out) <= allowed and (len(left_out) < total or not total):
        return
    named = "; ".join(f"{image.shown}: {reason}" for image, reason in left_out[:_NAMED_COPIES])
    more = (
        f"; and {len(left_out) - _NAMED_COPIES} more, named in the log"
        if len(left_out) > _NAMED_COPIES
        else ""
    )
    if len(left_out) == total:
        advice = f"not one image could be used: is {root} the folder of the images?"
    else:
        advice = "repair them, or leave them out with --max-bad N or --max-bad P%"
    raise DataError(
        f"expected at most {allowed} unusable images, got {len(left_out)} of {total}: "
        f"{named}{more}; {advice}; nothing was written"
    )
