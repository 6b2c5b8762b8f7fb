"""Mutations of bytes and of text, with the places that they touch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

_NUMBERS = (
    b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\xff\xff",
    b"\x01\0\0\0", b"\0\0\0\x01", b"\xff\xd9\xff\xd8", b"\x0a\x23\xd7\xce",
    b"\x0a\x23\xd7\xce\0\0\0\x20",
)  # fmt: skip
TOKENS = (
    *",;|\t \n\r\"'[]{}:\\\0",
    *("ÿ", "\u2028", "é", "-1", "nan", "1e999", "null", "../", "://[", "label", "\ufeff", "#"),
    *("0", "1", "001", "True", "\r\n", '"""', "\x1a", "\x85", "a" * 300, "\udce9", "½"),
)


class Edit(NamedTuple):
    """The bytes from `begin` to `end` of the original were replaced by `text`."""

    begin: int
    end: int
    text: bytes


def edit_bytes(data: bytes, chance: random.Random, begin: int = 0, end: int | None = None) -> Edit:
    """Return a mutation of `data` between `begin` and `end`: flip, cut, repeat, insert, set."""
    end = len(data) if end is None else end
    if end <= begin:
        return Edit(begin, begin, chance.randbytes(chance.randint(1, 9)))
    at = chance.randrange(begin, end)
    action = chance.randrange(6)
    if action == 0:
        return Edit(at, at + 1, bytes([data[at] ^ 1 << chance.randrange(8)]))
    stop = min(end, at + chance.choice((1, 2, 4, 8, 20, 100)))
    if action == 1:
        return Edit(at, stop, b"")
    if action == 2:
        return Edit(at, at, data[at:stop] * chance.choice((1, 1, 3)))
    if action == 3:
        return Edit(at, at, chance.randbytes(chance.choice((1, 2, 4, 8, 33))))
    if action == 4:
        number = chance.choice(_NUMBERS)
        return Edit(at, min(end, at + len(number)), number)
    return Edit(at, stop, bytes(stop - at))


def edit_text(data: bytes, chance: random.Random, encoding: str = "utf-8") -> Edit:
    """Return a mutation of a text: a sign or a word put in, or some signs removed."""
    at = chance.randrange(len(data) + 1)
    if chance.random() < 0.6:
        token = chance.choice(TOKENS)
        errors = "surrogateescape" if encoding == "utf-8" else "ignore"
        return Edit(at, at, token.encode(encoding, errors))
    return Edit(at, min(len(data), at + chance.choice((1, 1, 2, 4, 9))), b"")


def applied(data: bytes, edit: Edit) -> bytes:
    return data[: edit.begin] + edit.text + data[edit.end :]


def touched(ends: Sequence[int], edit: Edit) -> set[int]:
    """Return the numbers of the pieces that an edit touches.

    Args:
        ends: where each piece ends; the first one begins at 0.
        edit: of all pieces together.
    """
    begin = 0
    found = set()
    for number, end in enumerate(ends):
        if edit.begin <= end and edit.end >= begin and (edit.begin < end or edit.begin == edit.end):
            found.add(number)
        begin = end
    return found
