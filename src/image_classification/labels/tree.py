"""Image trees: walks folders in im2rec's order, numbers the classes, reports what is left out.

In: a root folder. Out: a list with its label map, and one warning that names what is not in it.
Source of the order and the numbers: `list_image` in `tools/im2rec.py` of MXNet 1.9.1.
"""

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from image_classification.errors import DataError, ListError
from image_classification.labels.label_map import LabelMap
from image_classification.labels.lists import ListEntry, is_unlistable

IM2REC_EXTENSIONS = (".jpeg", ".jpg", ".png")
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")

HIDDEN = "hidden files or folders"
SPECIAL = "links to nowhere or special files"
CIRCULAR = "links to a folder that contains them"
NO_EXTENSION = "files without an extension"

_NAMED = 5  # examples in a message
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageTree:
    """The images below a folder.

    Attributes:
        entries: ids 0, 1, 2, … in walk order; one label, the class number; relative paths.
        labels: the folder of each class, relative to the root ("." for the root itself).
    """

    entries: list[ListEntry]
    labels: LabelMap


class LeftOut:
    """Counts what a walk leaves out, by reason, with one example each.

    Args:
        used: a file in the folder that is used, though it is not an image: the list.
    """

    def __init__(self, used: Path | None = None) -> None:
        self._used = None if used is None else os.path.abspath(used)
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, reason: str, path: str) -> None:
        """Count one file or folder."""
        if self._used is not None and os.path.abspath(path) == self._used:
            return
        self._counts[reason] += 1
        self._examples.setdefault(reason, path)

    def reasons(self) -> list[tuple[str, int, str]]:
        """(reason, count, example) of everything counted, the most frequent first."""
        return [
            (reason, count, self._examples[reason]) for reason, count in self._counts.most_common()
        ]

    def __str__(self) -> str:
        return ", ".join(
            f"{count} {reason} ({'for example ' if count > 1 else ''}{example!r})"
            for reason, count, example in self.reasons()
        )

    def warn(self, root: Path, advice: str) -> None:
        """Log one warning about everything counted, if anything was."""
        if self._counts:
            _log.warning("%s: left out %s; %s", root, self, advice)


def class_name(folder: str) -> str:
    """A folder's name as a label, with bytes that are not UTF-8 as `\\xe9`."""
    return os.fsencode(folder).decode("utf-8", "backslashreplace")


def list_folder(folder: str, left_out: LeftOut, include_hidden: bool) -> list[os.DirEntry[str]]:
    """List a folder, sorted by the bytes of the names; count hidden entries and leave them out.

    Raises:
        DataError: the folder does not exist or cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise DataError(f"{folder}: expected a folder of images: {error.strerror}") from error
    if include_hidden:
        return entries
    for entry in entries:
        if entry.name.startswith("."):
            left_out.add(HIDDEN, entry.path)
    return [entry for entry in entries if not entry.name.startswith(".")]


def keep_images(
    entries: Iterable[os.DirEntry[str]], extensions: Collection[str], left_out: LeftOut
) -> list[os.DirEntry[str]]:
    """Keep the regular files (also links to one) with one of the extensions, in lower case."""
    kept = []
    for entry in entries:
        extension = os.path.splitext(entry.name)[1].lower()
        if entry.is_file():
            if extension in extensions:
                kept.append(entry)
            else:
                kind = f"{extension} files" if extension else NO_EXTENSION
                left_out.add(kind, entry.path)
        elif not entry.is_dir():
            left_out.add(SPECIAL, entry.path)
    return kept


def walk(
    root: Path,
    *,
    recursive: bool = True,
    extensions: Collection[str] = IM2REC_EXTENSIONS,
    include_hidden: bool = False,
) -> ImageTree:
    """List the images below `root`.

    Depth first, the files of a folder before its subfolders, both sorted by name. Every folder
    that directly holds an image is a class, numbered when its first image is found; so is the root
    if it holds images. Not recursive: the images directly in `root`, all of class 0. Links to
    folders are followed, except to a folder that contains the link.

    Args:
        root: the folder.
        recursive: whether subfolders are visited.
        extensions: upper or lower case, with or without the leading dot.
        include_hidden: keep names that start with a dot, as im2rec does.

    Raises:
        DataError: no such folder, or no image in it.
        ListError: a name contains a TAB or a line break.
    """
    wanted = frozenset(f".{extension.lower().lstrip('.')}" for extension in extensions)
    left_out = LeftOut()
    paths: list[str] = []
    class_numbers: list[int] = []
    folders: list[str] = []
    start = len(os.path.join(str(root), ""))  # slicing: os.path.relpath costs 7 µs a name
    for folder, images in _visit(str(root), recursive, include_hidden, wanted, left_out):
        if images:
            folders.append(class_name(os.path.relpath(folder, root)))
        paths.extend(image[start:] for image in images)
        class_numbers.extend([len(folders) - 1] * len(images))
    if not paths:
        raise DataError(_nothing_found(root, wanted, left_out, recursive))
    left_out.warn(root, "--exts adds extensions, --include-hidden hidden files (as im2rec does)")
    refuse_unlistable(root, paths)
    entries = [
        ListEntry(number, (float(class_number),), path)
        for number, (class_number, path) in enumerate(zip(class_numbers, paths, strict=True))
    ]
    return ImageTree(entries, LabelMap(tuple(folders)))


def find_images(root: Path, left_out: LeftOut) -> list[str]:
    """Return the paths of all image files below `root`, relative to it, without hidden ones.

    Raises:
        DataError: the folder does not exist or cannot be read.
    """
    top = str(root)
    return [
        os.path.relpath(path, top)
        for _, paths in _visit(top, True, False, IMAGE_EXTENSIONS, left_out)
        for path in paths
    ]


def _visit(
    folder: str,
    recursive: bool,
    include_hidden: bool,
    extensions: Collection[str],
    left_out: LeftOut,
    ancestors: tuple[tuple[int, int], ...] = (),
) -> Iterator[tuple[str, list[str]]]:
    """Yield every folder with the paths of its images, both in walk order."""
    entries = list_folder(folder, left_out, include_hidden)
    yield folder, [entry.path for entry in keep_images(entries, extensions, left_out)]
    if not recursive:
        return
    status = os.stat(folder)
    ancestors = (*ancestors, (status.st_dev, status.st_ino))
    for entry in entries:
        if not entry.is_dir():
            continue
        if entry.is_symlink():
            target = os.stat(entry.path)
            if (target.st_dev, target.st_ino) in ancestors:
                left_out.add(CIRCULAR, entry.path)
                continue
        yield from _visit(entry.path, recursive, include_hidden, extensions, left_out, ancestors)


def _nothing_found(
    root: Path, extensions: Collection[str], left_out: LeftOut, recursive: bool
) -> str:
    message = f"{root}: expected images ({', '.join(sorted(extensions))}), found none"
    if str(left_out):
        message += f"; left out: {left_out}"
    if not recursive:
        message += "; subfolders were not visited: with --recursive, each is a class"
    return message


def refuse_unlistable(root: Path, paths: Sequence[str]) -> None:
    """Raise a ListError that names the paths with a TAB or a line break."""
    refused = [path for path in paths if is_unlistable(path)]
    if refused:
        more = f" and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
        raise ListError(
            f"{root}: a list cannot contain names with a TAB or a line break; rename "
            f"{', '.join(map(repr, refused[:_NAMED]))}{more}"
        )
