"""Shards, and runs that go on after an interruption: the same bytes, and nothing done twice."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_classification.errors import DataError, UsageError
from image_classification.labels.lists import ListEntry, write_list
from image_classification.prepare.encode import EncodedImage, ImageEncoder, Transcoding
from image_classification.prepare.pack import PackOptions, pack
from image_classification.prepare.pack_lists import pack_lists, select_lists
from image_classification.records.reader import RecordFile

IMAGES = 40
SHARD_BYTES = 8_000  # about seven images


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(IMAGES):
        content = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (16, 20, 3), np.uint8)).save(content, "JPEG")
        (folder / f"{number}.jpg").write_bytes(content.getvalue())
    entries = [ListEntry(number + 7, (number % 3,), f"{number}.jpg") for number in range(IMAGES)]
    write_list(tmp_path / "data.lst", entries)
    return folder


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".rec", ".idx"))


def hidden_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


SMALL = PackOptions(Transcoding(resize=20))


class Stopped(Exception):
    """Stands for whatever ends a process."""


def pack_and_stop(tmp_path: Path, root: Path, after: int, **options: object) -> None:
    def stop(done: int, total: int) -> None:
        if done == after:
            raise Stopped

    with pytest.raises(Stopped):
        pack(
            tmp_path / "data.lst",
            root,
            tmp_path / "out" / "data.rec",
            resume=True,
            on_progress=stop,
            **options,  # type: ignore[arg-type]
        )


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that are packed from now on."""
    paths: list[str] = []
    original = ImageEncoder.encode

    def counted(self: ImageEncoder, entry: ListEntry) -> EncodedImage:
        paths.append(entry.path)
        return original(self, entry)

    monkeypatch.setattr(ImageEncoder, "encode", counted)
    return paths


def test_shards_hold_the_list_in_order_and_their_names_give_their_number(
    tmp_path: Path, root: Path
) -> None:
    output = tmp_path / "out" / "data.rec"
    report = pack(tmp_path / "data.lst", root, output, shard_bytes=SHARD_BYTES)
    count = len(report.shards)
    assert count > 3
    assert report.shards == tuple(f"data-{k:05d}-of-{count:05d}.rec" for k in range(count))
    assert len(files_in(output.parent)) == 2 * count
    ids: list[int] = []
    for name in report.shards:
        with RecordFile(output.with_name(name)) as file:
            assert file.keys is not None
            ids += file.keys.tolist()
            if name != report.shards[-1]:
                assert output.with_name(name).stat().st_size >= SHARD_BYTES
    assert ids == list(range(7, 7 + IMAGES))
    assert report.size_bytes == sum(p.stat().st_size for p in output.parent.glob("*.rec"))


def test_a_new_set_of_shards_replaces_the_old_one(
    tmp_path: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "out" / "data.rec"
    pack(tmp_path / "data.lst", root, output, shard_bytes=SHARD_BYTES)
    report = pack(tmp_path / "data.lst", root, output, shard_bytes=2 * SHARD_BYTES)
    assert [n for n in files_in(output.parent) if n.endswith(".rec")] == list(report.shards)
    assert "a shard of an older set" in caplog.text


@pytest.mark.parametrize("shard_bytes", [None, SHARD_BYTES])
def test_a_resumed_run_gives_the_same_bytes_without_packing_an_image_twice(
    tmp_path: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    shard_bytes: int | None,
) -> None:
    monkeypatch.setattr("image_classification.prepare.chunks.CHUNK_BYTES", SHARD_BYTES)
    options = {"shard_bytes": shard_bytes, "options": SMALL, "workers": 2}
    whole = tmp_path / "whole" / "data.rec"
    pack(tmp_path / "data.lst", root, whole, **options)  # type: ignore[arg-type]
    pack_and_stop(tmp_path, root, 30, **options)
    output = tmp_path / "out" / "data.rec"
    assert files_in(output.parent) == []
    assert hidden_in(output.parent) == [".data.rec.packing"]
    finished = len(list((output.parent / ".data.rec.packing").glob("*.json"))) - 1
    assert finished > 1
    paths = count_reads(monkeypatch)
    report = pack(tmp_path / "data.lst", root, output, resume=True, **options)  # type: ignore[arg-type]
    assert report.resumed >= 7 * finished and report.packed == IMAGES
    assert sorted(paths) == sorted(f"{n}.jpg" for n in range(report.resumed, IMAGES))
    assert hidden_in(output.parent) == []
    assert files_in(output.parent) == files_in(whole.parent)
    for name in files_in(whole.parent):
        assert (output.parent / name).read_bytes() == (whole.parent / name).read_bytes()


def test_a_damaged_chunk_is_packed_again(
    tmp_path: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pack_and_stop(tmp_path, root, 30, shard_bytes=SHARD_BYTES)
    chunk = tmp_path / "out" / ".data.rec.packing" / "00001.rec"
    chunk.write_bytes(chunk.read_bytes()[:-100])
    report = pack(
        tmp_path / "data.lst",
        root,
        tmp_path / "out" / "data.rec",
        shard_bytes=SHARD_BYTES,
        resume=True,
    )
    assert "00001.rec is packed again" in caplog.text
    assert 0 < report.resumed < 14 and report.packed == IMAGES


def test_a_chunk_with_other_records_is_packed_again(
    tmp_path: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pack_and_stop(tmp_path, root, 30, shard_bytes=SHARD_BYTES)
    folder = tmp_path / "out" / ".data.rec.packing"
    for suffix in (".rec", ".idx"):
        (folder / f"00001{suffix}").write_bytes((folder / f"00000{suffix}").read_bytes())
    output = tmp_path / "out" / "data.rec"
    report = pack(tmp_path / "data.lst", root, output, shard_bytes=SHARD_BYTES, resume=True)
    assert "00001.rec is packed again: its images are not those of the list" in caplog.text
    assert 0 < report.resumed < 14 and report.packed == IMAGES


def test_only_the_same_job_is_resumed(tmp_path: Path, root: Path) -> None:
    pack_and_stop(tmp_path, root, 30, shard_bytes=SHARD_BYTES)
    with pytest.raises(UsageError, match=r"had a different transcoding .* pack without --resume"):
        pack_and_stop(
            tmp_path, root, 30, shard_bytes=SHARD_BYTES, options=PackOptions(Transcoding())
        )
    write_list(tmp_path / "data.lst", [ListEntry(0, (0.0,), "0.jpg")])
    with pytest.raises(UsageError, match="had a different list"):
        pack_and_stop(tmp_path, root, 30, shard_bytes=SHARD_BYTES)
    output = tmp_path / "out" / "data.rec"
    assert pack(tmp_path / "data.lst", root, output).packed == 1  # begins again
    assert hidden_in(output.parent) == []


def test_a_resumed_run_packs_a_repaired_image(tmp_path: Path, root: Path) -> None:
    good = (root / "3.jpg").read_bytes()
    (root / "3.jpg").write_bytes(good[:100])
    output = tmp_path / "out" / "data.rec"
    with pytest.raises(DataError, match=r"3\.jpg"):
        pack(tmp_path / "data.lst", root, output, shard_bytes=SHARD_BYTES, resume=True)
    assert files_in(output.parent) == []
    (root / "3.jpg").write_bytes(good)
    report = pack(tmp_path / "data.lst", root, output, shard_bytes=SHARD_BYTES, resume=True)
    assert (report.packed, report.skipped, report.resumed) == (IMAGES, (), 0)


def test_skipped_images_of_finished_chunks_count_when_resuming(tmp_path: Path, root: Path) -> None:
    (root / "3.jpg").write_bytes(b"")
    pack_and_stop(tmp_path, root, 30, shard_bytes=SHARD_BYTES)
    output = tmp_path / "out" / "data.rec"
    with pytest.raises(DataError, match=r"got 1 of 40: 3\.jpg"):
        pack(tmp_path / "data.lst", root, output, shard_bytes=SHARD_BYTES, resume=True)
    report = pack(
        tmp_path / "data.lst", root, output, shard_bytes=SHARD_BYTES, resume=True, max_bad=1
    )
    assert [image.entry.path for image in report.skipped] == ["3.jpg"]
    assert report.resumed > 20 and json.dumps(report.to_json())


def test_two_packs_into_one_output_do_not_mix(tmp_path: Path, root: Path) -> None:
    output = tmp_path / "out" / "data.rec"

    def second(done: int, total: int) -> None:
        if done == 3:
            with pytest.raises(UsageError, match="another pack is writing"):
                pack(tmp_path / "data.lst", root, output)

    assert pack(tmp_path / "data.lst", root, output, on_progress=second).packed == IMAGES


def test_finished_lists_of_an_interrupted_run_are_not_packed_again(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("d_train", "d_val"):
        (tmp_path / f"{name}.lst").write_bytes((tmp_path / "data.lst").read_bytes())
    (tmp_path / "data.lst").unlink()
    lists = select_lists(tmp_path / "d")

    def run(stop_in: str) -> int:
        def on_list(path: Path, is_done: bool) -> object:
            def on_progress(done: int, total: int) -> None:
                if path.stem == stop_in:
                    raise Stopped

            return on_progress

        reports = pack_lists(
            lists,
            root,
            PackOptions(),
            workers=1,
            resume=True,
            on_list=on_list,  # type: ignore[arg-type]
        )
        return sum(report.packed for report in reports)

    with pytest.raises(Stopped):
        run("d_val")
    paths = count_reads(monkeypatch)
    assert run("") == 2 * IMAGES
    assert len(paths) == IMAGES
    assert hidden_in(tmp_path) == []
