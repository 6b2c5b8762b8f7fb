"""AV1: the frames that an image item makes a decoder decode, counted without decoding.

In: the bytes of an AV1 image item, which are not trusted. Out: a `CodedImage`, an upper estimate
that holds whatever the container around them says. A hidden frame costs as much as a shown one,
and a frame can be larger than its sequence header allows, because decoders do not check that.
Source: AV1 Bitstream & Decoding Process Specification 1.0.0 with errata 1, sections 5.3 to 5.9.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from image_classification.errors import ImageDamagedError

_SEQUENCE_HEADER, _FRAME_HEADERS = 1, frozenset((3, 6, 7))  # alone, with its tiles, repeated
_MAX_UNITS = 4_096  # of an item: an encoder writes about 5 for a frame
_MAX_SEQUENCE_HEADER, _MAX_FRAME_HEADER = 512, 32  # bytes that hold what is read of them
_KEY_FRAME, _SWITCH_FRAME = 0, 3
_CHOSEN_BY_FRAME = 2
_SRGB = (1, 13, 0)  # primaries, transfer, matrix: always with full color


@dataclass(frozen=True)
class CodedImage:
    """What decoding an item costs at most.

    Attributes:
        units: its parts, of any kind.
        frames: shown or hidden.
        width, height: the largest that its sequence headers declare.
        largest: pixels of the largest frame, which can be more.
        pixels: of all frames together.
        frame_bytes: of the planes of the largest frame.
        bit_depth: bits of a sample.
        is_gray: whether there is luma alone.
        has_grain: whether film grain can be added, to a copy.
    """

    units: int
    frames: int
    width: int
    height: int
    largest: int
    pixels: int
    frame_bytes: int
    bit_depth: int
    is_gray: bool
    has_grain: bool


@dataclass(frozen=True)
class _Sequence:
    width: int
    height: int
    most: int  # pixels of a frame that declares its own size
    is_reduced: bool  # one shown key frame of this size
    bit_depth: int
    samples: float  # of a pixel: 1 gray, 1.5, 2 or 3 with color
    has_grain: bool
    time_bits: int
    id_bits: int
    screen_content: int
    integer_motion: int


class _Bits:
    """Reads a unit bit by bit; IndexError at its end."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise IndexError("the unit is too short")
        return (self._value >> self._left) & ((1 << count) - 1)

    def has(self, is_present: bool = True) -> bool:
        """Return the next bit as a switch; False, without reading, if it is not present."""
        return is_present and self.take(1) == 1

    def skip_count(self) -> None:
        """Skip a number in the variable-length code of 4.10.3."""
        zeros = 0
        while zeros < 32 and not self.take(1):
            zeros += 1
        self.take(zeros if zeros < 32 else 0)


def read_coded_image(data: bytes | memoryview) -> CodedImage:
    """Count the frames of an item and bound their size.

    Raises:
        ImageDamagedError: no frame, a cut or impossible header, or thousands of units.
    """
    sequences: list[_Sequence] = []
    units = frames = pixels = largest = 0
    try:
        for units, (kind, start, end) in enumerate(_units(data), 1):  # noqa: B007
            if kind == _SEQUENCE_HEADER:
                unit = data[start : min(end, start + _MAX_SEQUENCE_HEADER)]
                sequences.append(_read_sequence(_Bits(unit)))
            elif kind in _FRAME_HEADERS and sequences:
                unit = data[start : min(end, start + _MAX_FRAME_HEADER)]
                # Also the size of an earlier frame, which this one can refer to.
                largest = max(largest, _most_pixels(_Bits(unit), sequences[-1]))
                frames += 1
                pixels += largest
    except IndexError as error:
        raise ImageDamagedError("its AV1 data is truncated or corrupt: a header is cut") from error
    if not frames:
        raise ImageDamagedError("its AV1 data is truncated or corrupt: it has no frame")
    deepest = max(sequence.bit_depth for sequence in sequences)
    samples = max(sequence.samples for sequence in sequences)
    return CodedImage(
        units,
        frames,
        max(sequence.width for sequence in sequences),
        max(sequence.height for sequence in sequences),
        largest,
        pixels,
        int(largest * samples * (2 if deepest > 8 else 1)),
        deepest,
        samples == 1,
        any(sequence.has_grain for sequence in sequences),
    )


def _units(data: bytes | memoryview) -> Iterator[tuple[int, int, int]]:
    """Yield kind, start and end of the content of each unit (OBU)."""
    position = 0
    for _ in range(_MAX_UNITS):
        if position >= len(data):
            return
        head = data[position]
        position += 2 if head & 4 else 1  # with an extension
        end = len(data)
        if head & 2:
            size = shift = 0
            while True:
                byte = data[position]
                position += 1
                size |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80 or shift >= 56:
                    break
            end = position + size
        if end > len(data):
            raise IndexError("a unit ends after the item")
        yield head >> 3 & 15, position, end
        position = end
    raise ImageDamagedError(f"expected at most {_MAX_UNITS} units of AV1 data in an item, got more")


def _read_sequence(bits: _Bits) -> _Sequence:
    profile = bits.take(3)
    bits.take(1)  # whether it is a still image
    is_reduced = bits.has()
    time_bits = id_bits = 0
    if is_reduced:
        bits.take(5)
    else:
        time_bits = _skip_timing(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    width, height = bits.take(width_bits) + 1, bits.take(height_bits) + 1
    if bits.has(not is_reduced):
        id_bits = bits.take(4) + 2 + bits.take(3) + 1
    bits.take(3)  # tools of blocks
    screen_content = integer_motion = _CHOSEN_BY_FRAME
    if not is_reduced:
        bits.take(4)  # tools of motion
        has_order = bits.has()
        bits.take(2 if has_order else 0)
        screen_content = _CHOSEN_BY_FRAME if bits.has() else bits.take(1)
        if screen_content:
            integer_motion = _CHOSEN_BY_FRAME if bits.has() else bits.take(1)
        bits.take(3 if has_order else 0)
    bits.take(3)  # filters
    bit_depth, samples = _read_color(bits, profile)
    most = 1 << width_bits + height_bits
    return _Sequence(
        width,
        height,
        most,
        is_reduced,
        bit_depth,
        samples,
        bits.has(),
        time_bits,
        id_bits,
        screen_content,
        integer_motion,
    )


def _skip_timing(bits: _Bits) -> int:
    """Skip timing and operating points; return the bits of a frame's time in its header."""
    time_bits = delay_bits = 0
    has_model = False
    if bits.has():  # timing
        bits.take(64)
        is_even = bits.has()
        if is_even:
            bits.skip_count()
        has_model = bits.has()
        if has_model:
            delay_bits = bits.take(5) + 1
            bits.take(37)
            time_bits = bits.take(5) + 1
            time_bits = 0 if is_even else time_bits
    has_display_delay = bits.has()
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:  # the level; high ones have a tier
            bits.take(1)
        if bits.has(has_model):
            bits.take(2 * delay_bits + 1)
        if bits.has(has_display_delay):
            bits.take(4)
    return time_bits


def _read_color(bits: _Bits, profile: int) -> tuple[int, float]:
    """Return the bit depth and the samples of a pixel."""
    is_high = bits.has()
    bit_depth = 10 if is_high else 8
    if profile == 2 and bits.has(is_high):
        bit_depth = 12
    is_gray = bits.has(profile != 1)
    described = (bits.take(8), bits.take(8), bits.take(8)) if bits.has() else None
    if is_gray:
        bits.take(1)
        return bit_depth, 1
    if described == _SRGB:
        samples = 3.0
    else:
        bits.take(1)  # the range
        samples = {0: 1.5, 1: 3.0}.get(profile, 2.0)
        if profile > 1 and bit_depth == 12:
            samples = 3.0
            if bits.has():
                samples = 1.5 if bits.has() else 2.0
        bits.take(2 if samples == 1.5 else 0)
    bits.take(1)  # quantizers of its own for each color
    return bit_depth, samples


def _most_pixels(bits: _Bits, sequence: _Sequence) -> int:
    """Return the most pixels that a frame can have by the start of its header."""
    declared = sequence.width * sequence.height
    if sequence.is_reduced or bits.has():  # the other one shows a frame that exists
        return declared
    kind, is_shown = bits.take(2), bits.has()
    bits.take(sequence.time_bits if is_shown else 1)
    if kind != _SWITCH_FRAME and not (kind == _KEY_FRAME and is_shown):
        bits.take(1)  # resilience to errors
    bits.take(1)
    has_screen_content = sequence.screen_content
    if has_screen_content == _CHOSEN_BY_FRAME:
        has_screen_content = bits.take(1)
    if has_screen_content and sequence.integer_motion == _CHOSEN_BY_FRAME:
        bits.take(1)
    bits.take(sequence.id_bits)
    return max(declared, sequence.most) if kind == _SWITCH_FRAME or bits.has() else declared
