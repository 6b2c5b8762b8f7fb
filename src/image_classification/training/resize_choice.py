"""The `resize` of a job that sets none: images, records and photos that are served must meet.

Images are cut out of the centre after their shorter side was resized. Records were resized when
they were packed; a photo that is served was not. So the side that the records have is the resize:
it leaves the records as they are and brings a photo to their size.
"""

from __future__ import annotations

import logging

import numpy as np

from image_classification.backends.base import Backbone
from image_classification.data.headers import read_header
from image_classification.data.preprocessing import Preprocessing
from image_classification.data.samples import IntArray
from image_classification.data.sources import Source
from image_classification.data.sources.stream import StreamSource
from image_classification.errors import ChannelError, DataError
from image_classification.training.inputs import Inputs

_LOOKED_AT = 1000  # headers, spread over the records
_UNIFORM = 0.99  # share of them that must have the same side: a few small originals are usual

_logger = logging.getLogger(__name__)


def resize_of(inputs: Inputs, preprocessing: Preprocessing, backbone: Backbone) -> int | None:
    """The shorter side in pixels before the crop; None leaves every image as it is.

    Raises:
        ChannelError: some splits are image files, others records, whose sides are not all the same.
    """
    files = [name for name in inputs.splits if name not in inputs.packed]
    if not inputs.packed:
        side = max(preprocessing.height, preprocessing.width)
        resize = round(side * backbone.resize / backbone.input_size)
        _logger.info("resize is not set and the channel holds image files: using %d", resize)
        return resize
    sides = _packed_sides(inputs)
    values, counts = np.unique(sides, return_counts=True)
    if len(sides) and counts.max() >= _UNIFORM * len(sides):
        resize = int(values[counts.argmax()])
        _logger.info(
            "resize is not set and the records' images have a shorter side of %d pixels: using "
            "%d, so that a photo that is served is brought to their size",
            resize,
            resize,
        )
        return resize
    found = (
        f"their shorter sides are {values[0]} to {values[-1]} pixels"
        if len(sides)
        else ("their sizes are not known before they come through the pipe")
    )
    if files:
        raise ChannelError(
            f"{', '.join(files)} holds image files, {', '.join(sorted(inputs.packed))} records, "
            f"and {found}: set resize to the shorter side that all images shall have before the "
            "crop, or give all channels in one form"
        )
    _logger.warning(
        "resize is not set and the data are records; %s. Their centre is cut out as they are, and "
        "so is that of a photo that is served: prepare photos like the records, or set resize",
        found,
    )
    return None


def _packed_sides(inputs: Inputs) -> IntArray:
    """Shorter sides of images in records: of the training data, else of what can be looked at."""
    for name, source in inputs.splits.items():
        if name in inputs.packed and not isinstance(source, StreamSource):
            return shorter_sides(source)
    return np.empty(0, np.int64)


def shorter_sides(source: Source) -> IntArray:
    """int64 (N,): shorter sides in pixels of up to 1,000 images, spread evenly over the source.

    Only headers are read. Images that cannot be read are left out; the loader reports them.
    """
    places = np.unique(np.linspace(0, len(source) - 1, min(len(source), _LOOKED_AT), dtype=int))
    sides = []
    for index in places.tolist():
        try:
            sides.append(min(read_header(source.read(index).data).upright_size))
        except DataError:
            continue
    return np.array(sides, np.int64)
