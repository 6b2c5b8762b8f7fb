"""Keras's HDF5 files: read without the HDF5 library, and nothing in them is trusted.

The files are written here, after the specification; `test_tensorflow_keras.py` reads what Keras
itself writes.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from image_classification.errors import ArtifactError
from image_classification.weights import opened

NOTHING = 2**64 - 1


class Writer:
    """An HDF5 file of version 0 in memory: groups with symbol tables, arrays stored whole."""

    def __init__(self) -> None:
        self.content = bytearray(96)

    def add(self, block: bytes) -> int:
        """Append a block; returns its address."""
        self.content += b"\0" * (-len(self.content) % 8)
        address = len(self.content)
        self.content += block
        return address

    def header(self, *messages: tuple[int, bytes]) -> int:
        """An object header; returns its address."""
        body = b""
        for kind, content in messages:
            content += b"\0" * (-len(content) % 8)
            body += struct.pack("<HHB3x", kind, len(content), 0) + content
        return self.add(struct.pack("<BxHII4x", 1, len(messages), 1, len(body)) + body)

    def array(self, array: np.ndarray) -> int:
        place = self.add(array.tobytes())
        dimensions = struct.pack(f"<{array.ndim}Q", *array.shape)
        space = struct.pack("<BBB5x", 1, array.ndim, 0) + dimensions
        kind = 1 if array.dtype.kind == "f" else 0
        sign = 8 if array.dtype.kind == "i" else 0
        number = struct.pack("<BBBBI", 0x10 | kind, sign, 0, 0, array.itemsize) + b"\0" * 12
        layout = struct.pack("<BBQQ", 3, 1, place, array.nbytes)
        return self.header((1, space), (3, number), (8, layout))

    def group(self, members: dict[str, int], name: str | None = None) -> int:
        heap, places = b"\0" * 8, {}
        for member in members:
            places[member] = len(heap)
            heap += member.encode() + b"\0" * (8 - len(member.encode()) % 8)
        data = self.add(heap)
        names = self.add(b"HEAP" + struct.pack("<B3xQQQ", 0, len(heap), NOTHING, data))
        table = b"".join(struct.pack("<QQI20x", places[m], a, 0) for m, a in members.items())
        node = self.add(b"SNOD" + struct.pack("<BBH", 1, 0, len(members)) + table)
        keys = struct.pack("<QQQ", 0, node, 8)
        tree = self.add(b"TREE" + struct.pack("<BBHQQ", 0, 0, 1, NOTHING, NOTHING) + keys)
        messages = [(0x11, struct.pack("<QQ", tree, names))]
        if name is not None:
            messages.append((0x0C, self.attribute("name", name)))
        return self.header(*messages)

    def attribute(self, name: str, value: str) -> bytes:
        """An attribute with a text of any length, which lies in a global heap."""
        text = value.encode()
        entry = struct.pack("<HHIQ", 1, 1, 0, len(text)) + text + b"\0" * (-len(text) % 8)
        heap = self.add(b"GCOL" + struct.pack("<B3xQ", 1, 16 + len(entry)) + entry)
        key = name.encode() + b"\0"
        kind = struct.pack("<BBBBI", 0x19, 1, 0, 0, 16) + b"\0" * 8
        parts = (key + b"\0" * (-len(key) % 8), kind, struct.pack("<BBB5x", 1, 0, 0))
        sizes = struct.pack("<BxHHH", 1, len(key), len(kind), 8)
        return sizes + b"".join(parts) + struct.pack("<IQI", len(text), heap, 1)

    def tree(self, members: dict[str, Any]) -> int:
        """Groups in groups; the key `@name` is the attribute `name` of a group."""
        found = {}
        for key, value in members.items():
            if not key.startswith("@"):
                found[key] = self.tree(value) if isinstance(value, dict) else self.array(value)
        return self.group(found, members.get("@name"))

    def save(self, path: Path, root: int) -> Path:
        head = b"\x89HDF\r\n\x1a\n" + bytes([0, 0, 0, 0, 0, 8, 8, 0])
        head += struct.pack("<HHI", 4, 16, 0)
        head += struct.pack("<QQQQ", 0, NOTHING, len(self.content), NOTHING)
        self.content[:96] = head + struct.pack("<QQI4x16x", 0, root, 0)
        path.write_bytes(self.content)
        return path


def saved(path: Path, members: dict[str, Any]) -> Path:
    writer = Writer()
    return writer.save(path, writer.tree(members))


def read(path: Path) -> dict[str, np.ndarray]:
    with opened(path) as (_, file):
        return {name: tensor.numbers() for name, tensor in file.tensors.items()}


KERNEL = np.arange(54, dtype=np.float32).reshape(3, 3, 3, 2)
VECTOR = np.arange(2, dtype=np.float32)


def test_a_file_of_keras_2_gives_layer_and_tensor(tmp_path: Path) -> None:
    layers = {
        "Conv1": {"Conv1": {"kernel:0": KERNEL}},
        "dw": {"dw": {"depthwise_kernel:0": KERNEL}},
        "bn": {"bn": {"gamma:0": VECTOR, "moving_mean:0": VECTOR + 1}},
    }
    for members in (layers, {"model_weights": layers, "optimizer_weights": {"m": {"m:0": VECTOR}}}):
        found = read(saved(tmp_path / "x.h5", members))
        assert set(found) == {"Conv1/kernel", "dw/kernel", "bn/gamma", "bn/moving_mean"}
        assert np.array_equal(found["Conv1/kernel"], KERNEL)
        assert np.array_equal(found["bn/moving_mean"], VECTOR + 1)


def test_a_file_of_keras_3_gives_the_names_in_its_attributes(tmp_path: Path) -> None:
    numbered = {str(number): VECTOR + number for number in range(4)}
    layers = {
        "conv2d_7": {"vars": {"0": KERNEL, "1": VECTOR, "@name": "stem"}},
        "batch_normalization": {"vars": numbered | {"@name": "stem_bn"}},
    }
    found = read(saved(tmp_path / "x.weights.h5", {"layers": layers, "vars": {}}))
    assert set(found) == {
        *("stem/kernel", "stem/bias", "stem_bn/gamma", "stem_bn/beta"),
        *("stem_bn/moving_mean", "stem_bn/moving_variance"),
    }
    assert np.array_equal(found["stem_bn/moving_variance"], VECTOR + 3)


def test_truncated_and_changed_files_give_an_error_or_other_numbers(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.h5", {"a": {"vars": {"0": KERNEL, "@name": "stem"}}, "b": VECTOR})
    body = path.read_bytes()
    generator = np.random.default_rng(0)
    for place in range(0, len(body), 5):
        for content in (
            body[:place],
            body[:place] + bytes([int(generator.integers(256))]) + body[place + 1 :],
        ):
            path.write_bytes(content)
            try:
                found = read(path)
            except (ArtifactError, ValueError):
                continue
            assert all(array.nbytes <= 4 * len(body) for array in found.values())


def test_circles_deep_groups_and_pieces_are_refused(tmp_path: Path) -> None:
    writer = Writer()
    inner = writer.group({})
    circle = writer.group({"a": inner, "b": inner})
    with pytest.raises(ArtifactError, match="circles"):
        read(writer.save(tmp_path / "circle.h5", circle))
    members: dict[str, Any] = {"x": VECTOR}
    for _ in range(20):
        members = {"g": members}
    with pytest.raises(ArtifactError, match="groups in groups"):
        read(saved(tmp_path / "deep.h5", members))
    writer = Writer()
    chunked = writer.header(
        (1, struct.pack("<BBB5xQ", 1, 1, 0, 2)),
        (3, struct.pack("<BBBBI", 0x11, 0, 0, 0, 4)),
        (8, struct.pack("<BBQQ", 3, 2, 0, 8)),
    )
    with pytest.raises(ArtifactError, match="stored in pieces; save the model again with Keras"):
        read(writer.save(tmp_path / "chunked.h5", writer.group({"x": chunked})))


def test_an_array_larger_than_the_file_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    writer = Writer()
    large = writer.header(
        (1, struct.pack("<BBB5xQ", 1, 1, 0, 2**38)),
        (3, struct.pack("<BBBBI", 0x11, 0, 0, 0, 4)),
        (8, struct.pack("<BBQQ", 3, 1, 96, 2**40)),
    )
    with pytest.raises(ArtifactError, match="1099511627776 bytes for the shape"):
        read(writer.save(tmp_path / "x.h5", writer.group({"x": large})))
