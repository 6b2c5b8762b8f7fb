"""A request is the same whatever pieces it arrives in, or it is refused."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_classification.errors import RequestError
from image_classification.serving.http import Answer, RequestReader
from image_classification.serving.refusals import refusal

SIZED = b"POST /a?b=c HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'3;name="value"\r\nhel\r\n02\r\nlo\r\n0\r\nTrailer: 1\r\n\r\n'
)
EMPTY = b"GET /c HTTP/1.1\r\nHost: x\r\n\r\n"
STREAM = b"\r\n\r\n" + SIZED + CHUNKED + b"\r\n" + EMPTY + b"\r\n" * 3 + CHUNKED + SIZED


def reader(max_body: int = 100) -> RequestReader:
    return RequestReader(max_body)


@settings(deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_any_pieces_give_the_same_requests(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    requests, read = [], reader()
    for start, end in itertools.pairwise(edges):
        request = read.take(STREAM[start:end])
        while request is not None:
            requests.append((request.head.path, request.body))
            request = read.take() if read.has_begun else None
    assert [path for path, _ in requests] == ["/a", "/b", "/c", "/b", "/a"]
    assert [body for _, body in requests] == [b"hello", b"hello", b"", b"hello", b"hello"]
    assert not read.has_begun and read.buffered == 0


def outcome(pieces: Iterable[bytes]) -> list[object]:
    """The requests in the pieces, and the status of the refusal or what is awaited after them."""
    read, found = reader(), []
    try:
        for piece in pieces:
            request = read.take(piece)
            while request is not None:
                found.append((request.head.method, request.head.path, request.body))
                request = read.take() if read.has_begun else None
    except RequestError as error:
        return [*found, error.status]
    return [*found, read.has_begun, read.head and read.head.path]


SPOILERS = [b"\r", b"\n", b"\0", b" ", b"\t", b":", b"0", b"0" * 9, b"\x16\x03", b"1" * 1100]
SPOILERS += [b"a" * 5000, b"A: " + b"b" * 9000 + b"\r\n", b"\r\n" * 33_000, b"X: y\r\n" * 101]


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.sampled_from([SIZED, CHUNKED, EMPTY, b"\r\n"]), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), st.sampled_from(SPOILERS))),
    st.lists(st.integers(0, 400), max_size=9),
)
def test_spoiled_requests_are_read_or_refused_the_same_in_any_pieces(
    parts: list[bytes], spoiled: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    text = b"".join(parts)
    for position, removed, spoiler in spoiled:
        text = text[:position] + spoiler + text[position + removed :]
    edges = [0, *sorted(cuts), len(text)]
    whole = outcome([text])
    assert outcome(text[start:end] for start, end in itertools.pairwise(edges)) == whole
    if len(text) < 1000:
        assert outcome(text[i : i + 1] for i in range(len(text))) == whole


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_wait_complete_a_request_or_are_refused(data: bytes) -> None:
    for start in (b"", CHUNKED[:55], SIZED[:30]):
        try:
            reader().take(start + data)
        except RequestError as error:
            assert 400 <= error.status < 600


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 70_000, 431),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: magic\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n",
            501,
        ),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: identity, chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nExpect: wonders\r\n\r\n", 417),
        (b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nExpect: wonders\r\n\r\n", 417),
        (b"POST / HTTP/1.1\r\nContent-Length: 101\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 20 + b"\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 413),
        (CHUNKED[: CHUNKED.index(b"3;")] + b"65\r\n", 413),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
)
def test_each_refusal_has_its_status(text: bytes, status: int) -> None:
    with pytest.raises(RequestError) as refused:
        reader().take(text)
    assert refused.value.status == status


def refused_in_pieces(text: bytes, size: int) -> int:
    """Return the status of the refusal of `text`, which arrives in pieces of `size` bytes."""
    read = reader()
    with pytest.raises(RequestError) as refused:
        for start in range(0, len(text), size):
            read.take(text[start : start + size])
    return refused.value.status


@pytest.mark.parametrize("size", [1, 1000, 100_000])
@pytest.mark.parametrize(
    "text",
    [
        b"GET / HTTP/1.1\r\n" + (b"A: " + b"a" * 8000 + b"\r\n") * 9 + b"\r\n",
        b"\r\n" * 40_000 + EMPTY,
    ],
    ids=["fields", "empty lines"],
)
def test_a_head_beyond_its_limit_is_refused_in_whatever_pieces_it_arrives(
    text: bytes, size: int
) -> None:
    assert refused_in_pieces(text, size) == 431


@pytest.mark.parametrize(
    "size", [b"5", b"05", b"000000000005", b"0" * 15 + b"5", b"5;a", b'5 ; a = "\\""', b"5;a=b;c=d"]
)
def test_sizes_of_chunks_may_begin_with_zeros_and_have_extensions(size: bytes) -> None:
    head, _, _ = CHUNKED.partition(b"3;")
    request = reader().take(head + size + b"\r\nhello\r\n000000000\r\nA: b\r\n\r\n")
    assert request is not None and request.body == b"hello"


@pytest.mark.parametrize("host", [b"", b"a", b"my_host:80", b"[::1]:8080", b"127.0.0.1", b"%61"])
def test_a_host_is_a_name_or_an_address(host: bytes) -> None:
    assert reader().take(b"GET / HTTP/1.1\r\nHost: " + host + b" \r\n\r\n") is not None


def test_only_http_1_0_may_leave_out_the_host() -> None:
    assert reader().take(b"GET / HTTP/1.0\r\n\r\n") is not None


def test_a_body_in_pieces_of_one_byte_takes_little_more_memory_than_its_bytes() -> None:
    read = reader(20_000)
    read.take(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n")
    tracemalloc.start()
    for _ in range(19_999):
        read.take(b"x")
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 40_000
    request = read.take(b"x")
    assert request is not None and request.body == b"x" * 20_000


def test_a_body_in_chunks_may_be_announced_with_a_tab_and_in_any_case() -> None:
    text = CHUNKED.replace(b"chunked", b"\tChunked \t")
    request = reader().take(text)
    assert request is not None and request.body == b"hello"


def test_100_continue_is_sent_once_and_only_before_the_body() -> None:
    read = reader()
    read.take(SIZED[:-5].replace(b"Host: x", b"Host: x\r\nExpect: 100-continue"))
    assert read.wants_continue() and not read.wants_continue()
    early = reader()
    early.take(SIZED[:-3].replace(b"Host: x", b"Host: x\r\nExpect: 100-continue"))
    assert not early.wants_continue()


def in_chunks(size: int, count: int) -> bytes:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + (f"{size:x}\r\n".encode() + b"x" * size + b"\r\n") * count + b"0\r\n\r\n"


def test_many_tiny_chunks_are_refused_before_they_block_the_loop() -> None:
    with pytest.raises(RequestError, match="chunks of 64 bytes or more") as caught:
        reader(2**20).take(in_chunks(1, 5000))
    assert caught.value.status == 400


@pytest.mark.parametrize(("size", "count"), [(1, 1000), (64, 5000)])
def test_a_few_tiny_chunks_or_many_small_ones_are_accepted(size: int, count: int) -> None:
    received = reader(2**20).take(in_chunks(size, count))
    assert received is not None and received.body == b"x" * size * count


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "text",
    [
        b"GET   / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1 \r\nHost: x\r\n\r\n",
        b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GET / HTTP/0.9\r\nHost: x\r\n\r\n",
        b"SOURCE / ICE/1.0\r\nHost: x\r\n\r\n",
        b"DESCRIBE / RTSP/1.0\r\nHost: x\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT /a HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://[/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET ftp://host/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://user:password@host/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http:///a HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        HEAD + b"Host: y\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET http://host/ HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n",
        *(
            b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
            for host in (b"a b", b"a/b", b"a@b", b"a, b", b"a:b", b"[::1", b"http://a", b"\xe4")
        ),
        b"GET / HTTP/1.1\nHost: x\n\n",
        HEAD + b"A: b\n\n",
        HEAD + b"A: b\rC: d\r\n\r\n",
        HEAD + b"A : b\r\n\r\n",
        HEAD + b" A: b\r\n\r\n",
        HEAD + b"Content-Type: a\r\nContent-Type: b\r\n\r\n",
        HEAD + b"A: b\n\r\n\r\n",
        HEAD + b"A: \0\r\n\r\n",
        HEAD + b"A: b\r\n c\r\n\r\n",
        HEAD + b": a\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        HEAD + b"Content-Length: 1, 1\r\n\r\nx",
        HEAD + b"Content-Length: +1\r\n\r\nx",
        HEAD + b"Content-Length: \xb2\r\n\r\nx",
        HEAD + b"Content-Length:\r\n\r\n",
        HEAD + b"Content-Length : 1\r\n\r\nx",
        HEAD + b"Content-Length\r\n\r\n",
        HEAD + b"Content-Length: 1\r\n 2\r\n\r\nx",
        HEAD + b"Content-Length: 1\nA: b\r\n\r\nx",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: magic\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\x0b\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: identity\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        *(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk
            for chunk in (
                b"1; =x\r\nx\r\n0\r\n\r\n",
                b"1 \r\nx\r\n0\r\n\r\n",
                b"1\nx\r\n0\r\n\r\n",
                b"1\r\nxy\r\n0\r\n\r\n",
                b"1;" + b"a" * 2000,
                b"0\r\nA: \0\r\n\r\n",
                b"0\r\nA b\r\n\r\n",
                b"0\r\nA : b\r\n\r\n",
                b"0\r\nA: b\r\n c\r\n\r\n",
                b"0\r\nA: b\n\r\n",
                b"0\r\nA: b\nB: c\r\n\r\n",
            )
        ),
    ],
)
def test_a_request_that_a_proxy_might_read_differently_is_refused(text: bytes) -> None:
    with pytest.raises(RequestError) as refused:
        reader(1000).take(text)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("text", "path", "query"),
    [
        (b"GET /a%20b?c=d#e HTTP/1.1\r\nHost: x\r\n\r\n", "/a%20b", "c=d"),
        (b"GET //a HTTP/1.1\r\nHost: x\r\n\r\n", "//a", ""),
        (b"GET http://host:80/a?b HTTP/1.1\r\nHost: x\r\n\r\n", "/a", "b"),
        (b"GET https://[::1]:80/a HTTP/1.1\r\nHost: x\r\n\r\n", "/a", ""),
        (b"GET HTTP://my_host:/a HTTP/1.1\r\nHost: x\r\n\r\n", "/a", ""),
        (b"GET http://host HTTP/1.1\r\nHost: x\r\n\r\n", "/", ""),
        (b"GET http://host?a HTTP/1.1\r\nHost: x\r\n\r\n", "/", "a"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", "/", ""),
    ],
)
def test_path_and_query_are_found_in_every_form_of_target(
    text: bytes, path: str, query: str
) -> None:
    request = reader().take(text)
    assert request is not None and (request.head.path, request.head.query) == (path, query)


@pytest.mark.parametrize(
    ("version", "connection", "is_persistent"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: Close\r\n", False),
        ("1.1", "Connection: x, close\r\n", False),
        ("1.0", "", False),
        ("1.0", "Connection: keep-alive\r\n", True),
        ("1.2", "", True),
    ],
)
def test_a_connection_stays_open_as_version_and_connection_field_say(
    version: str, connection: str, is_persistent: bool
) -> None:
    request = reader().take(f"GET / HTTP/{version}\r\nHost: x\r\n{connection}\r\n".encode())
    assert request is not None and request.head.is_persistent is is_persistent


def test_names_with_an_underscore_are_left_out_and_values_are_trimmed() -> None:
    request = reader().take(b"GET / HTTP/1.1\r\nHost: x\r\nA_B: c\r\nA-B: \t d \t\r\n\r\n")
    assert request is not None and request.head.headers == [("HOST", "x"), ("A-B", "d")]


def test_an_answer_has_its_length_and_says_whether_the_connection_ends() -> None:
    answer = Answer(499, [("A", "b")], b"body")
    head, _, body = answer.to_bytes(is_closing=True).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 499 Client Closed Request\r\n") and body == b"body"
    assert {b"A: b", b"Content-Length: 4", b"Connection: close"} <= set(head.split(b"\r\n"))
    assert answer.to_bytes(is_closing=False, has_body=False).endswith(b"Length: 4\r\n\r\n")


def test_a_refusal_is_one_line_that_sagemaker_passes_on_whole() -> None:
    answer = refusal(503, "too\nmuch " * 1000)
    assert b"\n" not in answer.body and len(answer.body) < 2048
    assert ("Retry-After", "1") in answer.headers
    assert "Retry-After" not in dict(refusal(400, "no").headers)
