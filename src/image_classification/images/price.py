"""What decoding a picture costs, known before it is paid.

In: the bytes of an image file and its header. Out: a `Price`, an upper estimate of the memory and
CPU time that `decode` and the resize after it need, or an error where it exceeds the limits.
Nothing is decoded: the price follows from the header and from counts of what makes a small file
expensive (scans, chunks, codes), and counting stops at a limit of its own.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from image_classification.contract import environment, process
from image_classification.errors import ImageDamagedError, ImageTooLargeError
from image_classification.images.header import SCAN, ImageHeader

DEFAULT_MEMORY = 400_000_000
DEFAULT_SECONDS = 2
_MEMORY_SHARE = 0.4
_MAX_SCANS = 100  # encoders write about 10
_MAX_SEGMENTS = 4_096  # between the scans of a JPEG
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")  # one that the entropy decoder does not own
_END = 0xD9
_SEQUENTIAL_HUFFMAN = (0xC0, 0xC1)
_ARITHMETIC = (0xC9, 0xCA)

_FIXED = 24_000_000
_BYTES_PER_PIXEL = {"JPEG": 7, "PNG": 7, "GIF": 7, "WEBP": 18, "BMP": 8}
_SECONDS_PER_PIXEL = {"JPEG": 10e-9, "PNG": 30e-9, "GIF": 25e-9, "WEBP": 60e-9, "BMP": 15e-9}
_SECONDS_PER_BYTE = {"JPEG": 30e-9, "PNG": 5e-9, "GIF": 20e-9, "WEBP": 40e-9, "BMP": 1e-9}
_SECONDS_PER_BLOCK = 20e-9  # of one scan, even an empty one
_SECONDS_PER_ARITHMETIC_BLOCK = 6e-6
_SECONDS_PER_SEGMENT = 5e-6
_BYTES_PER_BLOCK = 128  # 64 coefficients


@dataclass(frozen=True)
class Price:
    """What decoding a picture costs at most.

    Attributes:
        memory: bytes at the peak, beyond the file itself.
        seconds: of CPU time.
        is_plain: whether libjpeg-turbo decodes it alone, in one pass and without the interpreter
            lock: a sequential Huffman JPEG of 1 or 3 channels in one scan.
        what: the format and size, for messages.
    """

    memory: int
    seconds: float
    is_plain: bool
    what: str


@dataclass(frozen=True)
class PictureLimits:
    """The most that one picture can cost: bytes of memory, seconds of CPU time."""

    memory: int = DEFAULT_MEMORY
    seconds: float = DEFAULT_SECONDS


@cache
def picture_limits() -> PictureLimits:
    """Return the limits of this process: the environment's, else those that fit its memory.

    Raises:
        UserError: a variable is not a whole number.
    """
    affordable = min(DEFAULT_MEMORY, int(_MEMORY_SHARE * process.memory_limit()))
    memory = environment.PICTURE_MEMORY.read_integer(0) << 20
    seconds = environment.PICTURE_SECONDS.read_integer(0)
    return PictureLimits(memory or affordable, seconds or DEFAULT_SECONDS)


def price_of(data: bytes, header: ImageHeader, scale: int = 1) -> Price:
    """Return what decoding `data` costs at most.

    Args:
        data: the file's content.
        header: of `data`.
        scale: 2, 4 or 8 for a JPEG that is decoded at a fraction of its size.

    Raises:
        ImageDamagedError: a JPEG of more than 100 scans.
    """
    name = header.format
    pixels = header.width * header.height
    what = f"{name} of {header.width} × {header.height} pixels"
    memory = _FIXED + len(data) + _BYTES_PER_PIXEL[name] * pixels // scale**2
    seconds = _SECONDS_PER_PIXEL[name] * pixels + _SECONDS_PER_BYTE[name] * len(data)
    if header.orientation > 1:
        memory += 3 * pixels // scale**2
    is_plain = False
    if name == "JPEG":
        blocks, is_plain = _jpeg_blocks(data, header)
        if not is_plain:
            total, visits, segments = _count_scans(data, header, blocks)
            memory += _BYTES_PER_BLOCK * total
            seconds += _SECONDS_PER_BLOCK * visits + _SECONDS_PER_SEGMENT * segments
            if data[header.frame + 1] in _ARITHMETIC:
                seconds += _SECONDS_PER_ARITHMETIC_BLOCK * total
    return Price(memory, seconds, is_plain, what)


def check_price(price: Price, limits: PictureLimits) -> None:
    """Raise an ImageTooLargeError for a picture that costs more than the limits."""
    if price.memory > limits.memory:
        raise ImageTooLargeError(
            f"decoding this {price.what} would take up to {price.memory / 1e6:.0f} MB of memory; "
            f"expected at most {limits.memory / 1e6:.0f} MB; make the image smaller or raise the "
            f"limit ({environment.PICTURE_MEMORY.name})"
        )
    if price.seconds > limits.seconds:
        raise ImageTooLargeError(
            f"decoding this {price.what} would take up to {price.seconds:.1f} seconds of CPU time; "
            f"expected at most {limits.seconds:g}; make the image smaller or raise the limit "
            f"({environment.PICTURE_SECONDS.name})"
        )


def _jpeg_blocks(data: bytes, header: ImageHeader) -> tuple[dict[int, int], bool]:
    """Blocks of 8 × 8 by component, and whether one scan of Huffman code has them all."""
    frame, scan = header.frame, header.scan
    first, last = frame + 10, min(frame + 10 + 3 * header.channels, len(data) - 1)
    factors = {data[i]: (data[i + 1] >> 4, data[i + 1] & 15) for i in range(first, last, 3)}
    across = max((a for a, _ in factors.values()), default=1) or 1
    down = max((d for _, d in factors.values()), default=1) or 1
    units = -(-header.width // (8 * across)) * -(-header.height // (8 * down))
    blocks = {name: units * a * d for name, (a, d) in factors.items()}
    # libjpeg then makes one pass and refuses a second scan.
    is_whole = scan > 0 and scan + 4 < len(data) and data[scan + 4] == header.channels
    is_plain = is_whole and data[frame + 1] in _SEQUENTIAL_HUFFMAN and header.channels in (1, 3)
    return blocks, is_plain


def _count_scans(data: bytes, header: ImageHeader, blocks: dict[int, int]) -> tuple[int, int, int]:
    """Blocks of the picture, blocks that its scans visit, and segments from the first scan on."""
    total, visits, scans, segments = sum(blocks.values()), 0, 0, 0
    for marker, start in _scan_markers(data, header.scan):
        segments += 1
        if marker == SCAN:
            scans += 1
            count = data[start + 4] if start + 4 < len(data) else 0
            visits += min(
                total,
                sum(
                    blocks.get(name, total) for name in data[start + 5 : start + 5 + 2 * count : 2]
                ),
            )
            if scans > _MAX_SCANS:
                raise ImageDamagedError(
                    f"expected at most {_MAX_SCANS} scans in a JPEG, got more: it would take "
                    "minutes to decode"
                )
        elif segments > _MAX_SEGMENTS:
            raise ImageDamagedError(
                f"expected at most {_MAX_SEGMENTS} segments between the scans of a JPEG, got more"
            )
    return total, visits, segments


def _scan_markers(data: bytes, position: int) -> Iterator[tuple[int, int]]:
    """Yield marker and start of every segment from the first scan on, as libjpeg finds them."""
    while position and (found := _MARKER.search(data, position)):
        marker = data[found.end() - 1]
        if marker == _END:
            return
        start = found.start()
        yield marker, start
        position = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
