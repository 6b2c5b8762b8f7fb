"""What a check finds, written at once: one JSON object per line, so that a kill loses nothing."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

Value = float | int | str

_HOLDS: dict[str, Callable[[float, float], bool]] = {
    "≤": operator.le,
    "≥": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Row:
    """A fact or a goal.

    Attributes:
        name: what was found.
        value: a number or a text.
        bound: of a goal, such as "≤ 0.0001"; "" of a fact.
        holds: whether the goal is reached; None of a fact.
        judged: whether the check fails if it is not.
    """

    name: str
    value: Value
    bound: str = ""
    holds: bool | None = None
    judged: bool = False


class Rows:
    """Writes the rows of a check.

    Args:
        path: of the file, which is appended to.
        judges_speed: whether goals about speed count.
    """

    def __init__(self, path: Path, *, judges_speed: bool) -> None:
        self._path, self._judges_speed = path, judges_speed

    def note(self, name: str, value: Value) -> None:
        """Write a fact."""
        self._write(Row(name, _plain(value)))

    def goal(
        self, name: str, value: float, relation: str, bound: float, *, is_speed: bool = False
    ) -> None:
        """Write a number that has a bound; NaN is within none."""
        holds = bool(_HOLDS[relation](value, bound))  # NumPy's is another type
        judged = self._judges_speed or not is_speed
        self._write(Row(name, _plain(value), f"{relation} {bound:g}", holds, judged))

    def expect(self, name: str, value: Value, expected: Value) -> None:
        """Write a value that must be the expected one."""
        self._write(Row(name, _plain(value), f"= {expected}", bool(value == expected), True))

    def _write(self, row: Row) -> None:
        with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")


def read_rows(path: Path) -> list[Row]:
    """Return the rows in a file; the last line may be cut."""
    try:
        lines = path.read_bytes().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            rows.append(Row(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return rows


def _plain(value: Value) -> Value:
    """Return what JSON can hold: it has neither NaN nor infinity."""
    if isinstance(value, str):
        return value
    number = float(value)
    if not math.isfinite(number):
        return str(number)
    return int(number) if number.is_integer() and isinstance(value, int) else number
