"""What callers send by mistake is taken where it is unambiguous, else refused with its cure."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.jobs import Server, running_server

IMAGE, JSON, LINES = "application/x-image", "application/json", "application/jsonlines"
LIMIT = 2**20


@pytest.fixture(scope="module")
def server(trained_job: Path) -> Iterator[Server]:
    with running_server(trained_job / "model", MAX_CONTENT_LENGTH=str(LIMIT)) as running:
        yield running


@pytest.fixture(scope="module")
def red(small_channels: dict[str, Path]) -> bytes:
    return (small_channels["validation"] / "red" / "red000.jpg").read_bytes()


TEXTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "base64": (base64.b64encode, "base64 text of a JPEG: send it as application/json"),
    "JSON string": (lambda b: b'"' + base64.b64encode(b) + b'"', "base64 text of a JPEG"),
    "data: URL": (lambda b: b"data:image/jpeg;base64," + base64.b64encode(b), "a data: URL"),
    "JSON": (lambda b: json.dumps({"image": base64.b64encode(b).decode()}).encode(), "JSON: send"),
    "manifest": (lambda _: b'[{"prefix":"s3://b/"},"a.jpg"]', "an S3 manifest"),
    "UTF-8": (lambda b: b.decode("utf-8", "replace").encode(), "binary media"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_text_sent_as_an_image_is_a_400_that_names_it_and_the_cure(
    server: Server, red: bytes, kind: str
) -> None:
    make, said = TEXTS[kind]
    answer = server.invoke(make(red), Content_Type=IMAGE)
    assert answer.status == 400 and said in json.loads(answer.body)["error"]


REFUSED = {
    "pixels": (JSON, json.dumps([[[0, 0, 0]] * 40] * 40), "these are pixels"),
    "TensorFlow Serving": (JSON, json.dumps({"instances": [[[[0, 0, 0]] * 9] * 9]}), "pixels"),
    "manifest": (JSON, '[{"prefix":"s3://b/"},"a.jpg","b.jpg"]', "none of the 3 images can be"),
    "manifest line": (LINES, '{"source-ref":"s3://b/a.jpg"}\n', "an augmented manifest"),
    "addresses": (JSON, '{"instances": ["https://a/b.jpg", "https://a/c.jpg"]}', "not fetched"),
    "broken lines": (LINES, "{\n{\n{\n{\n", "none of the 4 images can be used"),
    "damaged images": (JSON, json.dumps(["/9j/4AAQSkZJRg=="] * 2), "none of the 2 images"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_list_without_a_usable_image_is_a_400_with_the_first_reasons(
    server: Server, kind: str
) -> None:
    content_type, body, said = REFUSED[kind]
    answer = server.invoke(body.encode(), Content_Type=content_type)
    assert answer.status == 400 and said in json.loads(answer.body)["error"]


def test_forms_and_records_without_a_usable_image_are_400_too(server: Server) -> None:
    part = b'--B\r\nContent-Disposition: form-data; name="a"; filename="a.jpg"\r\n\r\nno image\r\n'
    form = server.invoke(part * 2 + b"--B--\r\n", Content_Type="multipart/form-data; boundary=B")
    assert form.status == 400 and b"none of the 2 images" in form.body
    frame = b"\x0a\x23\xd7\xce\x08\0\0\0no image" * 2
    records = server.invoke(frame, Content_Type="application/x-recordio")
    assert records.status == 400 and b"none of the 2 images" in records.body


def test_one_usable_image_keeps_the_others_in_their_positions(server: Server, red: bytes) -> None:
    text = base64.b64encode(red).decode()
    answer = server.invoke(json.dumps(["s3://b/a.jpg", text]).encode(), Content_Type=JSON)
    refused, probabilities = json.loads(answer.body)
    assert answer.status == 200 and "not fetched" in refused["error"] and len(probabilities) == 3


def test_placeholders_keep_a_transform_job_going(trained_job: Path) -> None:
    settings = {"SAGEMAKER_BATCH": "true", "IMAGE_CLASSIFICATION_BATCH_PLACEHOLDER": "true"}
    with running_server(trained_job / "model", **settings) as job:
        answer = job.invoke(b'"s3://b/a.jpg"\n"a.jpg"\n', Content_Type=LINES)
    assert answer.status == 200
    assert [list(json.loads(line)) for line in answer.body.splitlines()] == [["error"]] * 2


def test_what_is_unambiguous_is_taken(server: Server, red: bytes) -> None:
    text = base64.b64encode(red).decode()
    expected = server.invoke(red, Content_Type=IMAGE).json()
    for value in ({"inputs": text}, {"content": text}, base64.urlsafe_b64encode(red).decode()[:-1]):
        answer = server.invoke(json.dumps(value).encode(), Content_Type=JSON)
        assert answer.status == 200 and answer.json() == expected, value
    vertex = server.invoke(
        json.dumps({"instances": [{"content": text}]}).encode(), Content_Type=JSON
    )
    assert vertex.json() == [expected]
    curl = server.invoke(red, Content_Type="application/x-www-form-urlencoded")
    assert curl.status == 200 and curl.json() == expected
    assert server.invoke(b"a=b", Content_Type="application/x-www-form-urlencoded").status == 415
    for name in ("application/x-jsonlines", "application/x-ndjson"):
        lines = server.invoke(json.dumps(text).encode(), Content_Type=name, Accept=name)
        assert lines.status == 200 and lines.headers["Content-Type"] == name
        assert json.loads(lines.body) == {"prediction": expected}


def test_a_compressed_body_is_taken_within_the_limit(server: Server, red: bytes) -> None:
    expected = server.invoke(red, Content_Type=IMAGE).json()
    for coding, body in (("gzip", gzip.compress(red)), ("identity", red)):
        answer = server.invoke(body, Content_Type=IMAGE, Content_Encoding=coding)
        assert answer.status == 200 and answer.json() == expected
    other = server.invoke(red, Content_Type=IMAGE, Content_Encoding="br")
    assert other.status == 415 and "gzip" in other.headers["Accept-Encoding"]
    assert "Accept-Encoding" not in server.invoke(red, Content_Type="text/html").headers
    bomb = gzip.compress(bytes(500 * LIMIT))
    refused = server.invoke(bomb, Content_Type=IMAGE, Content_Encoding="gzip")
    assert refused.status == 413 and str(LIMIT) in str(refused.json())
    named = server.invoke(gzip.compress(red), Content_Type=IMAGE)
    assert named.status == 400 and b"Content-Encoding: gzip" in named.body


def test_verbose_may_be_switched_off_by_its_value(server: Server, red: bytes) -> None:
    def ask(accept: str) -> object:
        return server.invoke(red, Content_Type=IMAGE, Accept=accept).json()

    assert ask("application/json;verbose=false") == ask("application/json")
    assert ask("application/json;verbose=true") == ask("application/json;verbose")
    assert "verbose='maybe'" in str(ask("application/json;verbose=maybe"))


def test_an_unknown_route_lists_the_routes_that_there_are(
    trained_job: Path, server: Server
) -> None:
    said = str(server.get("/model").json())
    assert "POST /invocations" in said and "GET /'" in said and "/models" not in said
    settings = {"IMAGE_CLASSIFICATION_PAGE": "false", "SAGEMAKER_MULTI_MODEL": "true"}
    with running_server(trained_job / "model", **settings) as several:
        said = str(several.get("/model").json())
        assert "POST /models/<name>/invoke" in said and "GET /'" not in said
