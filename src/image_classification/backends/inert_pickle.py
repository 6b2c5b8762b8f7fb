"""Pickles of plain values read as data: nothing is imported, called or built on the way.

In: bytes at the start of a pickle. Out: numbers, text, tuples, lists and dictionaries; what
a pickle would import is a `Name` and what it would call a `Call`, for the reader to make sense of
or refuse. The standard library's disassembler (`pickletools`) takes the instructions apart;
Python's own reader of pickles, which imports and calls whatever a file names, is not used.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from io import BytesIO
from typing import Any

_MARK = object()


@dataclass(frozen=True)
class Name:
    """What the pickle would import: `"module name"`."""

    text: str


@dataclass(frozen=True)
class Call:
    """What the pickle would call, and with what."""

    function: Name
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Reference:
    """An object that lies outside the pickle, by its persistent id."""

    identity: Any


def read_inert(stream: BytesIO) -> Any:
    """The value of the pickle at the stream's position; the stream ends up behind it.

    A stream in memory, so that a length in the file can claim no more than there is.

    The attributes that a pickle would set on an object (instruction BUILD) are left out; an
    `OrderedDict()` is a dictionary.

    Raises:
        ValueError: an instruction that plain values do not need, or no pickle at all.
    """
    reader = _Reader()
    try:
        for operation, argument, _ in pickletools.genops(stream):
            reader.take(operation.name, argument)
        (value,) = reader.stack
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"a damaged pickle: {error!r}") from error
    return value


class _Reader:
    """The machine of the pickle format: a stack of values and a memory of earlier ones."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._memory: dict[int, Any] = {}

    def take(self, operation: str, argument: Any) -> None:
        """Follow one instruction, by the names of `pickletools`."""
        stack = self.stack
        match operation:
            case "PROTO" | "STOP":
                pass
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINUNICODE":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[operation])
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append({"EMPTY_TUPLE": (), "EMPTY_LIST": [], "EMPTY_DICT": {}}[operation])
            case "MARK":
                stack.append(_MARK)
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._last(int(operation[-1]))))
            case "APPEND" | "APPENDS":
                items = self._last(1) if operation == "APPEND" else self._since_mark()
                stack[-1].extend(items)
            case "SETITEM":
                self._set_items(self._last(2))
            case "SETITEMS":
                self._set_items(self._since_mark())
            case "BINPUT" | "LONG_BINPUT":
                self._memory[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memory[argument])
            case "GLOBAL":
                stack.append(Name(argument))
            case "REDUCE":
                stack.append(_called(*self._last(2)))
            case "BINPERSID":
                stack.append(Reference(stack.pop()))
            case "BUILD":
                stack.pop()
            case _:
                raise ValueError(f"instruction {operation} is not one of plain values")

    def _since_mark(self) -> list[Any]:
        place = max(i for i, value in enumerate(self.stack) if value is _MARK)
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def _last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("too few values on the stack")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _set_items(self, items: list[Any]) -> None:
        keys, target = items[::2], self.stack[-1]
        if not isinstance(target, dict) or not all(isinstance(key, str) for key in keys):
            raise TypeError("a dictionary has a key that is no text")
        target.update(zip(keys, items[1::2], strict=True))


def _called(function: Any, arguments: Any) -> Any:
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise TypeError("a call of what is no name")
    if function == Name("collections OrderedDict") and not arguments:
        return {}
    return Call(function, arguments)
