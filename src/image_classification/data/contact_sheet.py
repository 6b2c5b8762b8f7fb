"""Pictures of records side by side on one sheet, each with its id and class.

In: an open `RecordFile` and the numbers of records. Out: an RGB picture (Pillow).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from image_classification.data.images import decode
from image_classification.data.labels import LabelMap
from image_classification.data.recordio import RecordFile
from image_classification.errors import ImageError

THUMBNAIL = 144  # pixels, of the longer side
_GAP = 8
_CAPTION = 16
_MAX_COLUMNS = 8
_PAPER, _INK, _ALARM = (255, 255, 255), (40, 40, 40), (190, 30, 30)


def draw_contact_sheet(
    file: RecordFile, numbers: Sequence[int], labels: LabelMap | None = None
) -> Image.Image:
    """Draw the records; one whose image cannot be decoded is a red frame with the word "damaged".

    Args:
        file: the records.
        numbers: which, in the order to draw.
        labels: names instead of class indices in the captions.

    Raises:
        RecordError: a record has no image header.
    """
    columns = max(1, min(_MAX_COLUMNS, math.ceil(math.sqrt(len(numbers)))))
    rows = max(1, math.ceil(len(numbers) / columns))
    cell_width, cell_height = THUMBNAIL + _GAP, THUMBNAIL + _CAPTION + _GAP
    sheet = Image.new("RGB", (columns * cell_width + _GAP, rows * cell_height + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, number in enumerate(numbers):
        left = _GAP + place % columns * cell_width
        top = _GAP + place // columns * cell_height
        record = file.read_image(number)
        caption = f"{record.header.id}  {_name(record.header.labels, labels)}"
        draw.text((left, top + THUMBNAIL + 2), _fitting(caption, draw), fill=_INK)
        thumbnail = _thumbnail(record.content)
        if thumbnail is None:
            draw.rectangle((left, top, left + THUMBNAIL - 1, top + THUMBNAIL - 1), outline=_ALARM)
            draw.text((left + _GAP, top + _GAP), "damaged", fill=_ALARM)
            continue
        free = (THUMBNAIL - thumbnail.width) // 2, (THUMBNAIL - thumbnail.height) // 2
        sheet.paste(thumbnail, (left + free[0], top + free[1]))
    return sheet


def _thumbnail(content: bytes) -> Image.Image | None:
    try:
        pixels = decode(content, min_size=(THUMBNAIL, THUMBNAIL))
    except ImageError:
        return None
    thumbnail = Image.fromarray(pixels)
    thumbnail.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
    return thumbnail


def _name(values: Sequence[float], labels: LabelMap | None) -> str:
    value = values[0] if values else 0.0
    if labels is not None and value == int(value) and 0 <= value < len(labels):
        return labels.names[int(value)]
    return f"{value:g}"


def _fitting(text: str, draw: ImageDraw.ImageDraw) -> str:
    """The text, cut so that it is no wider than a thumbnail; what the font lacks as `?`."""
    text = text.encode("latin-1", "replace").decode("latin-1")
    if draw.textlength(text) <= THUMBNAIL:
        return text
    while text and draw.textlength(f"{text}...") > THUMBNAIL:
        text = text[:-1]
    return f"{text}..."
