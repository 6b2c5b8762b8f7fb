"""What an image file says of itself, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass

from image_classification.data.orientation import UPRIGHT, is_transposed

MAX_PARTS = 100_000
"""Segments, chunks or blocks of a file: more is an attack on the loops that walk them."""


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says of itself.

    Attributes:
        format: one of `formats.FORMATS`.
        width, height: pixels as stored, each at least 1; see `upright_size`.
        orientation: EXIF orientation, 1 to 8.
        channels: 1 grey, 2 grey and alpha, 3 colour or palette, 4 with alpha or CMYK.
        bit_depth: bits of one channel (or palette index).
        is_progressive: a JPEG of several scans over the whole picture.
    """

    format: str
    width: int
    height: int
    orientation: int = UPRIGHT
    channels: int = 3
    bit_depth: int = 8
    is_progressive: bool = False

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width) in pixels after the orientation is applied."""
        size = (self.height, self.width)
        return (size[1], size[0]) if is_transposed(self.orientation) else size
