"""AVIF: decoded as Pillow decodes it, upright and over white, at no more than its price."""

from __future__ import annotations

import io
import json
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import AvifImagePlugin, Image

from image_classification.errors import (
    ImageDamagedError,
    ImageError,
    ImageFormatError,
    ImageTooLargeError,
)
from image_classification.images import avif, foreign
from image_classification.images.av1 import read_coded_image
from image_classification.images.avif import only_still_image, read_avif_layout
from image_classification.images.decode import decode, decode_region
from image_classification.images.header import read_header
from image_classification.images.price import picture_limits, price_of
from tests.unit.images.conftest import Counter

pytestmark = pytest.mark.skipif(not avif.can_decode(), reason="this Pillow does not decode AVIF")

ROOT = Path(__file__).parents[3]
SMALL = np.random.default_rng(0).integers(0, 256, (5, 7, 4)).astype(np.uint8)
RGBA = Image.fromarray(SMALL).resize((70, 50), Image.Resampling.BICUBIC)
RGB = RGBA.convert("RGB")
ALPHA = b"\0\0\0\0urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0"


def written(image: Image.Image, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, "AVIF", **{"speed": 10, "max_threads": 1, **options})
    return content.getvalue()


def as_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        whole = image.convert("RGBA")
    white = Image.new("RGBA", whole.size, "white")
    return np.asarray(Image.alpha_composite(white, whole).convert("RGB"))


def box(kind: bytes, *contents: bytes) -> bytes:
    content = b"".join(contents)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def ispe(width: int, height: int) -> bytes:
    return box(b"ispe", struct.pack(">III", 0, width, height))


CONFIGURATION = box(b"av1C", b"\x81\x3f\0\0")
Item = tuple[int, bytes, Sequence[bytes], bytes]  # number, type, properties, content
Reference = tuple[bytes, int, Sequence[int]]


def built(
    items: Sequence[Item],
    references: Sequence[Reference] = (),
    more: bytes = b"",
    brand: bytes = b"avif",
    essential: int = 0,
) -> bytes:
    """An AVIF of these items; equal contents are stored once. The first item is the image."""
    primary, items = items[0][0], sorted(items)
    properties: list[bytes] = []
    assigned, kinds, contents = [], [], dict.fromkeys(content for *_, content in items)
    for number, kind, own, _ in items:
        indices = range(len(properties) + 1, len(properties) + 1 + len(own))
        properties.extend(own)
        assigned.append(struct.pack(">IB", number, len(own)))
        assigned.extend(struct.pack(">H", index | essential) for index in indices)
        kinds.append(box(b"infe", struct.pack(">IIH4sB", 3 << 24, number, 0, kind, 0)))
    refers = [
        box(kind, struct.pack(f">IH{len(to)}I", origin, len(to), *to))
        for kind, origin, to in references
    ]

    def meta(offset: int) -> bytes:
        offsets = {}
        for content in contents:
            offsets[content] = offset
            offset += len(content)
        places = [
            struct.pack(">IHHHII", number, 0, 0, 1, offsets[content], len(content))
            for number, _, _, content in items
        ]
        return box(
            b"meta", bytes(4), box(b"hdlr", bytes(8), b"pict", bytes(13)),
            box(b"pitm", struct.pack(">II", 1 << 24, primary)),
            box(b"iloc", struct.pack(">IHI", 2 << 24, 0x4400, len(items)), *places),
            box(b"iinf", struct.pack(">II", 1 << 24, len(items)), *kinds),
            box(b"iref", struct.pack(">I", 1 << 24), *refers),
            box(b"iprp", box(b"ipco", *properties),
                box(b"ipma", struct.pack(">II", 1 << 24 | 1, len(items)), *assigned)),
        )  # fmt: skip

    head = box(b"ftyp", brand, bytes(4), brand, b"mif1") + more
    return head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", *contents)


def coded(image: Image.Image, **options: Any) -> bytes:
    """The AV1 data of an image."""
    data = written(image, **options)
    return data[data.rindex(b"mdat") + 4 :]


def single(width: int, height: int, content: bytes, **options: Any) -> bytes:
    return built([(1, b"av01", [ispe(width, height), CONFIGURATION], content)], **options)


def grid(columns: int, rows: int, tile: bytes, side: int, alpha: bytes = b"") -> bytes:
    width, height, count = columns * side, rows * side, columns * rows
    shape = struct.pack(">BBBBII", 0, 1, rows - 1, columns - 1, width, height)
    items: list[Item] = [(1, b"grid", [ispe(width, height)], shape)]
    references: list[Reference] = [(b"dimg", 1, range(10, 10 + count))]
    items += [(10 + n, b"av01", [ispe(side, side), CONFIGURATION], tile) for n in range(count)]
    if alpha:
        items.append((2, b"grid", [ispe(width, height), box(b"auxC", ALPHA)], shape))
        references += [(b"auxl", 2, [1]), (b"dimg", 2, range(5000, 5000 + count))]
        items += [
            (5000 + n, b"av01", [ispe(side, side), CONFIGURATION, box(b"auxC", ALPHA)], alpha)
            for n in range(count)
        ]
    return built(items, references)


def sequence_header(width: int, height: int, size_bits: int = 16, deep: bool = False) -> bytes:
    """One that lets each frame declare its size."""
    bits = "000" + "0" + "0" + "0" + "0" + "00000" + 12 * "0" + "00000"
    bits += f"{size_bits - 1:04b}" * 2
    bits += f"{width - 1:0{size_bits}b}{height - 1:0{size_bits}b}"
    bits += "0" + "000" + "0000" + "0" + "1" + "1" + "000"
    bits += ("1" if deep else "0") + "0" + "0" + "0" + "00" + "0" + "0" + "1"
    return unit(1, packed(bits))


def packed(bits: str) -> bytes:
    return np.packbits([int(bit) for bit in bits]).tobytes()


def unit(kind: int, content: bytes) -> bytes:
    size, rest = b"", len(content)
    while rest > 127:
        size, rest = size + bytes((rest & 127 | 128,)), rest >> 7
    return bytes((kind << 3 | 2,)) + size + bytes((rest,)) + content


# A key frame that is not shown, and declares its own size.
OWN_SIZE = unit(6, packed("0" + "00" + "0" + "1" + "0" + "0" + "0" + "1") + b"\xff" * 8)


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2", "4:4:4", "4:0:0"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_common_forms_are_decoded_as_pillow_decodes_them(mode: str, subsampling: str) -> None:
    data = written(RGBA.convert(mode), subsampling=subsampling)
    pixels = decode(data)
    assert np.array_equal(pixels, as_pillow(data)) and pixels.flags.writeable
    assert decode(data, channels=1).shape == (50, 70, 1)
    assert np.array_equal(decode_region(data, (10, 20, 30, 40)), pixels[10:40, 20:60])
    header = read_header(data)
    assert (header.format, header.upright_size, header.bit_depth) == ("AVIF", (50, 70), 8)


def test_premultiplied_alpha_is_undone_and_composited_over_white() -> None:
    data = written(RGBA, alpha_premultiplied=True, quality=100)
    assert b"prem" in only_still_image(data)
    assert np.array_equal(decode(data), as_pillow(data))
    clear = written(Image.new("RGBA", (8, 8), (200, 0, 0, 0)))
    assert (decode(clear) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_an_avif_is_applied_once(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    turned, plain = (decode(written(RGB, exif=tags, quality=100)) for tags in (exif, Image.Exif()))
    wanted = {
        1: plain, 2: plain[:, ::-1], 3: plain[::-1, ::-1], 4: plain[::-1],
        5: plain.transpose(1, 0, 2), 6: np.rot90(plain, -1),
        7: plain[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(plain),
    }  # fmt: skip
    assert np.array_equal(turned, wanted[orientation])


def test_of_a_sequence_the_first_frame_is_decoded_and_no_other() -> None:
    others = [Image.new("RGB", RGB.size, color) for color in ("red", "blue")]
    data = written(RGB, save_all=True, append_images=others)
    assert data[8:12] == b"avis" and read_avif_layout(data).frames == 1
    assert len(only_still_image(data)) < len(data) - 500
    assert np.array_equal(decode(data), as_pillow(data))


def test_a_grid_is_one_image_and_each_of_its_tiles_counts() -> None:
    tile = coded(RGB.resize((64, 64)), subsampling="4:4:4")
    pixels = decode(grid(3, 2, tile, 64))
    assert pixels.shape == (128, 192, 3)
    assert np.array_equal(pixels[64:, 128:], pixels[:64, :64])
    layout = read_avif_layout(grid(3, 2, tile, 64))
    assert (layout.frames, layout.decoded_pixels) == (6, 6 * 64 * 64)
    assert layout.coded_bytes == 6 * len(tile)  # in the file it is once
    white = coded(Image.new("L", (64, 64), 0), subsampling="4:0:0")
    assert (decode(grid(3, 2, tile, 64, white)) == 255).all()  # transparent everywhere
    assert read_avif_layout(grid(3, 2, tile, 64, white)).frames == 12


def test_nothing_but_the_still_image_reaches_the_decoder() -> None:
    """A thumbnail, a gain map, an item for a sample transform and metadata are left out."""
    content, other = coded(RGB), coded(RGB.resize((64, 64)))
    own = [ispe(*RGB.size), CONFIGURATION, box(b"colr", b"prof", bytes(300_000))]
    items: list[Item] = [(1, b"av01", own, content)]
    items += [(n, b"av01", [ispe(64, 64), CONFIGURATION], other) for n in (2, 3)]
    items += [(4, b"sato", [ispe(*RGB.size)], bytes(9)), (5, b"Exif", [], bytes(70_000))]
    references: list[Reference] = [
        (b"thmb", 2, [1]), (b"dimg", 4, [1, 3]), (b"cdsc", 5, [1]), (b"auxl", 3, [1]),
    ]  # fmt: skip
    data = built(items, references)
    copy = only_still_image(data)
    assert len(copy) < len(content) + 500 and copy.count(b"infe") == 1
    assert read_avif_layout(data).frames == 1
    assert np.array_equal(decode(data), decode(single(*RGB.size, content)))


def test_pillow_decodes_with_one_thread_and_the_decoder_whose_cost_is_known() -> None:
    decode(written(RGB))
    assert AvifImagePlugin.DEFAULT_MAX_THREADS == 1
    assert AvifImagePlugin.DECODE_CODEC_CHOICE == avif.CODEC == "dav1d"


def test_without_avif_in_pillow_it_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "can_decode", lambda: False)
    with pytest.raises(ImageFormatError, match="AVIF: convert it to JPEG or PNG, or install"):
        decode(written(RGB))
    sequence = b"\0\0\0\x1cftypavis\0\0\0\0avifmsf1miaf"
    with pytest.raises(ImageFormatError, match=r"got AVIF \(a sequence of images\): convert it"):
        decode(sequence)


def test_heic_is_named_with_a_command_that_converts_it() -> None:
    with pytest.raises(ImageFormatError, match=r"got HEIC: convert it to JPEG or PNG .*magick"):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50))


CONTENT = coded(RGB)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (box(b"ftyp", b"avis", bytes(4), b"avis") + box(b"moov"), "an AVIF without a still image"),
        (built([(1, b"hvc1", [ispe(9, 9)], b"x")]), "an AVIF whose image is of the type 'hvc1'"),
        (single(40_000, 1, CONTENT), "40000 × 1 pixels, more than 32768 in a row"),
        (
            built([(1, b"av01", [ispe(70, 50), box(b"abcd")], CONTENT)], essential=0x8000),
            "with the property 'abcd': convert it",
        ),
    ],
)
def test_other_forms_are_refused_by_name(data: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        decode(data)


TILE = coded(RGB.resize((64, 64)))


@pytest.mark.parametrize(
    "data",
    [
        single(70, 50, CONTENT[: len(CONTENT) // 2]),
        single(70, 50, CONTENT)[:-1],
        single(70, 50, b""),
        single(70, 50, unit(6, bytes(20))),  # no sequence header
        single(70, 50, CONTENT[:3]),
        single(0, 50, CONTENT),
        built([(1, b"av01", [CONFIGURATION], CONTENT)]),
        grid(3, 2, TILE, 64).replace(b"dimg", b"abcd"),
        built([(1, b"grid", [ispe(64, 64)], struct.pack(">BBBBHH", 0, 0, 0, 0, 64, 64))],
              [(b"dimg", 1, [1])]),
        built([(1, b"av01", [ispe(70, 50), CONFIGURATION, box(b"colr", b"nclx", bytes(2000))],
                CONTENT)]),
    ],
)  # fmt: skip
def test_truncated_and_contradictory_files_are_damaged(data: bytes) -> None:
    with pytest.raises(ImageDamagedError):
        decode(data)


@pytest.fixture
def default_limits() -> Iterator[None]:
    picture_limits.cache_clear()
    yield
    picture_limits.cache_clear()


def hidden_frames(count: int) -> bytes:
    return sequence_header(2048, 2048, 11) + unit(6, bytes(20)) * count


def overlapping() -> bytes:
    """1,000 tiles that each have nearly the whole file, one byte later than the one before."""
    data = bytearray(grid(40, 25, TILE, 64) + bytes(8 << 20))
    start = data.index(b"iloc") + 14
    for n in range(1, 1_001):
        struct.pack_into(">II", data, start + 18 * n + 10, n, 8 << 20)
    return bytes(data)


def many_units() -> bytes:
    start = sequence_header(64, 64, 6) + unit(6, bytes(20))
    tiles = [start + unit(15, b"") * (4_000 + n) for n in range(9)]
    shape = struct.pack(">BBBBHH", 0, 0, 2, 2, 192, 192)
    items: list[Item] = [(1, b"grid", [ispe(192, 192)], shape)]
    items += [(2 + n, b"av01", [ispe(64, 64), CONFIGURATION], tile) for n, tile in enumerate(tiles)]
    return built(items, [(b"dimg", 1, range(2, 11))])


HOSTILE: dict[str, Callable[[], bytes]] = {
    "a sequence header larger than the image": lambda: single(
        64, 64, sequence_header(16_384, 16_384) + unit(6, bytes(20))
    ),
    "a frame larger than its sequence header": lambda: single(
        64, 64, sequence_header(64, 64) + OWN_SIZE
    ),
    "an image larger than its frames": lambda: single(16_000, 16_000, CONTENT),
    "64 hidden frames": lambda: single(2048, 2048, hidden_frames(64)),
    "nine hidden frames that are kept": lambda: single(
        6_000, 6_000, sequence_header(6_000, 6_000, 13) + unit(6, bytes(20)) * 9
    ),
    "16 bits in one row": lambda: single(
        32_768, 32_768, sequence_header(32_768, 32_768, deep=True) + unit(6, bytes(20))
    ),
    "a grid of large tiles that share their bytes": lambda: grid(
        16, 16, sequence_header(4_096, 4_096) + unit(6, bytes(20)), 4_096
    ),
    "a grid whose alpha is large": lambda: grid(
        4, 4, TILE, 64, sequence_header(16_000, 16_000) + unit(6, bytes(20))
    ),
    "a grid of too many tiles": lambda: grid(60, 60, TILE, 64),
    "tiles that overlap": overlapping,
    "5,000 units": lambda: single(64, 64, unit(15, b"") * 5_000 + CONTENT),
    "tiles of 4,000 units each": many_units,
    "a million boxes": lambda: box(b"ftyp", b"avif", bytes(4)) + box(b"free") * 1_000_000,
    "a box in a box in a box": lambda: box(b"ftyp", b"avif", bytes(4)) + b"".join(
        struct.pack(">I4s", 80_000 - 8 * n, b"meta") for n in range(10_000)
    ),
    "60,000 items": lambda: box(b"ftyp", b"avif", bytes(4)) + box(
        b"meta", bytes(4), box(b"iloc", bytes(6), struct.pack(">H", 60_000), bytes(900_000))
    ),
}  # fmt: skip


@pytest.mark.usefixtures("default_limits")
@pytest.mark.parametrize("name", HOSTILE)
def test_what_costs_too_much_is_refused_before_it_costs_anything(
    name: str, calls_of: Counter
) -> None:
    data = HOSTILE[name]()

    def refuse() -> None:
        with pytest.raises(ImageError) as refusal:
            decode(data)
        assert len(str(refusal.value)) > 40

    assert calls_of(refuse) < 500_000


def test_frames_are_counted_and_bounded_by_what_their_headers_allow() -> None:
    found = read_coded_image(coded(RGB, subsampling="4:4:4"))
    assert (found.frames, found.pixels, found.bit_depth) == (1, 70 * 50, 8)
    assert found.frame_bytes == 3 * 70 * 50 and not found.has_grain
    found = read_coded_image(hidden_frames(5))
    assert (found.frames, found.pixels) == (5, 5 * 2048 * 2048)
    found = read_coded_image(sequence_header(64, 64, 10) + OWN_SIZE)
    assert (found.width, found.height, found.pixels) == (64, 64, 1 << 20)
    grain = coded(RGB, advanced={"film-grain-test": "1"})
    assert read_coded_image(grain).has_grain


def test_the_price_of_a_photograph_of_24_megapixels_is_within_the_limits() -> None:
    data = single(6000, 4000, sequence_header(6000, 4000, 13) + unit(6, bytes(6 << 20)))
    price, limits = price_of(data, read_header(data)), picture_limits()
    assert price.memory < limits.memory and price.seconds < limits.seconds_for(len(data))
    with pytest.raises(ImageTooLargeError, match=r"AVIF of 9000 × 6000 pixels takes up to \d+ MB"):
        decode(single(9000, 6000, sequence_header(9000, 6000) + unit(6, bytes(20))))


MEASURE = """
import io, json, sys, time
import numpy as np
from pathlib import Path
from PIL import Image
from image_classification.images.decode import decode
from image_classification.images.header import read_header
from image_classification.images.price import price_of
def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
def encoded(picture, options):
    content = io.BytesIO()
    picture.save(content, "AVIF", speed=10, max_threads=1, **options)
    return content.getvalue()
side = 700
noise = np.random.default_rng(0).integers(0, 256, (side // 4, side // 4, 4), np.uint8)
picture = Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)
small = picture.resize((64, 64))
decode(encoded(small, {}))
for mode, options in json.loads(sys.argv[1]):
    data = encoded(picture.convert(mode), options)
    price = price_of(data, read_header(data))
    Path("/proc/self/clear_refs").write_text("5")
    before, seconds = status("VmRSS"), []
    for _ in range(3):  # one of them can be disturbed
        start = time.process_time()
        decode(data)
        seconds.append(time.process_time() - start)
        peak = status("VmHWM") - before if len(seconds) == 1 else peak
    print(json.dumps([peak, min(seconds), price.memory, price.seconds]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_decoding_costs_at_most_its_price_in_memory_and_time_of_all_threads() -> None:
    kinds = [
        ("RGB", {}), ("RGB", {"subsampling": "4:4:4", "quality": 95}), ("RGBA", {}),
        ("L", {"subsampling": "4:0:0"}),
        ("RGB", {"tile_rows": 4, "tile_cols": 4, "autotiling": False}),
        ("RGB", {"advanced": {"film-grain-test": "1"}, "subsampling": "4:4:4"}),
    ]  # fmt: skip
    command = [sys.executable, "-c", MEASURE, json.dumps(kinds)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    measured = [json.loads(line) for line in output.splitlines()]
    for kind, (memory, seconds, most_memory, most_seconds) in zip(kinds, measured, strict=True):
        assert memory < 1.02 * most_memory + 2e6, kind
        assert seconds < 3 * most_seconds, kind  # ample, because CPUs are shared
        assert most_memory < 4 * memory + 60e6, kind


def test_a_file_that_ends_anywhere_is_damaged_and_never_another_error() -> None:
    data = written(RGBA)
    for end in [*range(len(data) - len(CONTENT)), *range(len(data) - len(CONTENT), len(data), 20)]:
        with pytest.raises(ImageError):
            decode(data[:end])


def test_changed_bytes_of_an_avif_are_an_error_of_the_image_or_other_pixels() -> None:
    random = np.random.default_rng(1)
    originals = [written(RGB), written(RGBA), grid(2, 2, TILE, 64)]
    for number in range(1_500):
        data = bytearray(originals[number % 3])
        most = len(data) if number % 2 else data.rindex(b"mdat") + 40
        for at in random.integers(0, most, 3).tolist():
            data[at] = random.integers(256)
        try:
            pixels = decode(bytes(data))
        except ImageError:
            continue
        assert pixels.dtype == np.uint8 and pixels.shape[2] == 3


@pytest.mark.parametrize(
    "lock",
    sorted(
        path
        for kind in ("serve", "train")
        for path in (ROOT / "containers" / "locks").glob(f"{kind}-*.txt")
    ),
    ids=lambda p: p.stem,
)
def test_the_containers_lock_a_wheel_of_pillow_that_decodes_avif(lock: Path) -> None:
    (found,) = re.findall(r"^pillow==(\d+)\.(\d+)", lock.read_text(), re.MULTILINE)
    assert (int(found[0]), int(found[1])) >= (11, 3)  # the first whose wheels have libavif
