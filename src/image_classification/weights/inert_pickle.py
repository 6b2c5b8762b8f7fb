"""Reads a pickle as plain values, without executing it.

Calls that the pickle would make and objects that it would import become values that describe them.
The instructions are those of dictionaries of tensors, and of what training programs save with them.
"""

import pickletools
import struct
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

_MOST_INSTRUCTIONS = 1_000_000
"""They take seconds; a training checkpoint of ResNet-152 has 0.1 million."""


@dataclass(frozen=True)
class Name:
    """An object that the pickle would import: `"module name"`."""

    text: str


@dataclass(frozen=True)
class Call:
    """A call that the pickle would make."""

    function: Name
    arguments: tuple[Any, ...]
    items: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    """What the pickle would store in the result, which is then a kind of dictionary."""


@dataclass(frozen=True)
class Reference:
    """An object outside of the pickle, by its persistent id."""

    identity: Any


def read_inert(stream: BytesIO) -> Any:
    """Read the pickle at the stream's position as plain values, to its end.

    The stream is in memory, so that lengths in the file cannot allocate more than the file has.
    Attributes that the pickle would set on an object (instruction BUILD) are ignored, and an
    `OrderedDict()` is a dictionary.

    Raises:
        ValueError: not a pickle, or an instruction that plain values do not need.
    """
    reader = _Reader()
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):
            if count == _MOST_INSTRUCTIONS:
                raise ValueError(f"a pickle of more than {_MOST_INSTRUCTIONS} instructions")
            reader.take(operation.name, argument)
        if len(reader.stack) != 1:
            raise TypeError(f"{len(reader.stack)} values at its end")
    except (AttributeError, IndexError, KeyError, TypeError, OverflowError, struct.error) as error:
        raise ValueError(f"a damaged pickle ({error!r})") from error
    except RecursionError as error:
        raise ValueError("a pickle that is nested too deep") from error
    return reader.stack[0]


class _Reader:
    """A machine for the pickle format, with a stack of values and a memory of earlier ones."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memory: dict[int, Any] = {}

    def take(self, operation: str, argument: Any) -> None:
        """Execute one instruction, by its name in `pickletools`."""
        stack = self.stack
        match operation:
            case "PROTO" | "STOP" | "FRAME":
                pass
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINBYTES" | "SHORT_BINBYTES":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[operation])
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append({"EMPTY_TUPLE": (), "EMPTY_LIST": [], "EMPTY_DICT": {}}[operation])
            case "MARK":
                self._marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._last(int(operation[-1]))))
            case "APPEND" | "APPENDS":
                items = self._last(1) if operation == "APPEND" else self._since_mark()
                if not isinstance(stack[-1], Call):  # a list of a class of its own
                    stack[-1].extend(items)
            case "SETITEM":
                self._set_items(self._last(2))
            case "SETITEMS":
                self._set_items(self._since_mark())
            case "BINPUT" | "LONG_BINPUT":
                self._memory[argument] = stack[-1]
            case "MEMOIZE":
                self._memory[len(self._memory)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memory[argument])
            case "GLOBAL":
                stack.append(Name(argument))
            case "STACK_GLOBAL":
                module, name = self._last(2)
                if not (isinstance(module, str) and isinstance(name, str)):
                    raise TypeError("a name that is not text")
                stack.append(Name(f"{module} {name}"))
            case "REDUCE" | "NEWOBJ":
                stack.append(_called(*self._last(2)))
            case "BINPERSID":
                stack.append(Reference(stack.pop()))
            case "BUILD":
                stack.pop()
            case _:
                raise ValueError(
                    f"the pickle instruction {operation}, which a dictionary of tensors does not "
                    "need"
                )

    def _since_mark(self) -> list[Any]:
        mark = self._marks.pop()
        if mark > len(self.stack):
            raise IndexError("a mark above the stack")
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def _last(self, count: int) -> list[Any]:
        if len(self.stack) < count + (self._marks[-1] if self._marks else 0):
            raise IndexError("too few values on the stack")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        target = target.items if isinstance(target, Call) else target
        if not isinstance(target, dict):
            raise TypeError("items of something other than a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(key, str | int):  # a training program can have others
                target[key] = value


def _called(function: Any, arguments: Any) -> Any:
    if isinstance(function, Reference):  # old files of PyTorch have the source of a class with it
        match function.identity:
            case ("module", Name() as function, *_):
                pass
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise TypeError("a call of something other than a name")
    if function == Name("collections OrderedDict") and not arguments:
        return {}
    return Call(function, arguments)
