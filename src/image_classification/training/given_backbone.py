"""A backbone that the channel `model` holds itself: its files, unpacked while they are read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from image_classification.artifact import unpack
from image_classification.backends.base import Backbone
from image_classification.contract.channels import ChannelInput
from image_classification.errors import ChannelError


@contextmanager
def given_folder(backbone: Backbone, channel: ChannelInput | None) -> Iterator[Path | None]:
    """The folder of the backbone's files while the block runs; None for one that is not given.

    Raises:
        ChannelError: there is no channel `model`, or it holds several archives.
        ArtifactError: its archive is damaged, or has links or absolute paths.
    """
    if not backbone.is_given:
        yield None
        return
    if channel is None:
        raise ChannelError(
            f"backbone={backbone.name} is the model of the channel model: give the job that channel"
        )
    archives = sorted(channel.path.glob("*.tar.gz"))
    if len(archives) > 1:
        names = ", ".join(archive.name for archive in archives)
        raise ChannelError(f"channel model: expected one archive or none, found {names}")
    with tempfile.TemporaryDirectory(prefix="image-classification-") as folder:
        if archives:
            unpack(archives[0], Path(folder))
        yield Path(folder) if archives else channel.path
