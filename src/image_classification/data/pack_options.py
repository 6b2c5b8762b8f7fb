"""What goes into records beside the images, and what makes two runs of packing the same."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from image_classification import __version__
from image_classification.data.images import DEFAULT_MAX_PIXELS
from image_classification.data.listing import ListEntry
from image_classification.data.transcoding import Transcoding
from image_classification.errors import UsageError


@dataclass(frozen=True)
class PackOptions:
    """What goes into the records, beside the images themselves.

    Attributes:
        transcoding: None stores each file's bytes as they are (checked to be an image that ends
            where it should, not decoded).
        pack_labels: store all labels of a list with several; otherwise the first.
        label_width: how many labels every line of the list must have; None takes what is there.
        part, parts: pack only the lines that fall to part `part` of `parts`, counted from 0.
        max_pixels: of an image that must be decoded to be checked; `transcoding` has its own.
        segment: give JPEGs restart markers, so that a reader can decode parts of them.
    """

    transcoding: Transcoding | None = None
    pack_labels: bool = False
    label_width: int | None = None
    part: int = 0
    parts: int = 1
    max_pixels: int = DEFAULT_MAX_PIXELS
    segment: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.part < self.parts:
            raise UsageError(
                f"expected a part from 0 to {self.parts - 1} of {self.parts}, got {self.part}"
            )
        if self.label_width is not None and self.label_width < 1:
            raise UsageError(f"expected a label width of 1 or more, got {self.label_width}")


AS_STORED = PackOptions()
"""Each file's bytes as they are, with its first label."""


def select_part(entries: list[ListEntry], options: PackOptions) -> list[ListEntry]:
    """The lines that fall to the part that was asked for."""
    if options.parts == 1:
        return entries
    first, stop = (
        len(entries) * part // options.parts for part in (options.part, options.part + 1)
    )
    return entries[first:stop]


def describe_job(list_path: Path, root: Path, options: PackOptions) -> dict[str, Any]:
    """What must be the same for a run to be resumed."""
    with list_path.open("rb") as file:
        content = hashlib.sha256()
        while block := file.read(1 << 20):
            content.update(block)
    return {
        "list": content.hexdigest(),
        "root": str(root.absolute()),
        "version": __version__,
        **asdict(options),
    }
