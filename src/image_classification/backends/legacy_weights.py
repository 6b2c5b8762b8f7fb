"""Read weights that PyTorch saved before version 1.6, without PyTorch and without executing them.

The packages with ImageNet weights contain such files. Source of the format: pytorch/pytorch
`torch/serialization.py`, `_legacy_save`: five pickles (magic number, protocol version, sizes on the
writing machine, the dictionary of tensors, the keys of the storages), then for each key the number
of its elements (int64) and the elements, little-endian. A tensor is a call of
`torch._utils._rebuild_tensor_v2` with a storage, an offset, a shape and strides.
"""

import math
import pickletools
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from image_classification.backends.base import State
from image_classification.errors import ArtifactError
from image_classification.samples import Array

_MARK = object()


@dataclass(frozen=True)
class Name:
    """An object that the pickle would import: `"module name"`."""

    text: str


@dataclass(frozen=True)
class Call:
    """A call that the pickle would make."""

    function: Name
    arguments: tuple[Any, ...]


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
        for operation, argument, _ in pickletools.genops(stream):
            reader.take(operation.name, argument)
        (value,) = reader.stack
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"a damaged pickle ({error!r})") from error
    return value


class _Reader:
    """A machine for the pickle format, with a stack of values and a memory of earlier ones."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._memory: dict[int, Any] = {}

    def take(self, operation: str, argument: Any) -> None:
        """Execute one instruction, by its name in `pickletools`."""
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
                raise ValueError(
                    f"the pickle instruction {operation}, which a dictionary of tensors does not "
                    "need"
                )

    def _since_mark(self) -> list[Any]:
        mark = max(i for i, value in enumerate(self.stack) if value is _MARK)
        items = self.stack[mark + 1 :]
        del self.stack[mark:]
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
            raise TypeError("a dictionary with a key that is not text")
        target.update(zip(keys, items[1::2], strict=True))


def _called(function: Any, arguments: Any) -> Any:
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise TypeError("a call of something other than a name")
    if function == Name("collections OrderedDict") and not arguments:
        return {}
    return Call(function, arguments)


_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_TENSOR = Name("torch._utils _rebuild_tensor_v2")
_DTYPES: dict[str, np.dtype[Any]] = {
    "torch FloatStorage": np.dtype("<f4"),
    "torch LongStorage": np.dtype("<i8"),
}
_LIMIT = 2**40  # of offsets, sizes and strides, in elements; more would overflow in NumPy

_Storages = Mapping[str, Array]


def read_legacy_weights(path: Path) -> State:
    """Read the tensors of a state dictionary by name, as new float32 or int64 arrays.

    Raises:
        ArtifactError: not such a file, a damaged one, or one with anything but such tensors.
    """
    try:
        return _read(BytesIO(path.read_bytes()))
    except (ValueError, OSError) as error:
        raise ArtifactError(
            f"{path}: expected a dictionary of tensors saved by PyTorch before version 1.6, got "
            f"{error}; reinstall the package that contains it"
        ) from error


def _read(stream: BytesIO) -> State:
    if [read_inert(stream), read_inert(stream)] != [_MAGIC_NUMBER, _PROTOCOL]:
        raise ValueError("a file without the magic numbers of this format")
    machine, named, keys = (read_inert(stream) for _ in range(3))
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise ValueError("a file from a big-endian machine")
    if not isinstance(named, dict) or not isinstance(keys, list):
        raise ValueError("something other than a dictionary of tensors")
    tensors = {name: _described(name, value) for name, value in named.items()}
    dtypes = {tensor.storage: tensor.dtype for tensor in tensors.values()}
    if not all(isinstance(key, str) and key in dtypes for key in keys):
        raise ValueError("a storage without a tensor")
    storages = {key: _read_storage(stream, dtypes[key]) for key in keys}
    return {name: tensor.array(storages) for name, tensor in tensors.items()}


@dataclass(frozen=True)
class _Tensor:
    """The position of a tensor's elements; offset and strides are in elements."""

    storage: str
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, storages: _Storages) -> Array:
        """Copy the elements; ValueError if they are not within their storage."""
        storage = storages.get(self.storage, np.empty(0, self.dtype))
        last = sum(
            (size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)
        )
        is_within = self.offset + last < len(storage) and math.prod(self.shape) <= len(storage)
        if storage.dtype != self.dtype or not is_within:
            raise ValueError(f"a tensor {self.shape} that exceeds its storage")
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        strides = [stride * self.dtype.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(storage[self.offset :], self.shape, strides)
        return np.array(view, order="C")


def _described(name: str, value: Any) -> _Tensor:
    arguments = value.arguments if isinstance(value, Call) and value.function == _TENSOR else ()
    match arguments:
        case (
            Reference(("storage", Name(kind), str(key), _, _, None)),
            offset,
            tuple(shape),
            tuple(strides),
            *_,
        ) if kind in _DTYPES:
            numbers = (offset, *shape, *strides)
            is_sound = all(type(number) is int and 0 <= number < _LIMIT for number in numbers)
            if is_sound and len(shape) == len(strides):
                return _Tensor(key, _DTYPES[kind], offset, shape, strides)
    what = f"a call of {value.function.text}" if isinstance(value, Call) else type(value).__name__
    raise ValueError(f"{name!r}, which is not a tensor of float32 or int64 but {what}")


def _read_storage(stream: BytesIO, dtype: np.dtype[Any]) -> Array:
    count = int.from_bytes(stream.read(8), "little", signed=True)
    size = count * dtype.itemsize
    content = stream.read(size) if 0 <= count < _LIMIT else b""
    if len(content) != size:
        raise ValueError(f"a storage of {count} elements with {len(content)} bytes")
    return np.frombuffer(content, dtype)
