"""Reads the weights in an HDF5 file as Keras writes it: groups of arrays that are stored whole.

Source of the format: the HDF5 File Format Specification, version 3.0. The C library behind h5py is
not used: it is made for trusted files, and no image but TensorFlow's contains it. Chunked or
compressed arrays, which Keras does not write, are refused.

A tensor is named after its layer: `block1a_bn/gamma`. In `.h5` files it is an array
`block1a_bn/block1a_bn/gamma:0`; in `.weights.h5` files `layers/batch_normalization_1/vars/0`, where
an attribute of the group `vars` has the layer's name.
"""

import math
from collections.abc import Iterator
from functools import partial

from image_classification.samples import Array
from image_classification.weights.tensors import (
    MOST_TENSORS,
    RegularFile,
    Tensor,
    TensorFile,
    checked_shape,
)

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_NONE = 2**64 - 1  # an address of nothing
_MOST_OBJECTS = 2 * MOST_TENSORS
_MOST_DEPTH = 12  # groups in groups
_MOST_BLOCK = 2**20  # bytes of a header, a node or a heap of names
_REMEDY = "save the model again with Keras (model.save_weights)"

_DATASPACE, _LINK_INFO, _DATATYPE, _LINK, _LAYOUT = 0x01, 0x02, 0x03, 0x06, 0x08
_ATTRIBUTE, _CONTINUATION, _SYMBOL_TABLE = 0x0C, 0x10, 0x11

_Messages = list[tuple[int, bytes]]


def is_hdf5(head: bytes) -> bool:
    """Return whether a file begins as one does."""
    return head.startswith(_SIGNATURE)


def read_hdf5(file: RegularFile) -> TensorFile:
    """Read groups and shapes; ValueError for what Keras does not write, or a damaged file."""
    reader = _Reader(file)
    tensors: dict[str, Tensor] = {}
    groups: dict[str, dict[str, Tensor]] = {}
    for path, tensor in reader.arrays():
        folder, _, name = path.rpartition("/")
        groups.setdefault(folder, {})[name] = tensor
    for folder, arrays in groups.items():
        *outer, last = folder.split("/")
        if outer[:1] in (["optimizer_weights"], ["optimizer"]):
            continue
        if last == "vars":
            last, arrays = reader.names.get(folder, outer[-1] if outer else ""), _named(arrays)
        for number, tensor in arrays.items():
            name = number.removesuffix(":0")
            if name == "depthwise_kernel" and len(arrays) <= 2:  # as Keras 2 called it
                name = "kernel"
            key = f"{last}/{name}"
            if key in tensors:
                raise ValueError(f"two arrays for {key[:80]!r}")
            tensors[key] = tensor
    return TensorFile(file.path, "Keras", tensors)


def _named(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the numbered arrays of a layer by the names that Keras gives them in its order."""
    shapes = [len(tensor.shape) for tensor in arrays.values()]
    names: tuple[str, ...] = ()
    if shapes[0] > 1:
        names = ("kernel", "bias")
    elif shapes == [1] * 4:
        names = ("gamma", "beta", "moving_mean", "moving_variance")
    numbered = dict(zip(map(str, range(len(arrays))), names, strict=False))
    return {numbered.get(number, number): tensor for number, tensor in arrays.items()}


def _number(content: bytes, start: int, size: int = 8) -> int:
    if start + size > len(content):
        raise ValueError("a damaged HDF5 header")
    return int.from_bytes(content[start : start + size], "little")


class _Reader:
    """Follows addresses from the root; each object is visited once."""

    def __init__(self, file: RegularFile) -> None:
        self._file = file
        self._visited: set[int] = set()
        self.names: dict[str, str] = {}  # path → the attribute `name` of the group

    def arrays(self) -> Iterator[tuple[str, Tensor]]:
        """Yield each array of numbers with its path."""
        version = self._file.read(8, 1)[0]
        if version in (0, 1):
            sizes, start = self._file.read(13, 2), 24 + 4 * version
            base, root = self._address(start), self._address(start + 40)
        elif version in (2, 3):
            sizes, start = self._file.read(9, 2), 12
            base, root = self._address(start), self._address(start + 24)
        else:
            raise ValueError(f"HDF5 of the unknown version {version}; {_REMEDY}")
        if sizes != b"\x08\x08" or base:
            raise ValueError(f"HDF5 with addresses that are not 8 bytes; {_REMEDY}")
        yield from self._object("", root, 0)

    def _address(self, start: int) -> int:
        return int.from_bytes(self._file.read(start, 8), "little")

    def _visit(self, address: int) -> None:
        if address in self._visited or len(self._visited) > _MOST_OBJECTS:
            raise ValueError("HDF5 with circles, or with too many objects")
        self._visited.add(address)

    def _object(self, path: str, address: int, depth: int) -> Iterator[tuple[str, Tensor]]:
        """Yield the arrays of a group, or the array at `address`."""
        if depth > _MOST_DEPTH:
            raise ValueError(f"HDF5 with more than {_MOST_DEPTH} groups in groups")
        self._visit(address)
        messages = self._messages(address)
        kinds = {kind for kind, _ in messages}
        if _LAYOUT in kinds:
            tensor = self._array(path, dict(messages))
            if tensor is not None:
                yield path, tensor
            return
        for kind, body in messages:
            if kind == _ATTRIBUTE and (text := self._attribute(body, b"name")):
                self.names[path] = text
        for name, target in self._links(messages):
            if not name or "/" in name:
                raise ValueError("HDF5 with a name that is no name")
            yield from self._object(f"{path}/{name}".lstrip("/"), target, depth + 1)

    def _messages(self, address: int) -> _Messages:
        """Return (type, content) of the messages of an object header, continuations included."""
        is_new = self._file.read(address, 4) == b"OHDR"
        if is_new:
            flags = self._file.read(address + 5, 1)[0]
            start = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
            width = 1 << (flags & 3)
            size = int.from_bytes(self._file.read(start, width), "little")
            blocks = [(start + width, size)]
            head = 6 if flags & 0x04 else 4
        else:
            prefix = self._file.read(address, 12)
            if prefix[0] != 1:
                raise ValueError("a damaged HDF5 object header")
            blocks, head = [(address + 16, _number(prefix, 8, 4))], 8
        found: _Messages = []
        for start, size in blocks:  # grows while it is read
            if size > _MOST_BLOCK or len(blocks) > 100:
                raise ValueError("an HDF5 object header that is too large")
            content = self._file.read(start, size)
            position = 0
            while position + head <= len(content):
                kind = content[position] if is_new else _number(content, position, 2)
                length = _number(content, position + (1 if is_new else 2), 2)
                body = content[position + head : position + head + length]
                position += head + length
                if kind == _CONTINUATION:
                    target, length = _number(body, 0), _number(body, 8)
                    cut = 4 if is_new else 0  # a signature before, a checksum after
                    blocks.append((target + cut, length - 2 * cut))
                else:
                    found.append((kind, body))
        return found

    def _links(self, messages: _Messages) -> Iterator[tuple[str, int]]:
        """Yield the names in a group with the addresses of the objects."""
        for kind, body in messages:
            if kind == _SYMBOL_TABLE:
                names = self._heap(_number(body, 8))
                yield from self._symbols(_number(body, 0), names, 0)
            elif kind == _LINK:
                yield from _hard_link(body)
            elif kind == _LINK_INFO and _number(body, 10 if body[1] & 1 else 2) != _NONE:
                raise ValueError(f"an HDF5 group with its links in a heap; {_REMEDY}")

    def _heap(self, address: int) -> bytes:
        head = self._file.read(address, 32)
        size, place = _number(head, 8), _number(head, 24)
        if head[:4] != b"HEAP" or size > _MOST_BLOCK:
            raise ValueError("a damaged HDF5 heap of names")
        return self._file.read(place, size)

    def _symbols(self, address: int, names: bytes, depth: int) -> Iterator[tuple[str, int]]:
        """Yield the links below a node of a B-tree."""
        self._visit(address)
        head = self._file.read(address, 8)
        if head[:4] == b"SNOD":
            count = _number(head, 6, 2)
            table = self._file.read(address + 8, 40 * count)
            for entry in range(count):
                start, target = _number(table, 40 * entry), _number(table, 40 * entry + 8)
                end = names.find(b"\0", start)
                if end < 0:
                    raise ValueError("a damaged HDF5 heap of names")
                if _number(table, 40 * entry + 16, 4) != 2:  # 2: a symbolic link
                    yield names[start:end].decode("utf-8"), target
        elif head[:4] == b"TREE" and head[4] == 0 and depth <= _MOST_DEPTH:
            count = _number(head, 6, 2)
            children = self._file.read(address + 24, 16 * count + 8)
            for entry in range(count):
                yield from self._symbols(_number(children, 16 * entry + 8), names, depth + 1)
        else:
            raise ValueError("a damaged HDF5 group")

    def _attribute(self, body: bytes, name: bytes) -> str | None:
        """Return the text of an attribute, if it has this name and is one text of any length."""
        if len(body) < 8 or body[0] not in (1, 3):
            return None
        sizes = [_number(body, place, 2) for place in (2, 4, 6)]
        if body[0] == 1:  # each part is padded
            sizes = [-(-size // 8) * 8 for size in sizes]
        start = 8 if body[0] == 1 else 9
        if body[start : start + sizes[0]].rstrip(b"\0") != name:
            return None
        kind, value = body[start + sizes[0]] & 15, start + sum(sizes)
        if kind != 9:  # variable length: its place in a heap
            return body[value:].split(b"\0")[0].decode("utf-8") if kind == 3 else None
        return self._text(_number(body, value + 4), _number(body, value + 12, 4))

    def _text(self, address: int, index: int) -> str | None:
        """Return an object of a global heap as text."""
        head = self._file.read(address, 16)
        size = _number(head, 8)
        if head[:4] != b"GCOL" or size > _MOST_BLOCK:
            raise ValueError("a damaged HDF5 heap of texts")
        content, position = self._file.read(address, size), 16
        while position + 16 <= len(content):
            number, length = _number(content, position, 2), _number(content, position + 8)
            if number in (0, index):
                text = content[position + 16 : position + 16 + length]
                return text.decode("utf-8") if number else None
            position += 16 + -(-length // 8) * 8
        return None

    def _array(self, path: str, messages: dict[int, bytes]) -> Tensor | None:
        """Return a tensor; None for text and other objects that are no numbers."""
        kind = _type(messages.get(_DATATYPE, b""))
        if kind is None:
            return None
        shape = _shape(messages.get(_DATASPACE, b""))
        layout = messages[_LAYOUT]
        count = math.prod(shape)
        if len(layout) < 4 or layout[0] not in (3, 4) or layout[1] not in (0, 1):
            raise ValueError(f"{path[:80]!r}, an array that is stored in pieces; {_REMEDY}")
        width = int(kind[2:])
        if layout[1] == 0:
            raise ValueError(f"{path[:80]!r}, an array inside its header; {_REMEDY}")
        start, size = _number(layout, 2), _number(layout, 10)
        if count and (size != count * width or start + size > self._file.size):
            raise ValueError(f"{path[:80]!r} with {size} bytes for the shape {shape}")
        return Tensor(shape, partial(_load, self._file, start, shape, kind))


def _load(file: RegularFile, start: int, shape: tuple[int, ...], kind: str) -> Array:
    count = math.prod(shape)
    return file.array(start if count else 0, count, kind).reshape(shape)


def _hard_link(body: bytes) -> Iterator[tuple[str, int]]:
    flags = body[1] if len(body) > 1 else 0
    position = 2
    if flags & 0x08:
        if _number(body, position, 1):
            return  # a soft or an external link
        position += 1
    position += (8 if flags & 0x04 else 0) + (1 if flags & 0x10 else 0)
    width = 1 << (flags & 3)
    length = _number(body, position, width)
    position += width
    yield body[position : position + length].decode("utf-8"), _number(body, position + length)


def _type(body: bytes) -> str | None:
    """Return the type of NumPy of floating and whole numbers, or None."""
    if len(body) < 8:
        return None
    kind, bits, size = body[0] & 15, body[1], _number(body, 4, 4)
    if kind not in (0, 1) or size not in (1, 2, 4, 8) or (kind == 1 and size == 1):
        return None
    order = ">" if bits & 1 else "<"
    return f"{order}f{size}" if kind == 1 else f"{order}{'i' if bits & 8 else 'u'}{size}"


def _shape(body: bytes) -> tuple[int, ...]:
    if len(body) < 4 or body[0] not in (1, 2):
        raise ValueError("a damaged HDF5 dataspace")
    start = 8 if body[0] == 1 else 4
    return checked_shape([_number(body, start + 8 * axis) for axis in range(body[1])])
