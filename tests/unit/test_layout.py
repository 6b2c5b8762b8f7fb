"""How big the house is and where its rooms are: sizes, circles, names, and where tests lie."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from pathlib import Path

import pytest

import image_classification

PACKAGE = Path(image_classification.__file__).parent
TESTS = Path(__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

MOST_LINES = 400  # of a file
MOST_MODULES = 303
MOST_TRAINING_MODULES = 36
MOST_IMPORT_SHARE = 0.06
SMALL = 60  # lines; a smaller module that one other imports joins it

SMALL_WITH_ONE_IMPORTER: dict[str, str] = {
    # module → why it stays a file of its own, in one line
    "backends.reference.export": "every backend has the file `export`",
    "backends.mxnet": "every backend's package says how its framework is prepared",
    "backends.mxnet.catalog": "every backend has the file `catalog`",
    "backends.mxnet.kvstore_node": "a program that runs in a process of its own",
}

TESTS_OF_SEVERAL_PARTS = {
    # a test file in tests/unit/<part> that imports nothing of the part → what it tests instead
    "contract/test_endpoints_page.py": "the page docs/endpoints.md against AWS's model of its API",
    "contract/test_operations_page.py": "the page docs/operations.md against the declarations",
    "backends/test_mxnet_ranks.py": "programs that it starts import the part",
}


def name_of(path: Path) -> str:
    """`images.decode` of `…/images/decode.py`; a package's own name of its `__init__.py`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in MODULES}


def imported(path: Path) -> set[str]:
    """The package's modules that a file imports anywhere: at the top, in functions, for types."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        wanted = []
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            wanted = [(f"{module}.{alias.name}", module) for alias in node.names]
        elif isinstance(node, ast.Import):
            wanted = [(alias.name, alias.name) for alias in node.names]
        for name, module in wanted:
            for candidate in (name, module):
                head, _, rest = candidate.partition(".")
                if head == PACKAGE.name and rest in NAMES:
                    found.add(rest)
                    break
    return found


IMPORTS = {name: imported(path) - {name} for name, path in NAMES.items()}


def circles() -> list[list[str]]:
    """Groups of modules that import each other, by Tarjan's algorithm."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        stack.append(name)
        for other in sorted(IMPORTS[name]):
            if other not in order:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], order[other])
        if lowest[name] == order[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in NAMES:
        if name not in order:
            visit(name)
    return found


def line_count(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles() == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_file_has_at_most_400_lines(path: Path) -> None:
    assert line_count(path) <= MOST_LINES, "it holds two ideas: split it by idea"


def test_the_package_and_training_stay_within_their_number_of_modules() -> None:
    training = [name for name in NAMES if name.split(".")[0] == "training"]
    assert len(MODULES) <= MOST_MODULES
    assert len(training) <= MOST_TRAINING_MODULES


def test_import_lines_are_a_small_share_of_all_lines() -> None:
    lines = imports = 0
    for path in MODULES:
        text = path.read_text("utf-8")
        lines += len(text.splitlines())
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                imports += (node.end_lineno or node.lineno) - node.lineno + 1
    assert imports / lines <= MOST_IMPORT_SHARE


def test_a_small_module_with_one_importer_joins_it_or_says_why_not() -> None:
    importers: dict[str, set[str]] = defaultdict(set)
    for name, others in IMPORTS.items():
        for other in others:
            importers[other].add(name)
    small = {
        name
        for name, path in NAMES.items()
        if len(importers[name]) == 1 and line_count(path) < SMALL
    }
    assert small - set(SMALL_WITH_ONE_IMPORTER) == set(), "merge it into the module that imports it"
    assert set(SMALL_WITH_ONE_IMPORTER) - small == set(), "the list names a module that is not so"


def test_no_module_is_named_after_nothing() -> None:
    words = {word for name in NAMES for word in name.replace("_", ".").split(".")}
    assert not words & {"util", "utils", "helper", "helpers", "common", "misc", "manager"}


UNIT_TESTS = sorted(path for path in TESTS.rglob("test_*.py") if path.parent != TESTS)


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda p: p.relative_to(TESTS).as_posix())
def test_a_unit_test_lies_in_the_folder_of_a_part_that_it_tests(path: Path) -> None:
    part = path.relative_to(TESTS).parts[0]
    assert part in {name.split(".")[0] for name in NAMES}, f"{part} is no part of the package"
    if path.relative_to(TESTS).as_posix() in TESTS_OF_SEVERAL_PARTS:
        return
    parts: Counter[str] = Counter()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE.name):
            words = (node.module or "").split(".")
            names = [words[1]] if len(words) > 1 else [alias.name for alias in node.names]
            parts.update(names)
    own_commands = {"prepare": "cli"}.get(part, part)
    assert parts[part] or parts[own_commands], f"it imports {dict(parts)} and nothing of {part}"
