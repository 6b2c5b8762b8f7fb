"""Pages for people, made from the Jinja2 templates in this folder.

A page is one HTML file that loads nothing and runs no script. Its template extends `layout.html`
and imports `table` and `picture` from `macros.html`. Every value is escaped; in Markdown, the
template names the filter of those that users choose. A missing value is an error.
"""

import html
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

_LINE_BREAK = re.compile(r"[\r\n]+")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # without tab and line feed
_MARKUP = re.compile(r"[\\`*_\[\]|~]")
_NUMBER = re.compile(r"–|[-+]?[\d.]+(%| MB)?")


def render(template: str, **values: Any) -> str:
    """Return the page made from the template `template` (a file name in this folder)."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("image_classification", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.filters["column_classes"] = _column_classes
    environment.filters["markdown"] = _markdown
    environment.filters["code_span"] = _code_span
    environment.filters["moment"] = _moment
    return environment


def _printable(value: object) -> object:
    """Show the bytes of a file name that are not UTF-8 as `\\xe9`, and control characters.

    A terminal that shows a model card must not obey a class name.
    """
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    text = value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _markdown(text: str) -> str:
    """Escape the markup of Markdown (CommonMark, with GitHub's tables) and of HTML."""
    line = html.escape(_LINE_BREAK.sub(" ", text), quote=False)
    return _MARKUP.sub(r"\\\g<0>", line)


def _code_span(text: str) -> str:
    """Return a code span, between more backticks than the text has in a row."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{_LINE_BREAK.sub(' ', text)}{space}{fence}"


def _moment(text: str) -> str:
    """Return a moment in ISO 8601, of UTC, for people: 2026-01-31 15:09 UTC."""
    return f"{text[:16].replace('T', ' ')} UTC"


def _column_classes(rows: Sequence[Sequence[object]], columns: int) -> list[str]:
    """Return the CSS class of each column: "text" if it holds anything but numbers, else ""."""
    if not rows:
        return ["text"] * columns
    return ["" if all(map(_is_number, column)) else "text" for column in zip(*rows, strict=True)]


def _is_number(value: object) -> bool:
    """True for a number, also as text with a unit."""
    return not isinstance(value, str) or bool(_NUMBER.fullmatch(value))
