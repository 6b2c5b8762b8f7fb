"""A request is put together the same from whatever pieces it arrives in, or refused."""

from __future__ import annotations

import itertools

import pytest
from gunicorn.config import Config
from hypothesis import given, settings
from hypothesis import strategies as st

from image_classification.errors import RequestError
from image_classification.serving.incoming import RequestReader

SIZED = b"POST /a?b=c HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'3;name="value"\r\nhel\r\n02\r\nlo\r\n0\r\nTrailer: 1\r\n\r\n'
)
EMPTY = b"GET /c HTTP/1.1\r\nHost: x\r\n\r\n"
STREAM = b"\r\n" + SIZED + CHUNKED + EMPTY + CHUNKED + SIZED


def reader(max_body: int = 100) -> RequestReader:
    return RequestReader(Config(), ("127.0.0.1", 1), max_body)


@settings(deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_any_pieces_give_the_same_requests(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    requests, read = [], reader()
    for start, end in itertools.pairwise(edges):
        received = read.take(STREAM[start:end])
        while received is not None:
            requests.append((received.head.path, received.body))
            received = read.take() if read.has_begun else None
    assert [path for path, _ in requests] == ["/a", "/b", "/c", "/b", "/a"]
    assert [body for _, body in requests] == [b"hello", b"hello", b"", b"hello", b"hello"]
    assert not read.has_begun and read.buffered == 0


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_wait_complete_or_refuse(data: bytes) -> None:
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
        (b"POST / HTTP/1.1\r\nExpect: wonders\r\n\r\n", 417),
        (b"POST / HTTP/1.1\r\nContent-Length: 101\r\n\r\n", 413),
        (CHUNKED[: CHUNKED.index(b"3;")] + b"65\r\n", 413),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
)
def test_each_refusal_has_its_status(text: bytes, status: int) -> None:
    with pytest.raises(RequestError) as refused:
        reader().take(text)
    assert refused.value.status == status


def test_continue_is_wanted_once_and_only_before_the_body() -> None:
    read = reader()
    read.take(SIZED[:-5].replace(b"Host: x", b"Expect: 100-continue"))
    assert read.wants_continue() and not read.wants_continue()
    early = reader()
    early.take(SIZED[:-3].replace(b"Host: x", b"Expect: 100-continue"))
    assert not early.wants_continue()


def in_chunks(size: int, count: int) -> bytes:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + (f"{size:x}\r\n".encode() + b"x" * size + b"\r\n") * count + b"0\r\n\r\n"


def test_many_tiny_chunks_are_refused_before_they_hold_up_the_loop() -> None:
    with pytest.raises(RequestError, match="chunks of 64 bytes or more") as caught:
        reader(2**20).take(in_chunks(1, 5000))
    assert caught.value.status == 400


@pytest.mark.parametrize(("size", "count"), [(1, 1000), (64, 5000)])
def test_a_few_tiny_chunks_and_many_small_ones_are_a_body(size: int, count: int) -> None:
    received = reader(2**20).take(in_chunks(size, count))
    assert received is not None and received.body == b"x" * size * count
