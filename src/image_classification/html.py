"""Pages for people: one HTML file, no network, no script."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

_NUMBER = re.compile(r"–|[-+]?[\d.]+( (%|MB))?")

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
       color: #1d2733; background: #fff }
h1 { margin-bottom: 0 } h2 { margin-top: 2.5rem; border-bottom: 1px solid #d5dbe1 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #eceff2 }
th:first-child, td:first-child { text-align: left }
.scroll { overflow-x: auto; margin: 1rem 0 } td.text, th.text { text-align: left }
.gallery { display: flex; flex-wrap: wrap; gap: 1rem } figure { margin: 0; max-width: 16rem }
figcaption { font-size: .85rem; overflow-wrap: anywhere } .number { font-size: 2.2rem }
.nothing { display: inline-block; width: 128px; height: 96px; background: #f4f6f8; color: #6a7683;
           text-align: center; line-height: 96px; font-size: .8rem }
.charts { display: flex; flex-wrap: wrap; gap: 1.5rem } .charts figure { max-width: none }
.charts svg { max-width: 100%; height: auto }
pre { background: #f4f6f8; padding: 1rem; overflow-x: auto }
.matrix td, .matrix th { text-align: center; padding: .2rem .5rem } summary { cursor: pointer }
.matrix th.column { writing-mode: sideways-lr; text-align: left; font-weight: normal }
.matrix th.row { text-align: right; font-weight: normal }
.small figure { width: 9rem }
.facts { display: flex; flex-wrap: wrap; gap: .5rem 2rem; padding: 0; list-style: none }
.facts b { display: block; font-size: 1.2rem } .facts li { color: #56626f; font-size: .9rem }
.facts b { color: #1d2733 }
"""


def document(title: str, sections: Iterable[str]) -> str:
    """The whole page; `sections` are HTML."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head><body>"
        + "\n".join(sections)
        + "</body></html>"
    )


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; columns of numbers, plain or as text with a unit, are aligned to the right."""
    rows = list(rows)
    columns = zip(*rows, strict=True) if rows else [[name] for name in header]
    kinds = ["" if all(map(_is_number, column)) else "text" for column in columns]

    def row(tag: str, values: Sequence[object]) -> str:
        cells = zip(kinds, values, strict=True)
        return "".join(f'<{tag} class="{kind}">{text(value)}</{tag}>' for kind, value in cells)

    body = "".join(f"<tr>{row('td', values)}</tr>" for values in rows)
    return f'<div class="scroll"><table><tr>{row("th", header)}</tr>{body}</table></div>'


def _is_number(value: object) -> bool:
    return not isinstance(value, str) or bool(_NUMBER.fullmatch(value))


def text(value: object) -> str:
    """A value as HTML text; bytes of a name that are not UTF-8 are shown as `\\xe9`."""
    shown = str(value).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return html.escape(shown)
