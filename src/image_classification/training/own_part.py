"""A host's own part of the training channel (ShardedByS3Key), before it has met the other hosts."""

from __future__ import annotations

from collections.abc import Mapping

from image_classification.contract.channels import LIST_SUFFIX, ChannelInput
from image_classification.data.labels import LabelMap
from image_classification.data.sources.folder import FolderSource
from image_classification.errors import ChannelError
from image_classification.training.channel_sources import Expected, open_channel
from image_classification.training.settings import Settings


def names_for_all_hosts(
    channels: Mapping[str, ChannelInput], name: str, settings: Settings
) -> LabelMap | None:
    """Class names that a host's part of the training channel cannot tell, from validation.

    Raises:
        ChannelError: this host has no sample, or nothing says how many classes there are.
    """
    if not any(path.is_file() for path in channels[name].path.rglob("[!.]*")):
        raise ChannelError(
            f"channel {name}: this host got no object of it: with ShardedByS3Key there must be at "
            "least as many objects as hosts; make more of them (smaller shards), use fewer hosts, "
            "or set S3DataDistributionType to FullyReplicated"
        )
    validation = channels["validation"]
    if not validation.is_pipe:
        expected = Expected(settings.classes, None, settings.multi_label)
        listing = channels.get("validation" + LIST_SUFFIX)
        source, labels = open_channel(validation, listing, expected)
        source.close()
        if isinstance(source, FolderSource):
            return labels
    if settings.classes is None:
        raise ChannelError(
            f"channel {name}: with ShardedByS3Key no host sees all classes: set num_classes, or "
            "name them by labels"
        )
    return None
