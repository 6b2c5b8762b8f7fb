"""The cost of decoding an image, estimated before anything is decoded.

In: the bytes of an image file and its header. Out: a `Price`, an upper estimate of the memory and
CPU time that `decode` and the resize after it need, or an error where it exceeds the limits.
The price follows from the header and from counting the scans of a JPEG. A cost that cannot be
estimated is limited while the file is read (`Allowance`).

The constants come from photographs, noise and flat images of 4 to 67 megapixels that a fresh
process decoded: peak of the resident memory, CPU time of the thread (libjpeg-turbo 3, zlib-ng 2.3,
libwebp 1.6, Pillow 13). On a machine whose CPUs are shared, the same takes up to 1.6 times as long.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from image_classification.contract import environment, process
from image_classification.errors import ImageDamagedError, ImageTooLargeError
from image_classification.images.avif import read_avif_layout
from image_classification.images.header import SCAN, ImageHeader
from image_classification.images.tiff import read_tiff_layout

DEFAULT_MEMORY = 400_000_000
DEFAULT_SECONDS = 2
_MEMORY_SHARE = 0.4  # of the container's: the model, other requests and Python need the rest
_USUAL_BYTES = 16 << 20  # a larger file may cost more in proportion: its sender pays too

# Memory. Pillow has 4 bytes per pixel and the result 3, or after it the result and Pillow's copy
# for the resize. What Pillow converts goes through strips, at 22 bytes per pixel of a strip.
_PIXEL_MEMORY = 7
_WEBP_PIXEL_MEMORY = 16  # two canvases, the frame's bytes and Pillow's image
_STRIP_MEMORY, STRIP_PIXELS = 22, 1 << 16  # these fit a CPU's cache; wider rows are longer
_SIDE_MEMORY = 64  # weights of a resize: 8 bytes for each of up to 6 taps, both ways
_RESIZE_MEMORY = 14  # the resized image in Pillow, its bytes twice, and as an array
_ACROSS_MEMORY = 4  # Pillow resizes across, all rows, and then down
_OUTPUT_SIDE_MEMORY = 80  # weights of each column and row of the result: up to 8 taps, 2 bounds
_MODEST_RESIZE = 32 << 20  # bytes; a larger one is not done among plain ones
_BLOCK_MEMORY = 128  # 64 coefficients of 2 bytes, which several scans keep for the whole image

# Seconds: by pixel, by byte of the file, by block of 8 × 8 in one pass over it.
_JPEG_PIXEL, _CMYK_PIXEL, _JPEG_BYTE = 10e-9, 25e-9, 12e-9
_SEVERAL_SCANS_BLOCK = 0.6e-6  # clearing, smoothing and transforming its coefficients
_COMPLETE_BLOCK = 0.3e-6  # without smoothing, which libjpeg leaves out where nothing is missing
_SMOOTHED = 0x3FE  # coefficients 1 to 9, as bits: libjpeg smooths where one of them is not exact
_VISIT, _SEGMENT = 60e-9, 3e-6
_ARITHMETIC_VISIT, _ARITHMETIC_BLOCK = 1e-6, 14e-6  # a code of predictable bits; of noise
_ARITHMETIC_BYTE = 1.4e-6  # each coefficient has a bit for its sign
_PNG_BYTE, _PNG_RAW_BYTE = 20e-9, 5e-9
_CONVERTED_PIXEL, _BLENDED_PIXEL = 10e-9, 30e-9
_INTERLACED_PIXEL, _KEYED_PIXEL = 11e-9, 15e-9  # in seven passes; with a transparent color
_GIF_PIXEL, _GIF_BYTE = 30e-9, 12e-9
_WEBP_PIXEL, _WEBP_BYTE = 50e-9, 30e-9
_BMP_PIXEL = 20e-9
_TIFF_RAW_BYTE, _TIFF_BYTE = 12e-9, 10e-9
_RUN_PIXEL, _RUN_BYTE = 60e-9, 0.6e-6  # Pillow decodes run lengths in Python
# dav1d and libavif 1.4, one thread: from 9 (flat) to 27 a pixel and 115 a byte for 4 megapixels of
# noise at 8, 10 and 12 bits, with grain, alpha, 1,024 tiles, a grid of 961 images, 48 frames.
_AVIF_PIXEL, _AVIF_BYTE, _AVIF_FRAME = 30e-9, 120e-9, 50e-6
_AVIF_PIXEL_MEMORY = 8  # RGB as bytes, and in Pillow; alpha takes 2 more
_RESIZED_PIXEL = 4e-9
_OUTPUT_PIXEL, _OUTPUT_SIDE = 20e-9, 0.25e-6  # of lanczos, the slowest: 16 and 0.23 measured

_CURE = "make the image smaller or raise the limit"
_MAX_SCANS = 100  # encoders write about 10
_MAX_SEGMENTS = 4_096  # between the scans of a JPEG
_ARITHMETIC, _ARITHMETIC_PROGRESSIVE, _END = 0xC9, 0xCA, 0xD9
# Whether 0xFF and this byte end the code of a scan: not a stuffed zero, a restart or a fill byte,
# nor a reserved marker, which libjpeg skips without a length where it expects a restart.
_ENDS_CODE = np.isin(np.arange(256), (*range(0xC0), *range(0xD0, 0xD8), 0xFF), invert=True)
_WINDOW = 1 << 20  # bytes searched at once: NumPy releases the interpreter lock, and 8 MB suffice


@dataclass(frozen=True)
class Price:
    """What decoding an image costs at most.

    Attributes:
        memory: bytes at the peak, beyond the file itself.
        seconds: of CPU time.
        is_plain: whether libjpeg-turbo decodes it alone, in one pass and without the interpreter
            lock: a sequential Huffman JPEG of 1 or 3 channels in one scan.
        size: bytes of the file.
        what: the format and size, for messages.
    """

    memory: int
    seconds: float
    is_plain: bool
    size: int
    what: str


@dataclass(frozen=True)
class PictureLimits:
    """The most that one image can cost.

    Attributes:
        memory: bytes.
        seconds: of CPU time, for a file of up to 16 MiB; see `seconds_for`.
    """

    memory: int = DEFAULT_MEMORY
    seconds: float = DEFAULT_SECONDS

    def seconds_for(self, size: int) -> float:
        """Return the seconds for a file of `size` bytes: in proportion above 16 MiB."""
        return self.seconds * max(1.0, size / _USUAL_BYTES)


@dataclass(frozen=True)
class Allowance:
    """The CPU time that the calling thread can still spend on an image.

    Attributes:
        deadline: of the thread's CPU time, `time.thread_time`.
        what: the image, for the message.
        seconds: the limit, for the message.
    """

    deadline: float
    what: str
    seconds: float

    def check(self) -> None:
        """Raise an ImageTooLargeError if the time is over."""
        if time.thread_time() > self.deadline:
            raise ImageTooLargeError(
                f"decoding this {self.what} takes more than {self.seconds:.3g} seconds of CPU "
                f"time; {_CURE} ({environment.PICTURE_SECONDS.name})"
            )


@cache
def picture_limits() -> PictureLimits:
    """Return the limits of this process: the environment's, else those that fit its memory.

    Raises:
        UserError: a variable is not a whole number.
    """
    affordable = min(DEFAULT_MEMORY, int(_MEMORY_SHARE * process.memory_limit()))
    most = environment.MOST_FOR_A_PICTURE
    memory = environment.PICTURE_MEMORY.read_integer(0, maximum=most) << 20
    seconds = environment.PICTURE_SECONDS.read_integer(0, maximum=most)
    return PictureLimits(memory or affordable, seconds or DEFAULT_SECONDS)


def admit(data: bytes, header: ImageHeader, scale: int = 1) -> Allowance:
    """Check the price of an image against the limits and return the time that it can take.

    Raises:
        ImageTooLargeError: it costs more than `picture_limits` allows.
        ImageDamagedError: as `price_of` does.
    """
    limits = picture_limits()
    price = price_of(data, header, scale)
    check_price(price, limits)
    seconds = limits.seconds_for(len(data))
    return Allowance(time.thread_time() + seconds, price.what, seconds)


def price_of(data: bytes, header: ImageHeader, scale: int = 1) -> Price:
    """Return what decoding `data` and resizing the result cost at most.

    Args:
        data: the file's content.
        header: of `data`.
        scale: 2, 4 or 8 for a JPEG that is decoded at a fraction of its size.

    Raises:
        ImageDamagedError: a JPEG of more than 100 scans, or with thousands of tables.
    """
    what = f"{header.format} of {header.width} × {header.height} pixels"
    pixels = header.width * header.height
    decoded = pixels // scale**2
    strip = max(header.width, min(pixels, STRIP_PIXELS))
    memory = _PIXEL_MEMORY * decoded + _STRIP_MEMORY * strip
    memory += _SIDE_MEMORY * (header.width + header.height)
    is_plain = False
    if header.format == "JPEG":
        pixel = _CMYK_PIXEL if header.channels > 3 else _JPEG_PIXEL
        seconds = pixel * pixels + _JPEG_BYTE * len(data)
        scans = _price_scans(data, header)
        if scans is not None and scans.is_complete:
            seconds -= pixel * (pixels - decoded)
        is_plain = scans is None and header.channels in (1, 3)
        if scans is not None:
            seconds += scans.seconds
            memory = max(memory, scans.memory + 4 * decoded + _STRIP_MEMORY * strip)
            what += f" in {scans.count} scans" if scans.count > 1 else ""
    elif header.format == "PNG":
        seconds = _png_seconds(data, header)
    elif header.format == "GIF":
        seconds = _GIF_PIXEL * pixels + _GIF_BYTE * len(data)
    elif header.format == "WEBP":
        seconds = _WEBP_PIXEL * pixels + _WEBP_BYTE * len(data)
        memory += (_WEBP_PIXEL_MEMORY - _PIXEL_MEMORY) * pixels + 2 * len(data)  # Pillow's copies
    elif header.format == "TIFF":
        layout = read_tiff_layout(data)
        raw = pixels * layout.channels * layout.bit_depth // 8
        is_plain_color = header.channels in (1, 3) and header.bit_depth == 8
        pixel = _CONVERTED_PIXEL if is_plain_color else _BLENDED_PIXEL
        seconds = pixel * pixels + _TIFF_RAW_BYTE * raw + _TIFF_BYTE * len(data)
        # A copy without metadata, and what libtiff reads and decodes at a time.
        memory += len(data) + (layout.buffer_bytes and layout.buffer_bytes + 2 * len(data))
    elif header.format == "AVIF":
        avif = read_avif_layout(data)
        seconds = _AVIF_PIXEL * max(pixels, avif.decoded_pixels) + _AVIF_FRAME * avif.frames
        seconds += _AVIF_BYTE * avif.coded_bytes
        memory += (_AVIF_PIXEL_MEMORY - _PIXEL_MEMORY + 2 * (header.channels > 3)) * pixels
        memory += avif.decoder_bytes + len(data)  # a copy without metadata
    else:
        seconds = _BMP_PIXEL * pixels
        has_runs = data[30:34] in (b"\1\0\0\0", b"\2\0\0\0")  # compressed as RLE8 or RLE4
        if header.format == "BMP" and has_runs:
            seconds += _RUN_PIXEL * pixels + _RUN_BYTE * len(data)
    seconds += _RESIZED_PIXEL * decoded
    return Price(memory, seconds, is_plain, len(data), what)


def check_price(price: Price, limits: PictureLimits) -> None:
    """Raise an ImageTooLargeError for an image that costs more than the limits."""
    if price.memory > limits.memory:
        raise ImageTooLargeError(
            f"decoding this {price.what} takes up to {price.memory / 1e6:.0f} MB of memory, "
            f"expected at most {limits.memory / 1e6:.0f} MB; {_CURE} "
            f"({environment.PICTURE_MEMORY.name})"
        )
    most = limits.seconds_for(price.size)
    if price.seconds > most:
        raise ImageTooLargeError(
            f"decoding this {price.what} takes up to {price.seconds:.1f} seconds of CPU time, "
            f"expected at most {most:.3g}; {_CURE} ({environment.PICTURE_SECONDS.name})"
        )


def with_resize(price: Price, rows: int, output: tuple[int, int]) -> Price:
    """Return a price with that of resizing the decoded image to an output of any size.

    Args:
        price: of decoding.
        rows: of the decoded image.
        output: (height, width) in pixels.
    """
    height, width = output
    across = rows * width
    memory = _resize_memory(height, width) + _ACROSS_MEMORY * across
    seconds = _OUTPUT_PIXEL * (across + height * width) + _OUTPUT_SIDE * (height + width)
    total = replace(price, memory=price.memory + memory, seconds=price.seconds + seconds)
    if memory <= _MODEST_RESIZE:
        return total
    what = f"{price.what} and resizing it to {width} × {height}"
    return replace(total, is_plain=False, what=what)


def _resize_memory(height: int, width: int) -> int:
    return _RESIZE_MEMORY * height * width + _OUTPUT_SIDE_MEMORY * (height + width)


def check_resize(height: int, width: int) -> None:
    """Raise an ImageTooLargeError for a resize whose whole result would take too much memory.

    A thin image grows enormously where its shorter side is enlarged.
    """
    memory, most = _resize_memory(height, width), picture_limits().memory
    if memory > most:
        raise ImageTooLargeError(
            f"resizing this image to {width} × {height} pixels takes up to {memory / 1e6:.0f} MB "
            f"of memory, expected at most {most / 1e6:.0f} MB; crop the image, choose a smaller "
            f"size or raise the limit ({environment.PICTURE_MEMORY.name})"
        )


def _png_seconds(data: bytes, header: ImageHeader) -> float:
    color_type = data[25]
    is_palette, has_alpha = color_type == 3, header.channels in (2, 4)
    raw = header.width * (1 if is_palette else header.channels) * header.bit_depth // 8
    pixel = _CONVERTED_PIXEL
    if is_palette or has_alpha or header.bit_depth == 16:
        pixel = _BLENDED_PIXEL
    pixel += _INTERLACED_PIXEL if any(data[28:29]) else 0  # the file may end before
    pixel += _KEYED_PIXEL if color_type == 2 and b"tRNS" in data else 0
    # A row has a byte for its filter.
    rows = header.height * (_PNG_RAW_BYTE * (raw + 1) + pixel * header.width)
    return rows + _PNG_BYTE * len(data)


@dataclass(frozen=True)
class _Scans:
    """What the scans of a JPEG cost beyond those of a plain one."""

    memory: int  # of the coefficients
    seconds: float
    count: int
    is_complete: bool = False  # progressive, and no coefficient is missing that would be smoothed


def _price_scans(data: bytes, header: ImageHeader) -> _Scans | None:
    """None for Huffman code in one scan, which costs nothing more."""
    kind = data[header.frame + 1]
    is_arithmetic = kind in (_ARITHMETIC, _ARITHMETIC_PROGRESSIVE)
    # If the first scan has all components, libjpeg makes a single pass, and refuses a second scan.
    first_scan = data[header.scan + 4 : header.scan + 5] if header.scan else b""
    is_single = first_scan == bytes((header.channels,)) and not header.is_progressive
    if is_single and not is_arithmetic:
        return None
    blocks = _component_blocks(data, header)
    total = sum(count for _, count in blocks)
    memory, seconds, visits, count, is_complete = 0, 0.0, total, 1, False
    if not is_single:
        visits, count, segments, is_exact = _count_scans(data, header, blocks)
        is_complete = header.is_progressive and is_exact
        memory = _BLOCK_MEMORY * total
        seconds += (_COMPLETE_BLOCK if is_complete else _SEVERAL_SCANS_BLOCK) * total
        seconds += _VISIT * visits + _SEGMENT * segments
    if is_arithmetic:
        seconds += _ARITHMETIC_VISIT * visits
        seconds += min(_ARITHMETIC_BLOCK * visits, _ARITHMETIC_BYTE * len(data))
    return _Scans(memory, seconds, count, is_complete)


def _component_blocks(data: bytes, header: ImageHeader) -> list[tuple[int, int]]:
    """Identifier and number of blocks of 8 × 8 of every component."""
    first = header.frame + 10
    fields = data[first : first + 3 * header.channels]
    factors = [(max(1, byte >> 4), max(1, byte & 15)) for byte in fields[1::3]]
    across = max((factor for factor, _ in factors), default=1)
    down = max((factor for _, factor in factors), default=1)
    units = -(-header.width // (8 * across)) * -(-header.height // (8 * down))
    return [(name, units * a * d) for name, (a, d) in zip(fields[::3], factors, strict=False)]


def _count_scans(
    data: bytes, header: ImageHeader, blocks: list[tuple[int, int]]
) -> tuple[int, int, int, bool]:
    """Count blocks that all scans visit, scans, and segments; whether coefficients are exact."""
    sizes: dict[int, int] = {}
    for name, count in blocks:  # a hostile file may repeat an identifier
        sizes[name] = max(count, sizes.get(name, 0))
    largest = max(sizes.values(), default=0)
    visits = scans = segments = 0
    exact = dict.fromkeys(sizes, 0)
    for marker, start in _scan_markers(data, header.scan):
        segments += 1
        if marker == SCAN:
            scans += 1
            names = data[start + 5 : start + 12 : 2][: sum(data[start + 4 : start + 5])]
            visits += sum(sizes.get(name, largest) for name in names)
            end = start + 5 + 2 * len(names)
            first, last, precision = data[end : end + 3].ljust(3, b"\1")
            band = (2 << min(last, 63)) - (1 << min(first, 63))
            for name in exact.keys() & set(names):
                exact[name] = exact[name] & ~band if precision & 15 else exact[name] | band
        if scans > _MAX_SCANS:
            raise ImageDamagedError(
                f"expected at most {_MAX_SCANS} scans in a JPEG, got more: it would take minutes "
                "to decode"
            )
        if segments > _MAX_SEGMENTS:
            raise ImageDamagedError(
                f"expected at most {_MAX_SEGMENTS} segments in the pixels of a JPEG, got more"
            )
    is_exact = all(bits & _SMOOTHED == _SMOOTHED for bits in exact.values())
    return visits, scans, segments, is_exact and len(sizes) == len(blocks)


def _scan_markers(data: bytes, position: int) -> Iterator[tuple[int, int]]:
    """Yield marker and start of every segment from the first scan on, as libjpeg finds them."""
    code = np.frombuffer(data, np.uint8)
    for first in range(position, len(data) if position else 0, _WINDOW):
        window = code[first : first + _WINDOW + 1]
        found = np.flatnonzero(window[:-1] == 0xFF)
        found = found[_ENDS_CODE[window[found + 1]]] + first
        while (number := int(np.searchsorted(found, position))) < len(found):
            start = int(found[number])
            if data[start + 1] == _END or start + 4 > len(data):
                return
            yield data[start + 1], start
            position = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
