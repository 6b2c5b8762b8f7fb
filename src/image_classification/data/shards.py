"""Shards: the pieces of a split that are written, each a file of its own, by whichever host.

A shard is a stretch of its split's list, so that shards are a function of the list and not of the
host, the number of hosts or the order of the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from image_classification.data.encoded_image import encode
from image_classification.data.images import DEFAULT_MAX_PIXELS
from image_classification.data.listing import ListEntry
from image_classification.data.ordered_work import in_order
from image_classification.data.transcoding import Transcoding

_SAMPLED = 64  # images that are encoded to estimate the size of all


@dataclass(frozen=True)
class Shard:
    """A piece of a split.

    Attributes:
        split: "train", "validation" or "test".
        stem: file name without extension: `train`, or `train-00000-of-00003` of several.
        entries: in the order they are written.
    """

    split: str
    stem: str
    entries: Sequence[ListEntry]


def divide(split: str, entries: Sequence[ListEntry], count: int, host: str = "") -> list[Shard]:
    """`entries` in `count` shards whose sizes differ by one image at most.

    Args:
        split: its name.
        entries: in their order.
        count: 1 or more.
        host: goes into the names, where hosts have different images.
    """
    name = f"{split}-{host}" if host else split
    if count == 1:
        return [Shard(split, name, entries)]
    bounds = [len(entries) * k // count for k in range(count + 1)]
    return [
        Shard(split, f"{name}-{k:05d}-of-{count:05d}", entries[bounds[k] : bounds[k + 1]])
        for k in range(count)
    ]


def shard_count(
    entries: Sequence[ListEntry],
    root: str,
    transcoding: Transcoding | None,
    shard_bytes: int,
    workers: int,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> int:
    """How many shards of about `shard_bytes` (0: no limit) hold `entries`; 1 to len(entries).

    Encodes up to 64 of them, evenly spaced: every host that sees the same files comes to the same
    number. The size of a shard differs from the wish as much as those images do from the others.
    """
    if not shard_bytes or not entries:
        return 1
    step = -(-len(entries) // _SAMPLED)
    sampled = in_order(
        lambda entry: encode(entry, root, transcoding, max_pixels), entries[::step], workers
    )
    sizes = [len(image.content) for image in sampled if image.reason is None]
    if not sizes:
        return 1
    total = sum(sizes) / len(sizes) * len(entries)
    return min(max(1, -int(-total // shard_bytes)), len(entries))
