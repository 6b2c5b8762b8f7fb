"""The images of an `application/x-recordio` body: batch transform with SplitType=RecordIO.

With BatchStrategy=MultiRecord the records come framed, one behind the other; with SingleRecord the
platform takes the frame off and sends a payload alone. A payload is what im2rec packs (header,
labels, image; the labels do not count) or a bare image file.
"""

from __future__ import annotations

from collections.abc import Sequence

from image_classification.data.formats import sniff
from image_classification.data.record_format import (
    MAGIC_BYTES,
    PartDamage,
    follow_record,
    padded,
    unpack_image_record,
)
from image_classification.errors import ImageFormatError, RecordError, RequestError
from image_classification.serving.prediction import Failure

_PARTS_PER_RECORD = 4


def read_records(body: bytes, limit: int) -> tuple[Sequence[bytes | Failure], bool]:
    """(at most `limit` images, whether the body is framed, and so a list).

    Raises:
        RequestError: 400, broken framing: what comes behind it cannot be found; 413, records in
            many more parts than `limit`.
    """
    if not body.startswith(MAGIC_BYTES):
        return [_image_in(body)], False
    # A record has a second part where its payload holds the magic: one of 10⁶ photographs.
    if body.count(MAGIC_BYTES) > _PARTS_PER_RECORD * limit:
        raise RequestError(
            413,
            f"the RecordIO body has more than {_PARTS_PER_RECORD * limit} parts: send fewer "
            "records in one request",
        )
    entries: list[bytes | Failure] = []
    position = 0
    while position < len(body) and len(entries) < limit:
        try:
            ranges = follow_record(body, position)
        except PartDamage as damage:
            raise RequestError(
                400,
                f"the RecordIO body is damaged at byte {damage.position}, record {len(entries)}: "
                f"{damage}; send whole records",
            ) from damage
        entries.append(_image_in(MAGIC_BYTES.join(body[begin:end] for begin, end in ranges)))
        position = padded(ranges[-1][1])
    return entries, True


def _image_in(payload: bytes) -> bytes | Failure:
    try:
        sniff(payload)
    except ImageFormatError:
        # No image format begins as an im2rec header does: with zeros, or a small number of labels.
        try:
            return unpack_image_record(payload).content
        except RecordError as error:
            return Failure(f"neither an image nor a record of im2rec: {error}")
    return payload
