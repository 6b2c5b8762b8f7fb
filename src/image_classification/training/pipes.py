"""Channels in Pipe mode: training is streamed, pass after pass; the others are copied once.

In: a `ChannelInput` whose FIFOs are `<path>_0`, `<path>_1`, … Out: sources.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from image_classification.contract.channels import ChannelInput
from image_classification.data.fifo import PATIENCE_SECONDS, open_fifo
from image_classification.data.labels import LabelMap
from image_classification.data.record_format import ImageRecord, pack_image_record
from image_classification.data.record_stream import StreamFormat, image_records, read_payloads
from image_classification.data.recordio import RecordWriter
from image_classification.data.sources import Source
from image_classification.data.sources.records import RecordSource
from image_classification.data.sources.stream import StreamSource
from image_classification.errors import ChannelError

_logger = logging.getLogger(__name__)


def open_pipe(
    channel: ChannelInput, labels: LabelMap, is_multi_label: bool
) -> Callable[[int, Callable[[], bool]], Iterator[ImageRecord]]:
    """What opens a pass of a channel in Pipe mode: its number, and whether to stop → records."""
    layout = StreamFormat(channel.is_wrapped, len(labels), is_multi_label, channel.label_format)

    def open_pass(number: int, is_stopped: Callable[[], bool]) -> Iterator[ImageRecord]:
        path = channel.path.with_name(f"{channel.name}_{number}")
        with open_fifo(path, is_stopped, PATIENCE_SECONDS) as stream:
            yield from image_records(read_payloads(stream, str(path)), str(path), layout)

    return open_pass


def stream_of(
    channel: ChannelInput,
    labels: LabelMap,
    samples: int,
    *,
    is_multi_label: bool,
    seed: int,
    shuffle_bytes: int,
) -> StreamSource:
    """The training channel in Pipe mode; nothing is read yet."""
    _logger.info("The channel '%s' is in pipe input mode under %s.", channel.name, channel.path)
    return StreamSource(
        channel.name,
        samples,
        open_pipe(channel, labels, is_multi_label),
        seed=seed,
        shuffle_bytes=shuffle_bytes,
        is_multi_label=is_multi_label,
    )


def copy_of_pipe(channel: ChannelInput, labels: LabelMap, is_multi_label: bool) -> Source:
    """The first pass of a channel, kept in an unnamed file on this machine's disk.

    Validation needs the same samples after every epoch, and the report needs them by number. The
    file goes with the process: it is mapped, and removed at once.

    Raises:
        ChannelError: the pipe is empty or damaged, or the disk too small for it.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="image-classification-") as folder:
            path = Path(folder) / f"{channel.name}.rec"
            with RecordWriter(path) as writer:
                for record in open_pipe(channel, labels, is_multi_label)(0, lambda: False):
                    payload = pack_image_record(record.header, record.content)
                    writer.write(payload, record.header.id)
            source = RecordSource([path], is_multi_label=is_multi_label)
    except OSError as error:
        raise ChannelError(
            f"channel {channel.name}: its pipe is copied to {tempfile.gettempdir()}, which failed: "
            f"{error.strerror}; give the instance a larger volume, or use File mode"
        ) from error
    if not len(source):
        raise ChannelError(f"Unable to start training. Empty pipe in {channel.name} channel")
    source.name = f"channel {channel.name}"
    _logger.info("The channel '%s' came through a pipe: %d images", channel.name, len(source))
    return source
