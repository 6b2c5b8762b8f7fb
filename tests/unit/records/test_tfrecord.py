"""TFRecords are read by an independent reader: protobuf's own, and TensorFlow where it is there."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from image_classification.images.decode import decode
from image_classification.inventory.folders import take_inventory
from image_classification.labels.lists import read_list
from image_classification.prepare.channels import ChannelPlan, write_channels
from image_classification.prepare.encode import Transcoding
from image_classification.records.tfrecord import encode_example, frame_tfrecord
from tests.conftest import ClassFolders

pytest.importorskip("google_crc32c", reason="pip install google-crc32c")


def crc32c(data: bytes) -> int:
    """Bit by bit, Castagnoli polynomial reversed (RFC 3720, B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def unmasked(mask: int) -> int:
    rotated = (mask - 0xA282EAD8) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


def records(path: Path) -> list[bytes]:
    content, position, found = path.read_bytes(), 0, []
    while position < len(content):
        (length,) = struct.unpack_from("<Q", content, position)
        (check,) = struct.unpack_from("<I", content, position + 8)
        assert unmasked(check) == crc32c(content[position : position + 8])
        data = content[position + 12 : position + 12 + length]
        assert len(data) == length
        (check,) = struct.unpack_from("<I", content, position + 12 + length)
        assert unmasked(check) == crc32c(data)
        position += 16 + length
        found.append(data)
    return found


@pytest.fixture(scope="module")
def example_class() -> Any:
    """tf.train.Example, declared here as its .proto declares it."""
    pytest.importorskip("google.protobuf")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")

    def message(parent: Any, name: str, *fields: tuple[str, int, int, int, str]) -> Any:
        added = parent.add(name=name)
        for label, number, kind, many, type_name in fields:
            added.field.add(
                name=label, number=number, type=kind, label=many, type_name=type_name or None
            )
        return added

    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    top = file.message_type
    message(top, "BytesList", ("value", 1, field.TYPE_BYTES, many, ""))
    message(top, "FloatList", ("value", 1, field.TYPE_FLOAT, many, ""))
    message(top, "Int64List", ("value", 1, field.TYPE_INT64, many, ""))
    feature = message(
        top,
        "Feature",
        ("bytes_list", 1, field.TYPE_MESSAGE, one, ".t.BytesList"),
        ("float_list", 2, field.TYPE_MESSAGE, one, ".t.FloatList"),
        ("int64_list", 3, field.TYPE_MESSAGE, one, ".t.Int64List"),
    )
    feature.oneof_decl.add(name="kind")
    for entry in feature.field:
        entry.oneof_index = 0
    features = message(
        top, "Features", ("feature", 1, field.TYPE_MESSAGE, many, ".t.Features.FeatureEntry")
    )
    entry = message(
        features.nested_type,
        "FeatureEntry",
        ("key", 1, field.TYPE_STRING, one, ""),
        ("value", 2, field.TYPE_MESSAGE, one, ".t.Feature"),
    )
    entry.options.map_entry = True
    message(top, "Example", ("features", 1, field.TYPE_MESSAGE, one, ".t.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


def test_the_checksum_of_a_known_string_is_that_of_the_standard() -> None:
    framed = frame_tfrecord(b"123456789")
    assert unmasked(struct.unpack("<I", framed[-4:])[0]) == 0xE3069283


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**31, 2**63 - 1])
def test_protobuf_reads_the_integers_and_bytes_that_were_written(
    example_class: Any, number: int
) -> None:
    values: dict[str, bytes | int] = {"n": number, "ünï": b"\0\xff" * 200, "empty": b""}
    parsed = example_class.FromString(encode_example(values)).features.feature
    assert set(parsed) == set(values)
    assert list(parsed["n"].int64_list.value) == [number]
    assert list(parsed["ünï"].bytes_list.value) == [values["ünï"]]
    assert list(parsed["empty"].bytes_list.value) == [b""]


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory, write_class_folders: ClassFolders) -> Path:
    root = tmp_path_factory.mktemp("tfrecord")
    images = take_inventory(write_class_folders(root / "images", size=(24, 32)))
    plan = ChannelPlan(format="tfrecord", transcoding=Transcoding(resize=20))
    write_channels(images, root / "out", plan, lambda *_: None)
    return root / "out"


def test_a_channel_of_tfrecords_has_the_keys_of_the_field(
    channels: Path, example_class: Any
) -> None:
    entries = read_list(channels / "train" / "train.lst")
    found = records(channels / "train" / "train.tfrecord")
    assert len(found) == len(entries) == 30
    for data, entry in zip(found, entries, strict=True):
        feature = example_class.FromString(data).features.feature
        label = int(entry.labels[0])
        image = decode(feature["image/encoded"].bytes_list.value[0])
        assert image.shape == (20, 26, 3)
        assert feature["image/format"].bytes_list.value[0] == b"jpeg"
        assert feature["image/class/label"].int64_list.value[0] == label
        name = feature["image/class/text"].bytes_list.value[0].decode()
        assert name == ("blue", "green", "red")[label]
        assert feature["image/height"].int64_list.value[0] == 20
        assert feature["image/width"].int64_list.value[0] == 26
        assert feature["image/filename"].bytes_list.value[0].decode() == entry.path


def test_tensorflow_itself_reads_the_channel(channels: Path) -> None:
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    spec = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
    }
    data = tf.data.TFRecordDataset(str(channels / "train" / "train.tfrecord"))
    labels = []
    for record in data:
        example = tf.io.parse_single_example(record, spec)
        assert tuple(tf.io.decode_jpeg(example["image/encoded"]).shape) == (20, 26, 3)
        labels.append(int(example["image/class/label"]))
    assert np.bincount(labels).tolist() == [10, 10, 10]
