"""The `image-classification` command.

Only the module of the command that is asked for is imported: all of them take 0.24 s of CPU, which
every start of a server would pay. A command imports its framework when it runs. The entry points
handle signals before they import anything else of the package, because that takes a while.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from image_classification import __version__
from image_classification.cli import interruption

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_MODULES = {  # in the order of the help
    "lists": ("list",),
    "pack": ("pack",),
    "inspect": ("inspect", "rec2idx"),
    "preprocess": ("preprocess",),
    "check": ("check",),
    "train": ("train",),
    "tune": ("tune",),
    "evaluate": ("evaluate",),
    "compare": ("compare",),
    "serve": ("serve",),
    "export": ("export", "weights"),
    "predict": ("predict",),
    "rank": ("rank",),
    "describe": ("describe",),
}
"""Module in this folder → the commands it adds."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    is_server = words[:1] == ["serve"]
    run = interruption.exit_code_of_server if is_server else interruption.exit_code_of
    return run(lambda: _run(words))


def im2rec_main() -> int:
    """Run `im2rec` and return its exit code."""
    return interruption.exit_code_of(lambda: import_module(f"{__name__}.im2rec").main())


def _run(words: Sequence[str]) -> int:
    from image_classification.cli.command_line import exit_code_of, log_form
    from image_classification.contract.process import disable_telemetry

    if not words:
        parser().print_help()
        return 0
    namespace = parser(words[0]).parse_args(words)
    disable_telemetry()
    return exit_code_of(
        lambda: namespace.run(namespace), namespace.log_stream, lambda: log_form(namespace)
    )


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of the command line.

    Args:
        command: add only this command, or all of them for None and for any other word.
    """
    from image_classification.cli.command_line import Parser

    top = Parser(
        prog="image-classification",
        description="Pack, train, evaluate and serve image classifiers.",
        epilog="example: image-classification train flowers",
    )
    top.add_argument("--version", action="version", version=__version__)
    # Results go to standard output, the log and the progress to standard error.
    top.set_defaults(log_stream=sys.stderr)
    subparsers = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    wanted = [module for module, commands in _MODULES.items() if command in commands]
    for module in wanted or _MODULES:
        import_module(f"{__name__}.{module}").add_commands(subparsers)
    return top
