"""The names that a Python file defines, read from its syntax tree: the file does not run."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MOST_BYTES = 2**18
"""A larger file is not read: the worst one of this size takes 0.3 GB and 0.7 CPU seconds."""

_DEEP = "it is nested too deep"  # what a MemoryError of the parser means
_MOST_IMPORTED_FILES = 20
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


@dataclass(frozen=True)
class Definitions:
    """What a file defines at its top level.

    Attributes:
        names: functions, classes, assigned and imported names, in the order of the file.
        is_complete: whether nothing else can be defined, such as by `from x import *` or `exec`.
        problem: why the file cannot be read as Python, or "".
    """

    names: tuple[str, ...]
    is_complete: bool = True
    problem: str = ""


def read_definitions(path: Path, named: Iterable[str] = ()) -> Definitions:
    """Return what a file defines, and what its `from x import *` takes from files next to it.

    Args:
        path: of the file.
        named: names that the file can define under a text, such as `globals()["model_fn"] = …`;
            a text that equals one makes the result incomplete.
    """
    found = _Reader(path.parent, frozenset(named))
    try:
        names = tuple(dict.fromkeys(found.read(path)))
    except SyntaxError as error:
        where = f" in line {error.lineno}" if error.lineno else ""
        return Definitions((), False, f"it is not valid Python: {error.msg}{where}")
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        return Definitions((), False, f"it cannot be read as Python: {str(error) or _DEEP}")
    return Definitions(names, found.is_complete)


class _Reader:
    def __init__(self, folder: Path, named: frozenset[str]) -> None:
        self.is_complete = True
        self._folder, self._named = folder, named
        self._seen: set[Path] = set()

    def read(self, path: Path) -> Iterator[str]:
        self._seen.add(path)
        with path.open("rb") as file:
            source = file.read(MOST_BYTES + 1)
        if len(source) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES >> 10} KiB")
        tree = ast.parse(source)
        if any(self._is_dynamic(node) for node in ast.walk(tree)):
            self.is_complete = False
        yield from self._defined(tree.body)

    def _is_dynamic(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Name):
            return node.id in ("exec", "__getattr__")
        return isinstance(node, ast.Constant) and node.value in self._named

    def _defined(self, statements: Sequence[ast.stmt]) -> Iterator[str]:
        for node in statements:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                yield node.name
            elif isinstance(node, ast.Import):
                yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from self._imported(node)
            else:
                yield from self._assigned(node)
                for block in _BLOCKS:
                    for inner in getattr(node, block, ()):
                        is_statement = isinstance(inner, ast.stmt)
                        yield from self._defined([inner] if is_statement else inner.body)

    def _imported(self, node: ast.ImportFrom) -> Iterator[str]:
        for alias in node.names:
            if alias.name != "*":
                yield alias.asname or alias.name
                continue
            path = self._folder.joinpath(*(node.module or "").split(".")).with_suffix(".py")
            if path in self._seen:
                continue
            if path.is_file() and not node.level and len(self._seen) < _MOST_IMPORTED_FILES:
                yield from (name for name in self.read(path) if not name.startswith("_"))
            else:
                self.is_complete = False

    def _assigned(self, node: ast.stmt) -> Iterator[str]:
        """Yield the names that a statement stores into, without those inside its blocks."""
        fields = ((name, value) for name, value in ast.iter_fields(node) if name not in _BLOCKS)
        stack: list[object] = [value for _, value in fields]
        while stack:
            entry = stack.pop()
            if isinstance(entry, list):
                stack += entry
            elif isinstance(entry, ast.Name) and isinstance(entry.ctx, ast.Store):
                yield entry.id
            elif isinstance(entry, ast.AST) and not isinstance(entry, _OWN_SCOPES):
                stack += [value for _, value in ast.iter_fields(entry)]


_OWN_SCOPES = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
