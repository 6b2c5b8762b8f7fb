"""The fuzz of data accounts for every image, and notices whatever goes wrong."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "scripts" / "benchmarks"
SEED = 3
AREAS = ("records", "lists", "tables", "tfrecords", "shards", "folders")


@pytest.fixture
def run_inputs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return a function that runs inputs of an area, and returns their verdicts."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    areas, workers = (
        pytest.importorskip("generated.areas"),
        pytest.importorskip("generated.workers"),
    )

    def run(area: str, count: int) -> list[Any]:
        if areas.lacking(area):
            pytest.skip(f"{area}: {areas.lacking(area)} are not installed")
        inherited = workers.resident()
        return [
            workers.run_input(area, SEED, number, Path(tempfile.mkdtemp(dir=tmp_path)), inherited)
            for number in range(count)
        ]

    return run


def verdicts(run: list[Any]) -> Counter[str]:
    return Counter(one.verdict for one in run)


def test_inputs_of_every_area_are_used_or_refused_by_name(run_inputs: Any) -> None:
    lacking = importlib.import_module("generated.areas").lacking
    found = [one for area in AREAS if not lacking(area) for one in run_inputs(area, 4)]
    assert [one for one in found if one.verdict not in ("used", "refused")] == []
    assert verdicts(found)["used"] > 5 and verdicts(found)["refused"] > 5


def test_the_fuzz_notices_an_image_that_is_lost_without_a_word(
    run_inputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_classification.labels import tree

    kept = tree.keep_images
    monkeypatch.setattr(tree, "keep_images", lambda *given: kept(*given)[1:])
    assert verdicts(run_inputs("folders", 6))["silent loss"] > 1


def test_the_fuzz_notices_a_record_that_is_lost_without_a_word(
    run_inputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_classification.records import reader

    located = reader.locate_records

    def losing(*given: Any, **named: Any) -> Any:
        found = located(*given, **named)
        return type(found)(found.offsets[:-1], found.keys[:-1] if found.keys is not None else None)

    monkeypatch.setattr(reader, "locate_records", losing)
    assert verdicts(run_inputs("records", 10))["silent loss"] > 1


def test_the_fuzz_notices_an_image_that_gets_the_class_of_another(
    run_inputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_classification.inventory import tables

    rows = tables._rows_of_one

    def shifted(grid: Any, columns: Any, places: Any, labels: Any, root: Path) -> Any:
        return rows(grid, columns, places, [*labels[1:], labels[0]], root)

    monkeypatch.setattr(tables, "_rows_of_one", shifted)
    found = [one for one in run_inputs("tables", 12) if one.verdict == "silent loss"]
    assert any("sound images" in one.reason for one in found)


def test_the_fuzz_notices_an_exception_and_an_error_that_names_no_file(
    run_inputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_classification.errors import ListError
    from image_classification.inventory import tables

    for error, verdict in ((ValueError("broken"), "crash"), (ListError("no"), "unclear error")):

        def failing(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(tables, "read_grid", failing)
        assert verdicts(run_inputs("tables", 4))[verdict] > 1


def test_the_fuzz_survives_inputs_that_hang_kill_their_process_or_take_memory() -> None:
    program = """if True:
        import json, os, signal, sys
        from generated import areas, workers

        def make(chance, folder):
            number = int(folder.parent.name.partition("-")[2])
            while number == 0:
                pass
            if number == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if number == 2:
                bytearray(8 << 30)
            raise ValueError("odd")

        areas.AREAS = {"x": areas.Area(1, make)}
        workers.CPU_SECONDS = 0.2
        pool = workers.Pool(0, 1)
        found = {v.number: v.verdict for v in pool.run(("x", number) for number in range(4))}
        print(json.dumps([found[number] for number in range(4)]))
    """
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=BENCHMARKS, capture_output=True, text=True, check=True
    )
    assert json.loads(ran.stdout) == ["hang", "crash", "memory", "crash"]


def test_a_seed_an_area_and_a_number_make_the_same_input_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    fuzz = importlib.import_module("fuzz")
    contents = []
    for _ in range(2):
        words = ["--seed", "3", "--only", "lists", "--input", "5", "--save", str(tmp_path)]
        assert fuzz.main(words) == 0
        folder = tmp_path / "3-lists-5" / "input"
        contents.append({p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()})
    assert contents[0] == contents[1] != {}
    assert capsys.readouterr().out.count(f"\n{tmp_path}/3-lists-5\n") == 2


def test_failures_are_counted_by_area_and_kept_with_the_command_that_repeats_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    fuzz, workers = map(importlib.import_module, ("fuzz", "generated.workers"))
    verdicts = [workers.Verdict("lists", n, v) for n, v in enumerate(("used", "refused", "hang"))]
    monkeypatch.setattr(fuzz, "Pool", lambda *_: SimpleNamespace(run=lambda _: verdicts))
    words = ["--inputs", "3", "--only", "lists", "--save", str(tmp_path / "kept")]
    assert fuzz.main([*words, "--json", str(tmp_path / "found.json")]) == 1
    assert "| lists | 3 | 1 | 1 | 0 | 1 | 0 | 0 | 0 |" in capsys.readouterr().out
    result = json.loads((tmp_path / "found.json").read_text())
    assert [failure["number"] for failure in result["failed"]] == [2]
    kept = (tmp_path / "kept" / "15-lists-2" / "failure.txt").read_text()
    assert "scripts/benchmark fuzz --seed 15 --only lists --input 2" in kept
    assert (tmp_path / "kept" / "15-lists-2" / "input" / "train.lst").exists()
