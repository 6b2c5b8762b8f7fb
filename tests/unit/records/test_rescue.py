"""Damaged record files: what is said, what is saved, and that no damage at all is a surprise."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from image_classification.cli import main
from image_classification.errors import DataError, RecordError
from image_classification.records.format import RECORD_MAGIC, RecordHeader, pack_image_record
from image_classification.records.index import read_index
from image_classification.records.reader import RecordFile
from image_classification.records.writer import RecordWriter

RECORDS = 6
MAGIC = RECORD_MAGIC.to_bytes(4, "little")


def jpeg(seed: int) -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (10 + seed, 12, 3), np.uint8)
    Image.fromarray(pixels).save(content, "JPEG")
    return content.getvalue()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Six images under the ids 100, 102, …, of the classes 0, 1, 2."""
    with RecordWriter(tmp_path / "data.rec") as writer:
        for number in range(RECORDS):
            header = RecordHeader(float(number % 3), 100 + 2 * number)
            writer.write(pack_image_record(header, jpeg(number)), header.id)
    return tmp_path / "data.rec"


def says(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def damage_third(path: Path) -> None:
    with RecordFile(path) as file:
        offset = int(file.offsets[2])
    content = bytearray(path.read_bytes())
    content[offset : offset + 4] = b"oops"
    path.write_bytes(bytes(content))


def test_damage_is_an_error_with_its_position_and_a_remedy(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage_third(path)
    code, _, error = says(capsys, "inspect", path)
    assert code == 2
    assert f"{path}: damaged at byte " in error and ", record 2: " in error
    assert "inspect --on-damage resync --salvage NEW.rec" in error


def test_salvaging_keeps_the_sound_records_and_names_the_lost_ones(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage_third(path)
    sound = tmp_path / "sound.rec"
    words = ("inspect", path, "--on-damage", "resync")
    code, out, _ = says(capsys, *words, "--salvage", sound)
    assert code == 0
    assert f"5 sound records written to {sound}" in out
    assert "1 record of the index: 104" in out
    with RecordFile(sound) as file:
        assert file.keys is not None and file.keys.tolist() == [100, 102, 106, 108, 110]
        assert file.read_image(2).content == jpeg(3)
    _, out, _ = says(capsys, *words, "--json")
    result = json.loads(out)
    assert result["records"] == 5 and result["lost"]["lost_keys"] == [104]
    assert [damage["record"] for damage in result["damages"]] == [2]
    code, _, error = says(capsys, *words, "--salvage", sound)
    assert code == 2 and "exists" in error


def test_without_an_index_the_lost_bytes_are_counted(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage_third(path)
    path.with_suffix(".idx").unlink()
    _, out, _ = says(capsys, "inspect", path, "--on-damage", "resync")
    assert "5 records" in out and "without an index, the ids in them are unknown" in out


def test_a_rebuilt_index_has_the_same_ids(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = path.with_suffix(".idx")
    before = index.read_bytes()
    index.unlink()
    assert says(capsys, "rec2idx", path)[0] == 0
    assert index.read_bytes() == before
    assert says(capsys, "rec2idx", path, tmp_path / "numbers.idx", "--numbered")[0] == 0
    assert read_index(tmp_path / "numbers.idx").keys.tolist() == list(range(RECORDS))


def test_a_contact_sheet_shows_the_first_records(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = []
    for first in (1, 4, 6):
        sheet = tmp_path / f"{first}.png"
        words = ("inspect", path, "--contact-sheet", sheet, "--first", first)
        assert says(capsys, *words)[0] == 0
        with Image.open(sheet) as image:
            image.load()
            sizes.append(image.size)
            drawn = np.asarray(image.convert("RGB")).reshape(-1, 3)
        assert len(np.unique(drawn, axis=0)) > 100 * first**0.5
    assert sizes[0] < sizes[1] < sizes[2]


def test_a_record_that_is_not_a_picture_is_drawn_as_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RecordWriter(tmp_path / "data.rec") as writer:
        for content in (jpeg(0), jpeg(0)[:100], b"text"):
            writer.write(pack_image_record(RecordHeader(0.0, 1), content), 1)
    sheet = tmp_path / "sheet.png"
    code, out, _ = says(capsys, "inspect", tmp_path / "data.rec", "--contact-sheet", sheet)
    assert code == 0 and f"contact_sheet: {sheet}" in out
    with Image.open(sheet) as image:
        reds = (np.asarray(image) == (190, 30, 30)).all(axis=2).sum()
    assert reds > 2 * 4 * 140


def test_the_summary_names_classes_and_sizes(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path.with_name("labels.json").write_text('{"labels": ["cat", "dog", "été"]}', "utf-8")
    _, out, _ = says(capsys, "inspect", path)
    assert "label 2 (été): 2" in out
    assert "width: 12 to 12 pixels, median 12" in out and "height: 10 to 15 pixels" in out


# Fuzzing: a sound file, changed anywhere. Whatever comes of it must be records or a RecordError.

contents = st.lists(
    st.one_of(st.binary(max_size=20), st.just(MAGIC), st.just(b"x" * 7 + MAGIC)), max_size=6
)
edits = st.lists(
    st.tuples(
        st.sampled_from(["set", "cut", "insert", "drop"]),
        st.integers(0, 400),
        st.one_of(st.binary(min_size=1, max_size=8), st.just(MAGIC), st.just(b"\xff\xff\xff\x1f")),
    ),
    max_size=4,
)


def edited(content: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    for kind, place, value in changes:
        place = place % (len(content) + 1)
        if kind == "set":
            content = content[:place] + value + content[place + len(value) :]
        elif kind == "cut":
            content = content[:place]
        elif kind == "insert":
            content = content[:place] + value + content[place:]
        else:
            content = content[:place] + content[place + len(value) :]
    return content


def read_everything(path: Path, resync: bool) -> list[bytes]:
    with RecordFile(path, resync=resync) as file:
        records = [file.read(number) for number in range(len(file))]
        for number in range(len(file)):
            try:
                file.read_image(number)
            except RecordError as error:
                assert f"record {number} at byte" in str(error)
        try:
            file.record_labels()
        except RecordError as error:
            assert str(path) in str(error)
        return records


@given(
    contents,
    st.one_of(
        edits.map(lambda changes: ("edited", changes)),
        st.binary(max_size=60).map(lambda text: ("binary", text)),
        st.text("0123456789\t\n -+.e\x00", max_size=60).map(lambda text: ("text", text.encode())),
        st.lists(st.tuples(st.integers(-5, 2**66), st.integers(-5, 2**66)), max_size=5).map(
            lambda rows: ("text", b"".join(b"%d\t%d\n" % row for row in rows))
        ),
    ),
)
def test_a_changed_index_does_not_change_the_records_that_are_read(
    tmp_path_factory: pytest.TempPathFactory,
    payloads: list[bytes],
    change: tuple[str, object],
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "data.rec"
    with RecordWriter(path) as writer:
        for key, payload in enumerate(payloads):
            writer.write(payload, key)
    index = path.with_suffix(".idx")
    kind, value = change
    index.write_bytes(edited(index.read_bytes(), value) if kind == "edited" else value)  # type: ignore[arg-type]
    assert read_everything(path, resync=False) == payloads
    try:
        with RecordFile(path, index=index) as file:
            assert len(file) == len(payloads)
    except DataError as error:
        assert str(index) in str(error)


def test_a_file_cut_anywhere_is_refused_with_the_record_that_is_cut(path: Path) -> None:
    content = path.read_bytes()
    with RecordFile(path) as file:
        starts = file.offsets.tolist()
    path.with_suffix(".idx").unlink()
    for size in range(1, len(content), 7):
        path.write_bytes(content[:size])
        whole = sum(start < size for start in starts)
        try:
            with RecordFile(path) as file:
                assert len(file) == whole  # cut between two records, or in the last padding
        except RecordError as error:
            assert f"record {whole - 1}: " in str(error)


@pytest.mark.parametrize(
    "words",
    [
        ("rec2idx", "{rec}", "{rec}"),
        ("rec2idx", "{rec}", "{folder}/other.rec"),
        ("rec2idx", "{rec}", "{folder}"),
        ("rec2idx", "{folder}/link.idx"),
        ("inspect", "{rec}", "--contact-sheet", "{rec}"),
        ("inspect", "{rec}", "--contact-sheet", "{folder}/data.idx"),
        ("inspect", "{rec}", "--contact-sheet", "{folder}"),
        ("inspect", "{rec}", "--salvage", "{rec}"),
        ("inspect", "{rec}", "--salvage", "{folder}/data.lst"),
    ],
)
def test_no_tool_writes_over_what_it_reads(
    path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    (path.parent / "link.idx").symlink_to(path)
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    code, _, error = says(capsys, *(word.format(rec=path, folder=path.parent) for word in words))
    assert code == 2 and error.startswith("ClientError:"), error
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


def test_an_older_contact_sheet_is_replaced(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = path.with_name("sheet.png")
    for first in (1, 2):
        assert says(capsys, "inspect", path, "--contact-sheet", sheet, "--first", first)[0] == 0
    with Image.open(sheet) as drawn:
        assert drawn.width > 200


def damage_header_of_third(path: Path) -> None:
    with RecordFile(path) as file:
        flag = int(file.offsets[2]) + 8
    content = bytearray(path.read_bytes())
    content[flag : flag + 4] = b"\xff" * 4
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("has_index", [True, False])
def test_a_damaged_image_header_is_damage_of_its_record(
    path: Path, capsys: pytest.CaptureFixture[str], has_index: bool
) -> None:
    damage_header_of_third(path)
    if not has_index:
        path.with_suffix(".idx").unlink()
    code, out, error = says(capsys, "inspect", path)
    assert code == 2 and "record 2 at byte" in error and "--salvage NEW.rec" in error
    sound = path.with_name("sound.rec")
    code, out, error = says(
        capsys, "inspect", path, "--on-damage", "resync", "--salvage", sound, "--json"
    )
    result = json.loads(out)
    assert code == 0 and result["salvaged"]["records"] == RECORDS - 1
    assert result["lost"]["skipped_bytes"] > 0 and "image header" in error
    assert result["lost"]["lost_keys"] == ([104] if has_index else None)
    with RecordFile(sound) as file:
        assert file.record_headers["id"].tolist() == [100, 102, 106, 108, 110]
    _, out, _ = says(capsys, "inspect", path, "--on-damage", "resync")
    assert ": 5 records" in out


def test_resync_keeps_records_that_are_not_image_records(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "data.rec") as writer:
        for number in range(3):
            writer.write(b"\xff" * (5 + 20 * number), number)
    with RecordFile(tmp_path / "data.rec", resync=True) as file:
        assert len(file) == 3 and not file.damages


def test_records_do_not_count_as_lost_because_the_index_is_wrong(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = path.with_suffix(".idx")
    lines = index.read_text().splitlines()
    lines[1:] = [f"{line.split()[0]}\t{int(line.split()[1]) + 4}" for line in lines[1:]]
    index.write_text("\n".join(lines) + "\n")
    _, out, _ = says(capsys, "inspect", path, "--on-damage", "resync", "--json")
    assert json.loads(out)["lost"] == {"skipped_bytes": 0, "lost_keys": []}


def test_the_lost_records_of_a_numbered_index_are_named_by_its_numbers(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RecordWriter(path) as writer:  # ids 1 … 6 under the keys 0 … 5
        for number in range(RECORDS):
            writer.write(pack_image_record(RecordHeader(0.0, number + 1), jpeg(number)), number)
    damage_third(path)
    _, out, _ = says(capsys, "inspect", path, "--on-damage", "resync", "--json")
    assert json.loads(out)["lost"]["lost_keys"] == [2]


def test_one_record_cannot_be_salvaged_alone(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = path.with_name("new.rec")
    code, _, error = says(capsys, "inspect", path, "--record", 1, "--salvage", new)
    assert code == 2 and "--record selects one: drop one" in error and not new.exists()
