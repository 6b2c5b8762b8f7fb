"""The files that MXNet 1.9.1 and its im2rec wrote: read alike, and written byte for byte."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from image_classification.images.decode import decode
from image_classification.labels.lists import divide_list, read_list, shuffled, write_list
from image_classification.labels.tree import walk
from image_classification.loading.records import RecordSource
from image_classification.prepare.encode import Transcoding
from image_classification.prepare.pack import PackOptions, pack
from image_classification.records.reader import RecordFile
from image_classification.records.writer import RecordWriter

pytestmark = pytest.mark.shared

JPEG_TOLERANCE = (
    2.0  # gray levels, mean over pixels; two encoders and antialiasing: 0.8 to 1.4 seen
)


@pytest.fixture(scope="session")
def vectors(shared: Path) -> Path:
    folder = shared / "vectors" / "recordio"
    if not folder.is_dir():
        pytest.skip(f"the record vectors are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def expected(vectors: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((vectors / "expected.json").read_text("utf-8"))
    return content


LISTS: list[tuple[str, bool, dict[str, Any]]] = [
    ("noshuffle", False, {}),
    ("shuffled", True, {}),
    ("ratio80", True, {"train_ratio": 0.8}),
    (
        "ratio70_30",
        True,
        {"train_ratio": 0.7, "test_ratio": 0.3, "exact_im2rec_ratios": True},
    ),
    ("ratio50_25", True, {"train_ratio": 0.5, "test_ratio": 0.25}),
    ("chunks3", False, {"chunks": 3}),
]


@pytest.mark.parametrize(("name", "is_shuffled", "division"), LISTS)
def test_lists_are_byte_for_byte_those_of_im2rec(
    vectors: Path, tmp_path: Path, name: str, is_shuffled: bool, division: dict[str, Any]
) -> None:
    entries = walk(vectors / "images").entries
    lists = divide_list(shuffled(entries) if is_shuffled else entries, **division)
    for suffix, part in lists.items():
        write_list(tmp_path / f"{name}{suffix}.lst", part)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert written == {
        path.name: path.read_bytes() for path in (vectors / "lists").glob(f"{name}*.lst")
    }


def test_a_flat_list_is_byte_for_byte_that_of_im2rec(vectors: Path, tmp_path: Path) -> None:
    write_list(tmp_path / "flat.lst", walk(vectors / "images" / "cat", recursive=False).entries)
    flat = (vectors / "lists" / "flat_cat.lst").read_bytes()
    assert (tmp_path / "flat.lst").read_bytes() == flat


def test_the_class_table_is_that_of_im2rec(vectors: Path) -> None:
    names = walk(vectors / "images").labels.names
    table = "".join(f"{name} {number}\n" for number, name in enumerate(names))
    assert table == (vectors / "lists" / "stdout.txt").read_text("utf-8")


@pytest.mark.parametrize("folder", ["passthrough", "winlist"])
@pytest.mark.parametrize("workers", [1, 3])
def test_pass_through_packs_are_byte_for_byte_those_of_im2rec(
    vectors: Path, tmp_path: Path, folder: str, workers: int
) -> None:
    output = tmp_path / "data.rec"
    report = pack(vectors / folder / "data.lst", vectors / "images", output, workers=workers)
    assert report.packed == 8
    for suffix in (".rec", ".idx"):
        theirs = (vectors / "passthrough" / "data.rec").with_suffix(suffix).read_bytes()
        assert output.with_suffix(suffix).read_bytes() == theirs


def test_raw_records_under_any_keys_are_written_byte_for_byte(
    vectors: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    with RecordWriter(tmp_path / "data.rec") as writer:
        for record in expected["rawkeys"]["records"]:
            offset = writer.write(bytes.fromhex(record["payload_hex"]), record["key"])
            assert offset == record["offset"]
    for name in ("data.rec", "data.idx"):
        assert (tmp_path / name).read_bytes() == (vectors / "rawkeys" / name).read_bytes()


def test_raw_records_are_read_with_their_keys(vectors: Path, expected: dict[str, Any]) -> None:
    with RecordFile(vectors / "rawkeys" / "data.rec") as file:
        assert file.keys is not None
        read = [
            (int(key), file.read(number).hex(), int(file.offsets[number]))
            for number, key in enumerate(file.keys)
        ]
    records = expected["rawkeys"]["records"]
    assert read == [(r["key"], r["payload_hex"], r["offset"]) for r in records]


@pytest.mark.parametrize("name", ["passthrough", "resized", "partition"])
@pytest.mark.parametrize("has_index", [True, False])
def test_image_records_are_read_as_mxnet_reads_them(
    vectors: Path, expected: dict[str, Any], tmp_path: Path, name: str, has_index: bool
) -> None:
    path = tmp_path / "data.rec"
    path.write_bytes((vectors / name / "data.rec").read_bytes())
    if has_index:
        path.with_suffix(".idx").write_bytes((vectors / name / "data.idx").read_bytes())
    records = expected[name]["records"]
    with RecordFile(path) as file:
        assert (file.keys is not None) == has_index
        assert file.record_labels().tolist() == [r["label"] for r in records]
        assert file.record_headers["id"].tolist() == [r["id"] for r in records]
        assert file.record_headers["id2"].tolist() == [r["id2"] for r in records]
        assert file.record_headers["flag"].tolist() == [r["flag"] for r in records]
        assert file.record_sizes().tolist() == [r["record_bytes"] for r in records]
        hashes = [
            hashlib.sha256(file.read_image(number).content).hexdigest()
            for number in range(len(file))
        ]
    assert hashes == [r["payload_sha256"] for r in records]


def test_a_record_source_has_the_labels_and_ids_of_the_records(vectors: Path) -> None:
    source = RecordSource([vectors / "partition" / "data.rec"])
    try:
        assert source.class_indices.tolist() == list(range(10))
        assert [source.key(i) for i in (0, 9)] == ["data.rec#100", "data.rec#109"]
    finally:
        source.close()


def test_transcoded_packs_agree_with_im2rec_up_to_the_jpeg_encoder(
    vectors: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    output = tmp_path / "data.rec"
    pack(
        vectors / "resized" / "data.lst",
        vectors / "images",
        output,
        options=PackOptions(Transcoding(resize=32, center_crop=True, quality=95)),
    )
    with RecordFile(output) as ours, RecordFile(vectors / "resized" / "data.rec") as theirs:
        assert ours.keys is not None
        assert ours.keys.tolist() == [r["key"] for r in expected["resized"]["records"]]
        assert np.array_equal(ours.record_headers, theirs.record_headers)
        for number, record in enumerate(expected["resized"]["records"]):
            one, other = (decode(file.read_image(number).content) for file in (ours, theirs))
            assert list(one.shape) == record["decoded_hwc"]
            difference = np.abs(one.astype(int) - other.astype(int)).mean()
            assert difference < JPEG_TOLERANCE, record["key"]
            means = one.mean(axis=(0, 1))[::-1]
            assert np.allclose(means, record["decoded_mean_bgr"], atol=1.0)


def test_windows_paths_are_reported_once(
    vectors: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pack(vectors / "winlist" / "data.lst", vectors / "images", tmp_path / "data.rec")
    found = [message for message in caplog.messages if "backslash" in message]
    assert found == ["bird\\b0.jpg: backslashes in the list's paths are read as /"]


def test_the_vectors_lists_read_back_as_they_were_written(vectors: Path, tmp_path: Path) -> None:
    for path in sorted((vectors / "lists").glob("*.lst")):
        write_list(tmp_path / path.name, read_list(path))
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
