"""Adding images to a record file: the old records stay, and a failure leaves the file as it was."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_classification.errors import DataError, RecordError
from image_classification.labels.label_map import LabelMap
from image_classification.labels.lists import ListEntry, write_list
from image_classification.prepare import append as record_append
from image_classification.prepare.append import append
from image_classification.prepare.pack import PackOptions, pack
from image_classification.records.reader import RecordFile

OPTIONS = PackOptions()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(9):
        content = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (8, 9 + number, 3), np.uint8)
        Image.fromarray(pixels).save(content, "JPEG")
        (folder / f"{number}.jpg").write_bytes(content.getvalue())
    write(tmp_path / "old" / "data.lst", range(5))
    write(tmp_path / "new" / "data.lst", range(5, 9))
    write(tmp_path / "all" / "data.lst", range(9))
    pack(tmp_path / "old" / "data.lst", folder, tmp_path / "old" / "data.rec")
    return folder


def write(path: Path, numbers: range) -> None:
    write_list(
        path, [ListEntry(number, (float(number % 2),), f"{number}.jpg") for number in numbers]
    )


def state(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("has_index", [True, False])
@pytest.mark.parametrize("ending", ["sound", "padding missing", "zeros behind"])
def test_appending_gives_the_bytes_of_packing_everything_at_once(
    tmp_path: Path, root: Path, has_index: bool, ending: str
) -> None:
    target = tmp_path / "old" / "data.rec"
    content = target.read_bytes()
    if ending == "padding missing":
        target.write_bytes(content.rstrip(b"\0"))
    elif ending == "zeros behind":
        target.write_bytes(content + b"\0" * 64)
    if not has_index:
        target.with_suffix(".idx").unlink()
    report = append(tmp_path / "new" / "data.lst", root, target, options=OPTIONS)
    assert (report.packed, report.output) == (4, str(target))
    pack(tmp_path / "all" / "data.lst", root, tmp_path / "all" / "data.rec")
    for name in ("data.rec", "data.idx"):
        assert (tmp_path / "old" / name).read_bytes() == (tmp_path / "all" / name).read_bytes()
    assert sorted(state(tmp_path / "old")) == ["data.idx", "data.lst", "data.rec"]


def test_existing_ids_are_refused_or_renumbered(tmp_path: Path, root: Path) -> None:
    target = tmp_path / "old" / "data.rec"
    write(tmp_path / "new" / "data.lst", range(3, 9))
    before = state(tmp_path / "old")
    with pytest.raises(
        DataError, match=r"2 of its ids are in .*data\.rec already \(3, 4\).*--renu"
    ):
        append(tmp_path / "new" / "data.lst", root, target, options=OPTIONS)
    assert state(tmp_path / "old") == before
    append(tmp_path / "new" / "data.lst", root, target, options=OPTIONS, renumber=True)
    with RecordFile(target) as file:
        assert file.keys is not None and file.keys.tolist() == list(range(11))
        assert file.record_headers["id"].tolist() == list(range(11))


def test_a_bad_image_leaves_the_file_as_it_was(tmp_path: Path, root: Path) -> None:
    (root / "7.jpg").write_bytes(b"")
    before = state(tmp_path / "old")
    with pytest.raises(DataError, match=r"7\.jpg: expected an image"):
        append(tmp_path / "new" / "data.lst", root, tmp_path / "old" / "data.rec", options=OPTIONS)
    assert state(tmp_path / "old") == before


def test_a_full_disk_leaves_the_file_as_it_was(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(tmp_path / "old")

    def full(source: object, target: io.BufferedWriter, size: int) -> None:
        target.write(b"half a record")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record_append.shutil, "copyfileobj", full)
    with pytest.raises(
        DataError, match="cannot be extended: No space left on device; it is unchanged"
    ):
        append(tmp_path / "new" / "data.lst", root, tmp_path / "old" / "data.rec", options=OPTIONS)
    assert state(tmp_path / "old") == before


def test_the_next_append_undoes_a_killed_one(
    tmp_path: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "old" / "data.rec"
    folder = tmp_path / "old" / ".data.rec.appending"
    folder.mkdir()
    (folder / "end.json").write_text(json.dumps({"end": target.stat().st_size}))
    with target.open("ab") as file:
        file.write(b"half a record")
    append(tmp_path / "new" / "data.lst", root, target, options=OPTIONS)
    assert "of an append that was killed" in caplog.text
    with RecordFile(target) as records:
        assert len(records) == 9 and records.index_problem is None
    assert not folder.exists()


def test_classes_may_be_added_but_not_renumbered(tmp_path: Path, root: Path) -> None:
    target, new = tmp_path / "old" / "data.rec", tmp_path / "new" / "data.lst"
    LabelMap(("cat", "dog")).write(target.with_name("labels.json"))
    LabelMap(("bird", "cat")).write(new.with_name("labels.json"))
    before = state(tmp_path / "old")
    with pytest.raises(DataError, match="number their classes differently"):
        append(new, root, target, options=OPTIONS)
    assert state(tmp_path / "old") == before
    LabelMap(("cat", "dog", "bird")).write(new.with_name("labels.json"))
    append(new, root, target, options=OPTIONS)
    assert LabelMap.read(target.with_name("labels.json")).names == ("cat", "dog", "bird")


def test_a_damaged_file_is_not_appended_to(tmp_path: Path, root: Path) -> None:
    target = tmp_path / "old" / "data.rec"
    os.truncate(target, target.stat().st_size - 100)
    before = state(tmp_path / "old")
    with pytest.raises(RecordError, match="damaged at byte"):
        append(tmp_path / "new" / "data.lst", root, target, options=OPTIONS)
    assert state(tmp_path / "old") == before


def test_a_second_append_is_refused_while_the_first_runs_and_leaves_it_alone(
    tmp_path: Path, root: Path
) -> None:
    target = tmp_path / "old" / "data.rec"
    refusals = []

    def meanwhile(done: int, _total: int) -> None:
        if done == 1:
            with pytest.raises(DataError, match=r"another append.*wait until it ends") as error:
                append(tmp_path / "new" / "data.lst", root, target, options=OPTIONS)
            refusals.append(error)

    append(tmp_path / "new" / "data.lst", root, target, options=OPTIONS, on_progress=meanwhile)
    assert len(refusals) == 1
    pack(tmp_path / "all" / "data.lst", root, tmp_path / "all" / "data.rec")
    assert target.read_bytes() == (tmp_path / "all" / "data.rec").read_bytes()
