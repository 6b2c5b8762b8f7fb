"""The input of the contenders: files, a record file, and one with restart segments."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from setting import photographs

from image_classification.errors import UsageError
from image_classification.images.decode import DEFAULT_MAX_PIXELS, decode
from image_classification.images.encode import encode_jpeg
from image_classification.images.restart_markers import Segmenter
from image_classification.records.format import RecordHeader, pack_image_record
from image_classification.records.writer import RecordWriter

_SYNTHETIC = 100


@dataclass(frozen=True)
class Prepared:
    """The files and their description.

    Attributes:
        paths: the files, each once.
        described: for people.
        has_segments: whether jpegtran was there to make segmented records.
        install_segmenter: how to get it.
    """

    paths: list[Path]
    described: str
    has_segments: bool
    install_segmenter: str


def prepare(
    folder: Path, photos: Path | None, count: int, quality: int | None, *, is_cold: bool
) -> Prepared:
    """Write `files.txt`, `plain.rec` and `segmented.rec` of `count` images into `folder`.

    An image that comes twice is one file, which is read once, unless `is_cold`.
    """
    paths, described = _photographs(folder, photos)
    if quality is not None:
        paths = [_encoded_again(path, quality, folder) for path in paths]
        described += f", encoded again with quality {quality}, 4:2:0"
    chosen = [paths[k % len(paths)] for k in range(count)]
    contents = {path: path.read_bytes() for path in paths}
    kilobytes = sum(len(contents[path]) for path in chosen) / count / 1000
    files = chosen
    if is_cold:
        files = [_copied(path, folder / "copies" / f"{k}.jpg") for k, path in enumerate(chosen)]
        described += "; from the disk"
    (folder / "files.txt").write_text("\n".join(map(str, files)), "utf-8")
    _write(folder / "plain.rec", [contents[path] for path in chosen])
    try:
        segmenter = Segmenter()
    except UsageError as error:
        return Prepared(paths, f"{described}; {kilobytes:.0f} KB each", False, str(error))
    with ThreadPoolExecutor() as pool:
        segmented = dict(
            zip(
                contents,
                pool.map(lambda x: segmenter.segment(x, DEFAULT_MAX_PIXELS), contents.values()),
                strict=True,
            )
        )
    _write(folder / "segmented.rec", [segmented[path] for path in chosen])
    growth = sum(map(len, segmented.values())) / sum(map(len, contents.values())) - 1
    described += f"; {kilobytes:.0f} KB each, segmented {growth:+.1%}"
    return Prepared(paths, described, True, "")


def _photographs(folder: Path, photos: Path | None) -> tuple[list[Path], str]:
    if photos is None:
        names, described = photographs.write_synthetic(_SYNTHETIC, folder)
        return [folder / name for name in names], described
    paths = photographs.find(photos)
    sizes = []
    for path in paths:
        with Image.open(path) as image:
            sizes.append(image.size)
    width, height = np.median(sizes, axis=0).astype(int)
    return paths, f"{len(paths)} files of {photos}, median {width} × {height}"


def _encoded_again(path: Path, quality: int, folder: Path) -> Path:
    copy = folder / f"{path.stem}.jpg"
    copy.write_bytes(encode_jpeg(decode(path.read_bytes()), quality))
    return copy


def _copied(path: Path, copy: Path) -> Path:
    copy.parent.mkdir(exist_ok=True)
    return Path(shutil.copyfile(path, copy))


def _write(path: Path, contents: list[bytes]) -> None:
    with RecordWriter(path) as writer:
        for number, content in enumerate(contents):
            writer.write(pack_image_record(RecordHeader(0.0, number), content), number)
