"""docs/endpoints.md: every request is one that AWS's API accepts, and its sums are right."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

PAGE = (Path(__file__).parents[3] / "docs" / "endpoints.md").read_text("utf-8")
CODE = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
REQUESTS = [
    "create_model", "create_endpoint_config", "create_endpoint", "create_inference_component",
    "register_scalable_target", "put_scaling_policy", "invoke_endpoint", "invoke_endpoint_async",
]  # fmt: skip


class Recorder:
    """Stands in for a client of boto3; checks each request against botocore's model."""

    def __init__(self, service: str) -> None:
        import botocore.session

        self.model = botocore.session.get_session().get_service_model(service)

    def __getattr__(self, name: str) -> Any:
        from botocore import xform_name
        from botocore.validate import ParamValidator

        operations = {xform_name(each): each for each in self.model.operation_names}
        shape = self.model.operation_model(operations[name]).input_shape

        def send(**request: Any) -> None:
            report = ParamValidator().validate(request, shape)
            assert not report.has_errors(), f"{name}: {report.generate_report()}"
            _check_choices(shape, request)
            sent.append(name)

        return send


sent: list[str] = []


def _check_choices(shape: Any, value: Any) -> None:
    """botocore does not look whether a string is one of the values that the API lists."""
    if shape.type_name == "structure":
        for name, member in value.items():
            _check_choices(shape.members[name], member)
    elif shape.type_name == "list":
        for member in value:
            _check_choices(shape.member, member)
    elif shape.type_name == "string" and shape.enum:
        assert value in shape.enum, f"{value}: expected one of {shape.enum}"


def test_every_request_on_the_page_is_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("botocore", reason="botocore is not installed")
    monkeypatch.setitem(sys.modules, "boto3", SimpleNamespace(client=Recorder))
    monkeypatch.chdir(tmp_path)
    Path("rose.jpg").write_bytes(b"image")
    sent.clear()
    exec(compile(CODE, "docs/endpoints.md", "exec"), {})
    assert set(sent) == set(REQUESTS)


def test_the_products_in_its_example_of_costs_are_right() -> None:
    sums = re.findall(r"([\d./,]+(?: h| s)? × [^|$]*\$[\d.]+) = \$([\d.]+)", PAGE)
    assert len(sums) == 5
    for product, result in sums:
        numbers = re.sub(r"\$| h| s|,", "", product).replace("×", "*")
        value = _product(ast.parse(numbers, mode="eval").body)
        assert value == pytest.approx(float(result), abs=0.006), product


def _product(node: ast.AST) -> float:
    if isinstance(node, ast.Constant):
        return float(node.value)
    assert isinstance(node, ast.BinOp)
    left, right = _product(node.left), _product(node.right)
    return left * right if isinstance(node.op, ast.Mult) else left / right
