"""What lies in the channel `model`: one archive or its files, and whether that is a SavedModel.

Every job of the TensorFlow built-in has a base model there, as a SavedModel of TensorFlow Hub in an
archive: `1/saved_model.pb` beside `1/variables`. Nothing of it is loaded here.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from image_classification.archive import file_names
from image_classification.artifact import MANIFEST_FILE
from image_classification.contract.channels import ChannelInput
from image_classification.errors import ChannelError

_SAVED_MODEL_FILES = {"saved_model.pb", "saved_model.pbtxt"}


def model_path(channel: ChannelInput) -> Path:
    """The channel's archive, or its folder. A finished job's output.tar.gz may lie beside it.

    Raises:
        ChannelError: there are several archives, and none is called model.tar.gz.
    """
    archives = sorted(channel.path.glob("*.tar.gz"))
    named = channel.path / "model.tar.gz"
    if named in archives:
        return named
    if len(archives) > 1:
        raise ChannelError(
            f"channel model: expected one model.tar.gz, found {[p.name for p in archives]}"
        )
    return archives[0] if archives else channel.path


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


def is_artifact(path: Path) -> bool:
    """Whether there is an artifact of ours at `path`; ArtifactError as for `is_saved_model`."""
    return any(name == PurePosixPath(MANIFEST_FILE) for name in file_names(path))
