"""Reads weights that PyTorch saved, without PyTorch and without executing them.

Source of the formats: pytorch/pytorch `torch/serialization.py`. Since version 1.6 `torch.save`
writes a ZIP, not compressed: `<name>/data.pkl` describes the tensors, `<name>/data/<key>` has the
numbers of a storage. Before, a file had five pickles (magic number, protocol version, sizes on the
writing machine, the object, the keys of the storages), then for each key the number of its elements
(int64) and the elements, little-endian. A tensor is a call of `torch._utils._rebuild_tensor_v2`
with a storage, an offset, a shape and strides.
"""

import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np

from image_classification.samples import Array
from image_classification.weights.inert_pickle import Call, Name, Reference, read_inert
from image_classification.weights.tensors import (
    BFLOAT16,
    MOST_HEADER_BYTES,
    MOST_TENSORS,
    RegularFile,
    Tensor,
    TensorFile,
    checked_shape,
)

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_TENSOR = Name("torch._utils _rebuild_tensor_v2")
_PARAMETER = Name("torch._utils _rebuild_parameter")
_REBUILD = "torch._utils _rebuild_"  # and what kind of tensor: sparse, quantized, of a newer type
_MOST_DIRECTORY = 4 * 2**20  # bytes; that of ResNet-152 has 0.1 MB
_TYPES = {  # name of the storage's class → (type of NumPy, bytes per number)
    "torch DoubleStorage": ("<f8", 8),
    "torch FloatStorage": ("<f4", 4),
    "torch HalfStorage": ("<f2", 2),
    "torch BFloat16Storage": (BFLOAT16, 2),
    "torch LongStorage": ("<i8", 8),
    "torch IntStorage": ("<i4", 4),
    "torch ShortStorage": ("<i2", 2),
    "torch CharStorage": ("i1", 1),
    "torch ByteStorage": ("u1", 1),
    "torch BoolStorage": ("u1", 1),
}
# Where training programs put the weights in a checkpoint; averaged weights first, as timm does.
_KEYS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model_state_dict"),
    *("model", "module", "net", "network", "weights", "params"),
)
_REMEDY = "save it again with torch.save(model.state_dict(), FILE)"


def is_torch(head: bytes) -> bool:
    """Return whether a file begins as one of either format does."""
    return head.startswith(b"PK\3\4") or head[:1] == b"\x80"


def read_torch(file: RegularFile) -> TensorFile:
    """Read the names of the tensors; ValueError for a file of another kind, or a damaged one."""
    if file.read(0, 4) == b"PK\3\4":
        try:
            value, storages = _read_zip(file)
        except (zipfile.BadZipFile, NotImplementedError, UnicodeError) as error:
            raise ValueError(f"a damaged ZIP ({error}); copy it again") from error
        name, described = "PyTorch", _all_described(value)
    else:
        value, keys, position = _read_legacy(file)
        name, described = "PyTorch (before version 1.6)", _all_described(value)
        storages = _legacy_storages(file, value, keys, position)
    checked: set[_Storage] = set()
    tensors = {
        key: Tensor(tensor.shape, partial(_load, file, tensor, storages, checked))
        for key, tensor in described.items()
    }
    return TensorFile(file.path, name, tensors)


def _all_described(value: Any) -> dict[str, "_Described"]:
    state = _state_of(value)
    if len(state) > MOST_TENSORS:
        raise ValueError(f"{len(state)} tensors; expected at most {MOST_TENSORS}")
    return {key: _described(key, entry) for key, entry in state.items()}


@dataclass(frozen=True)
class _Storage:
    """A storage's place in the file, in bytes, and its checksum if the file has one."""

    start: int
    size: int
    checksum: int | None = None


_Storages = Mapping[str, _Storage]


def _read_zip(file: RegularFile) -> tuple[Any, _Storages]:
    _check_directory(file)
    with zipfile.ZipFile(file.stream) as packed:  # does not close a file that it did not open
        members = {member.filename: member for member in packed.infolist()}
    pickles = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise ValueError(_other_zip(members))
    folder = pickles[0].removesuffix("data.pkl")
    if folder + "constants.pkl" in members:
        raise ValueError(
            f"TorchScript, a program: load it with torch.jit.load where you trust it, and {_REMEDY}"
        )
    found = {name: _place(file, member) for name, member in members.items()}
    order = found.get(folder + "byteorder")
    if order and file.read(order.start, min(order.size, 16)).strip() != b"little":
        raise ValueError("numbers of a big-endian machine")
    content = found[pickles[0]]
    if content.size > MOST_HEADER_BYTES:
        raise ValueError(f"a pickle of {content.size} bytes; expected at most {MOST_HEADER_BYTES}")
    pickled = file.read(content.start, content.size)
    if zlib.crc32(pickled) != content.checksum:
        raise ValueError("a pickle with another checksum; copy the file again")
    prefix = folder + "data/"
    storages = {n.removeprefix(prefix): s for n, s in found.items() if n.startswith(prefix)}
    return read_inert(BytesIO(pickled)), storages


def _other_zip(members: Mapping[str, object]) -> str:
    if "model.weights.h5" in members:
        return "a .keras file: unpack it (python -m zipfile -e FILE DIR), give DIR/model.weights.h5"
    return f"a ZIP with {', '.join(sorted(members)[:3])[:120] or 'nothing'} in it"


def _check_directory(file: RegularFile) -> None:
    """Refuse a ZIP whose directory would fill the memory, before zipfile reads it."""
    start = max(0, file.size - 22 - 2**16)
    tail = file.read(start, file.size - start)
    end = tail.rfind(b"PK\5\6")
    size = int.from_bytes(tail[end + 12 : end + 16], "little") if end >= 0 else 0
    if end >= 20 and tail[end - 20 : end - 16] == b"PK\6\7":  # PyTorch writes ZIP64
        place = int.from_bytes(tail[end - 12 : end - 4], "little")
        size = int.from_bytes(file.read(place + 40, 8), "little")
    if size > _MOST_DIRECTORY:
        raise ValueError(f"a ZIP with a directory of {size} bytes")


def _place(file: RegularFile, member: zipfile.ZipInfo) -> _Storage:
    """Return where the content of a member is; its local header repeats the directory's names."""
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise ValueError(f"compressed or encrypted members, which PyTorch never writes; {_REMEDY}")
    head = file.read(member.header_offset, 30)
    if head[:4] != b"PK\3\4":
        raise ValueError("a damaged ZIP; copy it again")
    skipped = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    start = member.header_offset + 30 + skipped
    if start + member.file_size > file.size:
        raise ValueError("a ZIP with members beyond its end; copy it again")
    return _Storage(start, member.file_size, member.CRC)


def _read_legacy(file: RegularFile) -> tuple[Any, list[str], int]:
    """Return the object, the keys of the storages, and the position of the first of them."""
    head = BytesIO(file.read(0, min(file.size, MOST_HEADER_BYTES)))
    if [read_inert(head), read_inert(head)] != [_MAGIC_NUMBER, _PROTOCOL]:
        raise ValueError("a pickle that PyTorch did not write")
    machine, value, keys = (read_inert(head) for _ in range(3))
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise ValueError("numbers of a big-endian machine")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("storages without names")
    return value, keys, head.tell()


def _legacy_storages(file: RegularFile, value: Any, keys: list[str], position: int) -> _Storages:
    widths = _widths(value)
    storages: dict[str, _Storage] = {}
    for key in keys:
        count = int.from_bytes(file.read(position, 8), "little", signed=True)
        size = count * widths.get(key, 0)
        if key not in widths or count < 0 or position + 8 + size > file.size:
            raise ValueError(f"a storage of {count} elements beyond the end of the file")
        storages[key] = _Storage(position + 8, size)
        position += 8 + size
    return storages


def _widths(value: Any) -> dict[str, int]:
    """Return the bytes per number of every storage that a value refers to, at any depth."""
    widths: dict[str, int] = {}
    waiting, seen = [value], set()
    while waiting:
        entry = waiting.pop()
        if id(entry) in seen:
            continue
        seen.add(id(entry))
        if isinstance(entry, dict):
            waiting += entry.values()
        elif isinstance(entry, list | tuple):
            waiting += entry
        elif isinstance(entry, Call):
            waiting += [*entry.arguments, *entry.items.values()]
        elif isinstance(entry, Reference):
            match entry.identity:
                case ("storage", Name(kind), str(key), *_) if kind in _TYPES:
                    widths[key] = _TYPES[kind][1]
    return widths


def _state_of(value: Any) -> dict[str, Any]:
    """Return the dictionary of tensors in what was saved: itself, or in a training checkpoint."""
    for _ in range(3):  # dictionaries in dictionaries
        if _is_tensor(value):
            raise ValueError(f"a single tensor without a name; {_REMEDY}")
        if isinstance(value, Call):
            if not value.items:
                name = value.function.text[:80]
                raise ValueError(f"not a dictionary of tensors but an object ({name}); {_REMEDY}")
            value = value.items
        if not isinstance(value, dict):
            kind = type(value).__name__
            raise ValueError(f"not a dictionary of tensors but a {kind}; {_REMEDY}")
        tensors = {str(key): entry for key, entry in value.items() if _is_tensor(entry)}
        inner = next((value[key] for key in _KEYS if _holds_more(value.get(key))), None)
        if inner is None or len(tensors) > 1:
            return tensors or _with_any(value)
        value = inner
    raise ValueError(f"dictionaries in dictionaries without tensors; {_REMEDY}")


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Call) and value.function.text.startswith(_REBUILD)


def _holds_more(value: Any) -> bool:
    return isinstance(value, dict | Call) and not _is_tensor(value)


def _with_any(value: dict[Any, Any]) -> dict[str, Any]:
    """Return a dictionary without tensors whose first call, if any, becomes the error."""
    calls = {str(key): entry for key, entry in value.items() if isinstance(entry, Call)}
    if calls or not value:
        return calls
    shown = ", ".join(str(key)[:40] for key in list(value)[:5])
    raise ValueError(f"a dictionary without tensors ({shown}); {_REMEDY}")


@dataclass(frozen=True)
class _Described:
    """The position of a tensor's elements; offset and strides are in elements."""

    storage: str
    kind: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _described(name: str, value: Any) -> _Described:
    if isinstance(value, Call) and value.function == _PARAMETER and value.arguments:
        value = value.arguments[0]
    arguments = value.arguments if isinstance(value, Call) and value.function == _TENSOR else ()
    match arguments:
        case (
            Reference(("storage", Name(kind), str(key), *rest)),
            offset,
            tuple(shape),
            tuple(strides),
            *_,
        ) if kind in _TYPES and rest[2:] in ([], [None]):
            numbers = checked_shape((offset,)) + checked_shape(strides)
            if len(strides) == len(shape):
                return _Described(key, kind, numbers[0], checked_shape(shape), numbers[1:])
    if _is_tensor(value):
        kind = value.function.text.removeprefix(_REBUILD)
        raise ValueError(
            f"{name[:80]!r}, a tensor of a kind that is not read ({kind[:40]}: sparse, quantized, "
            f"complex or float8); make it dense and .float(), and {_REMEDY}"
        )
    what = f"a call of {value.function.text}" if isinstance(value, Call) else type(value).__name__
    raise ValueError(f"{name[:80]!r}, which is not a tensor of numbers but {what[:80]}")


def _load(
    file: RegularFile, tensor: _Described, storages: _Storages, checked: set[_Storage]
) -> Array:
    """Copy the elements; ValueError if they are not within their storage, or damaged."""
    storage = storages.get(tensor.storage, _Storage(0, 0))
    kind, width = _TYPES[tensor.kind]
    if 0 in tensor.shape:
        return np.empty(tensor.shape, np.float32)
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
    elements = storage.size // width
    if tensor.offset + last >= elements or math.prod(tensor.shape) > elements:
        raise ValueError(f"has the shape {tensor.shape}, which exceeds its storage")
    if storage not in checked:  # many tensors can share it
        _check_storage(file, storage)
        checked.add(storage)
    numbers = file.array(storage.start + tensor.offset * width, last + 1, kind)
    strides = [stride * numbers.itemsize for stride in tensor.strides]
    return np.array(np.lib.stride_tricks.as_strided(numbers, tensor.shape, strides), order="C")


def _check_storage(file: RegularFile, storage: _Storage) -> None:
    """Check the checksum of a storage, in blocks; ValueError if it differs."""
    checksum, position, end = 0, storage.start, storage.start + storage.size
    while storage.checksum is not None and position < end:
        block = file.read(position, min(1 << 20, end - position))
        checksum, position = zlib.crc32(block, checksum), position + len(block)
    if storage.checksum not in (None, checksum):
        raise ValueError("has numbers with another checksum; copy the file again")
