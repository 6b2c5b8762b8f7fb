"""Images in TFRecord files and tar shards are read like those of records and folders."""

from __future__ import annotations

import errno
import gzip
import io
import json
import struct
import sys
import tarfile
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from image_classification.cli import main
from image_classification.contract.channels import ChannelInput
from image_classification.contract.interface import INTERFACES
from image_classification.errors import ChannelError, DataError, LabelError, RecordError, UsageError
from image_classification.evaluate import open_labeled
from image_classification.images.encode import encode_jpeg
from image_classification.images.preprocessing import Preprocessing
from image_classification.inventory.folders import take_inventory
from image_classification.labels.label_map import LabelMap
from image_classification.loading.bad_samples import BadSamples
from image_classification.loading.foreign_files import describe_contents
from image_classification.loading.loader import Loader
from image_classification.loading.packed import PackedSource, find_packed
from image_classification.prepare.channels import ChannelPlan, write_channels
from image_classification.prepare.check.subsets import find_subsets
from image_classification.records.format import RecordHeader, pack_image_record
from image_classification.records.packed import is_packed
from image_classification.records.tfrecord import (
    encode_example,
    encode_field,
    encode_varint,
    frame_tfrecord,
)
from image_classification.records.writer import RecordWriter
from image_classification.training.inputs import Inputs, open_inputs
from image_classification.training.settings import settings_of
from image_classification.training.sources import Expected, open_channel

pytest.importorskip("google_crc32c", reason="pip install google-crc32c")

JPEGS = [
    encode_jpeg(np.random.default_rng(n).integers(0, 256, (30, 30 + n, 3)).astype(np.uint8))
    for n in range(12)
]
Features = Mapping[str, "bytes | int"]


def tfrecord(path: Path, *examples: Features | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [e if isinstance(e, bytes) else encode_example(e) for e in examples]
    path.write_bytes(b"".join(map(frame_tfrecord, records)))
    return path


def shard(path: Path, *members: tuple[str, bytes], format: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def numbered(first: int, count: int) -> list[Features]:
    return [
        {"image/encoded": JPEGS[n], "image/class/label": n % 3} for n in range(first, first + count)
    ]


def samples_of(*labels: str, ending: str = "cls") -> list[tuple[str, bytes]]:
    """A sample for each label: an image and its label."""
    return [
        member
        for n, label in enumerate(labels)
        for member in ((f"{n:04d}.jpg", JPEGS[n]), (f"{n:04d}.{ending}", label.encode()))
    ]


def open_job(root: Path, *names: str, **hyperparameters: object) -> Inputs:
    text = {name: str(value) for name, value in hyperparameters.items()}
    settings = settings_of(INTERFACES["mxnet"].parse(text))
    channels = {name: ChannelInput(name, root / name) for name in names}
    return open_inputs(channels, settings, "train")


def test_files_are_one_source_in_name_order_with_the_bytes_that_were_written(
    tmp_path: Path,
) -> None:
    tfrecord(tmp_path / "b.tfrecord", *numbered(5, 3))
    tfrecord(tmp_path / "a.tfrecord", *numbered(0, 5))
    source = PackedSource(find_packed(tmp_path))
    assert len(source) == 8 and source.labels is None
    assert source.class_indices.tolist() == [n % 3 for n in range(8)]
    assert source.class_indices.dtype == np.int64
    assert source.key(0) == "a.tfrecord#0" and source.key(7) == "b.tfrecord#2"
    assert [source.read(n).data for n in range(8)] == JPEGS[:8]
    with pytest.raises(IndexError):
        source.read(8)
    source.close()


@pytest.mark.parametrize(
    "features",
    [
        {"image/encoded": JPEGS[0], "image/class/label": 2},
        {"image": JPEGS[0], "label": 2},
        {"image_raw": JPEGS[0], "target": 2, "height": 30},
        {"image": JPEGS[0], "class": 2, "id": b"7", "one_hot_class": 1},  # Kaggle's flowers
        {"image/encoded": JPEGS[0], "image/class/label": 2, "image/class/text": b""},
        {"image": JPEGS[0], "label": b"2"},
    ],
)
def test_the_spellings_of_tensorflows_tools_are_known(tmp_path: Path, features: Features) -> None:
    source = PackedSource([tfrecord(tmp_path / "a.tfrecord", features)])
    assert source.class_indices.tolist() == [2] and source.read(0).data == JPEGS[0]


def feature(key: str, kind: int, content: bytes) -> bytes:
    entry = encode_field(1, key.encode()) + encode_field(2, encode_field(kind, content))
    return encode_field(1, entry)


def test_floats_one_hot_vectors_and_unpacked_numbers_are_labels_too(tmp_path: Path) -> None:
    image = feature("image", 1, encode_field(1, JPEGS[0]))
    labels = [
        feature("label", 2, encode_field(1, struct.pack("<f", 2.0))),
        feature("label", 2, struct.pack("<Bf", 1 << 3 | 5, 2.0)),
        feature("label", 3, encode_field(1, b"\0\0\1\0")),
        feature("label", 3, b"\x08\x02"),
    ]
    examples = [encode_field(1, image + label) for label in labels]
    source = PackedSource([tfrecord(tmp_path / "a.tfrecord", *examples)])
    assert source.class_indices.tolist() == [2, 2, 2, 2]


def test_class_names_in_a_file_are_the_label_map(tmp_path: Path) -> None:
    texts = [b"daisy", b"rose"]
    examples = [
        {"image/encoded": JPEGS[n], "image/class/label": n % 2, "image/class/text": texts[n % 2]}
        for n in range(4)
    ]
    path = tfrecord(tmp_path / "a.tfrecord", *examples)
    assert PackedSource([path]).labels == LabelMap(("daisy", "rose"))
    with pytest.raises(DataError, match="class 0 is called 'daisy', but 0 is 'rose'"):
        PackedSource([path], LabelMap(("rose", "daisy")))
    other = {"image/encoded": JPEGS[0], "image/class/label": 0, "image/class/text": b"tulip"}
    with pytest.raises(LabelError, match="class 0 is called"):
        PackedSource([path, tfrecord(tmp_path / "b.tfrecord", other)])


def test_names_without_numbers_are_sorted_as_class_folders_are(tmp_path: Path) -> None:
    examples = [{"image": JPEGS[n], "label": name} for n, name in enumerate((b"rose", b"daisy"))]
    path = tfrecord(tmp_path / "a.tfrecord", *examples)
    source = PackedSource([path])
    assert source.labels == LabelMap(("daisy", "rose"))
    assert source.class_indices.tolist() == [1, 0]
    assert PackedSource([path], LabelMap(("rose", "x", "daisy"))).class_indices.tolist() == [0, 2]
    with pytest.raises(DataError, match="class 'rose' is not in the label map"):
        PackedSource([path], LabelMap(("daisy", "tulip")))


def test_a_damaged_tfrecord_file_is_named_with_record_and_byte(tmp_path: Path) -> None:
    path = tfrecord(tmp_path / "a.tfrecord", *numbered(0, 3))
    whole = path.read_bytes()
    second = len(frame_tfrecord(encode_example(numbered(0, 1)[0])))
    cases = {
        f"record 1 at byte {second} has a wrong checksum": whole[:second]
        + b"\xff"
        + whole[second + 1 :],
        "truncated in record 2": whole[:-5],
        "not a TFRecord file, or a damaged one: record 0": b"something else, longer than a head",
        r"compressed with gzip; decompress it.*gunzip": gzip.compress(whole),
        "is not a tf.train.Example": frame_tfrecord(b"\xff" * 20),
        r"expected a feature with the encoded image .* found x$": frame_tfrecord(
            encode_example({"x": 1})
        ),
        r"expected a feature with the class .* found id, image$": frame_tfrecord(
            encode_example({"image": JPEGS[0], "id": 1})
        ),
        "describes objects in the image": frame_tfrecord(
            encode_example({"image/encoded": JPEGS[0], "image/object/class/label": 1})
        ),
        "a class number from 0, got -1": frame_tfrecord(
            encode_field(
                1,
                feature("image", 1, encode_field(1, JPEGS[0]))
                + feature("label", 3, b"\x08" + b"\xff" * 9 + b"\x01"),
            )
        ),
        "got 3 labels": frame_tfrecord(
            encode_field(
                1,
                feature("image", 1, encode_field(1, JPEGS[0]))
                + feature("label", 3, encode_field(1, b"\1\1\0")),
            )
        ),
    }
    for message, content in cases.items():
        path.write_bytes(content)
        with pytest.raises((RecordError, LabelError), match=message):
            PackedSource([path])


def test_a_record_with_a_wrong_checksum_is_a_bad_sample_and_never_a_wrong_image(
    tmp_path: Path,
) -> None:
    path = tfrecord(tmp_path / "a.tfrecord", *numbered(0, 3))
    content = bytearray(path.read_bytes())
    content[content.index(JPEGS[1]) + len(JPEGS[1]) // 2] ^= 1
    path.write_bytes(content)
    source = PackedSource([path])
    with pytest.raises(RecordError, match=r"record 1 at byte .* has a wrong checksum"):
        source.read(1)
    bad = BadSamples(1)
    with Loader(source, Preprocessing(24, 24), 3, bad_samples=bad) as loader:
        (batch,) = loader.epoch(0)
    assert batch.keys == ("a.tfrecord#0", "a.tfrecord#2") and list(bad.reasons) == ["a.tfrecord#1"]


@pytest.mark.parametrize(
    ("ending", "labels", "classes", "names"),
    [
        ("cls", ("0", "2", "1"), [0, 2, 1], None),
        ("cls", ("rose", "daisy", "rose"), [1, 0, 1], ("daisy", "rose")),
        ("txt", ("rose\n", "daisy\n", "rose"), [1, 0, 1], ("daisy", "rose")),
        ("json", ('{"label": 1}', '{"label": 0}', '{"label": 1}'), [1, 0, 1], None),
        ("json", ("1", "0", "1"), [1, 0, 1], None),
        ("json", ('{"label": "b"}', '{"cls": "a"}', '"b"'), [1, 0, 1], ("a", "b")),
        (
            "json",
            tuple(json.dumps({"label": n, "class_name": "ab"[n]}) for n in (1, 0, 1)),
            [1, 0, 1],
            ("a", "b"),
        ),
    ],
)
def test_the_labels_of_a_tar_shard_are_read_from_its_members(
    tmp_path: Path,
    ending: str,
    labels: tuple[str, ...],
    classes: list[int],
    names: tuple[str, ...] | None,
) -> None:
    path = shard(tmp_path / "train-000.tar", *samples_of(*labels, ending=ending))
    source = PackedSource(find_packed(tmp_path))
    assert source.class_indices.tolist() == classes
    assert source.labels == (None if names is None else LabelMap(names))
    assert source.key(1) == f"{path.name}/0001.jpg"
    assert [source.read(n).data for n in range(3)] == JPEGS[:3]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_of_members_are_read_in_every_form_of_tar(
    tmp_path: Path, format: int
) -> None:
    folder = "f" * 60 + "/" + "g" * 90
    name = "ü" if format != tarfile.USTAR_FORMAT else "u"
    members = [(f"{folder}/{name}.jpg", JPEGS[0]), (f"{folder}/{name}.cls", b"1")]
    path = shard(tmp_path / "a.tar", ("__meta__.json", b"x"), *members, format=format)
    source = PackedSource([path])
    assert source.key(0) == f"a.tar/{folder}/{name}.jpg" and source.read(0).data == JPEGS[0]


def test_folders_masks_and_captions_next_to_a_class_do_not_matter(tmp_path: Path) -> None:
    members = [*samples_of("0", "1"), ("0001.txt", b"a red rose"), ("0001.seg.npy", b"x")]
    path = shard(tmp_path / "a.tar", *members)
    with tarfile.open(path, "a") as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    assert PackedSource([path]).class_indices.tolist() == [0, 1]


def test_samples_that_lack_an_image_or_a_label_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    members = [*samples_of("0", "1"), ("8.cls", b"1"), ("9.jpg", JPEGS[0]), ("9.npy", b"")]
    assert len(PackedSource([shard(tmp_path / "a.tar", *members)])) == 2
    assert "1 sample without an image, 1 image without a label" in caplog.text


def test_a_shard_that_cannot_be_classified_is_refused_with_the_reason(tmp_path: Path) -> None:
    cases: dict[str, list[tuple[str, bytes]]] = {
        "is a pickle, which is not read": [("a.jpg", JPEGS[0]), ("a.pyd", b"\x80\x04")],
        "has 2 images": [("a.jpg", JPEGS[0]), ("a.png", JPEGS[0]), ("a.cls", b"0")],
        "occurs twice": [("a.jpg", JPEGS[0]), ("a.jpg", JPEGS[0]), ("a.cls", b"0")],
        "one class, got 2 labels \\[1, 2\\]": [
            ("a.jpg", b""),
            ("a.json", b'{"label": [1, 2]}'),
        ],
        "expected JSON": [("a.jpg", b""), ("a.json", b"{")],
        "is not text in UTF-8": [("a.jpg", b""), ("a.cls", b"\xff\xfe")],
        "a number, but other images|only names": [*samples_of("1", "rose")],
        "has several lines": [*samples_of("a\nb")],
    }
    for message, members in cases.items():
        path = shard(tmp_path / "a.tar", *members)
        with pytest.raises((RecordError, LabelError), match=message):
            PackedSource([path])
    path = shard(tmp_path / "a.tar", *samples_of("0", "1"))
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    with pytest.raises(RecordError, match="truncated: the file at byte"):
        PackedSource([path])
    path.write_bytes(b"x" + whole[1:])
    with pytest.raises(RecordError, match="not a tar, or damaged: expected the header"):
        PackedSource([path])


def test_a_huge_class_number_is_refused_with_the_file_and_without_the_memory_for_its_names(
    tmp_path: Path,
) -> None:
    path = tfrecord(
        tmp_path / "a.tfrecord",
        {"image": JPEGS[0], "label": 0, "label_name": b"cat"},
        {"image": JPEGS[1], "label": 2_000_000_000},
    )
    tracemalloc.start()
    with pytest.raises(
        DataError, match=rf"^{path}: expected class numbers below 1000000, got 2000"
    ):
        take_inventory(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


def test_check_reports_class_numbers_with_gaps_up_to_those_that_no_training_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for highest, severity in ((3, "WARNING"), (2_000_000_000, "ERROR")):
        path = tfrecord(
            tmp_path / f"{highest}.tfrecord",
            {"image": JPEGS[0], "label": 0},
            {"image": JPEGS[1], "label": highest},
        )
        assert main(["check", str(path)]) == int(severity == "ERROR")
        found = capsys.readouterr().out
        assert f"{severity} label-numbers: {path}: the labels are 0, {highest}, " in found


def test_names_of_some_class_numbers_are_used_and_the_others_are_called_by_their_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = {0: b"cat", 2: b"dog"}
    examples = [
        {"image": JPEGS[n], "label": n % 4, "label_name": texts.get(n % 4, b"")} for n in range(8)
    ]
    for channel in ("train", "validation"):
        tfrecord(tmp_path / channel / "a.tfrecord", *examples)
    assert open_job(tmp_path, "train", "validation").labels.names == ("cat", "1", "dog", "3")
    assert "the files name 2 of 4 classes; the others are called by their numbers: 1, 3" in (
        caplog.text
    )
    wider = open_job(tmp_path, "train", "validation", num_classes=6)
    assert wider.labels.names == ("cat", "1", "dog", "3", "4", "5")
    texts[1] = b"cow"  # a name that only the validation channel has
    tfrecord(
        tmp_path / "validation" / "a.tfrecord",
        *({**example, "label_name": texts.get(n % 4, b"")} for n, example in enumerate(examples)),
    )
    assert open_job(tmp_path, "train", "validation").labels.names == ("cat", "1", "dog", "3")
    names = take_inventory(tmp_path / "train").labels.names
    assert names == ("cat", "1", "dog", "3")


@pytest.mark.parametrize(("first", "last"), [("cat", "cat"), ("1", "dog")])
def test_names_that_two_classes_would_share_are_not_used_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, first: str, last: str
) -> None:
    path = tfrecord(
        tmp_path / "a.tfrecord",
        {"image": JPEGS[0], "label": 0, "label_name": first.encode()},
        {"image": JPEGS[1], "label": 1},
        {"image": JPEGS[2], "label": 2, "label_name": last.encode()},
    )
    assert PackedSource([path]).labels is None
    assert f"two classes are called {first}: the names in the files are not used" in caplog.text


def test_a_shard_of_a_channel_does_not_name_classes_that_other_hosts_name_differently(
    tmp_path: Path,
) -> None:
    examples = [{"image": JPEGS[0], "label": 0, "label_name": b"cat"}, *numbered(1, 2)]
    tfrecord(tmp_path / "a.tfrecord", *examples)
    channel = ChannelInput("train", tmp_path)
    for is_shard, names in ((False, ("cat", "1", "2")), (True, ("0", "1", "2"))):
        expected = Expected(3, None, is_shard=is_shard)
        assert open_channel(channel, None, expected)[1].names == names


def test_captions_are_not_taken_for_classes(tmp_path: Path) -> None:
    members = [
        member
        for n in range(30)
        for member in ((f"{n}.jpg", JPEGS[0]), (f"{n}.txt", f"a photo of rose {n}".encode()))
    ]
    with pytest.raises(LabelError, match=r"30 different texts for 30 images .* as captions are"):
        PackedSource([shard(tmp_path / "a.tar", *members)])


def test_an_archive_of_class_folders_is_not_a_shard(tmp_path: Path) -> None:
    path = shard(tmp_path / "flowers.tar", ("rose/1.jpg", JPEGS[0]), ("daisy/1.jpg", JPEGS[1]))
    assert not is_packed(path) and find_packed(tmp_path) == []
    assert "a tar archive" in describe_contents(tmp_path)


def test_a_tar_next_to_shards_that_cannot_be_one_is_refused_and_other_files_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = shard(tmp_path / "0.tar", *samples_of("0", "1"))
    (tmp_path / "dataset.json").write_text("{}")
    assert find_packed(tmp_path) == [good] and not caplog.text
    (tmp_path / "1.tar.gz").write_bytes(gzip.compress(good.read_bytes()))
    shard(tmp_path / "more" / "2.tfrecord")
    assert find_packed(tmp_path) == [good]
    assert "left out 2 other files, such as" in caplog.text and "1.tar.gz" in caplog.text
    bad = shard(tmp_path / "3.tar", ("a.jpg", JPEGS[0]))
    for content in (bad.read_bytes(), b"x" + good.read_bytes()[1:]):
        bad.write_bytes(content)
        with pytest.raises(RecordError, match=rf"^{bad}: expected images with labels, as in 0.tar"):
            find_packed(tmp_path)


def test_class_folders_win_over_the_files_next_to_them(tmp_path: Path) -> None:
    shard(tmp_path / "a.tar", *samples_of("0", "1"))
    (tmp_path / "rose").mkdir()
    (tmp_path / "rose" / "1.jpg").write_bytes(JPEGS[0])
    assert find_packed(tmp_path) == []


@pytest.mark.parametrize("kind", ["tfrecord", "tar"])
@pytest.mark.parametrize("world_size", [1, 3])
def test_every_image_is_read_exactly_once_an_epoch_over_all_ranks_and_after_a_resume(
    tmp_path: Path, kind: str, world_size: int
) -> None:
    for number in range(3):
        if kind == "tar":
            shard(tmp_path / f"{number}.tar", *samples_of(*"0120"[: number + 2]))
        else:
            tfrecord(tmp_path / f"{number}.tfrecord", *numbered(number, number + 2))
    source = PackedSource(find_packed(tmp_path))
    total = 2 + 3 + 4
    assert len(source) == total
    orders = []
    for threads in (1, 2):
        seen: list[tuple[str, ...]] = []
        for rank in range(world_size):
            with Loader(
                source, Preprocessing(24, 24), 2, shuffle=True, seed=3, threads=threads,
                rank=rank, world_size=world_size,
            ) as loader:  # fmt: skip
                whole = [batch.keys for batch in loader.epoch(1)]
                assert [batch.keys for batch in loader.epoch(1, 1)] == whole[1:]
                seen += whole
        orders.append(seen)
        keys = [key for batch in seen for key in batch]
        assert len(keys) == total and len(set(keys)) == total
    assert orders[0] == orders[1]


def test_a_job_reads_its_channels_from_tfrecords_and_shards(tmp_path: Path) -> None:
    names = ("rose", "daisy", "rose", "tulip", "daisy")
    shard(tmp_path / "train" / "a.tar", *samples_of(*names))
    shard(tmp_path / "validation" / "a.tar", *samples_of("tulip", "rose"))
    inputs = open_job(tmp_path, "train", "validation")
    assert inputs.labels.names == ("daisy", "rose", "tulip")
    assert inputs.training.class_indices.tolist() == [1, 0, 1, 2, 0]
    assert inputs.validation.class_indices.tolist() == [2, 1]
    with pytest.raises(DataError, match="has 3 classes, but num_classes is 4"):
        open_job(tmp_path, "train", "validation", num_classes=4)
    with pytest.raises(DataError, match="one class, but multi_label=1; leave out multi_label"):
        open_job(tmp_path, "train", "validation", num_classes=3, multi_label=1)
    shard(tmp_path / "validation" / "a.tar", *samples_of("lily"))
    with pytest.raises(DataError, match="class 'lily' is not in the label map"):
        open_job(tmp_path, "train", "validation")


def test_a_job_trains_on_tfrecords_and_names_bad_images_by_their_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx")
    examples = [*numbered(0, 11), {"image/encoded": JPEGS[11][:100], "image/class/label": 1}]
    tfrecord(tmp_path / "train" / "a.tfrecord", *examples)
    shard(tmp_path / "validation" / "a.tar", *samples_of("0", "1", "2"))
    settings = {"backend": "reference", "num_layers": 20, "image_shape": "3,28,28", "epochs": 1}
    settings |= {"mini_batch_size": 4, "max_bad_samples": 1}
    given = [f"--set={name}={value}" for name, value in settings.items()]
    channels = [f"--channel={name}={tmp_path / name}" for name in ("train", "validation")]
    output = tmp_path / "model"
    assert main(["train", *channels, *given, "--output", str(output)]) == 0
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["classes"] == 3
    assert "skipped train/a.tfrecord#11" in "".join(capsys.readouterr())


def test_numbers_without_names_are_named_by_labels_json_or_by_themselves(tmp_path: Path) -> None:
    for channel in ("train", "validation"):
        tfrecord(tmp_path / channel / "part-00000-of-00001", *numbered(0, 6))
    assert open_job(tmp_path, "train", "validation").labels == LabelMap.numbered(3)
    assert open_job(tmp_path, "train", "validation", num_classes=5).labels == LabelMap.numbered(5)
    LabelMap(("a", "b", "c")).write(tmp_path / "train" / "labels.json")
    assert open_job(tmp_path, "train", "validation").labels.names == ("a", "b", "c")


def test_evaluate_opens_the_files_with_the_classes_of_the_model(tmp_path: Path) -> None:
    path = tfrecord(tmp_path / "a.tfrecord", *numbered(0, 6))
    labels = LabelMap(("a", "b", "c"))
    for given in (path, tmp_path):
        assert open_labeled(given, labels).class_indices.tolist() == [0, 1, 2, 0, 1, 2]
    with pytest.raises(DataError, match="found class 2, but the model has 2 classes"):
        open_labeled(path, LabelMap(("a", "b")))


def test_check_counts_the_images_of_packed_files(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", *samples_of("rose", "daisy", "rose"))
    for given in (path, tmp_path):
        (subset,) = find_subsets(given)
        assert subset.labels.tolist() == [1, 0, 1] and subset.class_of(0) == "rose"
        assert subset.read(2) == JPEGS[2] and subset.keys[0] == "a.tar/0000.jpg"
    assert main(["check", str(tmp_path), "--json"]) in (0, 1)


@pytest.mark.parametrize("kind", ["tar", "tfrecord"])
def test_preprocess_writes_channels_from_packed_files_with_the_same_images(
    tmp_path: Path, kind: str
) -> None:
    names = ["rose", "daisy"] * 6
    if kind == "tar":
        shard(tmp_path / "in" / "a.tar", *samples_of(*names))
    else:
        examples = [{"image": JPEGS[n], "label": name.encode()} for n, name in enumerate(names)]
        tfrecord(tmp_path / "in" / "a.tfrecord", *examples)
    inventory = take_inventory(tmp_path / "in")
    assert inventory.labels.names == ("daisy", "rose") and len(inventory.entries) == 12
    write_channels(inventory, tmp_path / "out", ChannelPlan(format="tfrecord"), lambda *_: None)
    sources = [PackedSource(find_packed(tmp_path / "out" / n)) for n in ("train", "validation")]
    found = [source.read(n) for source in sources for n in range(len(source))]
    assert sorted(sample.data for sample in found) == sorted(JPEGS)
    for sample in found:
        assert sample.class_index == 1 - JPEGS.index(sample.data) % 2


def test_split_folders_of_packed_files_keep_their_splits(tmp_path: Path) -> None:
    tfrecord(tmp_path / "train" / "a.tfrecord", *numbered(0, 4))
    tfrecord(tmp_path / "val" / "a.tfrecord", *numbered(4, 3))
    inventory = take_inventory(tmp_path)
    assert list(inventory.splits) == ["train"] * 4 + ["validation"] * 3
    assert [subset.labels.tolist() for subset in find_subsets(tmp_path)] == [
        [0, 1, 2, 0],
        [1, 2, 0],
    ]
    (tmp_path / "val" / "a.tfrecord").rename(tmp_path / "val" / "a.tfrecord-00000-of-00001")
    (tmp_path / "train" / "a.tfrecord").rename(tmp_path / "train" / "a-00000-of-00001")
    channels = {"train": ChannelInput("train", tmp_path)}
    inputs = open_inputs(channels, settings_of(INTERFACES["mxnet"].parse({})), "train")
    assert (len(inputs.training), len(inputs.validation)) == (4, 3)
    (tmp_path / "val" / "a.tfrecord-00000-of-00001").unlink()
    (tmp_path / "val" / "rose").mkdir()
    (tmp_path / "val" / "rose" / "1.jpg").write_bytes(JPEGS[0])
    with pytest.raises(DataError, match=r"in every split, .* but val has none"):
        take_inventory(tmp_path)


@pytest.mark.parametrize("name", ["a.tfrecord", "a.tfrec", "a.tfr", "a.record", "a-00000-of-00001"])
def test_every_name_of_a_tfrecord_file_makes_a_split(tmp_path: Path, name: str) -> None:
    for split in ("train", "val"):
        tfrecord(tmp_path / split / name, *numbered(0, 2))
    assert take_inventory(tmp_path).splits == ["train"] * 2 + ["validation"] * 2


def test_a_class_number_beyond_all_memory_is_read_and_then_refused(tmp_path: Path) -> None:
    path = tfrecord(tmp_path / "a.tfrecord", {"image": JPEGS[0], "label": 2**31 - 1})
    tracemalloc.start()
    source = PackedSource([path])
    assert source.class_indices.tolist() == [2**31 - 1] and source.labels is None
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    with pytest.raises(DataError, match="class numbers below 1000000, got 2147483647"):
        take_inventory(tmp_path)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (1, encode_varint(1 << 3) + encode_varint(2**63)),  # a number in a list of texts
        (2, encode_varint(1 << 3) + encode_varint(9)),  # a number in a list of floats
        (3, encode_varint(1 << 3 | 5) + bytes(4)),  # a float in a list of numbers
    ],
)
def test_a_value_in_a_list_of_another_type_is_damage(
    tmp_path: Path, kind: int, values: bytes
) -> None:
    entries = []
    for key, feature in (
        ("image", encode_field(1, encode_field(1, JPEGS[0]))),
        ("label", encode_field(kind, values)),
    ):
        entries.append(encode_field(1, encode_field(1, key.encode()) + encode_field(2, feature)))
    path = tfrecord(tmp_path / "a.tfrecord", encode_field(1, b"".join(entries)))
    with pytest.raises(RecordError, match=rf"record 0 .* in a list of kind {kind}"):
        PackedSource([path])


def test_a_member_of_negative_size_is_damage_and_no_endless_loop(tmp_path: Path) -> None:
    header = bytearray(tarfile.TarInfo("__a").tobuf())
    header[124:136] = b"-0000001000\0"  # back to itself
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(1024))
    with pytest.raises(RecordError, match="expected the header of a file at byte 0"):
        PackedSource([tmp_path / "a.tar"])


def test_memory_holds_where_images_are_and_not_the_images(tmp_path: Path) -> None:
    big = [{"image": bytes(2**20) + bytes([n]), "label": n % 2} for n in range(8)]
    path = tfrecord(tmp_path / "a.tfrecord", *big)
    tracemalloc.start()
    source = PackedSource([path])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(source) == 8 and peak < 2**18


def test_files_whose_names_are_of_several_splits_are_never_mixed(tmp_path: Path) -> None:
    names = ("flowers-train.tfrecord-00000-of-00002", "flowers-train.tfrecord-00001-of-00002")
    for n, name in enumerate((*names, "flowers-validation.tfrecord-00000-of-00001")):
        tfrecord(tmp_path / "train" / name, *numbered(3 * n, 3))
    with pytest.raises(ChannelError, match=r"several splits by their names \(train, validation\)"):
        open_job(tmp_path, "train", validation_split_ratio=0.3)
    inventory = take_inventory(tmp_path / "train")
    assert list(inventory.splits) == ["train"] * 6 + ["validation"] * 3
    for name in names:
        (tmp_path / "train" / name).unlink()
    assert len(take_inventory(tmp_path / "train").splits) == 0


def test_record_files_of_several_splits_in_one_channel_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "train").mkdir()
    for name in ("flowers_train.rec", "flowers_val.rec"):
        with RecordWriter(tmp_path / "train" / name) as writer:
            for n in range(4):
                writer.write(pack_image_record(RecordHeader(n % 2, n), JPEGS[n]), n)
    open_job(tmp_path, "train", validation_split_ratio=0.3)
    assert "belong to several splits by their names (train, validation)" in caplog.text


@pytest.mark.parametrize(
    ("content", "cure"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "get the file again"),
    ],
)
def test_a_pointer_in_place_of_data_names_its_cure_in_every_command(
    tmp_path: Path, content: bytes, cure: str
) -> None:
    for name in ("a.rec", "a.tfrecord"):
        path = tmp_path / name.partition(".")[2] / name
        path.parent.mkdir()
        path.write_bytes(content)
        for read in (find_subsets, lambda path: open_labeled(path, LabelMap(("a", "b")))):
            with pytest.raises(RecordError, match=cure):
                read(path)
    path = tmp_path / "list" / "train.manifest"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"git lfs pull|JSON"):
        take_inventory(path.parent)
    (tmp_path / "z.rec").write_bytes(gzip.compress(b"records"))
    with pytest.raises(RecordError, match="compressed with gzip"):
        find_subsets(tmp_path / "z.rec")


def test_an_address_in_place_of_data_names_the_command_that_downloads_it() -> None:
    path = Path("s3://bucket/flowers")
    for read in (find_subsets, take_inventory, lambda path: open_labeled(path, LabelMap(("a",)))):
        with pytest.raises(DataError, match=r"aws s3 sync s3://bucket/flowers DIR"):
            read(path)


def test_inspect_names_the_command_that_reads_packed_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tfrecord(tmp_path / "a.tfrecord", *numbered(0, 1))
    assert main(["inspect", str(path)]) == 2
    assert f"image-classification check {path}" in capsys.readouterr().err


def test_joined_tars_are_refused_and_a_missing_end_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = shard(tmp_path / "a.tar", *samples_of("0", "1"))
    whole = path.read_bytes()
    path.write_bytes(whole + whole)
    with pytest.raises(RecordError, match="several tars were joined"):
        PackedSource([path])
    path.write_bytes(whole.rstrip(b"\0").ljust(-(-len(whole.rstrip(b"\0")) // 512) * 512, b"\0"))
    assert len(PackedSource([path])) == 2 and "is it truncated?" in caplog.text


def parquet(path: Path, labels: list[object], names: list[str] | None = None) -> Path:
    """A table as Hugging Face's datasets writes it."""
    arrow = pytest.importorskip("pyarrow", reason="pip install pyarrow")
    tables = pytest.importorskip("pyarrow.parquet", reason="pip install pyarrow")
    images = [{"bytes": JPEGS[n], "path": f"{n}.jpg"} for n in range(len(labels))]
    table = arrow.table({"image": images, "label": labels})
    if names:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    tables.write_table(table, path, row_group_size=3)
    return path


def test_preprocess_and_check_read_the_tables_of_hugging_face_with_their_splits(
    tmp_path: Path,
) -> None:
    root, names = tmp_path / "flowers", ["daisy", "rose"]
    parquet(root / "data" / "train-00000-of-00001.parquet", [1, 0] * 4, names)
    parquet(root / "data" / "validation-00000-of-00001.parquet", [0, 1, 1], names)
    (root / "README.md").write_text("# Flowers")
    inventory = take_inventory(root)
    assert inventory.labels.names == ("daisy", "rose")
    assert list(inventory.splits) == ["train"] * 8 + ["validation"] * 3
    write_channels(inventory, tmp_path / "out", ChannelPlan(format="tfrecord"), lambda *_: None)
    source = PackedSource(find_packed(tmp_path / "out" / "validation"))
    assert sorted(source.read(n).data for n in range(3)) == sorted(JPEGS[:3])
    (subset,) = find_subsets(root)
    assert subset.labels.tolist() == [1, 0] * 4 + [0, 1, 1] and subset.read(1) == JPEGS[1]
    channels = {"train": ChannelInput("train", root / "data")}
    with pytest.raises(DataError, match=r"preprocess --input .* --output channels"):
        open_inputs(channels, settings_of(INTERFACES["mxnet"].parse({})), "train")


def test_a_table_that_cannot_be_classified_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", ["rose", "daisy"])
    assert PackedSource([path]).labels == LabelMap(("daisy", "rose"))
    with pytest.raises(LabelError, match=r"row 1: expected one class .* got -1"):
        PackedSource([parquet(tmp_path / "a.parquet", [0, -1])])
    with pytest.raises(LabelError, match=r"got 2 labels \[0, 1\]"):
        PackedSource([parquet(tmp_path / "a.parquet", [[0, 1], [1]])])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RecordError, match="not a Parquet table, or a damaged one"):
        PackedSource([path])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("Couldn't deserialize thrift"), "damaged after row 0: Couldn't deserialize"),
        (OSError(errno.ENOSPC, "No space left on device"), "copying its images to .* No space"),
    ],
)
def test_a_damaged_table_is_not_taken_for_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, said: str
) -> None:
    class Table:
        def __init__(self, _: Path) -> None:
            self.schema_arrow = SimpleNamespace(names=["image", "label"], metadata=None)

        def iter_batches(self, **_: object) -> None:
            raise error

    monkeypatch.setitem(sys.modules, "pyarrow.parquet", SimpleNamespace(ParquetFile=Table))
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(RecordError, match=said):
        PackedSource([tmp_path / "a.parquet"])


def test_a_table_without_pyarrow_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    for read in (take_inventory, find_subsets):
        with pytest.raises(UsageError, match="pip install pyarrow"):
            read(tmp_path)
