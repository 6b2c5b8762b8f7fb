"""The label map: class name ↔ class index, decided once and carried through every stage.

In: the class names in index order. Out: `labels.json`, `{"labels": ["daisy", "roses"]}`.
"""

from __future__ import annotations

import json
import posixpath
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from image_classification.errors import DataError
from image_classification.files import write_text
from image_classification.labels.lists import ListEntry

LABELS_FILE = "labels.json"
MAX_CLASSES = 1_000_000
"""A class number beyond this is a mistake: an id in the label column."""

_NAMED = 20  # classes in a message
_REMEDY = 'write {"labels": ["name of class 0", …]} into it, or delete it'


def is_utf8(text: str) -> bool:
    """Whether `text` can be written; text from bytes in another encoding cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


@dataclass(frozen=True)
class LabelMap:
    """Class names; a name's position is its class index (from 0, without gaps)."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        repeated = sorted(name for name, count in Counter(self.names).items() if count > 1)
        if repeated:
            raise DataError(f"class names must differ, but these occur twice: {_listed(repeated)}")
        for name in self.names:
            if not is_utf8(name):
                raise DataError(f"expected class names in UTF-8, got {name!a}")

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """The class index of `name`; a DataError lists the known names if it is not one."""
        try:
            return self.names.index(name)
        except ValueError:
            raise DataError(
                f"class {name!r} is not in the label map; known classes: {_listed(self.names)}"
            ) from None

    def to_prediction_index(self) -> dict[str, int]:
        """Name → index, as in the file of the TensorFlow built-in."""
        return {name: index for index, name in enumerate(self.names)}

    @classmethod
    def numbered(cls, classes: int) -> LabelMap:
        """Return the names "0", "1", … for data without names, such as record files.

        Raises:
            DataError: more than `MAX_CLASSES`.
        """
        if classes > MAX_CLASSES:
            raise DataError(
                f"expected class numbers below {MAX_CLASSES}, got {classes - 1}; is this an id?"
            )
        return cls(tuple(str(index) for index in range(classes)))

    @classmethod
    def from_folders(cls, entries: Iterable[ListEntry]) -> LabelMap | None:
        """Take the class names from a list: each class is named after the folder of its images.

        None if that is impossible: a class in several folders, a folder of several classes, images
        without a folder, or a class number that does not occur.
        """
        folders: dict[int, str] = {}
        for entry in entries:
            name = posixpath.basename(posixpath.dirname(entry.path.replace("\\", "/")))
            name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            label = entry.labels[0]
            if len(entry.labels) > 1:
                return None
            if not name or not label.is_integer() or folders.setdefault(int(label), name) != name:
                return None
        if not folders or sorted(folders) != list(range(len(folders))):
            return None
        if len(set(folders.values())) < len(folders):
            return None
        return cls(tuple(folders[number] for number in range(len(folders))))

    @classmethod
    def parse(cls, text: str) -> LabelMap:
        """Parse a JSON list, `["a, b", "c"]`, or names separated by commas, `a,c`.

        Raises:
            DataError: neither, an empty name, or a name that occurs twice.
        """
        names: object = [name.strip() for name in text.split(",")]
        if text.lstrip().startswith("["):
            try:
                names = json.loads(text)
            except (ValueError, RecursionError):
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
        """Write `labels.json`, whole or not at all."""
        write_text(path, json.dumps({"labels": list(self.names)}, ensure_ascii=False, indent=1))

    def check_beside(self, path: Path) -> None:
        """Raise a DataError if a `labels.json` next to `path` does not have the same classes."""
        if LabelMap.beside(path) not in (None, self):
            raise DataError(
                f"{path.with_name(LABELS_FILE)} does not have the classes of {path}, and names "
                "those of all files in its folder: write to another folder, or delete it if "
                "nothing there needs it"
            )

    @classmethod
    def beside(cls, path: Path) -> LabelMap | None:
        """Return the label map in the folder of `path`, or None; raise as `read`."""
        beside = path.with_name(LABELS_FILE)
        return cls.read(beside) if beside.is_file() else None

    @classmethod
    def read(cls, path: Path) -> LabelMap:
        """Read `labels.json`; a DataError names the file, the mistake and the remedy."""
        try:
            content: object = json.loads(path.read_text("utf-8"))
        except OSError as error:
            raise DataError(f"{path}: the label map cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: byte {error.start} is not UTF-8; save it as UTF-8") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: expected JSON, but {error}; {_REMEDY}") from error
        names = content.get("labels") if isinstance(content, dict) else None
        if not isinstance(names, list):
            raise DataError(f'{path}: expected a list under "labels", found none; {_REMEDY}')
        for number, name in enumerate(names):
            if not isinstance(name, str):
                shown = json.dumps(name)[:80]
                raise DataError(f"{path}: class {number} is {shown}, expected a name; {_REMEDY}")
        try:
            return cls(tuple(names))
        except DataError as error:
            raise DataError(f"{path}: {error}; correct it") from error
