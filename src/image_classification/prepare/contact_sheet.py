"""A sheet of small pictures, each with a line of text below it.

In: the bytes of image files, or an open `RecordFile` and the numbers of records. Out: an RGB
picture (Pillow).
"""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from image_classification.errors import ImageError
from image_classification.images.decode import DEFAULT_MAX_PIXELS, decode
from image_classification.labels.kinds import LabelKind, kind_of
from image_classification.labels.label_map import LabelMap
from image_classification.labels.lists import label_text
from image_classification.records.reader import RecordFile

THUMBNAIL = 144  # pixels, of the longer side
_GAP = 8
_CAPTION = 16
_MAX_COLUMNS = 8
_PAPER, _INK, _ALARM = (255, 255, 255), (40, 40, 40), (190, 30, 30)


class ContactSheet:
    """A sheet with room for `count` pictures, filled row by row."""

    def __init__(self, count: int) -> None:
        self._columns = max(1, min(_MAX_COLUMNS, math.ceil(math.sqrt(count))))
        rows = max(1, math.ceil(count / self._columns))
        width, height = THUMBNAIL + _GAP, THUMBNAIL + _CAPTION + _GAP
        self._cell = width, height
        size = self._columns * width + _GAP, rows * height + _GAP
        self.picture = Image.new("RGB", size, _PAPER)
        self._draw = ImageDraw.Draw(self.picture)
        self._used = 0

    def add(self, thumbnail: Image.Image | None, caption: str, without: str = "damaged") -> None:
        """Add the next picture; None draws a red frame with the words `without`."""
        left = _GAP + self._used % self._columns * self._cell[0]
        top = _GAP + self._used // self._columns * self._cell[1]
        self._used += 1
        self._draw.text((left, top + THUMBNAIL + 2), _fitting(caption, self._draw), fill=_INK)
        if thumbnail is None:
            frame = (left, top, left + THUMBNAIL - 1, top + THUMBNAIL - 1)
            self._draw.rectangle(frame, outline=_ALARM)
            self._draw.text((left + _GAP, top + _GAP), without, fill=_ALARM)
            return
        free = (THUMBNAIL - thumbnail.width) // 2, (THUMBNAIL - thumbnail.height) // 2
        self.picture.paste(thumbnail, (left + free[0], top + free[1]))


def draw_contact_sheet(
    file: RecordFile, numbers: Sequence[int], labels: LabelMap | None = None
) -> Image.Image:
    """Draw the images of records; one that cannot be decoded is a red frame.

    Args:
        file: the records.
        numbers: of the records, in the order to draw.
        labels: class names for the captions; None shows class indices.

    Raises:
        RecordError: a record has no image header.
    """
    sheet = ContactSheet(len(numbers))
    for number in numbers:
        record = file.read_image(number)
        caption = f"{record.header.id}  {_name(record.header.labels, labels)}"
        # An identity record of insightface only says where the images of a person are.
        without = "damaged" if record.content else "no image"
        sheet.add(thumbnail_of(record.content), caption, without)
    return sheet.picture


def thumbnail_of(content: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image | None:
    """Return an image file with sides of at most `THUMBNAIL` pixels; None for an unusable one."""
    try:
        pixels = decode(content, min_size=(THUMBNAIL, THUMBNAIL), max_pixels=max_pixels)
    except ImageError:
        return None
    thumbnail = Image.fromarray(pixels)
    thumbnail.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
    return thumbnail


def _name(values: Sequence[float], labels: LabelMap | None) -> str:
    if len(values) > 1 and kind_of([values]) is LabelKind.MULTI_HOT:
        classes = [float(index) for index, value in enumerate(values) if value]
        return ", ".join(_name((index,), labels) for index in classes) or "no class"
    value = values[0] if values else 0.0
    if labels is not None and value == int(value) and 0 <= value < len(labels):
        return labels.names[int(value)]
    return label_text(value)


def _fitting(text: str, draw: ImageDraw.ImageDraw) -> str:
    """Cut the text to the width of a thumbnail; show characters that the font lacks as `?`."""
    text = text.encode("latin-1", "replace").decode("latin-1")
    if draw.textlength(text) <= THUMBNAIL:
        return text
    while text and draw.textlength(f"{text}...") > THUMBNAIL:
        text = text[:-1]
    return f"{text}..."
