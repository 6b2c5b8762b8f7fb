"""Counts images while they are written, and finds those with equal bytes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from image_classification.data.encoded_image import EncodedImage
from image_classification.data.findings import Findings, ListedImage, SplitFindings
from image_classification.data.inventory import Inventory
from image_classification.data.listing import ListEntry
from image_classification.errors import DataError

_NAMED = 10  # unusable images in the error; the log names all
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
    named = "; ".join(f"{image.shown}: {reason}" for image, reason in left_out[:_NAMED])
    more = (
        f"; and {len(left_out) - _NAMED} more, named in the log" if len(left_out) > _NAMED else ""
    )
    if len(left_out) == total:
        advice = f"not one image could be used: is {root} the folder of the images?"
    else:
        advice = "repair them, or leave them out with --max-bad N or --max-bad P%"
    raise DataError(
        f"expected at most {allowed} unusable images, got {len(left_out)} of {total}: "
        f"{named}{more}; {advice}; nothing was written"
    )
