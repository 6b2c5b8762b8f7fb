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
from image_classification.serving.custom.definitions import read_definitions

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


@pytest.mark.parametrize(
    ("code", "others"),
    [
        # The handlers of JumpStart and of TensorFlow Serving, whose imports this image lacks.
        ("import requests\nlabels = open('/no/such')\ndef handler(data, context): pass", "handler"),
        (f"import requests\n{OF_TENSORFLOW}", "input_handler and output_handler"),
        ("if True:\n    def handler(data, context): pass", "handler"),
        ("class Service:\n    def handle(self): pass\nhandler = Service().handle", "handler"),
        ("from model_handler import handler", "handler"),
        ("from helper import *", "handler"),
        ("class EndpointHandler:\n    def predict_fn(self): pass", "EndpointHandler"),
        ("def handler(data, context):\n    def predict_fn(): pass", "handler"),
    ],
)
def test_a_file_for_another_server_does_not_run_and_is_one_warning(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    others: str,
) -> None:
    monkeypatch.setenv("SAGEMAKER_PROGRAM", "inference.py")
    written(tmp_path, code__inference_py=code, code__helper_py="def handler(data, context): pass")
    assert find_custom_code(tmp_path) is None
    (record,) = caplog.records
    assert f"code/inference.py does not run: it has {others} of" in record.getMessage()
    assert "unset SAGEMAKER_PROGRAM" in record.getMessage()


@pytest.mark.parametrize(
    "code",
    [
        f"{OF_TENSORFLOW}def predict_fn(data, model): pass",
        "from mine import predict_fn, handler",
        "from mine import answer as output_fn, handler",
        "import mine as model_fn\nhandler = None",
        "handler = model_fn = print",
        "def handler(): pass\ninput_fn, other = print, print",
        "def handler(): pass\npredict_fn: object = print",
        "def handler(): pass\nif (transform_fn := print): pass",
        "def handler(): pass\ntry:\n    import x\nexcept ImportError:\n    def model_fn(d): pass",
        "def handler(): pass\nglobals()['predict_fn'] = print",
        "def handler(): pass\nexec('def predict_fn(a, b): pass')",
        "def handler(): pass\nfrom elsewhere import *",
        "from helper import *",
        "def handler(): pass\ndef pre_model_fn(): pass",
        "def handler(): pass\ndef predict_func(data, model): pass",
        "def handler(data, context)\n    pass",
        "print 'of Python 2'",
        "\0",
        "",
    ],
)
def test_a_file_that_can_have_our_functions_is_imported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setenv("SAGEMAKER_PROGRAM", "inference.py")
    helper = "from inference import *\nfrom helper import *\ndef predict_fn(d, m): pass"
    found = find_custom_code(written(tmp_path, code__inference_py=code, code__helper_py=helper))
    assert found is not None
    assert not caplog.records


def test_a_file_for_another_server_in_a_subfolder_does_not_run_and_ours_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGEMAKER_PROGRAM", "sub/inference.py")
    assert find_custom_code(written(tmp_path, code__sub__inference_py=OF_TENSORFLOW)) is None
    with pytest.raises(UserError, match="directly in the artifact's code/"):
        find_custom_code(written(tmp_path, code__sub__inference_py="def model_fn(d): pass"))


def test_a_misspelled_function_ends_the_server() -> None:
    for misspelled, meant in (("predict_func", "predict_fn"), ("InputFn", "input_fn")):
        with pytest.raises(UserError, match=rf"{misspelled} \(did you mean {meant}\?\)"):
            check_functions("inference.py", [misspelled])


def test_a_script_without_functions_of_a_server_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert check_functions("train.py", ["main", "train_fn", "loss_fn", "predict"]) == []
    assert "code/train.py defines none of model_fn" in caplog.text
    assert check_functions("made.py", ["input_handler"]) == []
    assert "it has input_handler of TensorFlow Serving: the model answers" in caplog.text


def test_a_function_of_another_server_next_to_ours_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert check_functions("a.py", ["output_fn", "handle", "model_fn"]) == ["model_fn", "output_fn"]
    assert "handle of TorchServe; the server calls only its model_fn, output_fn" in caplog.text
    caplog.clear()
    assert check_functions("a.py", ["model_warmup_fn"]) == ["model_warmup_fn"]
    assert not caplog.records


def test_code_that_is_nested_too_deep_for_the_parser_is_reported_as_that(tmp_path: Path) -> None:
    path = tmp_path / "inference.py"
    path.write_text("x = " + "-" * 200_000 + "1")
    assert read_definitions(path).problem == "it cannot be read as Python: it is nested too deep"


def test_code_too_large_to_be_read_at_a_bounded_cost_is_reported_as_that(tmp_path: Path) -> None:
    path = tmp_path / "inference.py"
    path.write_text("a;" * 500_000)
    assert read_definitions(path).problem == "it cannot be read as Python: it has more than 256 KiB"
