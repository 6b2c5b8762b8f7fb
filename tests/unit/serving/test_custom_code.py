"""Code in an artifact that does not run, or does not do what its author expects, is reported."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from image_classification.errors import UserError
from image_classification.serving.custom import (
    check_functions,
    find_custom_code,
    warn_of_unused_code,
)

OF_TENSORFLOW = "def input_handler(data, context): pass\ndef output_handler(r, context): pass\n"


def written(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_py", ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        (
            {"code__inference_py": "def predict_fn(data, model): pass"},
            ["code/inference.py", "SAGEMAKER_PROGRAM is not set", "SAGEMAKER_PROGRAM=inference.py"],
        ),
        (
            {"code__a_py": "import b", "code__b_py": "async def output_fn(a, b): pass"},
            ["code/a.py, code/b.py", "SAGEMAKER_PROGRAM=b.py"],
        ),
        (
            {"inference_py": "def predict_fn(data, model): pass"},
            ["inference.py", "move it into code/"],
        ),
        (
            {"code__lib__inference_py": "def predict_fn(data, model): pass"},
            ["code/lib/inference.py", "move it into code/"],
        ),
        (
            {"code__inference_py": OF_TENSORFLOW},
            ["input_handler and output_handler of TensorFlow Serving", "write input_fn"],
        ),
        ({"code__train_py": "raise SystemExit('run')"}, ["code/train.py", "it defines none of"]),
    ],
)
def test_code_that_does_not_run_is_one_warning_with_the_cure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, files: dict[str, str], parts: list[str]
) -> None:
    assert find_custom_code(written(tmp_path, **files)) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for part in parts:
        assert part in record.getMessage()


def test_an_artifact_without_code_is_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "requirements.txt").write_text("x")
    assert find_custom_code(tmp_path) is None
    warn_of_unused_code(tmp_path, "of a test")
    assert not caplog.records


def test_a_program_that_is_missing_is_a_warning_with_what_there_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGEMAKER_PROGRAM", "other.py")
    assert find_custom_code(written(tmp_path, code__inference_py="")) is None
    assert "no code/other.py (it has code/inference.py)" in caplog.text


def test_the_functions_of_another_server_end_this_one() -> None:
    with pytest.raises(UserError, match="input_handler and output_handler of TensorFlow Serving"):
        check_functions("inference.py", ["input_handler", "output_handler", "parse"])
    for misspelled, meant in (("predict_func", "predict_fn"), ("InputFn", "input_fn")):
        with pytest.raises(UserError, match=rf"{misspelled} \(did you mean {meant}\?\)"):
            check_functions("inference.py", [misspelled])


def test_a_script_without_functions_of_a_server_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert check_functions("train.py", ["main", "train_fn", "loss_fn", "predict"]) == []
    assert "code/train.py defines none of model_fn" in caplog.text


def test_a_function_of_another_server_next_to_ours_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert check_functions("a.py", ["output_fn", "handle", "model_fn"]) == ["model_fn", "output_fn"]
    assert "handle of TorchServe; the server calls only its model_fn, output_fn" in caplog.text
    caplog.clear()
    assert check_functions("a.py", ["model_warmup_fn"]) == ["model_warmup_fn"]
    assert not caplog.records
