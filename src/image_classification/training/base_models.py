"""The TensorFlow built-in's base model in the channel `model`: recognised, so that it can be left.

Every job of that built-in has one, as a SavedModel of TensorFlow Hub in an archive:
`1/saved_model.pb` beside `1/variables`. In: the archive, or the folder it was unpacked to.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from image_classification.artifact import MANIFEST_FILE
from image_classification.errors import ArtifactError

_SAVED_MODEL_FILES = {"saved_model.pb", "saved_model.pbtxt"}


def is_saved_model(path: Path) -> bool:
    """Whether there is a SavedModel, and no artifact of ours, at `path`; nothing of it is loaded.

    Raises:
        ArtifactError: it is an archive that cannot be read.
    """
    found = False
    for name in file_names(path):
        if name == PurePosixPath(MANIFEST_FILE):
            return False
        found |= name.name in _SAVED_MODEL_FILES
    return found


def file_names(path: Path) -> Iterator[PurePosixPath]:
    """Relative paths of the files in a folder or an archive; ArtifactError if it is damaged."""
    if path.is_dir():
        yield from (PurePosixPath(file.relative_to(path)) for file in path.rglob("*"))
        return
    try:
        with tarfile.open(path) as tar:
            yield from (PurePosixPath(member.name) for member in tar)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ArtifactError(f"{path}: not a usable model.tar.gz: {error}") from error
