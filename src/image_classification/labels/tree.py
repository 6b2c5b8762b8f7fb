"""Image trees: walks folders in im2rec's order, numbers the classes, reports what is left out.

In: a root folder. Out: a list with its label map, and one warning that names what is not in it.
Source of the order and the numbers: `list_image` in `tools/im2rec.py` of MXNet 1.9.1. Lists take
images by their extension, as im2rec does. Class folders and folders to predict take them by their
content; a file with one of `IMAGE_EXTENSIONS` is believed, so that a folder is not read twice.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from image_classification.errors import DataError, ListError, counted
from image_classification.images.foreign import AVIF, HEAD_BYTES, decoded_format, recognize
from image_classification.images.foreign_text import IMAGE
from image_classification.labels.label_map import LabelMap
from image_classification.labels.lists import ListEntry, is_unlistable

IM2REC_EXTENSIONS = (".jpeg", ".jpg", ".png")
IMAGE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".ppm", ".pgm"),
)

HIDDEN = "hidden files or folders"
SPECIAL = "links to nowhere or special files"
CIRCULAR = "links to a folder that contains them"
NO_EXTENSION = "files without an extension"
NO_SUCH_FILE = "folders without such an image"

# What operating systems, notebooks and archives leave in folders; in lower case.
_SYSTEM_NAMES = frozenset((
    ".ds_store", ".localized", ".spotlight-v100", ".trashes", ".fseventsd", ".directory",
    "thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin",
    "system volume information", ".ipynb_checkpoints", ".git",
))  # fmt: skip
# If the first such file of a folder is a note, so are the others: there can be thousands.
_NOTE_EXTENSIONS = frozenset((
    ".txt", ".md", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".html", ".log",
    ".lst", ".py", ".ini", ".toml",
))  # fmt: skip
_SPREADSHEETS = (".xlsx", ".xls", ".ods")  # in a ZIP that nobody should unpack
_CONTROL = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")  # bytes that text does not have
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

    Attributes:
        files: how many of them are files.
        others: how many of the files are neither images nor text: possibly images that nobody can
            read, or links to images that are not there.
    """

    def __init__(self, used: Path | None = None) -> None:
        self._used = None if used is None else os.path.abspath(used)
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self._contents: dict[str, str] = {}
        self.files = self.others = 0

    def add(self, reason: str, path: str, content: str = "") -> None:
        """Count one file or folder; `content` says what is in the file, if that is known."""
        if self._used is not None and os.path.abspath(path) == self._used:
            return
        self._counts[reason] += 1
        self._examples.setdefault(reason, path)
        self._contents.setdefault(reason, content)

    def add_all(self, other: "LeftOut") -> None:
        """Count everything that `other` has counted."""
        self._counts.update(other._counts)
        self.files += other.files
        self.others += other.others
        self._examples = other._examples | self._examples
        self._contents = other._contents | self._contents

    def reasons(self) -> list[tuple[str, int, str]]:
        """(reason, count, example) of everything counted, the most frequent first."""
        return [
            (reason, count, self._examples[reason]) for reason, count in self._counts.most_common()
        ]

    def __str__(self) -> str:
        return ", ".join(
            f"{counted(count, reason)} ({'for example ' if count > 1 else ''}{example!r}"
            f"{self._contents[reason] and f', {self._contents[reason]}'})"
            for reason, count, example in self.reasons()
        )

    def warn(self, root: Path, advice: str) -> None:
        """Log one warning about everything counted, if anything was."""
        if self._counts:
            _log.warning("%s: left out %s; %s", root, self, advice)


def class_name(folder: str) -> str:
    """A folder's name as a label, with bytes that are not UTF-8 as `\\xe9`."""
    return os.fsencode(folder).decode("utf-8", "backslashreplace")


def is_system_name(name: str) -> bool:
    """Whether an operating system or a notebook made the file or folder, not a person."""
    return name.startswith("._") or name.lower() in _SYSTEM_NAMES


def list_folder(folder: str, left_out: LeftOut, include_hidden: bool) -> list[os.DirEntry[str]]:
    """List a folder, sorted by the bytes of the names, without hidden and system entries.

    Hidden folders and hidden files named like images are counted as left out. Files of the system,
    such as .DS_Store and Thumbs.db, and other hidden files are not even counted.

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
    entries = [entry for entry in entries if not is_system_name(entry.name)]
    for entry in entries:
        if entry.name.startswith(".") and (_has_image_name(entry.name) or is_folder(entry)):
            left_out.add(HIDDEN, entry.path)
    return [entry for entry in entries if not entry.name.startswith(".")]


def is_file(entry: os.DirEntry[str]) -> bool:
    """Return True for a file, or a link to one; False for a link to nowhere or to itself."""
    try:
        return entry.is_file()
    except OSError:
        return False


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return True for a folder, or a link to one; False for a link that leads nowhere."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _has_image_name(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


class Content(NamedTuple):
    """What the first bytes of a file show.

    Attributes:
        is_image: it is an image in an accepted format.
        is_note: it is text, or empty: a note about the images, and never one of them.
        what: what else it is and what to do about it; "" if nothing is known or it is a note.
    """

    is_image: bool
    is_note: bool
    what: str


def look_into(path: str) -> Content:
    """Return what the first bytes of a file show; nothing else of it is read."""
    try:
        with open(path, "rb", buffering=0) as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        return Content(False, False, f"it cannot be read: {error.strerror}")
    found = IMAGE.match(head)
    what = "" if found and found.lastgroup != AVIF else recognize(head)
    if what == "" or (what and decoded_format(what)):
        return Content(True, False, "")
    what = what or ""
    if os.path.splitext(path)[1].lower() in _SPREADSHEETS:
        what = "a spreadsheet: save it as CSV"
    is_picture_or_pointer = any(word in what for word in ("pointer", "convert it"))
    is_note = not _CONTROL.search(head) and not is_picture_or_pointer
    return Content(False, is_note, "" if is_note else what)


def keep_images(
    entries: Iterable[os.DirEntry[str]],
    left_out: LeftOut,
    extensions: Collection[str] | None = None,
) -> list[os.DirEntry[str]]:
    """Keep the regular files (also links to one) that are images.

    Args:
        entries: of a folder.
        left_out: counts the others.
        extensions: in lower case: only their files are images. None: files with one of
            `IMAGE_EXTENSIONS`, and others whose content is that of an image.
    """
    kept = []
    notes: set[str] = set()
    for entry in entries:
        extension = os.path.splitext(entry.name)[1].lower()
        if is_file(entry):
            is_image, _, what = extension in (extensions or IMAGE_EXTENSIONS), False, ""
            if not is_image and extensions is None and extension not in notes:
                is_image, is_note, what = look_into(entry.path)
                left_out.others += not is_image and not is_note
                if is_note and extension in _NOTE_EXTENSIONS:
                    notes.add(extension)
            if is_image:
                kept.append(entry)
            else:
                kind = f"{extension} files" if extension else NO_EXTENSION
                left_out.add(kind, entry.path, what)
                left_out.files += 1
        elif not is_folder(entry):
            left_out.add(SPECIAL, entry.path)
            left_out.others += 1
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
    files_before = 0
    start = len(os.path.join(str(root), ""))  # slicing: os.path.relpath costs 7 µs a name
    for folder, images in visit(
        str(root),
        left_out,
        recursive=recursive,
        include_hidden=include_hidden,
        extensions=wanted,
    ):
        if not images and left_out.files > files_before and folder != str(root):
            left_out.add(NO_SUCH_FILE, folder)  # a class that the list lacks
        files_before = left_out.files
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
    return [os.path.relpath(path, top) for _, paths in visit(top, left_out) for path in paths]


def has_image(folder: Path, *, recursive: bool = True) -> bool:
    """Whether a folder holds an image, itself or, if recursive, anywhere below."""
    return any(paths for _, paths in visit(str(folder), LeftOut(), recursive=recursive))


def visit(
    folder: str,
    left_out: LeftOut,
    *,
    recursive: bool = True,
    include_hidden: bool = False,
    extensions: Collection[str] | None = None,
    ancestors: tuple[tuple[int, int], ...] = (),
) -> Iterator[tuple[str, list[str]]]:
    """Yield every folder with the paths of its images, both in walk order.

    Args:
        folder: where to begin.
        left_out: counts what is not an image.
        recursive: whether subfolders are visited.
        include_hidden: keep names that start with a dot, and files of the system.
        extensions: as for `keep_images`.
        ancestors: device and inode of the folders above, which links must not lead to again.
    """
    waiting = [(folder, ancestors)]  # not a recursive call: folders can be a thousand deep
    while waiting:
        here, above = waiting.pop()
        entries = list_folder(here, left_out, include_hidden)
        yield here, [entry.path for entry in keep_images(entries, left_out, extensions)]
        if not recursive:
            return
        status = os.stat(here)
        above = (*above, (status.st_dev, status.st_ino))
        inner = []
        for entry in entries:
            if not is_folder(entry):
                continue
            if entry.is_symlink():
                target = os.stat(entry.path)
                if (target.st_dev, target.st_ino) in above:
                    left_out.add(CIRCULAR, entry.path)
                    continue
            inner.append((entry.path, above))
        waiting += reversed(inner)


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
