"""The label map: class name ↔ class index, decided once and carried through every stage.

In: the class names in index order. Out: `labels.json`, `{"labels": ["daisy", "roses"]}`.
"""

from __future__ import annotations

import json
import posixpath
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from image_classification.data.files import write_text
from image_classification.data.listing import ListEntry
from image_classification.errors import DataError

LABELS_FILE = "labels.json"
MAX_CLASSES = 1_000_000
"""A class number beyond this is a mistake: an id in the column of labels."""


@dataclass(frozen=True)
class LabelMap:
    """Class names; a name's position is its class index (from 0, without gaps)."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        repeated = sorted(name for name, count in Counter(self.names).items() if count > 1)
        if repeated:
            raise DataError(f"class names must differ, but these occur twice: {repeated}")

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """The class index of `name`; a DataError that lists the known names if there is none."""
        try:
            return self.names.index(name)
        except ValueError:
            raise DataError(
                f"class {name!r} is not in the label map; known classes: {list(self.names)}"
            ) from None

    def to_prediction_index(self) -> dict[str, int]:
        """Name → index, the form that users of the TensorFlow built-in read."""
        return {name: index for index, name in enumerate(self.names)}

    @classmethod
    def numbered(cls, classes: int) -> LabelMap:
        """Names "0", "1", … for data that came without any (record files carry none).

        Raises:
            DataError: more than `MAX_CLASSES`.
        """
        if classes > MAX_CLASSES:
            raise DataError(
                f"expected class numbers below {MAX_CLASSES}, got {classes - 1}; is this an id?"
            )
        return cls(tuple(str(index) for index in range(classes)))

    @classmethod
    def parse(cls, text: str) -> LabelMap:
        """From a JSON list, `["a, b", "c"]`, or names separated by commas, `a,c`.

        Raises:
            DataError: neither, an empty name, or a name that occurs twice.
        """
        names: object = [name.strip() for name in text.split(",")]
        if text.lstrip().startswith("["):
            try:
                names = json.loads(text)
            except ValueError:
                names = None
        if (
            not isinstance(names, list)
            or not names
            or not all(isinstance(name, str) and name for name in names)
        ):
            raise DataError(
                'expected class names as a JSON list ["name of class 0", …] or separated by '
                f"commas, got {text[:200]!r}"
            )
        return cls(tuple(names))

    def write(self, path: Path) -> None:
        """Write `labels.json`, beside and then renamed."""
        write_text(path, json.dumps({"labels": list(self.names)}, ensure_ascii=False, indent=1))

    def check_beside(self, path: Path) -> None:
        """Refuse a place for `path` where a `labels.json` names other classes than these.

        Raises:
            DataError: as `read`, or the names differ.
        """
        existing = path.with_name(LABELS_FILE)
        if existing.is_file() and LabelMap.read(existing) != self:
            raise DataError(
                f"{existing} has other classes than {path}, and would give its names to other "
                "files there: write to another folder, or delete it if nothing there needs it"
            )

    @classmethod
    def read(cls, path: Path) -> LabelMap:
        """Read `labels.json`; a DataError names the file and what is wrong in it."""
        try:
            names: object = json.loads(path.read_text("utf-8"))["labels"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f'{path}: expected {{"labels": ["name of class 0", …]}}, got {error!r}'
            ) from error
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f'{path}: "labels" must be a list of strings, got {names!r:.200}')
        return cls(tuple(names))


def names_of_folders(entries: Iterable[ListEntry]) -> LabelMap | None:
    """The class names that the folders in a list tell: the folder above each image.

    None where they tell none: a class in several folders, a folder of several classes, images
    without a folder, or a class number that does not occur.
    """
    folders: dict[int, str] = {}
    for entry in entries:
        name = posixpath.basename(posixpath.dirname(entry.path.replace("\\", "/")))
        name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        label = entry.labels[0]
        if not name or not label.is_integer() or folders.setdefault(int(label), name) != name:
            return None
    if not folders or sorted(folders) != list(range(len(folders))):
        return None
    if len(set(folders.values())) < len(folders):
        return None
    return LabelMap(tuple(folders[number] for number in range(len(folders))))
