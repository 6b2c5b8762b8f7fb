"""Find the interpreter of a peer: the given one, its own environment, or ours."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
CACHE = CACHE / "image-classification" / "benchmarks"
SOURCE = Path(__file__).parents[3] / "src"


def add_option(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Add `--python NAME=PATH`, repeatable; `dict(args.python)` is name → interpreter."""

    def pair(text: str) -> tuple[str, str]:
        name, _, path = text.partition("=")
        if name not in names or not Path(path).is_file():
            raise argparse.ArgumentTypeError(
                f"expected NAME=PATH with NAME one of {', '.join(names)} and PATH a Python "
                f"interpreter, got {text!r}"
            )
        return name, str(Path(path).absolute())

    parser.add_argument(
        "--python",
        action="append",
        default=[],
        type=pair,
        metavar="NAME=PATH",
        help="interpreter with a peer: " + ", ".join(names),
    )


def find(name: str, modules: Iterable[str], given: dict[str, str]) -> str | None:
    """The interpreter for the peer `name`, if it has `modules`; else None.

    Args:
        name: of the peer, and of its environment in `CACHE`.
        modules: that the peer needs.
        given: interpreters by name, of the command line.
    """
    own = CACHE / name / "bin" / "python"
    chosen = given.get(name) or (str(own) if own.exists() else sys.executable)
    asked = (
        f"import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, {tuple(modules)!r})))"
    )
    has_all = subprocess.run([chosen, "-c", asked], capture_output=True).returncode == 0
    return chosen if has_all else None
