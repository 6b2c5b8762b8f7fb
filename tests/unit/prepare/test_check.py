"""`check` names what is wrong with a data set, and only that."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from image_classification.cli import im2rec, main
from image_classification.inventory.folders import take_inventory
from image_classification.labels import tree
from image_classification.prepare.channels import ChannelPlan, write_channels
from image_classification.prepare.check import (
    Measurements,
    Subset,
    crops,
    duplicates,
    measure,
    phash,
    problems,
)
from image_classification.prepare.check.duplicates import near_groups
from image_classification.records.format import RecordHeader, pack_image_record
from image_classification.records.writer import RecordWriter
from tests.conftest import ClassFolders


def picture(path: Path, seed: int, size: tuple[int, int] = (120, 90), **options: Any) -> Path:
    """A smooth random picture: another one for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    image = Image.fromarray(coarse).resize((120, 90), Image.Resampling.BICUBIC)
    image.resize(size).save(path, **options)
    return path


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    root = tmp_path / "clean"
    for number in range(8):
        picture(root / ("cat", "dog")[number % 2] / f"{number}.jpg", number)
    return root


def check(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, dict[str, Any]]:
    code = main(["check", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def kinds(verdict: dict[str, Any]) -> dict[str, str]:
    """Kind → severity."""
    return {problem["kind"]: problem["severity"] for problem in verdict["problems"]}


def images_of(verdict: dict[str, Any], kind: str) -> list[str]:
    (found,) = (p["images"] for p in verdict["problems"] if p["kind"] == kind)
    return list(found)


def test_a_compressed_file_is_named_in_words_that_suit_a_file(
    clean: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = gzip.compress((clean / "cat" / "0.jpg").read_bytes())
    for name in ("a.jpg", "b.gz", "c"):
        (clean / "cat" / name).write_bytes(content)
    _, verdict = check(capsys, clean)
    said = str(verdict["problems"])
    assert said.count("gzip: decompress it first") == 3 and "Content-Encoding" not in said


def test_a_clean_data_set_has_no_problem(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, verdict = check(capsys, clean)
    assert (code, verdict["ok"], verdict["problems"]) == (0, True, [])
    (part,) = verdict["parts"]
    assert part == {
        "name": str(clean),
        "images": 8,
        "unusable": 0,
        "class_counts": {"cat": 4, "dog": 4},
    }


def test_unreadable_files_are_named_and_make_the_exit_code_1(
    clean: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (clean / "cat" / "0.jpg").read_bytes()
    (clean / "cat" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (clean / "dog" / "empty.jpg").write_bytes(b"")
    code, verdict = check(capsys, clean)
    assert code == 1 and kinds(verdict)["unreadable"] == "error"
    first, second = images_of(verdict, "unreadable")
    assert first.startswith(f"{clean}/cat/cut.jpg: this JPEG of 120 × 90 pixels")
    assert second.startswith(f"{clean}/dog/empty.jpg: ") and "0 bytes" in second


def test_odd_images_are_warnings_and_the_exit_code_stays_0(
    clean: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(clean / "cat" / "tiny.png", 20, (20, 24))
    picture(clean / "cat" / "long.png", 21, (400, 100))
    Image.new("RGB", (64, 64), "red").save(clean / "dog" / "plain.png")
    picture(clean / "dog" / "gray.png", 22)
    gray = Image.open(clean / "dog" / "gray.png").convert("L").convert("RGB")
    gray.save(clean / "dog" / "gray.png")
    picture(clean / "dog" / "huge.jpg", 23, (5000, 4000))
    code, verdict = check(capsys, clean)
    assert code == 0
    for kind, name, severity in (
        ("tiny", "cat/tiny.png", "warning"),
        ("odd-aspect", "cat/long.png", "warning"),
        ("plain", "dog/plain.png", "warning"),
        ("grey", "dog/gray.png", "note"),
        ("huge", "dog/huge.jpg", "note"),
    ):
        assert images_of(verdict, kind) == [f"{clean}/{name}"]
        assert kinds(verdict)[kind] == severity


def test_files_that_are_not_images_are_reported(
    clean: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (clean / "empty").mkdir()
    picture(clean / ".hidden" / "x.jpg", 30)
    picture(clean / "cat" / "nested" / "y.jpg", 31)
    picture(clean / "loose.jpg", 32)
    (clean / "notes.txt").touch()
    found = kinds(check(capsys, clean)[1])
    assert found == {
        "class-folders-without-an-image": "warning",
        "hidden-files-or-folders": "warning",
        "folders-inside-a-class-folder": "note",
        "images-outside-a-class-folder": "warning",
        ".txt-files": "note",
    }


def test_equal_images_are_an_error_across_splits_and_across_classes_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(("train/cat/a", "train/dog/b", "val/cat/c", "val/dog/d")):
        picture(tmp_path / f"{name}.jpg", number)
    shutil.copy(tmp_path / "train/cat/a.jpg", tmp_path / "train/cat/a2.jpg")
    code, verdict = check(capsys, tmp_path)
    assert code == 0 and kinds(verdict)["duplicates"] == "warning"
    shutil.copy(tmp_path / "train/cat/a.jpg", tmp_path / "val/cat/a3.jpg")
    shutil.copy(tmp_path / "train/dog/b.jpg", tmp_path / "train/cat/b2.jpg")
    code, verdict = check(capsys, tmp_path)
    assert code == 1
    (crossing,) = images_of(verdict, "duplicates-across-parts")
    assert crossing == " = ".join(
        f"{tmp_path}/{p}.jpg" for p in ("train/cat/a", "train/cat/a2", "val/cat/a3")
    )
    (several,) = images_of(verdict, "contradicting-duplicates")
    assert several == f"{tmp_path}/train/cat/b2.jpg = {tmp_path}/train/dog/b.jpg"


def test_resized_and_recompressed_copies_are_found_across_paths(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    picture(other / "cat" / "copy.jpg", 2, (300, 225), quality=60)
    picture(other / "dog" / "new.jpg", 99)
    code, verdict = check(capsys, clean, other)
    assert code == 0 and kinds(verdict) == {"near-duplicates-across-parts": "warning"}
    assert images_of(verdict, "near-duplicates-across-parts") == [
        f"{clean}/cat/2.jpg = {other}/cat/copy.jpg"
    ]


def test_mirrored_copies_are_found(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Image.open(clean / "cat" / "2.jpg") as image:
        ImageOps.mirror(image).resize((300, 225)).save(clean / "cat" / "mirrored.png")
    code, verdict = check(capsys, clean)
    assert code == 0 and kinds(verdict) == {"near-duplicates": "note"}
    assert images_of(verdict, "near-duplicates") == [
        f"{clean}/cat/2.jpg = {clean}/cat/mirrored.png"
    ]


def test_cropped_copies_are_found(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Image.open(clean / "cat" / "2.jpg") as image:
        image.crop((12, 9, 108, 81)).save(clean / "cat" / "middle.png")
        image.crop((0, 0, 108, 81)).resize((300, 225)).save(clean / "cat" / "corner.jpg")
    code, verdict = check(capsys, clean)
    assert code == 0 and kinds(verdict) == {"near-duplicates": "note"}
    assert images_of(verdict, "near-duplicates") == [
        " = ".join(f"{clean}/cat/{name}" for name in ("2.jpg", "corner.jpg", "middle.png"))
    ]


def test_the_perceptual_hash_is_that_of_imagehash() -> None:
    imagehash = pytest.importorskip("imagehash")
    for seed in range(20):
        coarse = np.random.default_rng(seed).integers(0, 256, (12, 9, 3)).astype(np.uint8)
        image = Image.fromarray(coarse).resize((90, 120), Image.Resampling.BICUBIC)
        small = phash.thumbnail(np.asarray(image.convert("L")))
        found = phash.hashes_of(small[None])[0].tolist()
        for one, picture in zip(found, (image, ImageOps.mirror(image)), strict=True):
            bits = imagehash.phash(picture).hash.reshape(64)
            assert one == sum(1 << i for i in range(64) if bits[i])


@pytest.mark.parametrize("size", [(16, 16), (20, 300), (32, 32), (125, 97), (700, 600)])
def test_thumbnails_are_those_of_pillow_but_for_a_level_in_a_few_pixels(
    size: tuple[int, int],
) -> None:
    gray = np.random.default_rng(size[0]).integers(0, 256, size).astype(np.uint8)
    expected = Image.fromarray(gray).resize((32, 32), Image.Resampling.LANCZOS)
    away = np.abs(phash.thumbnail(gray).astype(int) - np.asarray(expected))
    assert away.max() <= 1 and np.count_nonzero(away) <= 5


@pytest.mark.parametrize("most", [3, 1 << 17])
def test_crops_are_found_in_runs_of_any_size(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crops, "_COMPARED_AT_ONCE", most)
    wholes = []
    for seed in range(12):
        coarse = np.random.default_rng(seed).integers(0, 256, (6, 6)).astype(np.uint8)
        wholes.append(Image.fromarray(coarse).resize((200, 200), Image.Resampling.BICUBIC))
    parts = [image.crop((0, 20, 180, 200)) for image in wholes]
    small = np.stack([phash.thumbnail(np.asarray(image)) for image in (*parts, *wholes)])
    small = np.concatenate((np.zeros_like(small[:1]), small))  # an image that is not chosen
    chosen = np.arange(1, len(small))
    found = crops.crop_pairs(phash.hashes_of(small[1:])[:, 0], small, chosen)
    assert {(whole - 12, part) for whole, part in found.tolist()} == {(i, i) for i in range(12)}


def test_a_few_gray_or_plain_rows_do_not_decide_for_the_image() -> None:
    gray = np.full((64, 64, 4), 128, np.uint8)
    gray[1::4] = (0, 60, 120, 255)  # only in rows that the first look leaves out
    assert measure._is_colored(gray)
    assert not measure._gray_levels(gray)[1]
    assert measure._gray_levels(np.full((64, 64, 4), 128, np.uint8)) == (128, True)
    assert not measure._is_colored(np.full((64, 64, 4), 128, np.uint8))


def test_measurements_of_an_image_take_little_memory_and_no_object(
    clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Measurements] = []
    monkeypatch.setattr(problems, "measure", lambda *a: kept.append(measure.measure(*a)) or kept[0])
    assert main(["check", str(clean)]) == 0
    (measured,) = kept
    assert len(measured) == 8 and not measured.reasons
    arrays = [value for value in vars(measured).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) <= 8 * 64


def test_records_have_the_problems_of_the_folders_they_were_packed_from(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "channels"
    write_channels(take_inventory(clean), out, ChannelPlan(), lambda *_: None)
    code, verdict = check(capsys, out)
    assert code == 0
    assert [(p["name"], p["images"]) for p in verdict["parts"]] == [
        (f"{out}/train", 6),
        (f"{out}/validation", 2),
    ]
    assert verdict["parts"][0]["class_counts"] == {"cat": 3, "dog": 3}


def write_records(path: Path, labels: Sequence[float | tuple[float, ...]], image: bytes) -> None:
    with RecordWriter(path) as writer:
        for number, label in enumerate(labels):
            writer.write(pack_image_record(RecordHeader(label, number), image), number)


def test_labels_outside_the_range_are_named_in_records_and_in_lists(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = (clean / "cat" / "0.jpg").read_bytes()
    records = tmp_path / "data.rec"
    write_records(records, [0, 1, 2, -1, 0.5, (1.0, 2.0)], image)
    _, verdict = check(capsys, records)
    assert len(images_of(verdict, "label-out-of-range")) == 3
    (tmp_path / "labels.json").write_text('{"labels": ["cat", "dog"]}')
    code, verdict = check(capsys, records)
    assert code == 1
    assert images_of(verdict, "label-out-of-range")[0] == f"{records}#2: 2"
    listing = tmp_path / "all.lst"
    listing.write_text("0\t0\tcat/0.jpg\n1\t7\tdog/1.jpg\n2\t0.5\tcat/2.jpg\n")
    code, verdict = check(capsys, clean, "--list", listing)
    assert code == 1
    assert images_of(verdict, "label-out-of-range") == [
        f"{clean}/dog/1.jpg: 7",
        f"{clean}/cat/2.jpg: 0.5",
    ]
    assert kinds(verdict)["images-that-the-list-does-not-name"] == "warning"
    listing.write_text("0\t0\tcat/0.jpg\n1\tnan\tdog/1.jpg\n")
    code, verdict = check(capsys, clean, "--list", listing)
    assert code == 1 and kinds(verdict)["damaged"] == "error"


def test_the_lists_of_a_folder_are_subsets_that_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        picture(tmp_path / "images" / f"{number}.jpg", number)
    (tmp_path / "a_train.lst").write_text("0\t0\timages/0.jpg\n1\t1\timages/1.jpg\n")
    (tmp_path / "a_val.lst").write_text("2\t0\timages/2.jpg\n3\t1\timages/1.jpg\n")
    code, verdict = check(capsys, tmp_path)
    assert code == 1
    assert [part["images"] for part in verdict["parts"]] == [2, 2]
    shown = f"{tmp_path}/images/1.jpg"
    assert images_of(verdict, "duplicates-across-parts") == [f"{shown} = {shown}"]


def labeled(path: Path, labels: Sequence[Any], root: Path) -> Path:
    """Write another image for each label; a label in a list has a record without an image."""
    path.parent.mkdir(exist_ok=True)
    with RecordWriter(path) as writer:
        for number, label in enumerate(labels):
            content = picture(root / "one.jpg", number).read_bytes()
            if isinstance(label, list):  # a record that indexes identities
                label, content = tuple(label), b""
            writer.write(pack_image_record(RecordHeader(label, number), content), number)
    return path


def test_sound_records_with_several_labels_have_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(1.0, 0.0, 1.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)]
    records = labeled(tmp_path / "r" / "d.rec", rows, tmp_path)
    code, verdict = check(capsys, records.parent)
    assert code == 0
    assert verdict["parts"][0]["class_counts"] == {"0": 1, "1": 0, "2": 2}
    assert kinds(verdict) == {"multi-label": "note", "no-class": "note", "absent-class": "warning"}
    assert images_of(verdict, "no-class") == [f"{records}#2"]
    assert "nan" not in json.dumps(verdict)


def test_sound_lists_with_several_labels_have_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        picture(tmp_path / "im" / f"{number}.jpg", number)
    listing = tmp_path / "multi.lst"
    listing.write_text("0\t1\t0\t0.jpg\n1\t1\t1\t1.jpg\n2\t0\t1\t2.jpg\n")
    code, verdict = check(capsys, tmp_path / "im", "--list", listing)
    assert (code, kinds(verdict)) == (0, {"multi-label": "note"})
    assert verdict["parts"][0]["class_counts"] == {"0": 2, "1": 2}


def test_splits_with_other_numbers_of_labels_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [
        labeled(tmp_path / "train.rec", [(1.0, 0.0), (0.0, 1.0)], tmp_path),
        labeled(tmp_path / "val.rec", [(1.0, 0.0, 0.0), (0.0, 1.0, 1.0)], tmp_path),
        labeled(tmp_path / "test.rec", [0.0, 1.0], tmp_path),
    ]
    code, verdict = check(capsys, *paths)
    assert code == 1
    messages = [p["message"] for p in verdict["problems"] if p["kind"] == "other-labels"]
    assert [message.partition(" have ")[2] for message in messages] == [
        f"3 labels of 0 or 1, those of {paths[0]} 2 labels of 0 or 1; all need the same",
        f"one class, those of {paths[0]} 2 labels of 0 or 1; all need the same",
    ]


def test_identity_records_are_recognized_and_those_without_an_image_are_no_duplicates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = [[5.0, 7.0], (0.0, 0.0), (0.0, 0.0), (1.0, 0.0), 1.0, [1.0, 3.0], [3.0, 5.0]]
    path = labeled(tmp_path / "faces" / "train.rec", labels, tmp_path)
    code, verdict = check(capsys, path.parent)
    assert code == 1
    assert kinds(verdict) == {"identity-labels": "error", "records-without-an-image": "note"}
    (part,) = verdict["parts"]
    assert (part["images"], part["unusable"]) == (4, 0)
    assert part["class_counts"] == {"0": 2, "1": 2}
    message = verdict["problems"][0]["message"]
    assert f"inspect {path} --extract DIR" in message and "multi_label" not in message


def test_detection_labels_are_one_error_that_says_what_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box = (0.1, 0.1, 0.5, 0.5)
    labels = [(2.0, 5.0, 3.0, *box), (2.0, 5.0, 3.0, *box, 1.0, *box)]
    _, verdict = check(capsys, labeled(tmp_path / "d.rec", labels, tmp_path))
    assert kinds(verdict) == {"detection-labels": "error"}
    (problem,) = verdict["problems"]
    assert "object detection" in problem["message"] and not problem["images"]


def test_empty_files_are_unreadable_and_no_duplicates(
    clean: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cat/e.jpg", "cat/f.jpg", "dog/g.jpg"):
        (clean / name).write_bytes(b"")
    _, verdict = check(capsys, clean)
    assert kinds(verdict) == {"unreadable": "error"}
    assert len(images_of(verdict, "unreadable")) == 3


def test_a_missing_file_of_the_list_is_unreadable(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "all.csv").write_text("file,label\ncat/0.jpg,cat\ncat/no.jpg,cat\n")
    code, verdict = check(capsys, clean, "--list", tmp_path / "all.csv")
    assert code == 1
    assert images_of(verdict, "unreadable") == [f"{clean}/cat/no.jpg: No such file or directory"]


def test_a_damaged_record_file_is_an_error_and_the_rest_is_checked(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.rec").write_bytes(b"these are no records")
    code, verdict = check(capsys, clean, tmp_path / "bad.rec")
    assert code == 1 and len(verdict["parts"]) == 1
    (problem,) = (p for p in verdict["problems"] if p["kind"] == "damaged")
    assert f"{tmp_path}/bad.rec: damaged at byte 0, record 0" in problem["message"]


def test_splits_with_different_classes_and_imbalance_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(10):
        picture(tmp_path / "a" / "cat" / f"{number}.png", number)
    picture(tmp_path / "a" / "dog" / "0.png", 50)
    picture(tmp_path / "b" / "cat" / "0.png", 51)
    picture(tmp_path / "b" / "eel" / "0.png", 52)
    code, verdict = check(capsys, tmp_path / "a", tmp_path / "b")
    assert code == 1
    assert kinds(verdict)["imbalance"] == "warning"
    (problem,) = (p for p in verdict["problems"] if p["kind"] == "other-classes")
    assert problem["severity"] == "error" and "not in both: dog, eel" in problem["message"]


def test_nothing_to_check_is_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(tmp_path / "absent")]) == 2
    assert "ClientError: " in capsys.readouterr().err
    assert main(["check", str(tmp_path)]) == 2
    assert "expected one folder for each class" in capsys.readouterr().err


def test_the_table_is_for_people(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (clean / "cat" / "cut.jpg").write_bytes(b"\xff\xd8")
    assert main(["check", str(clean)]) == 1
    out = capsys.readouterr().out
    assert f"{clean}: 9 images, 1 unusable, 2 classes" in out
    assert "ERROR unreadable: " in out and "1 error, 0 warnings" in out


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40, unique=True),
    st.lists(st.tuples(st.integers(0, 39), st.sets(st.integers(0, 63), max_size=9)), max_size=30),
    st.integers(1, 8),
    st.booleans(),
    st.integers(1, 3),
    st.sampled_from([1, 2, 16]),
)
def test_near_groups_equal_those_of_comparing_all_with_all(
    values: list[int],
    near: list[tuple[int, set[int]]],
    distance: int,
    old_numpy: bool,
    bands: int,
    small: int,
) -> None:
    flipped = [
        values[position % len(values)] ^ sum(1 << bit for bit in bits) for position, bits in near
    ]
    hashes = np.array(sorted({*values, *flipped}), np.uint64)
    expected = list(range(len(hashes)))
    for i, j in combinations(range(len(hashes)), 2):
        if bin(int(hashes[i]) ^ int(hashes[j])).count("1") <= distance:
            low, high = sorted((expected[i], expected[j]))
            expected = [low if group == high else group for group in expected]
    with pytest.MonkeyPatch.context() as patch:
        if old_numpy and hasattr(np, "bitwise_count"):
            patch.delattr(duplicates.np, "bitwise_count")
        patch.setattr(duplicates, "_MOST_HASHES", (0,) * (bands - 1))
        patch.setattr(duplicates, "_SMALL", small)
        patch.setattr(duplicates, "_MOST_COMPARED", 8)
        assert near_groups(hashes, distance).tolist() == expected


@pytest.mark.parametrize("distance", [1, 4, 8])
def test_differing_bits_may_be_far_apart(distance: int) -> None:
    spread = sum(1 << (64 * k // distance) for k in range(distance))
    assert near_groups(np.array([0, spread], np.uint64), distance).tolist() == [0, 0]
    assert near_groups(np.array([0, spread | 1 << 63], np.uint64), distance).tolist() == [0, 1]
    assert near_groups(np.empty(0, np.uint64), distance).tolist() == []


def test_many_hashes_and_many_similar_ones_are_grouped_in_less_than_quadratic_time() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**63, 150_000, np.uint64)
    similar = hashes[0] ^ _few_bits(random, 50_000)
    unique = np.unique(np.concatenate((hashes, similar)))
    start = time.process_time()
    groups = near_groups(unique, 4)
    assert time.process_time() - start < 20  # 1 on a quiet machine; hours in pairs
    assert len(set(groups[np.isin(unique, similar)])) == 1
    assert len(np.unique(groups)) > 149_000


def _few_bits(random: np.random.Generator, count: int) -> np.ndarray:
    """Hashes with at most four bits."""
    bits = np.uint64(1) << random.integers(0, 64, (count, 4), np.uint64)
    return np.bitwise_or.reduce(bits, axis=1)


@pytest.mark.shared
def test_the_damaged_hard_images_are_unreadable(
    shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hard = shared / "data" / "hard"
    _, verdict = check(capsys, hard)
    unreadable = {
        image.removeprefix(f"{hard}/").split(": ")[0] for image in images_of(verdict, "unreadable")
    }
    for entry in json.loads((hard / "manifest.json").read_text())["files"]:
        if entry["expect"] != "either":
            assert (entry["file"] in unreadable) == (entry["expect"] == "refuse"), entry["file"]


def test_a_data_set_whose_labels_are_all_out_of_range_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        picture(tmp_path / f"{number}.jpg", number)
    (tmp_path / "data.lst").write_text("0\t-1\t0.jpg\n1\t7\t1.jpg\n")
    (tmp_path / "labels.json").write_text('{"labels": ["cat", "dog"]}')
    code, verdict = check(capsys, tmp_path)
    assert code == 1 and len(images_of(verdict, "label-out-of-range")) == 2


def test_every_command_takes_the_pixel_limit_from_the_environment(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data.lst"
    path.write_text("0\t0\tcat/0.jpg\n")
    monkeypatch.setenv("IMAGE_CLASSIFICATION_MAX_PIXELS", str(120 * 90 - 1))
    for words in (
        ["check", str(clean)],
        ["preprocess", "--input", str(clean), "--output", str(tmp_path / "out")],
        ["preprocess", "--input", str(clean), "--output", str(tmp_path / "out"), "--resize", "32"],
        ["pack", str(path), str(clean), "--resize", "32"],
    ):
        assert main(words) != 0
        assert "raise the limit (IMAGE_CLASSIFICATION_MAX_PIXELS)" in "".join(capsys.readouterr())
    assert im2rec.main([str(path), str(clean)]) == 2
    assert "IMAGE_CLASSIFICATION_MAX_PIXELS" in capsys.readouterr().err
    monkeypatch.setenv("IMAGE_CLASSIFICATION_MAX_PIXELS", str(120 * 90))
    assert im2rec.main([str(path), str(clean)]) == 0


def test_the_kinds_of_what_is_left_out_do_not_follow_the_wording(clean: Path) -> None:
    for kinds in (problems._WARNINGS, problems._NOTES):
        assert all(re.fullmatch("[a-z-]+", kind) for kind in kinds.values())
    left_out = [
        (tree.CIRCULAR, 1, "cat/loop"),
        (tree.SPECIAL, 1, "cat/gone"),
        (".txt files", 2, "x"),
    ]
    subset = Subset("clean", str(clean), [], np.empty(0), None, lambda _: b"", left_out)
    assert [problem.kind for problem in problems._folder_problems(subset)] == [
        "links-to-a-folder-around-themselves",
        "links-to-nowhere-or-special-files",
        ".txt-files",
    ]


def test_every_command_has_the_same_limits_of_what_an_image_costs(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 8190 | 8190 << 14  # width and height, less 1
    flat = b"VP8L\x0a\0\0\0\x2f" + size.to_bytes(4, "little") + b"\x88\x88\x08\0\0"
    bomb = b"RIFF" + (len(flat) + 4).to_bytes(4, "little") + b"WEBP" + flat
    (clean / "cat" / "bomb.webp").write_bytes(bomb)
    path = tmp_path / "data.lst"
    path.write_text("0\t0\tcat/bomb.webp\n")
    commands = (
        ["check", str(clean)],
        ["preprocess", "--input", str(clean), "--output", str(tmp_path / "out")],
        ["preprocess", "--input", str(clean), "--output", str(tmp_path / "out"), "--resize", "32"],
        ["pack", str(path), str(clean), "--resize", "32"],
    )
    for words in commands:
        assert main(words) != 0
        output = "".join(capsys.readouterr())
        assert "WEBP of 8191 × 8191 pixels takes up to" in output
        assert "(IMAGE_CLASSIFICATION_PICTURE_MEMORY_MB)" in output
    monkeypatch.setenv("IMAGE_CLASSIFICATION_PICTURE_SECONDS", "soon")
    for words in commands:
        assert main(words) == 2
        assert "PICTURE_SECONDS must be an integer" in "".join(capsys.readouterr())


def message_of(verdict: dict[str, Any], kind: str) -> str:
    (found,) = (p["message"] for p in verdict["problems"] if p["kind"] == kind)
    return str(found)


def records(path: Path, *numbers: int) -> Path:
    picture(path.parent / "one.jpg", 1)
    with RecordWriter(path) as writer:
        for index, number in enumerate(numbers):
            content = picture(path.parent / "one.jpg", index).read_bytes()
            writer.write(pack_image_record(RecordHeader(number, index), content), index)
    return path


def test_a_single_class_is_an_error_in_folders_lists_and_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "flat" / "images" / "1.jpg", 1)
    picture(tmp_path / "flat" / "images" / "2.jpg", 2)
    (tmp_path / "all.lst").write_text("0\t0\timages/1.jpg\n1\t0\timages/2.jpg\n")
    for arguments in (
        (tmp_path / "flat",),
        (tmp_path / "flat", "--list", tmp_path / "all.lst"),
        (records(tmp_path / "data.rec", 0, 0),),
    ):
        code, verdict = check(capsys, *arguments)
        assert code == 1 and kinds(verdict)["one-class"] == "error"
    assert "all 2 images are of the class 0" in message_of(verdict, "one-class")


def test_label_numbers_that_do_not_count_from_0_are_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, verdict = check(capsys, records(tmp_path / "data.rec", 1, 2, 3))
    assert code == 0 and kinds(verdict)["label-numbers"] == "warning"
    assert "the labels are 1 to 3, so no image has 0" in message_of(verdict, "label-numbers")
    lines = (json.dumps({"source-ref": f"one{n}.jpg", "class": n}) + "\n" for n in (1, 2))
    (tmp_path / "all.manifest").write_text("".join(lines))
    for number in (1, 2):
        picture(tmp_path / f"one{number}.jpg", number)
    _, verdict = check(capsys, tmp_path, "--list", tmp_path / "all.manifest")
    assert "the labels are 1 to 2, so no image has 0" in message_of(verdict, "label-numbers")


def test_a_class_that_validation_lacks_is_a_warning_and_one_that_training_lacks_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(("train/cat/a", "train/dog/b", "val/dog/c", "test/cat/d")):
        picture(tmp_path / f"{name}.jpg", number)
    code, verdict = check(capsys, tmp_path)
    assert code == 0 and kinds(verdict)["absent-class"] == "warning"
    picture(tmp_path / "val" / "owl" / "e.jpg", 9)
    code, verdict = check(capsys, tmp_path)
    assert code == 1 and "not in both: cat, owl" in message_of(verdict, "other-classes")


def test_a_class_whose_files_are_no_images_is_an_error_and_some_files_are_a_warning(
    clean: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    (clean / "cat" / "x.heic").write_bytes(heic)
    code, verdict = check(capsys, clean)
    assert code == 0 and kinds(verdict)[".heic-files"] == "warning"
    assert "HEIC: convert it to JPEG or PNG" in message_of(verdict, ".heic-files")
    (clean / "owl").mkdir()
    (clean / "owl" / "y").write_bytes(heic)
    code, verdict = check(capsys, clean)
    assert code == 1 and kinds(verdict)["class-folders-without-a-usable-image"] == "error"


def test_names_of_classes_that_are_nearly_the_same_are_a_warning(
    clean: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(clean / "Cat" / "x.jpg", 40)
    _, verdict = check(capsys, clean)
    assert "'Cat' and 'cat'" in message_of(verdict, "similar-classes")


def test_a_table_is_checked_with_the_columns_that_the_flags_name(
    tmp_path: Path, clean: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"{n},{('cat', 'dog')[n % 2]},x{n // 4},y{n % 2}" for n in range(8)]
    (tmp_path / "t.csv").write_text("\n".join(["plate,animal,pose,view of it", *lines]))
    command = (clean, "--list", tmp_path / "t.csv")
    code, verdict = check(capsys, *command)
    assert code == 1
    assert "--label-column 'animal'" in verdict["problems"][0]["message"]
    code, verdict = check(capsys, *command, "--label-column", "animal")
    assert code == 0
    assert verdict["parts"][0]["class_counts"] == {"cat": 4, "dog": 4}


def test_flags_for_columns_are_refused_where_no_table_is_checked(
    tmp_path: Path, clean: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.lst").write_text("0\t0\tcat/0.jpg\n")
    for paths in ([clean], [clean, "--list", tmp_path / "t.lst"]):
        assert main(["check", *map(str, paths), "--file-column", "x"]) == 2
        assert "--file-column x: only a table has columns" in capsys.readouterr().err


def test_a_table_next_to_class_folders_is_a_warning_that_names_the_flag(
    tmp_path: Path, write_class_folders: ClassFolders, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_class_folders(tmp_path / "data", classes=("part_1", "part_2"), per_class=3)
    (folder / "metadata.csv").write_text("image_id,dx\npart_1000,mel\n")
    assert main(["check", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "WARNING .csv-files" in printed and "if it holds the classes, give --list" in printed
    assert main(["preprocess", "--input", str(folder), "--output", str(tmp_path / "out")]) == 0
    assert "although metadata.csv is next to them" in "".join(capsys.readouterr())
