"""Finds the files that a list names, and suggests the file that it may have meant.

In: the folder of images, and names as lists write them: paths, URIs, names without an extension.
Out: a path below the folder, or the closest name that is there.
"""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from image_classification.errors import ListError
from image_classification.labels.tree import LeftOut, find_images

_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
_SHOWN = 3
_MOST_PARTS = 64  # of the end of a path that is looked for on the disk


class FileIndex:
    """The image files below a folder, by path, name and stem.

    Args:
        root: the folder.
        paths: the image files below it, relative to it.
        left_out: what else is in it.
    """

    def __init__(self, root: Path, paths: Sequence[str], left_out: LeftOut) -> None:
        self.root, self.left_out = root, left_out
        self.paths = set(paths)
        self._most_parts = max((path.count("/") for path in paths), default=0) + 1
        self._by_name: dict[str, list[str]] = {}
        for path in paths:
            for name in {os.path.basename(path), os.path.splitext(os.path.basename(path))[0]}:
                self._by_name.setdefault(name, []).append(path)

    @classmethod
    def below(cls, root: Path, listing: Path) -> "FileIndex":
        """Return the images below a folder; the list itself is not counted as left out."""
        left_out = LeftOut(listing)
        return cls(root, find_images(root, left_out), left_out)

    def holds(self, file: str) -> bool:
        """Return True if `file` names an image here, or several."""
        if file in self.paths:
            return True
        parts = _parts(file)
        return bool(parts) and (self._by_path(parts) is not None or parts[-1] in self._by_name)

    def find(self, where: str, file: str) -> str:
        """Return the path of `file` below the folder; of a missing file its own path.

        Searched are its path, the longest end of its path, then its name with or without the
        extension.

        Raises:
            ListError: the name fits several files, or cannot be that of a file.
        """
        if file in self.paths:  # also one with blanks at its ends or a backslash
            return file
        parts = _parts(file)
        if parts in ((), ("/",)) or "\0" in file:
            raise ListError(f"{where}: expected the name of an image file, got {file!r}")
        path = self._by_path(parts)
        if path is not None:
            return path
        found = self._by_name.get(parts[-1], [])
        if len(found) > 1:
            raise ListError(
                f"{where}: {file!r} could be any of {', '.join(sorted(found)[:5])}; give "
                "the path below the folder of images"
            )
        if found:
            return found[0]
        below = (part for part in parts if part not in ("/", "//", ".."))  # no file outside
        return self._on_disk(parts) or "/".join(below)

    def _by_path(self, parts: Sequence[str]) -> str | None:
        """Return the longest end of a path that is an image: it may begin above the folder."""
        for tail in _tails(parts, self._most_parts):
            if tail in self.paths:
                return tail
        return None

    def _on_disk(self, parts: Sequence[str]) -> str | None:
        """Return a file that is there, though its name is not that of an image."""
        for path in _tails(parts, _MOST_PARTS):
            if ".." not in path.split("/") and not path.startswith("/") and self.is_there(path):
                return path
        return None

    def is_there(self, path: str) -> bool:
        """Return True if a path below the folder is one of the images, or another file."""
        if path in self.paths:
            return True
        try:
            return (self.root / path).is_file()
        except (OSError, ValueError):  # a name that is too long, or with a null byte
            return False

    @cached_property
    def _by_spelling(self) -> dict[str, list[str]]:
        spellings: dict[str, list[str]] = {}
        for path in sorted(self.paths):
            spellings.setdefault(_spelling(os.path.basename(path)), []).append(path)
        return spellings

    def nearest(self, file: str) -> str | None:
        """Return the image whose name differs only in case, zeros, Unicode form or extension."""
        parts = _parts(file)
        if not parts:
            return None
        found = self._by_spelling.get(_spelling(parts[-1]), [])
        if not found:  # 17.0 for 17, as pandas writes ids where some are missing
            found = self._by_spelling.get(_spelling(parts[-1].removesuffix(".0")), [])
        return found[0] if len(found) == 1 else None

    def missing(self, what: str, where: str, file: str, among: Iterable[str]) -> str:
        """Return the sentence about files that are not there, with the cure.

        Args:
            what: which files are missing, as in "3 of 9 files".
            where: where the first one is named.
            file: its name, as it is written there.
            among: files that are there, as examples.
        """
        sentence = f"{what} are not in {self.root}: looked for {file!r} ({where})"
        nearest = self.nearest(file)
        if nearest is not None:
            return (
                f"{sentence}; did you mean {nearest!r}? Write the names as the files have them "
                "(a spreadsheet drops leading zeros: import the column as text), or rename the "
                "files"
            )
        examples = ", ".join(repr(path) for path in list(among)[:_SHOWN])
        holds = f"the images there are called {examples}" if examples else "it has no images"
        return (
            f"{sentence} by its path, the end of its path and its name with and without the "
            f"extension; {holds}: name the folder that holds the files, or the column that names "
            "them with --file-column"
        )


def path_of_uri(reference: str) -> str:
    """Return the path of a URI, without scheme, host or bucket, and query; else the text itself."""
    _, mark, rest = reference.partition("://")
    return rest.partition("?")[0].partition("/")[2].lstrip("/") if mark else reference


def _parts(file: str) -> tuple[str, ...]:
    """Return the parts of a path, or of the path of a URI."""
    wanted = file.strip()
    if "://" in wanted:
        wanted = unquote(path_of_uri(wanted))
    return PurePosixPath(wanted.replace("\\", "/").removeprefix("./")).parts


def _tails(parts: Sequence[str], most: int) -> Iterator[str]:
    """Yield the ends of a path, the longest first, of at most `most` parts."""
    for start in range(max(0, len(parts) - most), len(parts)):
        yield "/".join(parts[start:])


def _spelling(name: str) -> str:
    stem = os.path.splitext(name)[0] if os.path.splitext(name)[1][1:].isalpha() else name
    lowered = unicodedata.normalize("NFKC", stem).casefold().strip()
    return _ZEROS.sub("", lowered)
