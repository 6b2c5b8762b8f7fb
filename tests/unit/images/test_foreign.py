"""What is sent instead of an image is named with its cure, whatever it went through on its way."""

from __future__ import annotations

import base64
import gzip
import io
import json
import pickle
import struct
import time
import zlib
from collections.abc import Callable
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from image_classification.errors import ImageFormatError
from image_classification.images.decode import decode
from image_classification.images.foreign import HEAD_BYTES, name_foreign
from image_classification.images.header import read_header, sniff

NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP")


def written(image_format: str, pixels: np.ndarray = NOISE) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, image_format)
    return content.getvalue()


IMAGES = {name: written(name) for name in FORMATS}


def refusal(data: bytes) -> str:
    with pytest.raises(ImageFormatError) as raised:
        sniff(data)
    return str(raised.value).partition(", got ")[2]


def node(text: bytes) -> bytes:
    """As Buffer.from(text, "base64") decodes a whole data: URL."""
    kept = bytes(c for c in text if chr(c).isalnum() or c in b"+/")
    return base64.b64decode(kept[: len(kept) // 4 * 4])


ALTERATIONS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "base64": (base64.b64encode, "base64 text of a {}: send it as application/json"),
    "base64 in lines": (base64.encodebytes, "base64 text of a {}"),
    "base64 for URLs": (lambda b: base64.urlsafe_b64encode(b).rstrip(b"="), "base64 text of a {}"),
    "base64 twice": (lambda b: base64.b64encode(base64.b64encode(b)), "encode it once"),
    "JSON string": (lambda b: b'"' + base64.b64encode(b) + b'"', "in quotes, base64 text of a {}"),
    "str() of base64": (lambda b: str(base64.b64encode(b)).encode(), "Python's text of bytes"),
    "repr": (lambda b: repr(b).encode(), "Python's text of bytes"),
    "data: URL": (lambda b: b"data:image/x;base64," + base64.b64encode(b), "a data: URL (base64"),
    "data: URL with %": (
        lambda b: quote(b"data:image/x;base64," + base64.b64encode(b)).encode(),
        "a data: URL (base64 text of a {}",
    ),
    "data: URL decoded whole": (
        lambda b: node(b"data:image/jpeg;base64," + base64.b64encode(b)),
        "a data: URL decoded as a whole",
    ),
    "form field": (lambda b: b"image=" + quote(base64.b64encode(b)).encode(), "form field 'image'"),
    "hexadecimal": (lambda b: b.hex().encode(), "hexadecimal text of a {}"),
    "hexadecimal pairs": (lambda b: b.hex(" ").upper().encode(), "hexadecimal text of a {}"),
    "UTF-8 with U+FFFD": (lambda b: b.decode("utf-8", "replace").encode(), "text encoding"),
    "Latin-1 to UTF-8": (lambda b: b.decode("latin-1").encode(), "text encoding"),
    "code page 437": (lambda b: b.decode("cp437").encode(), "text encoding"),
    "UTF-16": (lambda b: b.decode("latin-1").encode("utf-16"), "text encoding"),
    "UTF-16 without a mark": (lambda b: b.decode("latin-1").encode("utf-16-be"), "text encoding"),
    "PowerShell": (lambda b: b.decode("cp437").encode("utf-16"), "as PowerShell's >"),
    "byte order mark": (lambda b: b"\xef\xbb\xbf" + b, "a byte order mark in front of a {}"),
    "empty line": (lambda b: b"\r\n" + b, "in front of a {}: send the file alone"),
    "multipart": (
        lambda b: b'--x1\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b + b"\r\n--x1--",
        "send it as multipart/form-data",
    ),
    "HTTP response": (lambda b: b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n" + b, "an HTTP response"),
    "curl --data": (lambda b: b.translate(None, b"\r\n\0"), "use curl --data-binary"),
    "curl --data, cut off": (lambda b: b.translate(None, b"\r\n\0")[:80], "use curl --data-binary"),
    "JSON": (lambda b: json.dumps({"image": base64.b64encode(b).decode()}).encode(), "JSON: send"),
    "Buffer": (lambda b: json.dumps({"type": "Buffer", "data": list(b)}).encode(), "of Node.js"),
    "JSON text": (lambda b: json.dumps(b.decode("latin-1")).encode(), "as escapes"),
    "gzip": (gzip.compress, "gzip: decompress it first"),
    "zlib": (zlib.compress, "zlib data"),
    "pickle": (pickle.dumps, "a Python pickle, which is never read"),
}


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_an_image_that_was_altered_on_its_way_is_named_with_its_cure(
    alteration: str, image_format: str
) -> None:
    alter, said = ALTERATIONS[alteration]
    named = refusal(alter(IMAGES[image_format]))
    assert said.format(image_format) in named and len(named) < 300


def test_a_jpeg_or_png_in_the_numbers_of_its_bytes_is_named() -> None:
    for image in (IMAGES["JPEG"], IMAGES["PNG"]):
        signed = np.frombuffer(image, np.int8).tolist()
        for text in (json.dumps(list(image)), ",".join(map(str, signed))):
            assert "the bytes of an image as numbers" in refusal(text.encode())


@pytest.mark.parametrize(("old", "new"), [(b"\r\n", b"\n"), (b"\n", b"\r\n")])
def test_a_png_whose_line_breaks_were_converted_is_named(old: bytes, new: bytes) -> None:
    assert "line breaks were converted" in refusal(IMAGES["PNG"].replace(old, new))


def archive(save: Callable[..., None], *given: object) -> bytes:
    content = io.BytesIO()
    save(content, *given)
    return content.getvalue()


OTHERS = {
    "array of numbers, such as pixels": json.dumps(NOISE.tolist()).encode(),
    "array of numbers, such as": json.dumps({"instances": [NOISE.tolist()]}).encode(),
    "array of numbers": str(NOISE).encode(),
    "S3 manifest, whose files are not fetched": b'[{"prefix":"s3://b/"},"a.jpg"]',
    "augmented manifest": b'{"source-ref":"s3://b/a.jpg","class":0}',
    "S3 URI": b"s3://b/a.jpg\n",
    "URL 'https://example.org/a.jpg', which is not fetched": b"https://example.org/a.jpg",
    "file name 'a.jpg', which is not opened": b"a.jpg",
    "path '/opt/ml/input', which is not opened": b"/opt/ml/input",
    "file name 'C:": b"C:\\Users\\me\\my photo.PNG",
    "--data-binary @a.jpg": b"@a.jpg",
    "an XML error of a storage service (AccessDenied)": b'<?xml version="1.0"?>\n<Error>'
    b"<Code>AccessDenied</Code>",
    "(NoSuchKey)": b"\xef\xbb\xbf<Error><Code>NoSuchKey</Code></Error>",
    "HTML, a web page (Sign in)": b"<!doctype HTML><html><head><title>Sign in</title>",
    "SVG": b'\xef\xbb\xbf  <?xml version="1.0"?><!-- x --><!DOCTYPE svg PUBLIC "a"><svg>',
    "SVG, a drawing": b"<!-- drawn -->\n<svg/>",
    "a response of another server": b'{"message":"Forbidden"}',
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:1",
    "an email": b"From: a@example.org\nSubject: photo\n\n",
    "an image list": b"0\t3.000000\tred/a.jpg\n",
    "CSV text": b"image,label\na.jpg,3\n",
    "a row of numbers": b"0.5," * 20,
    "the name of a JavaScript object": b"[object ArrayBuffer]",
    "the name of a Python object": b"<_io.BytesIO object at 0x7f00>",
    "the word 'undefined'": b"undefined",
    "only spaces and line breaks": b" \n\n ",
    "zeros only": bytes(5000),
    "0 bytes": b"",
    "a NumPy array": archive(np.save, NOISE),
    "NumPy arrays (.npz)": archive(np.savez_compressed, NOISE),
    "DICOM": bytes(128) + b"DICM" + bytes(9),
    "NIfTI": struct.pack("<i340x", 348) + b"n+1\0",
    "HEIC (a sequence": b"\0\0\0\x18ftypmsf1\0\0\0\0msf1hevc",
    "HEIC": b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic",
    "JPEG XL": b"\0\0\0\x14ftypjxl \0\0\0\0jxl ",
    "JPEG 2000 (a bare codestream)": b"\xff\x4f\xff\x51\0",
    "an MP4": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41",
    "M4A sound": b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42",
    "Canon CR3": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
    "Nikon NEF": b"MM\0*" + bytes(40) + b"NIKON CORPORATION",
    "DNG": b"II*\0\x08\0\0\0\1\0\x12\xc6\1\0\4\0\0\0\1\4\0\0",
    "BigTIFF": b"II+\0\x08\0\0\0",
    "TGA": written("TGA"),
    "PNM": b"P3\n1 1\n255\n1 2 3\n",
    "PDF": b"\r\n%PDF-1.7",
    "a WebM video": b"\x1a\x45\xdf\xa3\1webm",
    "an AVI video": b"RIFF\0\0\0\0AVI LIST",
    "WAV": b"RIFF\0\0\0\0WAVEfmt ",
    "zstd": b"\x28\xb5\x2f\xfd",
    "safetensors": struct.pack("<Q", 20) + b'{"a":{"dtype":"F32"}}' + bytes(9),
    "an ONNX graph": b"\x08\x08\x12\x07pytorch\x1a\x032.1",
    "send records as application/x-recordio": b"\x0a\x23\xd7\xce\x10\0\0\0",
    ".DS_Store": b"\0\0\0\1Bud1",
    "resource file of macOS": b"\0\5\x16\7\0\2\0\0Mac OS X",
    "unknown bytes that begin with b'hello": b"hello there",
}


@pytest.mark.parametrize("said", OTHERS)
def test_other_files_and_texts_are_named(said: str) -> None:
    assert said in refusal(OTHERS[said])


def test_flat_images_that_read_as_text_are_decoded() -> None:
    """Their pixels are the bytes of U+FFFD or ASCII; no alteration may be seen in them."""
    lavender = np.full((64, 64, 3), (0xBD, 0xBF, 0xEF), np.uint8)
    for pixels in (lavender, np.zeros_like(lavender), np.full_like(lavender, 0x41)):
        for image_format in ("GIF", "WEBP", "BMP"):
            assert decode(written(image_format, pixels)).shape == (64, 64, 3)


@pytest.mark.parametrize("image_format", FORMATS)
def test_the_smallest_images_are_still_images(image_format: str) -> None:
    assert read_header(written(image_format, NOISE[:1, :1])).upright_size == (1, 1)


def test_a_name_costs_little_whatever_the_bytes_and_reads_only_their_head() -> None:
    pieces = (b"{", b"[[", b"a\t", b"1,", b"<!-- -->", b"a=%", b"\\x", b"A", b"=FF", b"--a", b"\n")
    begin = time.process_time()
    for piece in pieces:
        for data in (piece * HEAD_BYTES, b"[" + piece * HEAD_BYTES, piece * HEAD_BYTES + b"!"):
            assert name_foreign(data) == name_foreign(data[:HEAD_BYTES])
    assert time.process_time() - begin < 5  # about 0.1 s; a quadratic pattern takes minutes
