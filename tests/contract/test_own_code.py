"""The user's code/inference.py in the artifact answers if SAGEMAKER_PROGRAM names it."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.contract.jobs import Answer, run_command, running_server
from tests.contract.raw_http import connected, request

pytest.importorskip("sagemaker_inference")

# As public examples for the framework containers are written: numbers of Pillow's and numpy's.
PUBLIC_STYLE = """
import io
import json
import logging
import os

import numpy as np
from PIL import Image

logger = logging.getLogger(__name__)
JSON_CONTENT_TYPE = "application/json"
CONTENT_TYPE = "image/jpeg"


def model_fn(model_dir):
    logger.info("In model_fn. Model directory is -")
    with open(os.path.join(model_dir, "labels.json")) as f:
        labels = json.load(f)["labels"]
    return {"labels": labels, "order": [2, 0, 1]}


def input_fn(request_body, content_type="image/jpeg"):
    if content_type == CONTENT_TYPE:
        image = Image.open(io.BytesIO(request_body)).convert("RGB").resize((32, 32))
        return np.asarray(image, dtype=np.float32) / 255.0
    raise Exception("Requested unsupported ContentType in content_type: " + content_type)


def predict_fn(input_object, model):
    brightness = input_object.mean(axis=(0, 1))[model["order"]]
    scores = np.exp(brightness * 10)
    return dict(zip(model["labels"], (scores / scores.sum()).tolist()))


def output_fn(prediction, accept=JSON_CONTENT_TYPE):
    if accept == JSON_CONTENT_TYPE:
        return json.dumps(prediction), accept
    raise Exception("Requested unsupported ContentType in Accept: " + accept)
"""

ONLY_OUTPUT = """
def output_fn(results, accept):
    return "\\n".join(result.label.upper() for result in results)
"""

ONLY_INPUT = """
import base64, json

def input_fn(body, content_type):
    return [base64.b64decode(text) for text in json.loads(body)["pictures"]]
"""

ONLY_PREDICT = """
import numpy as np

def predict_fn(data, model):
    rows = [result.probabilities for result in model.predict(data.entries)]
    return np.flip(rows, axis=1)
"""

OUR_PREDICTIONS = """
def predict_fn(data, model):
    return model.predict(data.entries)
"""

ONE_PREDICTION = """
def predict_fn(data, model):
    return model.predict(data.entries)[0]
"""

LIST_OF_ARRAYS = """
import io
import numpy as np
from PIL import Image

def input_fn(body, content_type):
    image = Image.open(io.BytesIO(body)).convert("RGB")
    return [np.asarray(image), image]
"""

Ask = Callable[..., Answer]


@pytest.fixture
def model_with(trained_job: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the artifact with code/inference.py."""

    def write(code: str) -> Path:
        model = tmp_path / "model"
        shutil.copytree(trained_job / "model", model)
        (model / "code").mkdir()
        (model / "code" / "inference.py").write_text(code)
        return model

    return write


@pytest.fixture
def red(small_channels: dict[str, Path]) -> bytes:
    return (small_channels["validation"] / "red" / "red000.jpg").read_bytes()


def answers_of(
    model: Path, *asked: tuple[bytes, dict[str, str]], **environment: str
) -> list[Answer]:
    given = {"SAGEMAKER_PROGRAM": "inference.py"} | environment
    with running_server(model, **given) as server:
        return [server.invoke(body, **headers) for body, headers in asked]


def test_four_functions_of_a_public_example_answer(
    model_with: Callable[[str], Path], red: bytes
) -> None:
    jpeg = {"Content_Type": "image/jpeg"}
    good, typed, refused = answers_of(
        model_with(PUBLIC_STYLE),
        (red, jpeg),
        (red, jpeg | {"Content_Type": "image/jpeg; q=1", "Accept": "application/json"}),
        (red, jpeg | {"Accept": "text/csv"}),
    )
    assert good.status == typed.status == 200
    assert good.headers["Content-Type"] == "application/json"
    probabilities = good.json()
    assert (
        isinstance(probabilities, dict)
        and max(probabilities, key=probabilities.__getitem__) == "red"
    )
    assert refused.status == 500
    error = refused.json()["error"]  # type: ignore[index,call-overload]
    assert "code/inference.py failed" in error and "in Accept: text/csv" in error
    assert "Traceback" not in error and b"\n" not in refused.body


@pytest.mark.parametrize("program", ["", "other.py", "inference.py"])
def test_a_file_that_is_not_named_or_for_another_server_changes_nothing(
    model_with: Callable[[str], Path], red: bytes, program: str
) -> None:
    # JumpStart's deploy names its inference.py, which is for TensorFlow Serving.
    code = 'raise SystemExit("this was run")\ndef handler(data, context): pass'
    jpeg = {"Content_Type": "image/jpeg"}
    (answer,) = answers_of(model_with(code), (red, jpeg), SAGEMAKER_PROGRAM=program)
    assert isinstance(answer.json(), list)


def test_each_function_can_be_alone_and_ours_do_the_rest(
    model_with: Callable[[str], Path], red: bytes, tmp_path: Path
) -> None:
    jpeg = {"Content_Type": "image/jpeg"}
    text = base64.b64encode(red).decode()
    body = json.dumps({"pictures": [text, text]}).encode()
    as_json = {"Content_Type": "application/json", "Accept": "application/json;verbose"}
    cases = [
        (ONLY_OUTPUT, red, jpeg | {"Accept": "text/plain"}, "RED", None),
        (ONLY_INPUT, body, as_json, None, ["red", "red"]),
        (LIST_OF_ARRAYS, red, jpeg | {"Accept": "application/json;verbose"}, None, ["red", "red"]),
        (OUR_PREDICTIONS, red, jpeg | {"Accept": "application/json;verbose"}, None, ["red"]),
        (ONE_PREDICTION, red, jpeg | {"Accept": "application/json;verbose"}, None, "red"),
        (ONLY_PREDICT, red, jpeg | {"Accept": "application/jsonlines;verbose"}, None, "blue"),
    ]
    for code, sent, headers, said, labels in cases:
        model = model_with(code)
        (answer,) = answers_of(model, (sent, headers))
        assert answer.status == 200, answer.body
        if said is not None:
            assert answer.body.decode() == said
            assert answer.headers["Content-Type"].startswith("text/plain")
        elif isinstance(labels, list):
            assert [entry["predicted_label"] for entry in json.loads(answer.body)] == labels
        else:
            assert json.loads(answer.body)["predicted_label"] == labels
        shutil.rmtree(model)


def test_the_documented_example_runs(model_with: Callable[[str], Path], red: bytes) -> None:
    text = (REPOSITORY / "docs" / "own-code.md").read_text("utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    (answer,) = answers_of(model_with(code), (red, {"Content_Type": "image/jpeg"}))
    assert answer.status == 200 and answer.json() in (["red"], ["unsure"])


def test_a_pickle_sent_as_numpys_format_is_never_loaded(
    model_with: Callable[[str], Path], tmp_path: Path
) -> None:
    class Attack:
        def __reduce__(self) -> object:
            return (Path.touch, (tmp_path / "pwned",))

    body = io.BytesIO()
    np.save(body, np.array([Attack()], object), allow_pickle=True)
    code = "from sagemaker_inference import decoder\ninput_fn = decoder.decode\n"
    npy = {"Content_Type": "application/x-npy"}
    for source in (ONLY_OUTPUT, code):
        model = model_with(source)
        (answer,) = answers_of(model, (body.getvalue(), npy))
        assert answer.status == 415 and b"pickles" in answer.body
        shutil.rmtree(model)
    assert not (tmp_path / "pwned").exists()


def test_our_refusals_reach_the_client_unchanged(
    model_with: Callable[[str], Path], red: bytes
) -> None:
    broken, strange, no_text = answers_of(
        model_with("def model_warmup_fn(model_dir, model): pass\n"),
        (red[:200], {"Content_Type": "image/jpeg"}),
        (red, {"Content_Type": "text/html"}),
        (b"\xff\xfe", {"Content_Type": "application/json"}),
    )
    assert (broken.status, strange.status, no_text.status) == (400, 415, 400)


ECHO = """
def output_fn(prediction, accept):
    return 'text', eval(accept)
"""


def test_a_content_type_that_no_header_can_hold_is_a_500_and_begins_no_other_header(
    model_with: Callable[[str], Path], red: bytes
) -> None:
    found = ("'text/\\u20ac'", r"'text/plain\r\nX-Other: 1'", r"'a\nb'", r"'a\x00b'", "5", "b'a/b'")
    answers = answers_of(
        model_with(ECHO),
        *((red, {"Content_Type": "image/jpeg", "Accept": value}) for value in found),
    )
    for value, answer in zip(found, answers, strict=True):
        assert answer.status == 500 and "X-Other" not in answer.headers
        shown = f"output_fn returned the content type {value}: expected text on one line"
        assert shown in json.loads(answer.body)["error"]


def test_a_text_that_utf_8_cannot_hold_is_a_500_that_names_the_file(
    model_with: Callable[[str], Path], red: bytes
) -> None:
    code = "def output_fn(prediction, accept): return 'text \\udc80'\n"
    (answer,) = answers_of(model_with(code), (red, {"Content_Type": "image/jpeg"}))
    assert answer.status == 500 and b"inference.py failed: UnicodeEncodeError" in answer.body


REFUSALS = """
from sagemaker_inference.errors import GenericInferenceToolkitError

def input_fn(body, content_type):
    word = body.decode()
    raise GenericInferenceToolkitError(int(word) if word.isdigit() else word, "no dogs")
"""


def test_a_status_that_handlers_raise_is_answered_and_an_impossible_one_named(
    model_with: Callable[[str], Path],
) -> None:
    words = (b"422", b"abc", b"200", b"9999")
    answers = answers_of(model_with(REFUSALS), *((word, {}) for word in words))
    assert answers[0].status == 422 and answers[0].json() == {"error": "no dogs"}
    for word, answer in zip(words[1:], answers[1:], strict=True):
        said = str(answer.json())
        assert answer.status == 500 and word.decode() in said and "400 to 599: no dogs" in said


MISCHIEF = """
import sys, time

def predict_fn(data, model):
    if data.entries[0] == b"exit":
        sys.exit(0)
    if data.entries[0] == b"hang":
        time.sleep(3600)
    return model.predict(data.entries)
"""


def test_handlers_that_exit_or_hang_do_not_harm_other_requests(
    model_with: Callable[[str], Path], red: bytes
) -> None:
    settings = {
        "SAGEMAKER_PROGRAM": "inference.py",
        "SAGEMAKER_GUNICORN_THREADS": "1",
        "SAGEMAKER_MODEL_SERVER_TIMEOUT": "1",
    }
    jpeg = {"Content_Type": "image/jpeg"}
    with running_server(model_with(MISCHIEF), **settings) as server:
        exited = server.invoke(b"exit", **jpeg)
        assert exited.status == 500 and b"code/inference.py failed: SystemExit" in exited.body
        hanging = server.worker()
        with connected(server) as client:
            client.send(request(b"hang"))
            answer = client.answer()
            assert answer.status == 500
            assert b"code/inference.py did not return within 1 s" in answer.body
        assert server.invoke(red, **jpeg).status == 200
        assert server.worker() != hanging


@pytest.mark.parametrize(
    ("code", "program", "parts"),
    [
        ("import sys\nsys.exit(0)", "inference.py", ["SystemExit"]),
        (
            "def model_fn(model_dir):\n    raise OSError('no such weights')",
            "inference.py",
            ["no such"],
        ),
        (
            "import a_package_that_is_not_there",
            "inference.py",
            ["a_package_that_is_not_there", "docs/own-code.md"],
        ),
        (
            "def transform_fn(a, b, c, d): pass\ndef input_fn(a, b): pass",
            "inference.py",
            ["transform"],
        ),
        ("", "../labels.json", ["../labels.json", "code/"]),
        ("", "json.py", ["code/json.py has the name of another module"]),
        (
            "def input_handler(data, context): return data.read()\ndef predct_fn(a, b): pass",
            "inference.py",
            ["code/inference.py defines none of model_fn", "predct_fn (did you mean predict_fn?)"],
        ),
    ],
)
def test_code_that_cannot_be_used_ends_the_server_with_an_error_message(
    model_with: Callable[[str], Path], code: str, program: str, parts: list[str]
) -> None:
    model = model_with(code)
    if "/" not in program:
        (model / "code" / program).write_text(code)
    done = run_command("serve", "--model", model, "--port", "18093", SAGEMAKER_PROGRAM=program)
    assert done.returncode not in (0, None)
    sentences = [line for line in done.stderr.splitlines() if line.startswith("ClientError: ")]
    assert sentences, done.stderr
    for part in parts:
        assert part in sentences[0]


def test_the_toolkit_runs_without_scipy_and_leaves_no_stand_in_behind() -> None:
    code = (
        "import sys; sys.modules['scipy'] = None\n"
        "import image_classification.serving.custom.handlers\n"
        "print(sorted(name for name in sys.modules if name.startswith('scipy')))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.strip()) == (0, "[]"), ran.stderr
