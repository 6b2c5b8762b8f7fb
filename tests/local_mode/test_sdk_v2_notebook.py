"""notebooks/sagemaker.ipynb, executed unchanged with papermill."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import papermill
import pytest

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "sagemaker.ipynb"


def test_the_sagemaker_notebook_ends_with_correct_predictions(
    train_image: str,
    serve_image: str,
    free_port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    parameters = {"train_image": train_image, "serve_image": serve_image, "port": free_port}
    executed = papermill.execute_notebook(
        NOTEBOOK,
        tmp_path / "executed.ipynb",
        parameters=parameters,
        cwd=tmp_path,
        progress_bar=False,
        log_output=True,
    )
    assert _result(executed, "prediction") == "circle"
    assert _result(executed, "answers") == {
        f"new-{shape}.jpg": shape for shape in ("circle", "square", "triangle")
    }


def _result(notebook: Any, tag: str) -> object:
    """Return the value of the last expression in the cell with this tag."""
    (cell,) = (cell for cell in notebook.cells if tag in cell.metadata.get("tags", []))
    (result,) = (output for output in cell.outputs if output.output_type == "execute_result")
    return ast.literal_eval(result.data["text/plain"])
