"""Records are shown with the names of the packed images, if the list next to them fits."""

from __future__ import annotations

import csv
import json
import logging
import os
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_classification.cli import main
from image_classification.loading import record_names
from image_classification.loading.records import RecordSource
from image_classification.loading.sources import SubsetSource
from image_classification.prepare.check.subsets import find_subsets
from image_classification.records.format import RecordHeader, pack_image_record
from image_classification.records.reader import RecordFile
from image_classification.records.writer import RecordWriter

LINES = "377\t1.000000\tdaisy/12.jpg\n378\t0.000000\trose/a b.jpg\n"
RECORDS = ((378, 0.0), (377, 1.0))  # in another order than the list


def write(path: Path, lines: str | bytes | None, *records: tuple[int, float]) -> Path:
    with RecordWriter(path) as writer:
        for identifier, label in records or RECORDS:
            content = pack_image_record(RecordHeader(label, identifier), b"image")
            writer.write(content, identifier)
    if lines is not None:
        text = lines.encode() if isinstance(lines, str) else lines
        path.with_suffix(".lst").write_bytes(text)
    return path


def keys(path: Path) -> list[str]:
    source = RecordSource([path])
    found = [source.key(index) for index in range(len(source))]
    assert found == [source.read(index).key for index in range(len(source))]
    source.close()
    return found


def test_a_record_is_shown_with_the_name_that_the_list_next_to_it_has(tmp_path: Path) -> None:
    path = write(tmp_path / "validation.rec", LINES)
    expected = ["validation.rec#378 (rose/a b.jpg)", "validation.rec#377 (daisy/12.jpg)"]
    assert keys(path) == expected
    source = RecordSource([path])
    assert [source.path(index) for index in range(2)] == ["rose/a b.jpg", "daisy/12.jpg"]
    part = SubsetSource(source, np.array([1]), "part")
    assert (part.key(0), part.path(0)) == (expected[1], "daisy/12.jpg")
    source.close()


def test_a_list_of_more_images_and_one_for_all_shards_name_the_records_too(tmp_path: Path) -> None:
    lines = "﻿1\t0\tleft-out.jpg\r\n\r\n" + LINES.replace("\n", "\r\n")
    (tmp_path / "train.lst").write_text(lines, newline="")
    one = write(tmp_path / "train-00000-of-00002.rec", None, (377, 1.0))
    two = write(tmp_path / "train.part001.rec", None, (378, 0.0))
    assert keys(one) == ["train-00000-of-00002.rec#377 (daisy/12.jpg)"]
    assert keys(two) == ["train.part001.rec#378 (rose/a b.jpg)"]


def test_a_shard_keeps_its_own_lines_of_the_list_of_all_shards(tmp_path: Path) -> None:
    count = 50
    lines = [f"{number}\t0\tfolder/{'n' * (number % 7)}{number}.jpg" for number in range(count)]
    (tmp_path / "train.lst").write_text("\n".join(lines))
    kept = []
    for shard in range(5):
        records = [(number, 0.0) for number in range(shard, count, 5)][::-1]
        path = write(tmp_path / f"train-{shard:05d}-of-00005.rec", None, *records)
        with closing(RecordFile(path)) as file:
            names = record_names.find_names(file)
        expected = [lines[number].rpartition("\t")[2] for number, _ in records]
        assert [names.path(number) for number in range(len(records))] == expected
        kept.append(len(names._content))
    assert sum(kept) < sum(map(len, lines))


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (LINES.replace("378", "379"), "no line with the id 378"),
        (LINES.replace("1.000000", "2"), "label of the id 377 is 2, but that of the record is 1"),
        (LINES + "377\t1\tother.jpg\n", "an id occurs twice"),
        (LINES + "379 1 blanks.jpg\n", "line 3 is not ID<TAB>LABEL<TAB>PATH"),
        (LINES + "379\t1\t" + "x" * 5000 + "\n", "line 3 is not ID<TAB>LABEL<TAB>PATH"),
        (LINES + "-1\t1\ta.jpg\n", "line 3 is not ID<TAB>LABEL<TAB>PATH"),
        ("", "no line with the id 378"),
        ("\n" * ((1 << 20) + 4096), "has more than 1,050,624 bytes for 2 records"),
    ],
    ids=["ids", "labels", "twice", "blanks", "long", "negative", "empty", "large"],
)
def test_a_list_that_does_not_fit_is_ignored_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lines: str, reason: str
) -> None:
    path = write(tmp_path / "data.rec", lines)
    with caplog.at_level(logging.WARNING, record_names.__name__):
        assert keys(path) == ["data.rec#378", "data.rec#377"]
    (message,) = [one.getMessage() for one in caplog.records]
    assert f"{path.with_suffix('.lst')} does not name the images of data.rec: " in message
    assert reason in message


def test_a_list_that_fits_none_of_its_shards_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "train.lst").write_text("1\t0\ta.jpg\n")
    paths = [
        write(tmp_path / f"train-{shard:05d}-of-00003.rec", None, (10 + shard, 0.0))
        for shard in range(3)
    ]
    source = RecordSource(paths)
    assert [source.key(i) for i in range(3)] == [f"{p.name}#{10 + i}" for i, p in enumerate(paths)]
    source.close()
    assert caplog.text.count("does not name the images of") == 1
    caplog.clear()
    find_subsets(tmp_path)
    assert caplog.text.count("does not name the images of") == 1


def test_two_records_of_one_id_are_not_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "data.rec", LINES, (377, 1.0), (377, 1.0))
    assert keys(path) == ["data.rec#377", "data.rec#377"]
    assert "an id occurs twice" in caplog.text


def test_a_name_that_is_not_utf_8_is_escaped_in_messages_and_whole_in_lists(tmp_path: Path) -> None:
    path = write(tmp_path / "data.rec", b"5\t0\tcaf\xe9.jpg\n", (5, 0.0))
    assert keys(path) == ["data.rec#5 (caf\\xe9.jpg)"]
    source = RecordSource([path])
    assert source.path(0) == os.fsdecode(b"caf\xe9.jpg")
    source.close()


def test_the_page_and_the_list_of_a_check_name_the_packed_images_and_the_list_can_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    for number in range(12):
        path = images / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = 0 if number == 10 else number
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    prefix = str(tmp_path / "train")
    assert main(["list", prefix, str(images)]) == 0
    assert main(["pack", prefix + ".lst", str(images)]) == 0
    csv_file, page = tmp_path / "review.csv", tmp_path / "page.html"
    capsys.readouterr()
    arguments = ["check", prefix + ".rec", "--json", "--csv", str(csv_file), "--html", str(page)]
    main(arguments)
    outputs = capsys.readouterr()
    named = {name for one in json.loads(outputs.out)["problems"] for name in one["images"]}
    assert any("train.rec#1 (cat/10.png) = " in name for name in named)
    assert "(cat/10.png)" in page.read_text()
    with csv_file.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["path"] for row in rows} == {
        f"{('cat', 'dog')[number % 2]}/{number}.png" for number in range(12)
    }
    assert "preprocess --input FOLDER --list" in outputs.err
    output = str(tmp_path / "channels")
    arguments = ["preprocess", "--input", str(images), "--list", str(csv_file), "--output", output]
    assert main(arguments) == 0
    subsets = find_subsets(Path(output))
    assert sum(len(subset.keys) for subset in subsets) == 11  # without the duplicate
