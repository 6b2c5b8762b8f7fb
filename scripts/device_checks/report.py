"""The report: `report.md` for people and `report.json` for programs, whole after every check.

Before the first check, each one is in it as "not run". Files are replaced by renaming.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from device_checks.catalog import Check
from device_checks.rows import Row, Value

MARKDOWN, JSON, LOG = "report.md", "report.json", "log.txt"

NOT_RUN, RUNNING, PASSED, FAILED = "not run", "running", "passed", "failed"
CRASHED, TIMED_OUT, INTERRUPTED = "crashed", "timed out", "interrupted"


@dataclass
class Result:
    """The state of a check.

    Attributes:
        check: the check.
        status: one of the words above.
        reason: of the status, if it needs one.
        rows: what it found, also if it did not end by itself.
        seconds, cpu_seconds: that it took.
        log_lines: the end of its log if it did not end by itself.
    """

    check: Check
    status: str = NOT_RUN
    reason: str = ""
    rows: Sequence[Row] = ()
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    log_lines: Sequence[str] = ()

    @property
    def missed(self) -> list[Row]:
        """The goals that count and are not reached."""
        return [row for row in self.rows if row.judged and not row.holds]


@dataclass
class Report:
    """The results of all checks, and the folder in which they are written.

    Attributes:
        folder: of the files.
        results: one per check, in order.
        setting: what the command line asked for, by name.
    """

    folder: Path
    results: list[Result]
    setting: Mapping[str, Value]
    is_over: bool = False
    started: str = field(default_factory=lambda: _now())

    @property
    def verdict(self) -> str:
        """One word about all selected checks."""
        selected = [result for result in self.results if result.reason != NOT_SELECTED]
        if not self.is_over:
            return RUNNING
        return PASSED if all(result.status == PASSED for result in selected) else FAILED

    def write(self) -> None:
        """Write both files; an OSError if they cannot be written, and then they stay as they were.

        The disk may be full: both are written before one is renamed.
        """
        texts = {MARKDOWN: self.markdown(), JSON: json.dumps(self.content(), indent=1) + "\n"}
        try:
            for name, text in texts.items():
                partial = self.folder / f"{name}.partial"
                with partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
            for name in texts:
                os.replace(self.folder / f"{name}.partial", self.folder / name)
        finally:
            for name in texts:
                (self.folder / f"{name}.partial").unlink(missing_ok=True)

    def content(self) -> dict[str, object]:
        """Return what the JSON file holds."""
        return {
            "format": 1,
            "verdict": self.verdict,
            "started": self.started,
            "written": _now(),
            "setting": dict(self.setting),
            "checks": [
                {
                    "name": result.check.name,
                    "title": result.check.title,
                    "status": result.status,
                    "reason": result.reason,
                    "seconds": round(result.seconds, 2),
                    "cpu_seconds": round(result.cpu_seconds, 2),
                    "rows": [asdict(row) for row in result.rows],
                    "log": list(result.log_lines),
                }
                for result in self.results
            ],
        }

    def markdown(self) -> str:
        """Return the text of the Markdown file."""
        setting = "; ".join(f"{name}: {_shown(value)}" for name, value in self.setting.items())
        lines = [
            f"# Device check: {self.verdict}",
            "",
            f"Started: {self.started}; {setting}.",
            "",
            "| Check | Result | Goals reached | Seconds | CPU seconds |",
            "|---|---|---|---|---|",
            *(_summary(result) for result in self.results),
        ]
        missed = [
            f"- {result.check.name}: {_missed(row)}"
            for result in self.results
            for row in result.missed
        ]
        if missed:
            lines += ["", "Goals that are not reached:", "", *missed]
        for result in self.results:
            if result.status != NOT_RUN:
                lines += ["", *_section(result)]
        return "\n".join(lines) + "\n"


NOT_SELECTED = "not selected"


def summary_line(result: Result) -> str:
    """Return one line about a check for the terminal."""
    missed = "; ".join(map(_missed, result.missed))
    parts = [f"{result.check.name}: {result.status}"]
    parts += [f"{result.seconds:.1f} s, {result.cpu_seconds:.1f} CPU-s"] if result.seconds else []
    return "; ".join([*parts, *filter(None, (result.reason, missed))])


def _summary(result: Result) -> str:
    goals = [row for row in result.rows if row.bound and row.judged]
    reached = f"{len(goals) - len(result.missed)} of {len(goals)}" if goals else ""
    times = ("", "")
    if result.seconds:
        times = (f"{result.seconds:.1f}", f"{result.cpu_seconds:.1f}")
    is_fine = result.status in (PASSED, NOT_RUN, RUNNING)
    status = result.status if is_fine else f"**{result.status}**"
    reason = f": {_cell(result.reason)}" if result.reason else ""
    return f"| {result.check.name} | {status}{reason} | {reached} | {times[0]} | {times[1]} |"


def _section(result: Result) -> list[str]:
    lines = [f"## {result.check.title}", "", f"`{result.check.name}`: {result.status}"]
    lines[-1] += f", {result.reason}." if result.reason else "."
    goals = [row for row in result.rows if row.bound]
    facts = [row for row in result.rows if not row.bound]
    if goals:
        lines += ["", "| Goal | Found | Bound | Reached |", "|---|---|---|---|"]
        lines += [
            f"| {_cell(row.name)} | {_shown(row.value)} | {row.bound} | {_reached(row)} |"
            for row in goals
        ]
    if facts:
        lines += ["", "| Fact | |", "|---|---|"]
        lines += [f"| {_cell(row.name)} | {_shown(row.value)} |" for row in facts]
    if result.log_lines:
        lines += ["", "The end of its log:", "", "```text", *result.log_lines, "```"]
    return lines


def _missed(row: Row) -> str:
    return f"{_cell(row.name)}: {_shown(row.value)}, not {row.bound}"


def _reached(row: Row) -> str:
    if not row.judged:
        return "not judged"
    return "yes" if row.holds else "**no**"


def _shown(value: Value) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else _cell(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
