"""The label map: class name ↔ class index, decided once and carried through every stage.

In: the class names in index order. Out: `labels.json`, `{"labels": ["daisy", "roses"]}`.
"""

from __future__ import annotations

import csv
import difflib
import json
import logging
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from image_classification.errors import LFS_CURE, LFS_POINTER, DataError, ListError, counted
from image_classification.files import write_text
from image_classification.labels.lists import LFS_MARK, ListEntry, read_list

LABELS_FILE = "labels.json"
MAX_CLASSES = 1_000_000
"""A class number beyond this is a mistake: an id in the label column."""

_NAMED = 20  # classes in a message
_log = logging.getLogger(__name__)
_REMEDY = 'write {"labels": ["name of class 0", …]} into it, or delete it'


def is_utf8(text: str) -> bool:
    """Whether `text` can be written; text from bytes in another encoding cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def listed(names: Sequence[str]) -> str:
    """Return the first names, separated by commas, and the number of the others."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _plain(name: str) -> str:
    """Return what names have in common that differ in Unicode form, case or blanks."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


def alike(names: Iterable[str]) -> list[str]:
    """Describe each group of names that differ only in Unicode form, case or blanks.

    They are different classes, but often one to the people who wrote them.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_plain(name), []).append(name)
    return [_described(group) for group in groups.values() if len(group) > 1]


def _described(group: Sequence[str]) -> str:
    composed = {unicodedata.normalize("NFC", name) for name in group}
    if len(composed) < len(group):  # they look the same: escapes tell them apart
        return f"{' and '.join(map(ascii, group))} (the same but for their Unicode form)"
    is_case = len({"".join(name.split()) for name in group}) == len(group)
    difference = "upper and lower case" if is_case else "blanks"
    return f"{' and '.join(map(repr, group))} (the same but for {difference})"


def imagenet_labels() -> tuple[str, ...]:
    """Return ImageNet's 1,000 class names in index order, the order of the WordNet ids.

    Source: the first lemma of each synset of ILSVRC 2012 in WordNet 3.0; three names that two
    classes share say which is meant.
    """
    with Path(__file__).with_name("imagenet.csv").open(encoding="utf-8", newline="") as file:
        return tuple(row["name"] for row in csv.DictReader(file))


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return ` (did you mean …?)` with the name that is nearly `name`, or nothing."""
    known = {_plain(other): other for other in names}
    found = difflib.get_close_matches(_plain(name), known, n=1, cutoff=0.75)
    if not found:
        return ""
    close = known[found[0]]
    is_same = unicodedata.normalize("NFC", close) == unicodedata.normalize("NFC", name)
    shown = f"{close!a} instead of {name!a}, another Unicode form" if is_same else repr(close)
    return f" (did you mean {shown}?)"


def numbering_advice(numbers: Iterable[int]) -> str | None:
    """Describe class numbers that do not count from 0 or leave gaps; None if none is missing.

    None too for negative numbers, which cannot be those of classes.
    """
    found = sorted(set(numbers))
    if not found or found[0] < 0 or found[-1] == len(found) - 1:
        return None
    if found[-1] >= MAX_CLASSES:
        return (
            f"the labels are {_ranges(found)}, but class numbers are below {MAX_CLASSES}: are "
            f"these ids? Number the {counted(len(found), 'classes')} {_from_zero(len(found))}"
        )
    missing = sorted(set(range(found[-1] + 1)).difference(found))
    said = f"the labels are {_ranges(found)}, so no image has {_ranges(missing)}"
    if missing == [0]:
        return f"{said}: labels count from 0; subtract 1 from each label"
    return (
        f"{said}: labels count from 0 without gaps; number the {counted(len(found), 'classes')} "
        f"{_from_zero(len(found))}"
    )


def _from_zero(classes: int) -> str:
    return "0" if classes == 1 else f"0 to {classes - 1}"


def advice_on(numbers: Iterable[int]) -> str:
    """Return the advice of `numbering_advice` as the end of a message: `; the labels are …`."""
    advice = numbering_advice(numbers)
    return f"; {advice}" if advice else ""


def _ranges(numbers: Sequence[int]) -> str:
    """Return sorted numbers as text: `1 to 3, 7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return listed([str(a) if a == b else f"{a} to {b}" for a, b in runs])


@dataclass(frozen=True)
class LabelMap:
    """Class names; a name's position is its class index (from 0, without gaps)."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        repeated = sorted(name for name, count in Counter(self.names).items() if count > 1)
        if repeated:
            raise DataError(f"class names must differ, but these occur twice: {listed(repeated)}")
        for name in self.names:
            if not is_utf8(name):
                raise DataError(f"expected class names in UTF-8, got {name!a}")

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    def index(self, name: str) -> int:
        """The class index of `name`; a DataError lists the known names if it is not one."""
        index = self._indices.get(name)
        if index is None:
            raise DataError(
                f"class {name!r} is not in the label map{did_you_mean(name, self.names)}; known "
                f"classes: {listed(self.names)}; correct it, or add it to the label map"
            )
        return index

    def gaps(self, present: Iterable[int]) -> str | None:
        """Return `numbering_advice` on the class indices that occur, unless names explain a gap.

        A class without a sample is one that the data may lack if it has a name of its own.
        """
        found = set(present)
        names = [(i, name) for i, name in enumerate(self.names) if i not in found]
        return None if any(name != str(i) for i, name in names) else numbering_advice(found)

    @property
    def has_numbers(self) -> bool:
        """Whether a class has its number as its name, as one without a name has."""
        return any(name == str(number) for number, name in enumerate(self.names))

    def to_prediction_index(self) -> dict[str, int]:
        """Name → index, as in the file of the TensorFlow built-in."""
        return dict(self._indices)

    @classmethod
    def numbered(cls, classes: int, name: object = "") -> LabelMap:
        """Return the names "0", "1", … for data without names, such as record files.

        Args:
            classes: how many.
            name: of the data, for the error.

        Raises:
            DataError: more than `MAX_CLASSES`.
        """
        if classes > MAX_CLASSES:
            raise DataError(
                f"{name}{': ' if name else ''}expected class numbers below {MAX_CLASSES}, got "
                f"{classes - 1}; is this an id?"
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
            with path.open("rb") as file:
                is_pointer = file.read(len(LFS_MARK)) == LFS_MARK
            what = f"expected class names, found {LFS_POINTER}: {LFS_CURE}"
            said = what if is_pointer else f"expected JSON, but {error}; {_REMEDY}"
            raise DataError(f"{path}: {said}") from error
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
            raise DataError(
                f"the class names contradict each other: {first} has {list(labels.names)[:_NAMED]},"
                f" {origin} has {list(other.names)[:_NAMED]}; the class numbers must mean the same "
                "everywhere: pack all data with one label map, or remove the wrong file"
            )
    if classes is not None and classes != len(labels):
        raise DataError(f"{first} has {len(labels)} names, but num_classes is {classes}")
    _log.info("Class names from %s", first)
    return labels


def names_of_lists(channel: str, folder: Path) -> LabelMap | None:
    """Return the folder names in the `.lst` files below `folder` as class names of its records.

    None if there is no list, or if its folders are not classes, as with multiple labels per image.
    """
    paths = _visible_files(folder, "*.lst")
    try:
        labels = LabelMap.from_folders(entry for path in paths for entry in read_list(path))
    except ListError as error:
        _log.warning("Channel %s: no class names from its list: %s", channel, error)
        return None
    if labels is not None:
        _log.info("Class names from the folders in %s", ", ".join(path.name for path in paths))
        return labels
    return None


def _read(path: Path) -> LabelMap:
    try:
        return LabelMap.read(path)
    except DataError as error:
        raise DataError(f"{error}; if another program wrote this file, remove it") from error


def _visible_files(folder: Path, pattern: str) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob(pattern)
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
