"""Bodies as clients send them become images in order; what is not an image fails alone."""

from __future__ import annotations

import base64
import gzip
import json
import struct
import zlib

import pytest

from image_classification.errors import RequestError
from image_classification.records.format import RecordHeader, frame_parts, pack_image_record
from image_classification.serving.codec import bodies
from image_classification.serving.codec.answers import Failure
from image_classification.serving.codec.bodies import Images, content_types, read_images
from image_classification.serving.codec.content_encoding import decoded

JPEG, PNG = b"\xff\xd8\xff\xe0 a picture", b"\x89PNG\r\n\x1a\n another"
TEXT = base64.b64encode(JPEG).decode()
CODING = "Content-Encoding: gzip"
RECORDIO = "application/x-recordio"


def zipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)  # the time would be part of a test's name


def framed(*payloads: bytes) -> bytes:
    return b"".join(b"".join(frame_parts(payload)) for payload in payloads)


def part(name: str, content: bytes, file_name: str | None = None) -> bytes:
    disposition = f'form-data; name="{name}"' + (f'; filename="{file_name}"' if file_name else "")
    return f"--B\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "image/jpeg; charset=binary",
        "IMAGE/PNG",
        "image/webp",
        "image/avif",
        "application/octet-stream",
    ],
)
def test_one_image_is_the_body_whatever_its_parameters_and_case(header: str | None) -> None:
    assert read_images(JPEG, header) == Images([JPEG], is_list=False)


@pytest.mark.parametrize(
    "header", ["text/csv", "application/x-npy", "application/x-www-form-urlencoded"]
)
def test_another_content_type_is_415_and_lists_what_is_accepted(header: str) -> None:
    with pytest.raises(RequestError, match="multipart/form-data") as caught:
        read_images(b"1", header)
    assert caught.value.status == 415
    assert ("pickles" in caught.value.message) == (header == "application/x-npy")


@pytest.mark.parametrize("content_type", content_types())
def test_an_empty_body_is_400(content_type: str) -> None:
    with pytest.raises(RequestError, match="empty") as caught:
        read_images(b"", content_type)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "value",
    [
        TEXT,
        f"data:image/jpeg;base64,{TEXT}",
        "\n".join(TEXT[i : i + 8] for i in range(0, len(TEXT), 8)),
        {"image": TEXT},
        {"b64": TEXT},
        {"image_bytes": {"b64": TEXT}},
        {"inputs": TEXT},
        {"content": TEXT},
        {"image": {"content": TEXT}},
        base64.urlsafe_b64encode(JPEG).decode().rstrip("="),
        f"data:image/jpeg;base64,{TEXT.replace('/', '%2F')}",
    ],
)
def test_base64_is_found_where_clients_put_it(value: object) -> None:
    assert read_images(json.dumps(value).encode(), "application/json") == Images([JPEG], False)
    for several in ([value, value], {"instances": [value, value]}):
        body = json.dumps(several).encode()
        assert read_images(body, "application/json") == Images([JPEG, JPEG], True)


def test_lines_that_are_not_images_fail_alone() -> None:
    lines = [json.dumps(TEXT), "", "not json", '{"image": "%%%"}', "[1, 2]", json.dumps(TEXT)]
    images = read_images("\r\n".join(lines).encode(), "application/jsonlines")
    assert images.is_list
    first, *failures, last = images.entries
    assert first == last == JPEG
    assert len(failures) == 3 and all(isinstance(entry, Failure) for entry in failures)
    assert "an array of 2 values" in failures[2].reason  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "value",
    [
        {"instances": {"b64": TEXT}},
        {"instances": TEXT},
        {"requests": [{"image": {"content": TEXT}}]},
        {"inputs": {"image_bytes": [{"b64": TEXT}]}},
        {"signature_name": "serving_default", "instances": [{"image_bytes": {"b64": TEXT}}]},
    ],
)
def test_the_forms_of_other_services_are_read(value: object) -> None:
    assert read_images(json.dumps(value).encode(), "application/json").entries == [JPEG]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("https://example.org/a.jpg", "'https://example.org/a.jpg', which is not fetched"),
        ("s3://b/a.jpg", "the S3 URI 's3://b/a.jpg', which is not fetched"),
        ({"url": "https://example.org/a.jpg"}, "the URL or path of an image, which is not fetched"),
        ({"S3Object": {"Bucket": "b"}}, "an S3 URI, which is not fetched"),
        ({"source-ref": "s3://b/a.jpg"}, "an augmented manifest"),
        ({"prefix": "s3://b/"}, "an S3 manifest"),
        ("a.jpg", "the file name 'a.jpg'"),
        ("photos/cat", "10 characters that are not base64, 'photos/cat'"),
        ("", "an empty string"),
        (None, "got None"),
        (JPEG.hex(), "hexadecimal text of a JPEG"),
        (base64.b64encode(TEXT.encode()).decode(), "base64 text of base64 text of a JPEG"),
        (str(TEXT.encode()), "Python's text of bytes"),
        (JPEG.decode("latin-1"), "went through a text encoding"),
        (json.dumps({"image": TEXT}), "encoded twice"),
        ([[1, 2, 3]] * 9, "an array of 9 × 3 numbers: these are pixels; send the image file"),
    ],
)
def test_a_value_without_an_image_is_named(value: object, said: str) -> None:
    for body, kind in (
        (json.dumps([value, TEXT]).encode(), "application/json"),
        (json.dumps(value).encode() + b"\n" + json.dumps(TEXT).encode(), "application/jsonlines"),
    ):
        failure, image = read_images(body, kind).entries
        assert isinstance(failure, Failure) and said in failure.reason and image == JPEG


@pytest.mark.parametrize(
    "value",
    [
        [[[0, 0, 0]] * 4] * 5,
        {"instances": [[[[0, 0, 0]] * 4] * 5]},
        {"image": [[[0.5, 0, 0]] * 4] * 5},
        [0.5] * 20_000,
    ],
)
def test_pixels_are_400_and_are_not_counted_as_images(value: object) -> None:
    with pytest.raises(RequestError, match="these are pixels; send the image file") as caught:
        read_images(json.dumps(value).encode(), "application/json")
    assert caught.value.status == 400


def test_the_numbers_of_a_files_bytes_are_named() -> None:
    for value in (list(JPEG), {"image": {"type": "Buffer", "data": list(JPEG)}}):
        with pytest.raises(RequestError, match="the bytes of an image as numbers"):
            read_images(json.dumps(value).encode(), "application/json")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (JPEG, "the bytes of a JPEG: send them as image/jpeg"),
        (base64.b64encode(JPEG * 5), "base64 text of a JPEG without quotes"),
        (b'{"image": "x"}\n{"image": "y"}', "send them as application/jsonlines"),
        (b"{'image': 'x'}", "Python's text of a dictionary"),
        (b"@photo.jpg", "write --data-binary @photo.jpg"),
    ],
)
def test_a_body_that_is_not_json_is_named(body: bytes, said: str) -> None:
    with pytest.raises(RequestError, match="expected JSON") as caught:
        read_images(body, "application/json")
    assert caught.value.status == 400 and said in caught.value.message


@pytest.mark.parametrize(
    "header",
    ["application/x-jsonlines", "application/x-ndjson", "application/jsonl; charset=utf-8"],
)
def test_other_names_of_json_lines_are_read(header: str) -> None:
    body = f"{json.dumps(TEXT)}\n{json.dumps(TEXT)}\n".encode()
    assert read_images(body, header) == Images([JPEG, JPEG], is_list=True)
    assert header not in content_types()


FORM = "application/x-www-form-urlencoded"


def test_an_image_that_curl_declares_as_a_form_is_taken() -> None:
    for image in (JPEG, PNG):
        assert read_images(image, FORM) == Images([image], is_list=False)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"a=b&c=d", "for form fields"),
        (b"image=" + TEXT.encode(), "for a form field 'image' with base64 text of a JPEG"),
        (TEXT.encode(), "for base64 text of a JPEG"),
        (b"image=%FF%D8%FF%E0%00%10JFIF", "with the escaped bytes of a JPEG"),
        (PNG.translate(None, b"\r\n"), "for a PNG without its line breaks"),
    ],
)
def test_a_form_is_415_with_the_option_that_curl_needs(body: bytes, said: str) -> None:
    with pytest.raises(RequestError, match=r"--data-binary @photo\.jpg") as caught:
        read_images(body, FORM)
    assert caught.value.status == 415 and said in caught.value.message


def test_a_content_type_for_text_names_the_image_in_the_body() -> None:
    with pytest.raises(RequestError, match="this body is a JPEG: send images as"):
        read_images(JPEG, "text/plain")
    with pytest.raises(RequestError, match="this body is base64 text of a JPEG: send images as"):
        read_images(TEXT.encode(), "text/plain")


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000])
def test_a_body_that_is_not_json_is_400(body: bytes) -> None:
    with pytest.raises(RequestError, match="expected JSON") as caught:
        read_images(body, "application/json")
    assert caught.value.status == 400


def test_the_files_of_a_form_keep_their_order_and_other_fields_are_skipped() -> None:
    body = (
        part("a", JPEG, "1.jpg") + part("note", b"hello") + part("a", PNG, "2.png") + b"--B--\r\n"
    )
    images = read_images(body, "multipart/form-data; boundary=B")
    assert images == Images([JPEG, PNG], is_list=True)


def test_parts_without_a_file_name_that_are_images_are_read() -> None:
    declared = (
        b'--B\r\nContent-Disposition: form-data; name="c"\r\nContent-Type: image/heic\r\n\r\nx\r\n'
    )
    body = part("a", JPEG) + part("note", b"hello") + part("b", PNG, "b.png") + declared
    images = read_images(body + b"--B--\r\n", "multipart/form-data; boundary=B")
    assert images == Images([JPEG, PNG, b"x"], is_list=True)


def test_a_form_without_images_says_what_its_part_is() -> None:
    with pytest.raises(RequestError, match="part 'a' is base64 text of a JPEG"):
        read_images(part("a", TEXT.encode()) + b"--B--\r\n", "multipart/form-data; boundary=B")


@pytest.mark.parametrize(
    ("body", "header", "message"),
    [
        (part("a", JPEG, "1.jpg"), "multipart/form-data", "has no boundary parameter"),
        (part("a", JPEG, "1.jpg")[:-9], "multipart/form-data; boundary=B", "does not match"),
        (
            b"--B\r\n" + b"a:b\r\n" * 100_000 + part("a", JPEG, "1.jpg")[5:] + b"--B--\r\n",
            "multipart/form-data; boundary=B",
            "more than 16384 bytes of header",
        ),
        (b"nothing", "multipart/form-data; boundary=B", "does not match"),
        (b"nothing", 'multipart/form-data; boundary="\u00e9"', "does not match"),
        (
            part("a", b"text") + b"--B--\r\n",
            "multipart/form-data; boundary=B",
            "no part with a file",
        ),
    ],
)
def test_a_broken_form_is_400(body: bytes, header: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        read_images(body, header)
    assert caught.value.status == 400


def test_im2rec_records_and_bare_images_keep_their_order() -> None:
    magic = struct.pack("<I", 0xCED7230A)
    cut = PNG + b"\0" * (-len(PNG) % 4) + magic + b"behind the magic"
    payloads = [
        pack_image_record(RecordHeader(3.0, 7), JPEG),
        pack_image_record(RecordHeader((1.0, 0.0, 1.0), 8), PNG),
        cut,
        b"neither",
        b"",
    ]
    images = read_images(framed(*payloads), RECORDIO)
    assert images.is_list
    assert list(images.entries[:3]) == [JPEG, PNG, cut]
    assert all(isinstance(entry, Failure) for entry in images.entries[3:])


def test_a_payload_without_its_frame_is_one_image() -> None:
    """A transform job with SingleRecord sends such payloads."""
    for payload in (JPEG, pack_image_record(RecordHeader(3.0, 7), JPEG)):
        assert read_images(payload, RECORDIO) == Images([JPEG], is_list=False)


def test_broken_frames_are_400_and_the_error_names_the_position() -> None:
    whole = framed(JPEG)
    for body in (whole + b"\1\2\3\4\5\6\7\10", whole + whole[:-8]):
        with pytest.raises(RequestError, match=f"byte {len(whole)}, record 1") as caught:
            read_images(body, RECORDIO)
        assert caught.value.status == 400


@pytest.mark.parametrize(
    ("body", "header"),
    [
        (b"[" + b'"a",' * 10_000 + b'"a"]', "application/json"),
        (b"1\n" * 10_001, "application/jsonlines"),
        (framed(b"") * 10_001, RECORDIO),
        (part("a", b"", "1.jpg") * 10_001 + b"--B--\r\n", "multipart/form-data; boundary=B"),
    ],
)
def test_more_images_than_a_request_may_hold_are_413(body: bytes, header: str) -> None:
    with pytest.raises(RequestError, match=f"{bodies.MAX_IMAGES}") as caught:
        read_images(body, header)
    assert caught.value.status == 413


@pytest.mark.parametrize(
    ("body", "header"), [(b"[]", "application/json"), (b"\n \n", "application/jsonlines")]
)
def test_a_list_without_images_is_400(body: bytes, header: str) -> None:
    with pytest.raises(RequestError, match="no image") as caught:
        read_images(body, header)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"[]," * 300_000 + b"0]",
        b"{" + b",".join(b'"%d":{}' % number for number in range(300_000)) + b"}",
    ],
)
def test_json_of_a_million_values_is_413_before_it_is_parsed(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(json, "loads")
    with pytest.raises(RequestError, match="limit is 500000") as caught:
        read_images(body, "application/json")
    assert caught.value.status == 413


def test_a_record_of_many_parts_is_413_before_they_are_followed() -> None:
    body = framed(b"\x0a\x23\xd7\xce" * 50_000)
    with pytest.raises(RequestError, match="more than 40004 parts") as caught:
        read_images(body, RECORDIO)
    assert caught.value.status == 413


def test_an_error_repeats_only_the_beginning_of_a_wrong_value() -> None:
    for value in ({"k" * 100_000: 1}, 10**3000):
        (failure,) = read_images(json.dumps([value]).encode(), "application/json").entries
        assert isinstance(failure, Failure) and len(failure.reason) < 300


def test_fields_without_a_file_count_as_parts_of_a_form() -> None:
    body = b"".join(part("text", b"x") for _ in range(10_001)) + part("i", JPEG, "i") + b"--B--\r\n"
    with pytest.raises(RequestError, match="more than 10000 parts") as caught:
        read_images(body, "multipart/form-data; boundary=B")
    assert caught.value.status == 413


LIMIT = 2**20
RAW = zlib.compress(JPEG)[2:-4]


@pytest.mark.parametrize(
    ("body", "header"),
    [
        (zipped(JPEG), "gzip"),
        (zipped(JPEG), "X-GZIP"),
        (zipped(JPEG) + bytes(8), "gzip"),
        (zipped(JPEG[:5]) + zipped(JPEG[5:]), "gzip"),
        (zlib.compress(JPEG), "deflate"),
        (RAW, "deflate"),
        (JPEG, "identity"),
        (zipped(JPEG), "identity, gzip"),
    ],
)
def test_a_compressed_body_is_decoded(body: bytes, header: str) -> None:
    assert decoded(body, header, LIMIT) == JPEG


@pytest.mark.parametrize(
    ("body", "header", "status", "said"),
    [
        (JPEG, "br", 415, "'br' is not accepted"),
        (JPEG, "zstd", 415, "'zstd' is not accepted"),
        (JPEG, "gzip, gzip", 415, "'gzip, gzip' is not accepted"),
        (JPEG, "gzip", 400, "got a plain JPEG"),
        (zipped(JPEG)[:-9], "gzip", 400, "end too early"),
        (zipped(JPEG) + b"more", "gzip", 400, "incorrect header"),
        (zlib.compress(JPEG) + b"more", "deflate", 400, "4 bytes too many"),
        (zipped(b"") * 2000, "gzip", 400, "more than 1000 members"),
        (zipped(bytes(LIMIT + 1)), "gzip", 413, f"more than {LIMIT}"),
        (zlib.compress(bytes(LIMIT + 1)), "deflate", 413, f"more than {LIMIT}"),
        (zipped(bytes(LIMIT)) + zipped(b"1"), "gzip", 413, f"more than {LIMIT}"),
    ],
)
def test_another_coding_is_415_a_damaged_body_400_and_a_large_one_413(
    body: bytes, header: str, status: int, said: str
) -> None:
    with pytest.raises(RequestError) as caught:
        decoded(body, header, LIMIT)
    assert caught.value.status == status and said in caught.value.message
    assert ("gzip" in caught.value.headers.get("Accept-Encoding", "")) == (status == 415)


def test_only_a_compressed_body_is_advised_to_declare_its_coding() -> None:
    (failure,) = read_images(zipped(JPEG), "image/jpeg").entries
    assert isinstance(failure, Failure)
    assert failure.reason.endswith("got gzip: decompress it first, or send it with " + CODING)
    text = base64.b64encode(zipped(JPEG)).decode()
    for body, header in (
        (json.dumps([text]).encode(), "application/json"),
        (framed(zipped(JPEG)), RECORDIO),
    ):
        assert CODING not in str(read_images(body, header))


def test_no_more_than_the_limit_is_ever_decompressed(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb, taken, original = zipped(bytes(50 * LIMIT)), 0, zlib.decompressobj

    class Counting:
        def __init__(self, frame: int) -> None:
            self._decoder = original(frame)

        def __getattr__(self, name: str) -> object:
            return getattr(self._decoder, name)

        def decompress(self, data: bytes, most: int) -> bytes:
            nonlocal taken
            piece: bytes = self._decoder.decompress(data, most)
            taken += len(piece)
            return piece

    monkeypatch.setattr(zlib, "decompressobj", Counting)
    with pytest.raises(RequestError):
        decoded(bomb, "gzip", LIMIT)
    assert taken == LIMIT + 1
