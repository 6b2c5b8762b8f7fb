"""Run a command in a terminal of its own, and return what it shows at the end, as HTML."""

from __future__ import annotations

import fcntl
import html
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

_MOST_ROWS = 40  # the last ones are shown
_SEQUENCE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.")
_COLORS = ("#8b949e", "#ff7b72", "#7ee787", "#e3b341", "#79c0ff", "#d2a8ff", "#76e3ea", "#e6ebf0")


def shown(command: Sequence[str], cwd: Path, environment: Mapping[str, str], columns: int) -> str:
    """Return the terminal's last state as a page; a command that fails is a SystemExit."""
    owner, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    given = {**environment, "TERM": "xterm-256color", "COLUMNS": str(columns)}
    process = subprocess.Popen(
        command, cwd=cwd, env=given, stdin=terminal, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    pieces = []
    while piece := _read(owner):
        pieces.append(piece)
    os.close(owner)
    text = b"".join(pieces).decode("utf-8", "replace")
    if process.wait():
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{text}")
    return _page(" ".join(["$", Path(command[0]).name, *command[1:]]), _screen(text, columns))


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux reports the end of the program so
        return b""


def _screen(text: str, columns: int) -> list[list[tuple[str, str]]]:
    """Return the rows of (character, style) after all movements of the cursor."""
    rows: list[list[tuple[str, str]]] = [[]]
    row = column = 0
    style: dict[str, str] = {}
    position = 0
    while position < len(text):
        if found := _SEQUENCE.match(text, position):
            position = found.end()
            numbers = [int(n) if n.isdigit() else 0 for n in (found[1] or "").split(";")]
            match found[2]:
                case "A":
                    row = max(0, row - max(1, numbers[0]))
                case "G":
                    column = max(0, numbers[0] - 1)
                case "K":
                    del rows[row][0 if numbers[0] == 2 else column :]
                case "m":
                    _set(style, numbers)
            continue
        character = text[position]
        position += 1
        if character == "\r":
            column = 0
        elif character == "\n":
            row += 1
            rows += [[] for _ in range(row + 1 - len(rows))]
        elif character >= " ":
            if column == columns:  # the next row, as terminals do
                row, column = row + 1, 0
                rows += [[] for _ in range(row + 1 - len(rows))]
            rows[row] += [(" ", "")] * (column + 1 - len(rows[row]))
            rows[row][column] = (character, ";".join(style.values()))
            column += 1
    return rows


def _set(style: dict[str, str], numbers: list[int]) -> None:
    """Apply one SGR sequence: colors of the 16 and 256, bold, faint and their ends."""
    while numbers:
        number = numbers.pop(0)
        if number == 0:
            style.clear()
        elif number == 1:
            style["weight"] = "font-weight:600"
        elif number == 2:
            style["faint"] = "opacity:.7"
        elif number == 22:
            style.pop("weight", None)
            style.pop("faint", None)
        elif number == 39:
            style.pop("color", None)
        elif number == 38 and numbers[:1] == [5]:
            style["color"] = f"color:{_of_256(numbers[1])}"
            del numbers[:2]
        elif number == 38 and numbers[:1] == [2]:
            style["color"] = "color:rgb({},{},{})".format(*numbers[1:4])
            del numbers[:4]
        elif 30 <= number <= 37 or 90 <= number <= 97:
            style["color"] = f"color:{_COLORS[number % 10]}"


def _of_256(number: int) -> str:
    if number < 16:
        return _COLORS[number % 8]
    if number >= 232:
        return "rgb({0},{0},{0})".format(8 + 10 * (number - 232))
    steps = (0, 95, 135, 175, 215, 255)
    red, green, blue = (steps[(number - 16) // n % 6] for n in (36, 6, 1))
    return f"rgb({red},{green},{blue})"


def _page(command: str, rows: list[list[tuple[str, str]]]) -> str:
    lines = [f'<span style="color:#7ee787">{html.escape(command)}</span>']
    while rows and not rows[-1]:
        rows.pop()
    for row in rows[-_MOST_ROWS:]:
        line, before = "", ""
        for character, style in row:
            if style != before:
                line += ("</span>" if before else "") + (f'<span style="{style}">' if style else "")
            line, before = line + html.escape(character), style
        lines.append(line + ("</span>" if before else ""))
    text = "\n".join(lines).rstrip()
    return (
        '<!doctype html><meta charset="utf-8"><body style="margin:0;background:#12171d">'
        '<pre style="display:inline-block;margin:0;padding:20px 24px;color:#e6ebf0;'
        f'font:14px/1.45 DejaVu Sans Mono,monospace">{text}</pre>'
    )
