"""What a pack did: which images are in the records, which are not and why.

In: the result of each image, in list order. Out: a `PackReport`, and the share of each part of the
output, which a resumed run adds up again.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from image_classification.errors import DataError
from image_classification.labels.lists import ListEntry

_NAMED = 10  # bad images in the error; the log names all
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SkippedImage:
    """An image that is not in the record file, and why."""

    id: int
    path: str
    reason: str


@dataclass(frozen=True)
class PackReport:
    """What was packed.

    Attributes:
        output: the record file; with shards the name they are derived from.
        packed: records in it.
        skipped: the images that are not.
        class_counts: label → records, in ascending order.
        size_bytes: of the record file or of all shards.
        shards: names of the shards; empty for one file.
        resumed: images of the list that an interrupted run had done.
    """

    output: str
    packed: int
    skipped: tuple[SkippedImage, ...]
    class_counts: Mapping[float, int]
    size_bytes: int
    shards: tuple[str, ...] = ()
    resumed: int = 0

    def to_json(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        counts = {f"{label:g}": count for label, count in self.class_counts.items()}
        return {**asdict(self), "class_counts": counts}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PackReport:
        """Raises KeyError, TypeError or ValueError where the content is not that of `to_json`."""
        return cls(
            **{
                **content,
                "skipped": tuple(SkippedImage(**image) for image in content["skipped"]),
                "class_counts": {
                    float(label): int(count) for label, count in content["class_counts"].items()
                },
                "shards": tuple(content["shards"]),
            }
        )


@dataclass
class PartContent:
    """What a part of the output holds: the images `first` to `stop` − 1 of the list.

    Attributes:
        first, stop: positions in the list.
        class_counts: label → records.
        skipped: the images that are not in it.
    """

    first: int
    stop: int
    class_counts: Counter[float] = field(default_factory=Counter)
    skipped: list[SkippedImage] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it; `from_json` reads it back."""
        return {**asdict(self), "class_counts": list(self.class_counts.items())}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PartContent:
        """Raises KeyError, TypeError or ValueError where the content is not that of `to_json`."""
        return cls(
            int(content["first"]),
            int(content["stop"]),
            Counter({float(label): int(count) for label, count in content["class_counts"]}),
            [SkippedImage(**image) for image in content["skipped"]],
        )


class Tally:
    """Counts results as they come, and says in the log what was wrong.

    Bad images are logged once a good one has been seen: where there is none, as with a wrong root,
    the error says so and a million lines would hide it.

    Args:
        list_path: the list, for messages.
        finished: what parts of an interrupted run hold.

    Attributes:
        part: what the part under way holds.
    """

    def __init__(self, list_path: Path, finished: Iterable[PartContent] = ()) -> None:
        self._list_path = list_path
        self._finished = list(finished)
        first = self._finished[-1].stop if self._finished else 0
        self.part = PartContent(first, first)
        self._has_back_slashes = False
        self._unlogged = self.skipped
        self._has_good = any(content.class_counts for content in self._finished)

    @property
    def skipped(self) -> list[SkippedImage]:
        """All images that were left out, in list order."""
        return [image for part in (*self._finished, self.part) for image in part.skipped]

    def add(self, entry: ListEntry, reason: str | None, has_back_slashes: bool) -> None:
        """Count the next image of the list; `reason` is None where it was packed."""
        self.part.stop += 1
        if reason is None:
            self.part.class_counts[entry.labels[0]] += 1
            self._has_good = True
        else:
            # A wrong root gives a million equal reasons: one object for all.
            self.part.skipped.append(SkippedImage(entry.id, entry.path, sys.intern(reason)))
            self._unlogged.append(self.part.skipped[-1])
        if self._has_good and self._unlogged:
            for image in self._unlogged:
                _log.warning("%s cannot be packed: %s", image.path, image.reason)
            self._unlogged = []
        if has_back_slashes and not self._has_back_slashes:
            self._has_back_slashes = True
            _log.warning("%s: the back-slashes of its paths were read as /", self._list_path)

    def end_part(self) -> PartContent:
        """What the part that is complete now holds; counting goes on with the next."""
        content = self.part
        self._finished.append(content)
        self.part = PartContent(content.stop, content.stop)
        return content

    def report(
        self, output: Path, size_bytes: int, shards: Sequence[Path], resumed: int
    ) -> PackReport:
        """The report of the whole list."""
        total: Counter[float] = Counter()
        for part in (*self._finished, self.part):
            total.update(part.class_counts)
        return PackReport(
            str(output),
            sum(total.values()),
            tuple(self.skipped),
            dict(sorted(total.items())),
            size_bytes,
            tuple(path.name for path in shards),
            resumed,
        )


def check_skipped(
    skipped: Sequence[SkippedImage], total: int, max_bad: int | float, root: Path
) -> None:
    """Raise a DataError that names them where more images are unusable than are allowed."""
    allowed = max_bad if isinstance(max_bad, int) else int(max_bad * total)
    if len(skipped) <= allowed and len(skipped) < total:
        return
    named = "; ".join(f"{image.path}: {image.reason}" for image in skipped[:_NAMED])
    more = f"; and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
    if len(skipped) == total:
        advice = f"not one image could be used: is {root} the root of the list?"
    else:
        more += ", named in the log" if more else ""
        advice = "repair them, or leave them out with --max-bad N or --max-bad P%"
    raise DataError(
        f"expected at most {allowed} unusable images, got {len(skipped)} of {total}: "
        f"{named}{more}; {advice}; nothing was written"
    )
