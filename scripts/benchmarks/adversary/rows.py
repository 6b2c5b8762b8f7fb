"""What an attack found: one row each, with its goal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

_WIDTHS = (46, 7, 9)


@dataclass(frozen=True)
class Row:
    """One finding.

    Attributes:
        attack: what was done.
        count: how often.
        came: what was seen, in words.
        goal: in words.
        reached: whether the goal was; None: it is only reported.
    """

    attack: str
    count: int
    came: str
    goal: str
    reached: bool | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def missed(rows: Iterable[Row]) -> list[Row]:
    """Return the rows whose goal was not reached."""
    return [row for row in rows if row.reached is False]


def table(result: dict[str, Any]) -> str:
    """Return the result as text."""
    lines = [str(result["machine"]), str(result["note"]), ""]
    lines.append(_line("attack", "count", "reached", "result (goal)"))
    for row in result["rows"]:
        reached = {True: "yes", False: "NO", None: "-"}[row["reached"]]
        lines.append(
            _line(row["attack"], str(row["count"]), reached, f"{row['came']} (goal: {row['goal']})")
        )
    judged = [row["reached"] for row in result["rows"] if row["reached"] is not None]
    reached = f"{sum(judged)} of {len(judged)} goals reached in {result['seconds']} s"
    load = f"load before {result['machine']['load_before']}, after {result['load_after']}"
    lines += ["", f"{reached}; {load}"]
    return "\n".join(lines)


def _line(attack: str, count: str, reached: str, rest: str) -> str:
    wide, number, word = _WIDTHS
    return f"{attack:<{wide}}{count:>{number}}{reached:>{word}}  {rest}"
