"""Who may import whom, and what nothing in the package may do."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import image_classification
from image_classification import backends

PACKAGE = Path(image_classification.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
FRAMEWORKS = ("torch", "tensorflow", "keras", "mxnet", "onnxruntime", "flask", "timm", "onnx")

FRAMEWORK_ROOMS = re.compile(
    r"backends/\w+/(?!__init__|catalog|kvstore_node)\w+\.py|backends/onnx_\w+\.py"
    r"|serving/(app|runtime)\.py|serving/custom/handlers\.py"
)
NEXT_DOOR = re.compile(
    r"serving/(multi_model|batching|startup|models|model_process)\.py"
)  # import from such a room
GUNICORN_ROOMS = ("arbiter.py", "server.py", "worker.py")

# The table of docs/architecture.md: part → parts of the package it may import.
DATA = {"errors", "files", "work", "samples", "images", "records", "labels"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "events": set(),
    "logs": {"errors", "events"},
    "terminal": {"contract", "events", "logs"},
    "files": {"errors"},
    "work": set(),
    "samples": set(),
    "pages": set(),
    "archive": {"errors", "files"},
    "images": {"contract", "errors", "samples"},  # contract: the limits of a picture
    "records": {"errors", "files", "samples"},
    "labels": {"errors", "files", "images", "samples"},
    "inventory": {"errors", "samples", "labels", "loading"},
    "loading": {"errors", "events", "samples", "images", "records", "labels"},
    "curation": {"samples"},
    "prepare": DATA | {"inventory", "loading", "pages"},
    "contract": {"errors", "logs"},
    "devices": {"contract", "errors"},
    "foreign_models": set(),
    "base_model": {"errors", "records"},
    "feature_index": {"errors", "samples"},
    "artifact": {"errors", "files", "foreign_models", "images", "labels", "archive", "records"}
    | {"feature_index"},
    "weights": {"archive", "errors", "files", "samples"},
    "backends": {"errors", "files", "samples", "images", "weights"},
    "training": DATA
    | {"loading", "inventory", "events", "logs", "contract", "archive", "artifact", "backends"}
    | {"base_model", "curation", "devices", "feature_index", "pages", "weights"},
    "evaluate": {
        "errors",
        "samples",
        "work",
        "inventory",
        "records",
        "labels",
        "loading",
        "training",
    },
    "export": {"errors", "files", "images", "labels", "contract", "archive", "artifact"}
    | {"backends", "base_model", "training", "weights"},
    "script_mode": {"errors", "files", "contract", "devices"},
    "serving": {"errors", "files", "logs", "samples", "images", "records", "labels", "contract"}
    | {
        "artifact",
        "devices",
        "feature_index",
        "pages",
        "archive",
    },  # archive: the limits of those that POST /models names
    "api": DATA
    | {"artifact", "contract", "curation", "devices", "evaluate", "export", "inventory", "loading"}
    | {"events", "logs", "prepare", "serving", "terminal", "training"},
    "cli": DATA
    | {"api", "pages", "terminal"}
    | {"logs", "contract", "artifact", "curation", "prepare", "inventory", "training", "serving"}
    | {"backends", "devices", "evaluate", "export", "script_mode", "weights"},
    "__init__": set(),
    "__main__": {"cli"},
}


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_part_imports_only_the_parts_it_may(path: Path) -> None:
    allowed = ALLOWED[part_of(path)] | {part_of(path), "__init__", "__version__"}
    for name in imports(path):
        if not name.startswith("image_classification."):
            continue
        part = name.split(".")[1]
        assert part in allowed, f"{part_of(path)} may not import {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_framework_is_imported_only_in_its_own_room(path: Path) -> None:
    relative = path.relative_to(PACKAGE).as_posix()
    for name in imports(path):
        top = name.split(".")[0]
        if top in {"onnxruntime"}:
            allowed = relative == "serving/runtime.py" or relative.startswith("backends/")
        elif top in {"flask", "werkzeug"}:
            rooms = ("app", "server", "startup", "multi_model")
            allowed = relative in {f"serving/{room}.py" for room in rooms} or (
                relative == "serving/codec/multipart.py" and top == "werkzeug"
            )
        elif top in FRAMEWORKS:
            allowed = bool(FRAMEWORK_ROOMS.match(relative)) or relative == (
                "backends/mxnet/kvstore_node.py"
            )
        elif top in {"jinja2"}:
            allowed = relative == "pages/__init__.py"
        elif top in {"gunicorn"}:
            allowed = relative.removeprefix("serving/") in GUNICORN_ROOMS
        elif top in {"httptools"}:
            allowed = relative == "serving/http.py"
        elif top in {"prometheus_client"}:
            allowed = relative == "serving/metrics.py"
        elif top in {"sagemaker_training", "psutil"}:
            allowed = relative.startswith("script_mode/")
        elif top in {"sagemaker_inference"}:
            allowed = relative == "serving/custom/handlers.py"
        else:
            allowed = True
        assert allowed, f"{relative} imports {name}"


def test_importing_everything_but_the_engines_loads_no_framework() -> None:
    names = []
    for path in MODULES:
        relative = path.relative_to(PACKAGE).as_posix()
        if FRAMEWORK_ROOMS.match(relative) or NEXT_DOOR.match(relative):
            continue
        if relative == "__main__.py":
            continue
        module = relative.removesuffix(".py").removesuffix("__init__").replace("/", ".")
        names.append(f"image_classification.{module}".rstrip("."))
    assert len(names) > 40
    script = (
        f"import sys, importlib\nfor name in {names!r}: importlib.import_module(name)\n"
        f"print([name for name in {FRAMEWORKS!r} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_the_product_reads_can_execute(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        call = ast.unparse(node.func)
        assert call not in {"eval", "exec", "compile", "__import__"}, f"{path}: {call}"
        assert call.split(".")[0] not in {"pickle", "marshal", "dill", "shelve"}, f"{path}: {call}"
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if call.endswith("torch.load"):
            assert keywords.get("weights_only") == "True", f"{path}: torch.load executes pickles"
        if call.endswith(("np.load", "numpy.load")):
            assert keywords.get("allow_pickle", "False") == "False", f"{path}: {call}"


def test_only_the_environment_module_reads_the_environment() -> None:
    allowed = {"serving/server.py"}
    for path in MODULES:
        relative = path.relative_to(PACKAGE).as_posix()
        if relative in allowed or relative in {
            "contract/environment.py",
            "contract/process.py",
            "contract/paths.py",
        }:
            continue
        text = path.read_text("utf-8")
        assert "os.environ" not in text and "os.getenv" not in text, relative
        assert "/opt/ml" not in text or relative.startswith("cli/"), relative


def test_only_the_contract_compares_the_name_of_an_interface() -> None:
    names = {"mxnet", "tensorflow"}
    for path in MODULES:
        if part_of(path) in {"contract", "backends"}:  # a backend's name is another thing
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Compare):
                words = {inner.value for inner in ast.walk(node) if isinstance(inner, ast.Constant)}
                assert not words & names, f"{path}:{node.lineno}: ask the Interface"


EVERY_BACKEND = {"__init__", "catalog", "model", "engine", "export"}
BACKEND_FILES = EVERY_BACKEND | {"optimizer", "ranks"}
FILES_OF_ONE_FRAMEWORK = {
    "torch": {"timm_models"},
    "tensorflow": {"step", "layers", "keras_trunk", "saved_model", "formats"},
    "mxnet": {"kvstore_node"},
}


@pytest.mark.parametrize("name", backends.names())
def test_the_same_file_names_mean_the_same_in_every_backend(name: str) -> None:
    files = {path.stem for path in (PACKAGE / "backends" / name).iterdir() if path.is_file()}
    assert files >= EVERY_BACKEND
    assert files - BACKEND_FILES == FILES_OF_ONE_FRAMEWORK.get(name, set())
